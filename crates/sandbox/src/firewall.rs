//! What may pass between containers, the host and the world: one nftables table an engine.
//!
//! A container reaches the world, seen as the host. It reaches no other container of any engine,
//! nothing on the host but the name server that the engine may run for it, and no address at which a cloud tells
//! a machine of itself. Nobody reaches a container but by an answer. IPv6 stays out, and so do pieces of packets.
//!
//! The table is rendered as JSON and replaced whole, in one transaction of `nft`. Another table may
//! still drop what this one lets pass: [`foreign_drops`] finds those.

use std::net::Ipv4Addr;
use std::time::Duration;

use ace_types::EngineId;
use serde_json::{Value, json};

use crate::claims::Subnet;
use crate::network::{VETH_PREFIX, veth_name};
use crate::tool::{Tool, ToolError};

const NFT: Tool = Tool::new("nft", "nftables");
const DEADLINE: Duration = Duration::from_secs(20);
/// Connections that one container may have with the world and the host at once. Each takes a place in a table of
/// the kernel's that all share; Debian's default has 65,536 on a machine of 4 GiB.
const CONNECTIONS_MAX: u32 = 4096;
/// The part of that table that all containers of an engine may fill.
const CONNECTIONS_SHARE: u32 = 2;
const CONNECTIONS_TABLE: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Where the table's size can't be read: what Debian's is at the least.
const CONNECTIONS_TABLE_DEFAULT: u32 = 65_536;
/// Where addresses of all engines lie.
const ALL_ENGINES: (&str, u8) = ("198.18.0.0", 15);
/// Where clouds tell a machine who it is and what it may do: link-local addresses of most; Alibaba's; Oracle's first one.
const METADATA: [(&str, u8); 3] =
    [("169.254.0.0", 16), ("100.100.100.200", 32), ("192.0.0.192", 32)];
/// Azure's, which is its name server, too.
const METADATA_WITH_DNS: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Before the kernel puts pieces of packets together, at -400.
const BEFORE_DEFRAGMENTATION: i32 = -450;

/// Why the rules could not be set, removed or read.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing}")]
pub struct FirewallError {
    doing: String,
    source: ToolError,
}

/// A chain of another table that drops what containers forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignDrop {
    pub family: String,
    pub table: String,
    pub chain: String,
}

/// Makes the table of `engine`, or replaces it. May be called twice.
///
/// `dns` are the host's own addresses that containers may ask for names: the gateway's where the
/// engine forwards queries, else none.
pub fn ensure(engine: &EngineId, subnet: Subnet, dns: &[Ipv4Addr]) -> Result<(), FirewallError> {
    apply("set", engine, &render(engine, subnet, dns))
}

/// The rules in the table of `engine`, to compare with those of another time; `None` where there is
/// no table. Another program may have flushed it, and with it the walls between containers.
pub fn listing(engine: &EngineId) -> Result<Option<Vec<u8>>, FirewallError> {
    let table = table_name(engine);
    // Without counters and the addresses that a meter has seen, which change all the time.
    match NFT.run(&["--stateless", "--terse", "list", "table", "inet", &table], &[], DEADLINE) {
        Ok(listing) => Ok(Some(listing)),
        Err(ToolError::Failed { .. }) => Ok(None),
        Err(source) => Err(FirewallError { doing: format!("look for the table {table}"), source }),
    }
}

/// Removes the table of `engine`. No error where there is none.
pub fn remove(engine: &EngineId) -> Result<(), FirewallError> {
    apply("remove", engine, &json!({ "nftables": removal(engine) }))
}

/// Chains of others that drop forwarded packets unless a rule of theirs lets them pass.
pub fn foreign_drops() -> Result<Vec<ForeignDrop>, FirewallError> {
    let failed = |source| FirewallError { doing: "list the firewall's chains".to_owned(), source };
    let listed = NFT.run(&["-j", "list", "chains"], &[], DEADLINE).map_err(failed)?;
    Ok(find_drops(&serde_json::from_slice(&listed).unwrap_or_default()))
}

impl ForeignDrop {
    /// The command that adds the one rule needed: it lets pass what containers began, both ways.
    pub fn remedy(&self) -> String {
        let Self { family, table, chain } = self;
        let (network, prefix) = ALL_ENGINES;
        format!(
            "nft insert rule {family} {table} {chain} ct original ip saddr {network}/{prefix} accept"
        )
    }
}

