//! Takes the connections of the instance's socket on to a port that the tenant's program listens on.
//!
//! Whoever connects waits in the socket's backlog until the program takes a connection, so that
//! nobody is turned away while it starts: first a connection to the program is made, then one is
//! taken from the backlog for it. So what init holds is bounded, in number by `connections_max` and
//! for each connection by what `pair` says, whatever the program and its clients do.
//!
//! Only IPv4's loopback is tried: containers have no IPv6.

mod pair;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, connect, socket_with, sockopt,
};

use self::pair::{End, Pair};

/// The pause before a program that took no connection is asked again, as long as somebody waits.
const PAUSE: Duration = Duration::from_millis(50);
/// Events that are handled before init looks after its other affairs.
const EVENTS_AT_ONCE: usize = 64;
const NEW_SOCKET: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Marks events of the socket with the backlog.
const LISTENER: u64 = u64::MAX;
/// Marks events of the connection that is being made.
const NEXT: u64 = u64::MAX - 1;

/// All that is forwarded in a container.
pub struct Forwarder {
    epoll: OwnedFd,
    listener: OwnedFd,
    program: SocketAddrV4,
    intake: Intake,
    pairs: Vec<Option<Watched>>,
    /// Places in `pairs` that are free.
    free: Vec<usize>,
    connections_max: usize,
    buffer: Vec<u8>,
}

/// What is done for whoever is first in the backlog.
enum Intake {
    /// Nobody is there, as far as is known.
    Open,
    /// A connection to the program is being made.
    Connecting(OwnedFd),
    /// The program took none.
    Pausing { until: Instant },
    /// There are as many connections as there may be.
    Full,
    /// The program has ended.
    Closed,
}

/// A pair, and what of its sockets is waited for.
struct Watched {
    pair: Pair,
    interest: [EventFlags; 2],
}

impl Forwarder {
    /// Takes the connections of `listener` to `port`, at most `connections_max` at once.
    pub fn new(listener: OwnedFd, port: u16, connections_max: u32) -> io::Result<Self> {
        ioctl_fionbio(&listener, true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            program: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            intake: Intake::Open,
            pairs: Vec::new(),
            free: Vec::new(),
            connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
            buffer: vec![0; pair::CHUNK_BYTES],
        })
    }

    /// Can be read when [`Self::turn`] has something to do.
    pub fn source(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// When [`Self::turn`] is wanted though nothing has come.
    pub fn due(&self) -> Option<Instant> {
        match self.intake {
            Intake::Pausing { until } => Some(until),
            _ => None,
        }
    }

    /// Does what can be done without waiting, within bounds.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&Timespec::default())) {
            Err(Errno::INTR) => return Ok(()),
            result => result?,
        };
        // New pairs last: their places may be those of pairs that other events are for.
        let (mut is_asked, mut is_connected) = (false, false);
        for event in events {
            match event.data.u64() {
                LISTENER => is_asked = true,
                NEXT => is_connected = true,
                token => self.carry(token, event.flags),
            }
        }
        match std::mem::replace(&mut self.intake, Intake::Closed) {
            Intake::Open if is_asked => self.begin(),
            Intake::Connecting(socket) if is_connected => self.connected(socket),
            Intake::Pausing { until } if Instant::now() >= until => self.begin(),
            Intake::Full if !self.is_full() => self.open(),
            unchanged => {
                self.intake = unchanged;
                Ok(())
            }
        }
    }

    /// Passes on what an ended program has left, until `deadline` at the latest.
    pub fn finish(&mut self, deadline: Instant) -> io::Result<()> {
        self.intake = Intake::Closed;
        self.watch_listener(EventFlags::empty())?;
        let pairs = |this: &Self| this.pairs.iter().flatten().any(|it| !it.pair.has_answered());
        while pairs(self) && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                result => drop(result?),
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Begins a connection to the program.
    fn begin(&mut self) -> io::Result<()> {
        let socket = match socket_with(AddressFamily::INET, SocketType::STREAM, NEW_SOCKET, None) {
            Ok(socket) => socket,
            Err(_) => return self.pause(), // Out of descriptors or memory; some come free.
        };
        bound_buffers(&socket)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &self.program) {
            Ok(()) => self.connected(socket),
            Err(Errno::INPROGRESS) => {
                let watched = self.watch(&socket, NEXT, EventFlags::OUT);
                if watched.is_err() {
                    return self.pause();
                }
                self.intake = Intake::Connecting(socket);
                self.watch_listener(EventFlags::empty())
            }
            Err(_) => self.pause(),
        }
    }

    /// The connection to the program stands, or can't be made.
    fn connected(&mut self, socket: OwnedFd) -> io::Result<()> {
        if !matches!(sockopt::socket_error(&socket), Ok(Ok(()))) {
            return self.pause();
        }
        _ = epoll::delete(&self.epoll, &socket); // It's not there if it stood at once.
        match accept_with(&self.listener, NEW_SOCKET) {
            Ok(client) => {
                sockopt::set_socket_send_buffer_size(&client, pair::SOCKET_BYTES)?;
                self.add(Pair::new(client, socket));
                if self.is_full() { self.close() } else { self.open() }
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => self.open(),
            Err(_) => self.pause(),
        }
    }

    fn open(&mut self) -> io::Result<()> {
        self.intake = Intake::Open;
        self.watch_listener(EventFlags::IN)
    }

    fn close(&mut self) -> io::Result<()> {
        self.intake = Intake::Full;
        self.watch_listener(EventFlags::empty())
    }

    fn pause(&mut self) -> io::Result<()> {
        self.intake = Intake::Pausing { until: Instant::now() + PAUSE };
        self.watch_listener(EventFlags::empty())
    }

    fn is_full(&self) -> bool {
        self.pairs.len() - self.free.len() >= self.connections_max
    }

    fn add(&mut self, pair: Pair) {
        let watched = Watched { pair, interest: [EventFlags::empty(); 2] };
        let place = self.free.pop().unwrap_or(self.pairs.len());
        if place == self.pairs.len() {
            self.pairs.push(None);
        }
        self.pairs[place] = Some(watched);
        self.carry(token(place, End::Client), EventFlags::IN);
    }

    /// Carries what can be carried between the sockets of a pair, after `flags` came for one of them.
    fn carry(&mut self, token: u64, flags: EventFlags) {
        let (place, end) = place_of(token);
        let Some(watched) = self.pairs.get_mut(place).and_then(Option::as_mut) else { return };
        if end == End::Client && flags.contains(EventFlags::HUP) {
            watched.pair.client_left();
        }
        watched.pair.carry(&mut self.buffer);
        let is_over = watched.pair.is_over();
        if is_over || watch_pair(&self.epoll, place, watched).is_err() {
            self.pairs[place] = None; // Which closes both, and ends what epoll knows of them.
            self.free.push(place);
        }
    }

    fn watch(&self, socket: &OwnedFd, token: u64, flags: EventFlags) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)
    }

    fn watch_listener(&self, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, &self.listener, EventData::new_u64(LISTENER), flags)?)
    }
}

