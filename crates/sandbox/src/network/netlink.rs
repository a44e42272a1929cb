//! Requests to the kernel's routing netlink, one at a time and answered before the call returns.

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// The kernel answers at once; this bounds a fault of its own.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes before a message's payload: length, type, flags, sequence, port.
const HEADER_LENGTH: usize = 16;

/// A socket that acts on the network namespace it was opened in, wherever its process goes.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: Cell<u32>,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// `None` is the default route.
    pub destination: Option<Ipv4Addr>,
    pub gateway: Option<Ipv4Addr>,
    pub source: Ipv4Addr,
    pub interface: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_DEADLINE))?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Sends `message` and waits until the kernel has done it; returns what it answered besides.
    pub fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        self.send(message, flags, sequence)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for bytes in split(&datagram) {
                // What this library can't read, such as a link of a kind it doesn't know, is none
                // of ours.
                let Ok(answer) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else {
                    continue;
                };
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }

    /// The number and properties of the link called `name`.
    pub fn link(&self, name: &str) -> io::Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        first_link(self.request(RouteNetlinkMessage::GetLink(message), 0)?)
    }

    /// The properties of link number `index`.
    pub fn link_by_index(&self, index: u32) -> io::Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        first_link(self.request(RouteNetlinkMessage::GetLink(message), 0)?)
    }

    /// Names of all links.
    pub fn link_names(&self) -> io::Result<Vec<String>> {
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let name = |answer: RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewLink(link) => name_of(&link).map(str::to_owned),
            _ => None,
        };
        Ok(self.request(all, NLM_F_DUMP)?.into_iter().filter_map(name).collect())
    }

    pub fn delete_link(&self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.request(RouteNetlinkMessage::DelLink(message), 0).map(drop)
    }

    pub fn set_up(&self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Gives link number `index` this one address, without a network around it. May be called twice.
    pub fn add_address(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
        ];
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
    }

    /// Sets the route to a destination, in place of one that there is.
    pub fn set_route(&self, route: Route) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: AddressFamily::Inet,
            destination_prefix_length: if route.destination.is_some() { 32 } else { 0 },
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        let attributes = [
            route.destination.map(|to| RouteAttribute::Destination(RouteAddress::Inet(to))),
            route.gateway.map(|by| RouteAttribute::Gateway(RouteAddress::Inet(by))),
            Some(RouteAttribute::PrefSource(RouteAddress::Inet(route.source))),
            Some(RouteAttribute::Oif(route.interface)),
        ];
        message.attributes = attributes.into_iter().flatten().collect();
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Tells once for all at which hardware address the neighbour `address` is, on link number `index`. Nobody asks for
    /// it then, and it stays where the kernel's table of neighbours, which all containers and the host share, is full.
    pub fn set_neighbour(
        &self,
        index: u32,
        address: Ipv4Addr,
        hardware: [u8; 6],
    ) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLocalAddress(hardware.to_vec()),
        ];
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
    }

    /// The number of the link by which a packet to `destination` would leave. Sends none.
    pub fn link_towards(&self, destination: Ipv4Addr) -> io::Result<u32> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 32;
        message.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(destination))];
        let answers = self.request(RouteNetlinkMessage::GetRoute(message), 0)?;
        let link = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => {
                route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                })
            }
            _ => None,
        });
        link.ok_or_else(|| io::ErrorKind::NetworkUnreachable.into())
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16, sequence: u32) -> io::Result<()> {
        // The end of a dump is told anyhow; an acknowledgement on top would answer the next request.
        let ack = if flags & NLM_F_DUMP == NLM_F_DUMP { 0 } else { NLM_F_ACK };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | ack | flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let sent = self.socket.send(&bytes, 0)?;
        debug_assert_eq!(sent, bytes.len(), "fd {}", self.socket.as_raw_fd());
        Ok(())
    }
}

/// The largest packet that `link` takes.
pub fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn first_link(answers: Vec<RouteNetlinkMessage>) -> io::Result<LinkMessage> {
    let link = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    link.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The messages in one datagram: each begins with its length and is padded to four bytes.
fn split(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length).filter(|_| length >= HEADER_LENGTH)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_splits_into_padded_messages() {
        let mut datagram = vec![0_u8; 20 + 16];
        datagram[..4].copy_from_slice(&18_u32.to_ne_bytes());
        datagram[20..24].copy_from_slice(&16_u32.to_ne_bytes());
        assert_eq!(split(&datagram).map(<[u8]>::len).collect::<Vec<_>>(), [18, 16]);
    }

    #[test]
    fn a_length_that_lies_ends_the_datagram() {
        for length in [0_u32, 15, 17, u32::MAX] {
            let mut datagram = vec![0_u8; 16];
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(split(&datagram).count(), 0, "{length}");
        }
    }
}