fn apply(doing: &'static str, engine: &EngineId, ruleset: &Value) -> Result<(), FirewallError> {
    NFT.run(&["-j", "-f", "-"], ruleset.to_string().as_bytes(), DEADLINE).map(drop).map_err(
        |source| FirewallError {
            doing: format!("{doing} the firewall table {}", table_name(engine)),
            source,
        },
    )
}

fn table_name(engine: &EngineId) -> String {
    format!("ace_{engine}")
}

/// Commands that leave no table. Deleting needs one to be there: it's added first.
fn removal(engine: &EngineId) -> Vec<Value> {
    let table = json!({ "table": { "family": "inet", "name": table_name(engine) } });
    vec![json!({ "add": table.clone() }), json!({ "delete": table })]
}

fn render(engine: &EngineId, subnet: Subnet, dns: &[Ipv4Addr]) -> Value {
    let table = Table { name: table_name(engine) };
    let ours = format!("{}*", veth_name(engine, ""));
    let anyones = format!("{VETH_PREFIX}*");
    let mut commands = removal(engine);
    commands.push(json!({ "add": { "table": { "family": "inet", "name": table.name } } }));
    commands.push(table.base_chain("pieces", "filter", "prerouting", BEFORE_DEFRAGMENTATION));
    commands.push(table.base_chain("forward", "filter", "forward", 0));
    commands.push(table.base_chain("input", "filter", "input", 0));
    commands.push(table.base_chain("postrouting", "nat", "postrouting", 100));
    commands.push(table.chain("allowed"));
    commands.push(table.chain("from_container"));
    commands.push(table.chain("to_world"));
    commands.push(table.chain("to_host"));

    let rules = [
        // What lacks a piece waits for it half a minute, in 4 MiB that all containers and the host share.
        ("pieces", vec![input_interface(&ours), is_piece(), drop_it()]),
        ("forward", vec![input_interface(&ours), jump("to_world")]),
        ("forward", vec![output_interface(&ours), in_state(&["established", "related"]), accept()]),
        ("forward", vec![output_interface(&ours), drop_it()]),
        ("input", vec![input_interface(&ours), jump("to_host")]),
        (
            "postrouting",
            vec![from_subnet(subnet), not_out_of(&anyones), json!({"masquerade": null})],
        ),
        // What both ways have in common.
        ("from_container", vec![matches("==", meta("nfproto"), json!("ipv6")), drop_it()]),
        ("from_container", vec![not_from_subnet(subnet), drop_it()]),
        ("from_container", vec![not_the_way_back(), drop_it()]),
        ("to_world", vec![jump("from_container")]),
        ("to_world", vec![output_interface(&anyones), drop_it()]),
        ("to_world", vec![to_networks(&METADATA), drop_it()]),
        ("to_world", vec![to_address(METADATA_WITH_DNS), to_port("udp", 53), jump("allowed")]),
        ("to_world", vec![to_address(METADATA_WITH_DNS), to_port("tcp", 53), jump("allowed")]),
        ("to_world", vec![to_address(METADATA_WITH_DNS), drop_it()]),
        // An address whose container is gone must not leave by the default route.
        ("to_world", vec![to_network(ALL_ENGINES), drop_it()]),
        ("to_world", vec![jump("allowed")]),
        ("to_host", vec![jump("from_container")]),
        ("to_host", vec![in_state(&["established", "related"]), accept()]),
        ("to_host", vec![to_address(subnet.gateway()), echo_request(), jump("allowed")]),
        // Queries and echoes take places in the kernel's table as well.
        ("allowed", vec![in_state(&["new"]), each_has_over(CONNECTIONS_MAX), drop_it()]),
        ("allowed", vec![in_state(&["new"]), all_have_over(connections_of_all()), drop_it()]),
        ("allowed", vec![accept()]),
    ];
    commands.extend(rules.into_iter().map(|(chain, rule)| table.rule(chain, rule)));
    for server in dns {
        for protocol in ["udp", "tcp"] {
            let rule = vec![to_address(*server), to_port(protocol, 53), jump("allowed")];
            commands.push(table.rule("to_host", rule));
        }
    }
    commands.push(table.rule("to_host", vec![drop_it()]));
    json!({ "nftables": commands })
}

/// Renders what belongs to one table. Source: libnftables-json(5).
struct Table {
    name: String,
}