/// Tells epoll what is waited for now, where that has changed.
fn watch_pair(epoll: &OwnedFd, place: usize, watched: &mut Watched) -> rustix::io::Result<()> {
    for end in End::BOTH {
        let wanted = watched.pair.interest(end);
        let before = std::mem::replace(&mut watched.interest[end as usize], wanted);
        let (socket, data) = (watched.pair.socket(end), EventData::new_u64(token(place, end)));
        match (before.is_empty(), wanted.is_empty()) {
            _ if before == wanted => {}
            (true, _) => epoll::add(epoll, socket, data, wanted)?,
            // A socket whose other side is gone tells so again and again; here nobody wants to know.
            (_, true) => epoll::delete(epoll, socket)?,
            _ => epoll::modify(epoll, socket, data, wanted)?,
        }
    }
    Ok(())
}

/// Bounds what the kernel holds for a socket; by default that may grow to some megabytes.
fn bound_buffers(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size(socket, pair::SOCKET_BYTES)?;
    Ok(sockopt::set_socket_send_buffer_size(socket, pair::SOCKET_BYTES)?)
}

fn token(place: usize, end: End) -> u64 {
    (place as u64) << 1 | end as u64
}

fn place_of(token: u64) -> (usize, End) {
    let end = if token & 1 == 0 { End::Client } else { End::Program };
    // It came of a place, which is a `usize`.
    (usize::try_from(token >> 1).unwrap_or(usize::MAX), end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// A socket as the engine binds it, and its path.
    struct Front {
        folder: tempfile::TempDir,
    }

    impl Front {
        fn new() -> (Self, OwnedFd) {
            let front = Self { folder: tempfile::tempdir().unwrap() };
            let listener = UnixListener::bind(front.folder.path().join("socket")).unwrap();
            (front, listener.into())
        }

        fn connect(&self) -> UnixStream {
            let stream = UnixStream::connect(self.folder.path().join("socket")).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }
    }

    /// Turns `forwarder` until `done`.
    fn turn_until(forwarder: &mut Forwarder, mut done: impl FnMut(&Forwarder) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(forwarder) {
            assert!(Instant::now() < deadline, "not in time");
            let wait = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            poll(&mut [PollFd::new(&forwarder.source(), PollFlags::IN)], Some(&wait)).unwrap();
            forwarder.turn().unwrap();
        }
    }

    fn open_pairs(forwarder: &Forwarder) -> usize {
        forwarder.pairs.iter().flatten().count()
    }

    /// A program that listens, and a forwarder to it.
    fn to_program(connections_max: u32) -> (Front, TcpListener, Forwarder) {
        let program = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = program.local_addr().unwrap().port();
        let (front, listener) = Front::new();
        (front, program, Forwarder::new(listener, port, connections_max).unwrap())
    }

    /// One connection through `forwarder`, from both sides.
    fn connection(
        front: &Front,
        program: &TcpListener,
        forwarder: &mut Forwarder,
    ) -> (UnixStream, TcpStream) {
        let client = front.connect();
        let before = open_pairs(forwarder);
        turn_until(forwarder, |it| open_pairs(it) > before);
        (client, program.accept().unwrap().0)
    }

    #[test]
    fn whoever_comes_before_the_program_listens_waits() {
        let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = reserved.local_addr().unwrap();
        drop(reserved);
        let (front, listener) = Front::new();
        let mut forwarder = Forwarder::new(listener, address.port(), 8).unwrap();
        let mut client = front.connect();
        client.write_all(b"early").unwrap();
        turn_until(&mut forwarder, |it| it.due().is_some());
        let program = TcpListener::bind(address).unwrap();
        turn_until(&mut forwarder, |it| open_pairs(it) == 1);
        let mut taken = [0; 5];
        program.accept().unwrap().0.read_exact(&mut taken).unwrap();
        assert_eq!(&taken, b"early");
    }

    #[test]
    fn large_bodies_go_both_ways_with_their_ends() {
        let (front, program, mut forwarder) = to_program(8);
        let (client, app) = connection(&front, &program, &mut forwarder);
        let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        std::thread::scope(|scope| {
            let echoing = scope.spawn(|| {
                std::io::copy(&mut &app, &mut &app).unwrap();
                app.shutdown(Shutdown::Write).unwrap();
            });
            let sending = scope.spawn(|| {
                (&client).write_all(&body).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            let reading = scope.spawn(|| {
                let mut taken = Vec::new();
                (&client).read_to_end(&mut taken).unwrap();
                taken
            });
            turn_until(&mut forwarder, |it| open_pairs(it) == 0);
            assert!(reading.join().unwrap() == body);
            assert!(echoing.is_finished() && sending.is_finished());
        });
    }

    #[test]
    fn no_more_are_taken_than_may_be() {
        let (front, program, mut forwarder) = to_program(1);
        let first = connection(&front, &program, &mut forwarder);
        let mut second = front.connect();
        second.write_all(b"x").unwrap();
        for _ in 0..20 {
            forwarder.turn().unwrap();
        }
        assert_eq!(open_pairs(&forwarder), 1);
        drop(first);
        program.set_nonblocking(true).unwrap();
        let mut next = None;
        turn_until(&mut forwarder, |it| {
            next = next.take().or_else(|| program.accept().ok());
            next.is_some() && open_pairs(it) == 1
        });
        let mut taken = [0];
        next.unwrap().0.read_exact(&mut taken).unwrap();
        assert_eq!(&taken, b"x");
    }

    #[test]
    fn a_client_that_leaves_is_no_reason_to_spin_and_ends_the_pair() {
        let (front, program, mut forwarder) = to_program(8);
        let (client, mut app) = connection(&front, &program, &mut forwarder);
        drop(client);
        turn_until(&mut forwarder, |it| open_pairs(it) == 0);
        assert_eq!(app.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_answer_before_the_end_of_the_request_comes_through() {
        let (front, program, mut forwarder) = to_program(8);
        let (mut client, mut app) = connection(&front, &program, &mut forwarder);
        client.write_all(&[0; 100_000]).unwrap();
        app.write_all(b"413").unwrap();
        // With most of the request unread, this is a reset.
        drop(app);
        let mut taken = Vec::new();
        turn_until(&mut forwarder, |it| open_pairs(it) == 0);
        // What it was reset by is told after what it said.
        _ = client.read_to_end(&mut taken);
        assert_eq!(taken, b"413");
    }

    #[test]
    fn what_an_ended_program_has_said_is_passed_on() {
        let (front, program, mut forwarder) = to_program(8);
        let (mut client, mut app) = connection(&front, &program, &mut forwarder);
        let said = vec![7; 200_000];
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut taken = vec![0; said.len()];
                client.read_exact(&mut taken).unwrap();
                taken
            });
            // It ends as soon as the kernel has taken its words.
            let writing = scope.spawn(|| {
                app.write_all(&said).unwrap();
                drop(app);
            });
            turn_until(&mut forwarder, |_| writing.is_finished());
            forwarder.finish(Instant::now() + Duration::from_secs(20)).unwrap();
            assert!(reading.join().unwrap() == said);
        });
    }
}
