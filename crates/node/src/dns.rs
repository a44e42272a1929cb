//! Names inside containers: which servers they ask, and a small forwarder where they can't ask the
//! host's.
//!
//! A host's resolver often listens on loopback (systemd-resolved, dnsmasq), which a container can't
//! reach. Then containers ask the gateway's address, and the forwarder passes each query on as it
//! is. It parses nothing: bytes go out, bytes come back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

const DNS_PORT: u16 = 53;
/// Queries under way at once; more are dropped, and their clients ask again.
const QUERIES_MAX: Most = Most { of_all: 1024, of_one: 64 };
/// TCP connections at once.
const CONNECTIONS_MAX: Most = Most { of_all: 128, of_one: 8 };
/// How long a server may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How long one TCP connection may last.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(20);
/// The largest datagram: EDNS allows more than the 512 bytes of old.
const DATAGRAM_MAX: usize = 4096;
/// The pause after a failure to receive or accept.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Where containers send their queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolvers {
    /// For `/etc/resolv.conf` in containers; the gateway's own address where we forward.
    pub nameservers: Vec<Ipv4Addr>,
    /// The server on the host that the forwarder asks; `None` where none is needed.
    pub forward_to: Option<SocketAddr>,
}

impl Resolvers {
    /// What follows from the host's `resolv_conf` text, for containers behind `gateway`.
    pub fn choose(resolv_conf: &str, gateway: Ipv4Addr) -> Self {
        let servers = parse(resolv_conf);
        let reachable: Vec<Ipv4Addr> = servers.iter().copied().filter_map(reachable_v4).collect();
        match (reachable.is_empty(), servers.first()) {
            (true, Some(first)) => Self {
                nameservers: vec![gateway],
                forward_to: Some(SocketAddr::new(*first, DNS_PORT)),
            },
            _ => Self { nameservers: reachable, forward_to: None },
        }
    }
}

/// The addresses of `nameserver` lines, see resolv.conf(5); at most three count.
fn parse(resolv_conf: &str) -> Vec<IpAddr> {
    let values = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    values.filter_map(|value| value.trim().parse().ok()).take(3).collect()
}

/// The address, if a container can reach it: IPv4, neither on loopback nor link-local.
fn reachable_v4(server: IpAddr) -> Option<Ipv4Addr> {
    match server {
        IpAddr::V4(server) => {
            (!server.is_loopback() && !server.is_link_local() && !server.is_unspecified())
                .then_some(server)
        }
        IpAddr::V6(_) => None,
    }
}

/// Answers on port 53 of `gateway`, which need not exist yet, by asking `upstream`. Runs until the
/// runtime ends.
///
/// Errors: the port can't be bound.
pub fn forward(gateway: Ipv4Addr, upstream: SocketAddr) -> io::Result<()> {
    let address = SocketAddrV4::new(gateway, DNS_PORT);
    let datagrams = UdpSocket::from_std(bind_free(address, SocketType::DGRAM)?.into())?;
    let listener = bind_free(address, SocketType::STREAM)?;
    rustix::net::listen(&listener, 64)?;
    let streams = TcpListener::from_std(listener.into())?;
    tokio::spawn(forward_datagrams(datagrams, upstream));
    tokio::spawn(forward_streams(streams, upstream));
    Ok(())
}

/// Binds an address that no interface has yet: it comes with the first container.
fn bind_free(address: SocketAddrV4, kind: SocketType) -> io::Result<std::os::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

async fn forward_datagrams(socket: UdpSocket, upstream: SocketAddr) {
    let socket = Arc::new(socket);
    let room = Room::new(QUERIES_MAX);
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            sleep(FAILURE_PAUSE).await;
            continue;
        };
        let Some(place) = room.place(client.ip()) else { continue };
        let (socket, query) = (Arc::clone(&socket), buffer[..length].to_vec());
        tokio::spawn(async move {
            let _place = place;
            if let Ok(Ok(answer)) = timeout(ANSWER_DEADLINE, ask(&query, upstream)).await {
                let _ = socket.send_to(&answer, client).await; // The client asks again.
            }
        });
    }
}

async fn ask(query: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut answer = vec![0; DATAGRAM_MAX];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

async fn forward_streams(listener: TcpListener, upstream: SocketAddr) {
    let room = Room::new(CONNECTIONS_MAX);
    loop {
        let Ok((mut client, from)) = listener.accept().await else {
            sleep(FAILURE_PAUSE).await;
            continue;
        };
        let Some(place) = room.place(from.ip()) else { continue };
        tokio::spawn(async move {
            let _place = place;
            let relay = async {
                let mut server = TcpStream::connect(upstream).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            let _ = timeout(CONNECTION_DEADLINE, relay).await; // The client sees the close.
        });
    }
}

/// How much may be under way at once. A container whose names nobody answers holds up no other's.
#[derive(Debug, Clone, Copy)]
struct Most {
    of_all: usize,
    of_one: usize,
}

/// What is under way, by who asked for it.
#[derive(Debug)]
struct Room {
    most: Most,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A part of a [`Room`], given back when dropped.
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    client: IpAddr,
}

impl Room {
    fn new(most: Most) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A place for `client`; `None` where it has all that it may have, or there is none left.
    fn place(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        let of_one = taken.get(&client).copied().unwrap_or(0);
        if of_one >= self.most.of_one || taken.values().sum::<usize>() >= self.most.of_all {
            return None;
        }
        taken.insert(client, of_one + 1);
        Some(Place { room: Arc::clone(self), client })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        match taken.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

    #[test]
    fn a_server_that_containers_reach_is_asked_directly() {
        let found =
            Resolvers::choose("search lan\nnameserver 192.0.2.53\n# nameserver 1\n", GATEWAY);
        let server = Ipv4Addr::new(192, 0, 2, 53);
        assert_eq!(found, Resolvers { nameservers: vec![server], forward_to: None });
    }

    #[test]
    fn a_server_on_loopback_is_asked_by_the_forwarder() {
        let found = Resolvers::choose("nameserver 127.0.0.53\noptions edns0\n", GATEWAY);
        let upstream = SocketAddr::from(([127, 0, 0, 53], 53));
        assert_eq!(found, Resolvers { nameservers: vec![GATEWAY], forward_to: Some(upstream) });
    }

    #[test]
    fn a_host_without_servers_has_none_to_give() {
        let found = Resolvers::choose("", GATEWAY);
        assert_eq!(found, Resolvers { nameservers: vec![], forward_to: None });
    }

    #[test]
    fn who_asks_for_much_leaves_room_for_others() {
        let room = Room::new(Most { of_all: 3, of_one: 2 });
        let [one, two, three] = [1, 2, 3].map(|n| IpAddr::from([198, 18, 0, n]));
        let mut places = vec![room.place(one), room.place(one)];
        assert!(room.place(one).is_none(), "it has all that it may have");
        places.push(room.place(two));
        assert!(places.iter().all(Option::is_some));
        assert!(room.place(three).is_none(), "none is left");
        places.clear();
        assert!(room.place(one).is_some() && room.taken().is_empty());
    }

    #[tokio::test]
    async fn a_query_comes_back_answered() -> io::Result<()> {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let upstream = server.local_addr()?;
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            let (length, from) = server.recv_from(&mut buffer).await?;
            buffer[..length].reverse();
            server.send_to(&buffer[..length], from).await
        });
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = front.local_addr()?;
        tokio::spawn(forward_datagrams(front, upstream));
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        client.send_to(b"query", address).await?;
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).await?;
        assert_eq!(&buffer[..length], b"yreuq");
        Ok(())
    }
}