impl Table {
    fn base_chain(&self, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
        json!({ "add": { "chain": {
            "family": "inet", "table": self.name, "name": name,
            "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        } } })
    }

    fn chain(&self, name: &str) -> Value {
        json!({ "add": { "chain": { "family": "inet", "table": self.name, "name": name } } })
    }

    fn rule(&self, chain: &str, expression: Vec<Value>) -> Value {
        json!({ "add": { "rule": {
            "family": "inet", "table": self.name, "chain": chain, "expr": expression,
        } } })
    }
}

/// True for a packet of a container that has more than `most` connections.
///
/// A meter, and not a set with a statement: nft 1.0.6 refuses the flag that the set would need.
fn each_has_over(most: u32) -> Value {
    json!({ "meter": {
        "name": "connections", "key": payload("ip", "saddr"), "size": 2048,
        "stmt": { "ct count": { "val": most, "inv": true } },
    } })
}

/// The same for all containers together: the key is one that all have in common.
fn all_have_over(most: u32) -> Value {
    json!({ "meter": {
        "name": "all_connections", "key": meta("nfproto"), "size": 4,
        "stmt": { "ct count": { "val": most, "inv": true } },
    } })
}

/// The host's own services always find room in the table.
fn connections_of_all() -> u32 {
    let read = std::fs::read_to_string(CONNECTIONS_TABLE);
    let size = read.ok().and_then(|text| text.trim().parse().ok());
    size.unwrap_or(CONNECTIONS_TABLE_DEFAULT) / CONNECTIONS_SHARE
}

fn matches(operator: &str, left: Value, right: Value) -> Value {
    json!({ "match": { "op": operator, "left": left, "right": right } })
}

fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn network(address: &str, prefix: u8) -> Value {
    json!({ "prefix": { "addr": address, "len": prefix } })
}

fn input_interface(pattern: &str) -> Value {
    matches("==", meta("iifname"), json!(pattern))
}

fn output_interface(pattern: &str) -> Value {
    matches("==", meta("oifname"), json!(pattern))
}

fn not_out_of(pattern: &str) -> Value {
    matches("!=", meta("oifname"), json!(pattern))
}

fn from_subnet(subnet: Subnet) -> Value {
    let from = network(&subnet.first().to_string(), Subnet::PREFIX);
    matches("==", payload("ip", "saddr"), from)
}

fn not_from_subnet(subnet: Subnet) -> Value {
    let from = network(&subnet.first().to_string(), Subnet::PREFIX);
    matches("!=", payload("ip", "saddr"), from)
}

fn to_network((address, prefix): (&str, u8)) -> Value {
    matches("==", payload("ip", "daddr"), network(address, prefix))
}

fn to_networks(networks: &[(&str, u8)]) -> Value {
    let all: Vec<Value> =
        networks.iter().map(|(address, prefix)| network(address, *prefix)).collect();
    matches("==", payload("ip", "daddr"), json!({ "set": all }))
}

fn to_address(address: Ipv4Addr) -> Value {
    matches("==", payload("ip", "daddr"), json!(address.to_string()))
}

fn to_port(protocol: &str, port: u16) -> Value {
    matches("==", payload(protocol, "dport"), json!(port))
}

/// True where an answer would not go back by the interface the packet came from: its source is
/// another container's.
fn not_the_way_back() -> Value {
    matches("==", json!({ "fib": { "result": "oif", "flags": ["saddr", "iif"] } }), json!(false))
}

/// True for a piece of a packet that its sender has cut up: there are more of it, or it's not the first. What is left out by the mask is
/// the flag that forbids to cut.
fn is_piece() -> Value {
    let flags_and_offset = json!({ "&": [payload("ip", "frag-off"), 0x3fff] });
    matches("!=", flags_and_offset, json!(0))
}

fn echo_request() -> Value {
    matches("==", payload("icmp", "type"), json!("echo-request"))
}

fn in_state(states: &[&str]) -> Value {
    matches("in", json!({ "ct": { "key": "state" } }), json!(states))
}

fn jump(chain: &str) -> Value {
    json!({ "jump": { "target": chain } })
}

fn accept() -> Value {
    json!({ "accept": null })
}

fn drop_it() -> Value {
    json!({ "drop": null })
}

/// Reads `nft -j list chains`.
fn find_drops(listed: &Value) -> Vec<ForeignDrop> {
    let chains = listed["nftables"].as_array().into_iter().flatten().map(|item| &item["chain"]);
    chains
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
        .filter(|chain| matches!(chain["family"].as_str(), Some("ip" | "inet")))
        .filter_map(|chain| {
            let text = |key: &str| chain[key].as_str().map(str::to_owned);
            Some(ForeignDrop {
                family: text("family")?,
                table: text("table")?,
                chain: text("name")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Claim;

    fn rendered(dns: &[Ipv4Addr]) -> Value {
        let engine = EngineId::from_random([0; EngineId::LENGTH]);
        render(&engine, Claim::new(1).unwrap().subnet(), dns)
    }

    fn rules(ruleset: &Value, chain: &str) -> Vec<String> {
        let commands = ruleset["nftables"].as_array().unwrap();
        let rules = commands.iter().map(|command| &command["add"]["rule"]);
        rules.filter(|rule| rule["chain"] == chain).map(|rule| rule["expr"].to_string()).collect()
    }

    #[test]
    fn the_table_is_replaced_in_one_transaction() {
        let ruleset = rendered(&[]);
        let commands = ruleset["nftables"].as_array().unwrap();
        let verbs: Vec<&String> =
            commands.iter().take(3).flat_map(|c| c.as_object().unwrap().keys()).collect();
        assert_eq!(verbs, ["add", "delete", "add"]);
        let table = |value: &Value| value["table"]["name"] == "ace_aaaa";
        assert!(commands[1].as_object().unwrap().values().all(table));
    }

    #[test]
    fn every_rule_is_of_this_engines_interfaces_or_subnet() {
        let ruleset = rendered(&[]);
        for rule in ["pieces", "forward", "input"].into_iter().flat_map(|it| rules(&ruleset, it)) {
            assert!(rule.contains("\"vaaaaa*\""), "{rule}");
        }
        assert!(rules(&ruleset, "postrouting")[0].contains(r#""addr":"198.18.8.0","len":21"#));
    }

    #[test]
    fn pieces_of_packets_are_dropped_before_they_wait_for_others() {
        let ruleset = rendered(&[]);
        let chain = &ruleset["nftables"][3]["add"]["chain"];
        assert_eq!((&chain["hook"], &chain["prio"]), (&json!("prerouting"), &json!(-450)));
        assert!(rules(&ruleset, "pieces")[0].contains("frag-off"));
    }

    #[test]
    fn the_host_is_closed_but_for_the_name_server_that_is_ours() {
        assert!(!rules(&rendered(&[]), "to_host").concat().contains("dport"));
        let gateway = Claim::new(1).unwrap().gateway();
        let to_host = rules(&rendered(&[gateway]), "to_host");
        assert_eq!(to_host.iter().filter(|rule| rule.contains("dport")).count(), 2);
        assert_eq!(to_host.last().unwrap(), r#"[{"drop":null}]"#);
    }

    #[test]
    fn of_a_cloud_s_own_address_only_names_can_be_asked() {
        let to_world = rules(&rendered(&[]), "to_world");
        let place = |part: &str, end: &str| {
            to_world.iter().position(|rule| rule.contains(part) && rule.contains(end)).unwrap()
        };
        let passed = to_world.len() - 1;
        for address in ["169.254.0.0", "100.100.100.200", "192.0.0.192", "168.63.129.16"] {
            assert!(place(address, "drop") < passed, "{address}");
        }
        let asked: Vec<&String> = to_world.iter().filter(|rule| rule.contains("dport")).collect();
        assert!(asked.len() == 2 && asked.iter().all(|rule| rule.contains("168.63.129.16")));
    }

    #[test]
    fn nothing_new_passes_uncounted() {
        let ruleset = rendered(&[Claim::new(1).unwrap().gateway()]);
        let is_lenient =
            |rule: &String| rule.contains("\"accept\"") && !rule.contains("established");
        for chain in ["to_world", "to_host", "from_container"] {
            assert!(!rules(&ruleset, chain).iter().any(is_lenient), "{chain}");
        }
        let counted = rules(&ruleset, "allowed");
        assert_eq!(counted.iter().filter(|rule| rule.contains("ct count")).count(), 2);
        assert_eq!(counted.last().unwrap(), r#"[{"accept":null}]"#);
    }

    #[test]
    fn a_foreign_chain_that_drops_is_named_with_the_rule_to_add() {
        let listed = json!({ "nftables": [
            { "metainfo": {} },
            { "chain": { "family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop" } },
            { "chain": { "family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop" } },
            { "chain": { "family": "inet", "table": "x", "name": "f", "hook": "forward", "policy": "accept" } },
        ] });
        let found = find_drops(&listed);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].remedy(),
            "nft insert rule ip filter FORWARD ct original ip saddr 198.18.0.0/15 accept"
        );
    }
}
