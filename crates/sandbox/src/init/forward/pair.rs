//! Two sockets whose bytes go over to each other, each direction with its own end.
//!
//! No byte is looked at. What one side says is read only when the other has taken what was read
//! before, so a side that takes nothing holds up the one that sends to it, as on one connection.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

/// The most that is read at once, and so that a direction holds.
pub const CHUNK_BYTES: usize = 16 << 10;
/// What the kernel is to hold for a socket in each direction; it takes twice that, its own records
/// included. See socket(7).
pub const SOCKET_BYTES: usize = 32 << 10;
/// Chunks that one direction carries before others have their turn.
const CHUNKS_AT_ONCE: usize = 8;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// On the instance's Unix socket.
    Client = 0,
    /// On the program's TCP port.
    Program = 1,
}

/// A client's connection and the program's.
pub struct Pair {
    client: OwnedFd,
    program: OwnedFd,
    request: Flow,
    answer: Flow,
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// What the receiving side has not taken yet.
    held: Vec<u8>,
    stage: Stage,
}

#[derive(Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The sending side has said all; the receiving side does not know yet.
    Ending,
    Over,
}

/// What came of carrying in one direction.
#[derive(Default)]
struct Carried {
    /// Something was read.
    any: bool,
    /// The connection of the sending side is broken.
    broken: bool,
}

impl End {
    pub const BOTH: [Self; 2] = [Self::Client, Self::Program];
}

impl Pair {
    pub fn new(client: OwnedFd, program: OwnedFd) -> Self {
        Self { client, program, request: Flow::default(), answer: Flow::default() }
    }

    pub fn socket(&self, end: End) -> BorrowedFd<'_> {
        match end {
            End::Client => self.client.as_fd(),
            End::Program => self.program.as_fd(),
        }
    }

    /// Carries what can be carried without waiting, using `buffer`, of [`CHUNK_BYTES`].
    pub fn carry(&mut self, buffer: &mut [u8]) {
        let Self { client, program, request, answer } = self;
        if request.carry(client, program, buffer).broken {
            answer.break_off();
        }
        let Carried { any, broken } = answer.carry(program, client, buffer);
        if broken {
            request.break_off();
        } else if any {
            // A program that sends an answer in pieces waits for the first one's acknowledgement,
            // which the kernel would put off for 40 ms. It forgets this setting; see tcp(7).
            _ = sockopt::set_tcp_quickack(&*program, true);
        }
    }

    /// The client takes nothing any more.
    pub fn client_left(&mut self) {
        self.answer.break_off();
    }

    /// What to wait for at `end`.
    pub fn interest(&self, end: End) -> EventFlags {
        let (from_here, to_here) = match end {
            End::Client => (&self.request, &self.answer),
            End::Program => (&self.answer, &self.request),
        };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, from_here.stage == Stage::Open && from_here.held.is_empty());
        flags.set(EventFlags::OUT, to_here.stage != Stage::Over && !to_here.held.is_empty());
        flags
    }

    /// Whether all has been said in both directions.
    pub fn is_over(&self) -> bool {
        self.request.stage == Stage::Over && self.answer.stage == Stage::Over
    }

    /// Whether all that the program said has been passed on.
    pub fn has_answered(&self) -> bool {
        self.answer.stage == Stage::Over
    }
}

impl Flow {
    fn carry(&mut self, from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> Carried {
        let mut carried = Carried::default();
        for _ in 0..CHUNKS_AT_ONCE {
            if self.stage == Stage::Over || !self.put(to) || self.stage == Stage::Ending {
                break;
            }
            match recv(from, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.stage = Stage::Ending,
                Ok((_, count)) => {
                    carried.any = true;
                    self.held.extend_from_slice(&buffer[..count]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.stage = Stage::Ending;
                    carried.broken = true;
                }
            }
        }
        if self.stage != Stage::Over && self.put(to) && self.stage == Stage::Ending {
            _ = shutdown(to, Shutdown::Write); // It fails where nobody is left to be told.
            self.stage = Stage::Over;
        }
        carried
    }

    /// Passes on what is held. Returns whether nothing is held any more.
    fn put(&mut self, to: &OwnedFd) -> bool {
        while !self.held.is_empty() {
            match send(to, &self.held, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.held.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => self.break_off(),
            }
        }
        self.held = Vec::new(); // An idle connection is to cost next to nothing.
        true
    }

    /// The receiving side takes nothing any more.
    fn break_off(&mut self) {
        *self = Self { held: Vec::new(), stage: Stage::Over };
    }
}
