//! A container's network: one veth pair, routed, without a bridge.
//!
//! ```text
//! container: eth0, ADDRESS/32, default route by way of GATEWAY
//!      │ veth pair
//! host: vaENGINEINSTANCE, GATEWAY/32, route ADDRESS/32
//! ```
//!
//! Every host end has the same gateway address, so no two containers share a wire and none needs an
//! address of the host's for itself. The pair dies with the container's namespace. What may pass is
//! up to [`crate::firewall`], and how fast it passes is bounded at both ends. What the kernel keeps for a container's network
//! in tables of the whole machine is bounded by [`tables`].

mod netlink;
mod rate;
mod tables;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use ace_types::{BitRate, EngineId};
use netlink::{Netlink, Route, mtu_of};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkInfo, LinkMessage,
};
use rate::{Sent, has_rate, limit_rate, sent};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::process::ProcessRef;
use crate::tool::ToolError;

/// The container's end.
const INSIDE: &str = "eth0";
const LOOPBACK: &str = "lo";
/// In hardware addresses.
const CONTAINERS_SIDE: u8 = 0;
const HOSTS_SIDE: u8 = 1;
/// What the name of every veth of every engine begins with.
pub const VETH_PREFIX: &str = "va";
/// A name has 15 bytes at most; the sixteenth ends it.
const NAME_MAX: usize = 15;
/// Ethernet's, where the host has no way out whose own could be taken.
const MTU_DEFAULT: u32 = 1500;
/// An address on the internet, to ask which way leads there. Nothing is sent to it.
const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// Speaks to the network namespace of the host. Opened before leaving it.
#[derive(Debug)]
pub struct HostNetlink(Netlink);

/// A container's way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// The name of its end on the host.
    pub host_interface: String,
    /// The container's.
    pub address: Ipv4Addr,
    /// The host's end.
    pub gateway: Ipv4Addr,
    /// What it carries at most, each way, where the kernel can bound that.
    pub bandwidth: BitRate,
}

/// Why a container got no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("could not open a netlink socket")]
    Open(#[source] io::Error),
    #[error("{name:?} is too long for an interface's name")]
    Name { name: String },
    #[error("could not {doing} {interface}")]
    Link { doing: &'static str, interface: String, source: io::Error },
    #[error("could not write {}", file.display())]
    Setting { file: PathBuf, source: io::Error },
    #[error("could not bound what the container's network knows of neighbours")]
    Neighbours(#[source] ToolError),
}

impl HostNetlink {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Netlink::open().map(Self)
    }
}

/// The name of an instance's interface on the host; `instance` is its id.
pub fn veth_name(engine: &EngineId, instance: &str) -> String {
    format!("{VETH_PREFIX}{engine}{instance}")
}

/// Connects the calling thread's network namespace, a new one, with the host.
///
/// `host` was opened in the host's. The end inside is `eth0`; the host's gets a route to it. Brings up
/// `lo` too. Returns whether this kernel bounds the bandwidth.
pub fn connect_veth(host: &HostNetlink, wire: &Wire) -> Result<bool, NetworkError> {
    let name = &wire.host_interface;
    if name.len() > NAME_MAX {
        return Err(NetworkError::Name { name: name.clone() });
    }
    disable_ipv6()?;
    tables::bound_closed_connections()?;
    bring_up_loopback()?;
    create_pair(&host.0, wire)?;
    tables::know_one_neighbour(INSIDE, wire.gateway)?;
    let outside = set_up_outside(&host.0, wire).map_err(link_error("set up", name))?;
    let inside = set_up_inside(wire).map_err(link_error("set up", INSIDE))?;
    Ok(outside && inside)
}

/// How the host's side of a container's network was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayOut {
    Whole,
    /// It was down, or the route to the container or the bound on its bandwidth was gone; now all is as
    /// it was made.
    Mended,
    /// The interface is gone, and the container's end with it.
    Gone,
}

