//! Tells when connections to app servers can be read or written.
//!
//! Most of them live for one exchange. To the runtime, each would be a place among its sources: memory, two
//! lists, a call to enter and one to leave, and an event for a socket that takes bytes, as a new one always
//! does. So they have a set of their own (`epoll`), of which the runtime sees the set's one descriptor.
//! A connection enters with one call, for what it waits for, and leaves by being closed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// The connections of one thread.
#[derive(Debug)]
pub struct Poller {
    set: OwnedFd,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    /// No number is used twice: an event that comes late finds nobody.
    next: u64,
    known: BTreeMap<u64, Arc<Readiness>>,
}

/// A connection's place in a [`Poller`]. Drop it together with the connection.
#[derive(Debug)]
pub struct Place {
    poller: Arc<Poller>,
    number: u64,
    readiness: Arc<Readiness>,
}

/// What can be done with a connection, and who waits for it.
#[derive(Debug, Default)]
struct Readiness {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    readable: bool,
    writable: bool,
    /// The other side has closed: there is an end to be read, and there will be no more events.
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The most events that are taken at once.
const EVENTS_MAX: usize = 128;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

thread_local! {
    /// This thread's, and the task that hands out its events. That ends with its runtime.
    static CURRENT: RefCell<Option<(Arc<Poller>, JoinHandle<()>)>> = const { RefCell::new(None) };
}

impl Poller {
    /// This thread's. Call within a runtime.
    fn current() -> io::Result<Arc<Self>> {
        CURRENT.with_borrow_mut(|current| {
            if let Some((poller, task)) = current
                && !task.is_finished()
            {
                return Ok(Arc::clone(poller));
            }
            let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe, and an OwnedFd keeps what that asks for"
            )]
            let events = AsyncFd::with_interest(set.try_clone()?, Interest::READABLE)?;
            let poller = Arc::new(Self { set, members: Mutex::default() });
            let task = tokio::spawn(hand_out(events, Arc::clone(&poller)));
            *current = Some((Arc::clone(&poller), task));
            Ok(poller)
        })
    }

    /// Tells everybody of their events. Returns how many there were.
    fn tell_all(&self) -> io::Result<usize> {
        let mut room = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        let (events, _) = epoll::wait(&self.set, &mut room, Some(&AT_ONCE))?;
        for event in events.iter() {
            let readiness = self.members().known.get(&event.data.u64()).cloned();
            if let Some(readiness) = readiness {
                readiness.note(event.flags);
            }
        }
        Ok(events.len())
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for events, over and over. Ends with the runtime.
async fn hand_out(events: AsyncFd<OwnedFd>, poller: Arc<Poller>) {
    while let Ok(mut ready) = events.readable().await {
        if poller.tell_all().is_ok_and(|count| count < EVENTS_MAX) {
            ready.clear_ready(); // There are no more for now.
        }
    }
}

impl Place {
    /// Puts `connection` into this thread's set, to be read. Call within a runtime.
    pub fn enter(connection: impl AsFd) -> io::Result<Self> {
        let poller = Poller::current()?;
        let readiness = Arc::new(Readiness::default());
        let mut members = poller.members();
        let number = members.next;
        members.next += 1;
        members.known.insert(number, Arc::clone(&readiness));
        drop(members);
        let place = Self { poller, number, readiness };
        epoll::add(&place.poller.set, connection, place.event(), READ)?;
        Ok(place)
    }

    /// Takes `connection`, whose place this is, out of the set before it's closed.
    pub fn leave(self, connection: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.poller.set, connection)?)
    }

    /// Waits until there may be something to read.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.readiness.state();
        if state.readable || state.closed {
            return Poll::Ready(());
        }
        wait_in(&mut state.reader, cx);
        Poll::Pending
    }

    /// Calls `read` when there may be something, as often as that finds nothing. `is_all` tells of what it returned
    /// whether there is nothing more for now.
    pub fn poll_read<T>(
        &self,
        cx: &mut Context<'_>,
        mut read: impl FnMut() -> io::Result<T>,
        is_all: impl Fn(&T) -> bool,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_readable(cx));
            // Before reading: what comes afterwards sets it again.
            self.readiness.state().readable = false;
            match read() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    if !result.as_ref().is_ok_and(&is_all) {
                        self.readiness.state().readable = true;
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Calls `write` until it no longer finds `connection`, whose place this is, full.
    pub fn poll_write<T>(
        &self,
        cx: &mut Context<'_>,
        connection: impl AsFd,
        mut write: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match write() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            let mut state = self.readiness.state();
            if !std::mem::take(&mut state.writable) {
                wait_in(&mut state.writer, cx);
                drop(state);
                // Tells also if it takes bytes already.
                epoll::modify(&self.poller.set, connection, self.event(), READ_AND_WRITE)?;
                return Poll::Pending;
            }
        }
    }

    fn event(&self) -> epoll::EventData {
        epoll::EventData::new_u64(self.number)
    }
}

const READ: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);
const READ_AND_WRITE: epoll::EventFlags = READ.union(epoll::EventFlags::OUT);
const CLOSED: epoll::EventFlags =
    epoll::EventFlags::RDHUP.union(epoll::EventFlags::HUP).union(epoll::EventFlags::ERR);

impl Drop for Place {
    fn drop(&mut self) {
        self.poller.members().known.remove(&self.number);
    }
}

impl Readiness {
    fn note(&self, events: epoll::EventFlags) {
        let mut state = self.state();
        state.closed |= events.intersects(CLOSED);
        state.readable |= events.contains(epoll::EventFlags::IN);
        let writable = events.contains(epoll::EventFlags::OUT) || state.closed;
        state.writable |= writable;
        let readable = state.readable || state.closed;
        let reader = state.reader.take_if(|_| readable);
        let writer = state.writer.take_if(|_| writable);
        drop(state);
        [reader, writer].into_iter().flatten().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the task of `cx` woken from `place`.
fn wait_in(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
