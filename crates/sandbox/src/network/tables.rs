//! Bounds what a container's network takes of tables that the kernel has once for the whole machine: the one of neighbours, and
//! the memory of connections that are closed.
//!
//! An app needs no capability to have a packet sent past all routes (`MSG_DONTROUTE` with an interface) or to a group of
//! receivers. For each address that it does so to, the kernel makes an entry in the table of neighbours, which has 1,024 places by default,
//! and the host itself reaches nobody any more where that's full. So what would go to another neighbour than the gateway
//! is dropped before the kernel looks for it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use super::NetworkError;
use crate::tool::Tool;

const NFT: Tool = Tool::new("nft", "nftables");
const DEADLINE: Duration = Duration::from_secs(20);
/// Connections that are closed and remembered for a minute, 256 bytes each that no group counts. With the world there are
/// no more than 4,096 at once anyhow.
const CLOSED_CONNECTIONS_MAX: u32 = 8192;
const CLOSED_CONNECTIONS: &str = "/proc/sys/net/ipv4/tcp_max_tw_buckets";

/// Has the calling thread's network namespace send by `interface` what goes to `gateway` first, and nothing else.
pub fn know_one_neighbour(interface: &str, gateway: Ipv4Addr) -> Result<(), NetworkError> {
    let rules = render(interface, gateway).to_string();
    NFT.run(&["-j", "-f", "-"], rules.as_bytes(), DEADLINE)
        .map(drop)
        .map_err(NetworkError::Neighbours)
}

/// Lowers how many closed connections the calling thread's network namespace remembers.
pub fn bound_closed_connections() -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Setting { file: CLOSED_CONNECTIONS.into(), source };
    match fs::read_to_string(CLOSED_CONNECTIONS) {
        // A kernel that has one number for all namespaces shows it in the host's alone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed(source)),
        Ok(most) if most.trim().parse().is_ok_and(|most: u32| most <= CLOSED_CONNECTIONS_MAX) => {
            Ok(())
        }
        Ok(_) => fs::write(CLOSED_CONNECTIONS, CLOSED_CONNECTIONS_MAX.to_string()).map_err(failed),
    }
}

/// Source: libnftables-json(5).
fn render(interface: &str, gateway: Ipv4Addr) -> Value {
    let add = |kind: &str, properties: Value| json!({ "add": { kind: properties } });
    let matches = |operator: &str, left: Value, right: String| json!({ "match": { "op": operator, "left": left, "right": right } });
    let by_interface = matches("==", json!({ "meta": { "key": "oifname" } }), interface.to_owned());
    let next = json!({ "rt": { "key": "nexthop", "family": "ip" } });
    let elsewhere = matches("!=", next, gateway.to_string());
    json!({ "nftables": [
        add("table", json!({ "family": "ip", "name": "ace" })),
        add("chain", json!({
            "family": "ip", "table": "ace", "name": "leaving",
            "type": "filter", "hook": "postrouting", "prio": 0, "policy": "accept",
        })),
        add("rule", json!({
            "family": "ip", "table": "ace", "chain": "leaving",
            "expr": [by_interface, elsewhere, { "drop": null }],
        })),
    ] })
}