/// Looks after what [`connect_veth`] made in the network namespace of the host, the caller's.
pub fn mend_way_out(wire: &Wire) -> Result<WayOut, NetworkError> {
    let name = &wire.host_interface;
    let host = Netlink::open().map_err(NetworkError::Open)?;
    let interface = match host.link(name) {
        Err(error) if is_no_link(&error) => return Ok(WayOut::Gone),
        link => link.map_err(link_error("look for", name))?.header.index,
    };
    // An interface that is down has no route.
    let has_route = host.link_towards(wire.address).is_ok_and(|towards| towards == interface);
    let bounded = has_rate(&host, interface, wire.bandwidth);
    if has_route && bounded.map_err(link_error("look at", name))? {
        return Ok(WayOut::Whole);
    }
    let can_bound = set_up_outside(&host, wire).map_err(link_error("set up", name))?;
    Ok(if has_route && !can_bound { WayOut::Whole } else { WayOut::Mended })
}

/// What has passed a container's wire since it was made, as the limits at its two ends count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireTraffic {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Packets, or bundles of them, that had to wait for their turn or were dropped.
    pub held_back: u64,
}

/// What has passed the wire of the container of `init`, whose end here is `host_interface`; `None` where this
/// kernel doesn't bound the bandwidth.
///
/// Errors: the process is gone, or one of the interfaces is.
pub fn wire_traffic(host_interface: &str, init: ProcessRef) -> io::Result<Option<WireTraffic>> {
    let outside = sent_by(host_interface)?;
    let namespace = fs::File::open(format!("/proc/{}/ns/net", init.pid))?;
    // Looked at once the namespace is held: then it is that of no later process of that id.
    if ProcessRef::of(init.pid)? != init {
        return Err(io::ErrorKind::NotFound.into());
    }
    // A thread of its own, for it can't be sure to come back from there.
    let look = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        sent_by(INSIDE)
    };
    let looked = std::thread::Builder::new().spawn(look)?.join();
    let inside =
        looked.map_err(|_| io::Error::other("the thread that looked inside panicked"))??;
    Ok(inside.zip(outside).map(|(inside, outside)| WireTraffic {
        sent_bytes: inside.bytes,
        received_bytes: outside.bytes,
        held_back: inside.held_back + outside.held_back,
    }))
}

fn sent_by(interface: &str) -> io::Result<Option<Sent>> {
    let here = Netlink::open()?;
    sent(&here, here.link(interface)?.header.index)
}

/// Brings up `lo` in the calling thread's network namespace.
pub fn bring_up_loopback() -> Result<(), NetworkError> {
    let bring_up = || {
        let here = Netlink::open()?;
        here.set_up(here.link(LOOPBACK)?.header.index)
    };
    bring_up().map_err(link_error("bring up", LOOPBACK))
}

/// Removes veths of `engine` that are left; returns their names. Normally there are none, since a
/// pair dies with its container. To be called where the host's network is.
pub fn remove_leftover_veths(engine: &EngineId) -> Result<Vec<String>, NetworkError> {
    let host = Netlink::open().map_err(NetworkError::Open)?;
    let prefix = veth_name(engine, "");
    let mut names = host.link_names().map_err(link_error("list", "all interfaces"))?;
    names.retain(|name| name.starts_with(&prefix));
    for name in &names {
        delete_if_there(&host, name)?;
    }
    Ok(names)
}

fn create_pair(host: &Netlink, wire: &Wire) -> Result<(), NetworkError> {
    let Wire { host_interface: name, address, gateway, .. } = wire;
    let namespace = fs::File::open("/proc/thread-self/ns/net").map_err(NetworkError::Open)?;
    let mtu = mtu_of_way_out(host);
    let inside = end(
        INSIDE,
        mtu,
        hardware_address(CONTAINERS_SIDE, *address),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    );
    let pair = LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
    ]);
    let outside = end(name, mtu, hardware_address(HOSTS_SIDE, *gateway), pair);
    let create = || {
        let message = RouteNetlinkMessage::NewLink(outside.clone());
        host.request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop)
    };
    let created = match create() {
        // The namespace of a container just ended goes after a while, and its pair with it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            delete_if_there(host, name)?;
            create()
        }
        result => result,
    };
    created.map_err(link_error("create", name))
}

/// One end of a pair. Its hardware address is fixed: where it isn't, udev changes it a moment after
/// the link came up, and what the other end has learnt is wrong.
fn end(name: &str, mtu: u32, hardware: [u8; 6], further: LinkAttribute) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(hardware.to_vec()),
        further,
    ];
    message
}

/// A locally administered address that no other wire's matters to: `side` tells the two ends apart.
fn hardware_address(side: u8, address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, side, a, b, c, d]
}

/// Returns whether the bandwidth is bounded, and so does the next.
fn set_up_outside(host: &Netlink, wire: &Wire) -> io::Result<bool> {
    let Wire { host_interface, address, gateway, bandwidth } = wire;
    let (address, gateway) = (*address, *gateway);
    let interface = host.link(host_interface)?.header.index;
    // Without it the host would speak IPv6 on the wire. A kernel without IPv6 refuses it; fine.
    let _ = host.request(no_ipv6_address(interface), 0);
    host.add_address(interface, gateway)?;
    let bounded = limit_rate(host, interface, *bandwidth)?;
    host.set_up(interface)?;
    host.set_neighbour(interface, address, hardware_address(CONTAINERS_SIDE, address))?;
    // The address may be that of a container just ended, whose network takes a while to go.
    let route = Route { destination: Some(address), gateway: None, source: gateway, interface };
    host.set_route(route)?;
    Ok(bounded)
}

fn set_up_inside(wire: &Wire) -> io::Result<bool> {
    let (address, gateway) = (wire.address, wire.gateway);
    let here = Netlink::open()?;
    let interface = here.link(INSIDE)?.header.index;
    here.add_address(interface, address)?;
    let bounded = limit_rate(&here, interface, wire.bandwidth)?;
    here.set_up(interface)?;
    here.set_neighbour(interface, gateway, hardware_address(HOSTS_SIDE, gateway))?;
    let to_gateway =
        Route { destination: Some(gateway), gateway: None, source: address, interface };
    here.set_route(to_gateway)?;
    here.set_route(Route { destination: None, gateway: Some(gateway), ..to_gateway })?;
    Ok(bounded)
}

fn no_ipv6_address(interface: u32) -> RouteNetlinkMessage {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let mut message = LinkMessage::default();
    message.header.index = interface;
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
    RouteNetlinkMessage::SetLink(message)
}

/// The largest packet that goes out of the host in one piece.
fn mtu_of_way_out(host: &Netlink) -> u32 {
    let way_out = || mtu_of(&host.link_by_index(host.link_towards(SOMEWHERE).ok()?).ok()?);
    way_out().unwrap_or(MTU_DEFAULT)
}

/// Switches IPv6 off for all interfaces of the calling thread's namespace, those to come included.
fn disable_ipv6() -> Result<(), NetworkError> {
    for interfaces in ["all", "default"] {
        // It shows the namespace of the thread that looks.
        let file = Path::new("/proc/sys/net/ipv6/conf").join(interfaces).join("disable_ipv6");
        match fs::write(&file, "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // A kernel without IPv6.
            Err(source) => return Err(NetworkError::Setting { file, source }),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn delete_if_there(host: &Netlink, name: &str) -> Result<(), NetworkError> {
    match host.delete_link(name) {
        Err(error) if is_no_link(&error) => Ok(()),
        result => result.map_err(link_error("remove", name)),
    }
}

fn is_no_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn link_error(doing: &'static str, interface: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let interface = interface.to_owned();
    move |source| NetworkError::Link { doing, interface, source }
}

#[cfg(test)]
mod tests {
    use ace_types::InstanceId;

    use super::*;

    #[test]
    fn an_interfaces_name_fits_and_is_its_instances_alone() {
        let engine = EngineId::from_random([0; EngineId::LENGTH]);
        let instance = InstanceId::from_random([255; InstanceId::LENGTH]);
        let name = veth_name(&engine, instance.as_str());
        assert_eq!(name, "vaaaaa99999999");
        assert!(name.len() <= NAME_MAX);
    }

    #[test]
    fn a_hardware_address_is_local_and_not_a_groups() {
        let address = hardware_address(1, Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(address[0] & 0b11, 0b10);
    }
}
