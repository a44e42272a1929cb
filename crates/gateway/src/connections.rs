//! Who may be connected: so many in all, and so many from one address.
//!
//! Where there is no place left, the connection goes that has waited longest without a request, be
//! it between two or in the middle of a head. So whoever holds many and asks for nothing keeps
//! nobody out. A connection whose request is being answered stays. When a connection had its last request is
//! found out by looking again, and only while places are short: requests take no note of the time.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::client::ClientState;
use crate::places::network;

/// All connections of clients.
#[derive(Debug)]
pub struct Connections {
    places: Arc<Semaphore>,
    max: u32,
    per_address_max: u32,
    known: Mutex<Known>,
}

/// A client's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    number: u64,
    /// `None` where it is not counted.
    address: Option<IpAddr>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Known {
    next: u64,
    by_number: BTreeMap<u64, Seen>,
    by_address: HashMap<IpAddr, u32>,
}

/// A connection as it was when it was looked at.
#[derive(Debug)]
struct Seen {
    state: Arc<ClientState>,
    /// Requests so far.
    begun: u64,
    /// When there were no more than that for the first time, as far as is known.
    since: Instant,
}

/// Who has waited for so long need not be compared with others.
const LONG: Duration = Duration::from_secs(1);

impl Connections {
    pub fn new(max: u32, per_address_max: u32) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(max as usize));
        Arc::new(Self { places, max, per_address_max, known: Mutex::default() })
    }

    /// A place for a client at `address`, waiting until one is free; `None` where that address has
    /// as many as it may. Addresses of this machine, and those that are `exempt`, are not counted.
    pub async fn place(
        self: &Arc<Self>,
        address: IpAddr,
        exempt: bool,
        state: &Arc<ClientState>,
    ) -> Option<Place> {
        let counted = (!exempt && !address.to_canonical().is_loopback()).then(|| network(address));
        if counted.is_some_and(|address| self.known().count(address) >= self.per_address_max) {
            return None;
        }
        let permit = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.dismiss_one();
                Arc::clone(&self.places).acquire_owned().await.ok()?
            }
        };
        let mut known = self.known();
        let number = known.next;
        known.next += 1;
        known.by_number.insert(number, Seen::new(state));
        if let Some(address) = counted {
            *known.by_address.entry(address).or_default() += 1;
        }
        drop(known);
        Some(Place { connections: Arc::clone(self), number, address: counted, _permit: permit })
    }

    /// How many clients are connected.
    pub fn count(&self) -> u64 {
        (self.max as usize).saturating_sub(self.places.available_permits()) as u64
    }

    /// Waits until nobody is connected, but no longer than `within`. Returns whether that came about.
    pub async fn all_gone(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.places.acquire_many(self.max)).await.is_ok()
    }

    /// Tells the connection to go that has waited longest without a request.
    fn dismiss_one(&self) {
        let mut known = self.known();
        let now = Instant::now();
        // One that is told so twice is told nothing new, and the next one is.
        while let Some(seen) = known.longest_waiting(now) {
            if seen.state.dismiss() {
                return;
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing that holds the lock leaves half a change behind.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The connection that has waited longest without a request at `now`, and has not been told to go.
    fn longest_waiting(&mut self, now: Instant) -> Option<&Seen> {
        let mut longest: Option<(u64, Instant)> = None;
        for (number, seen) in &mut self.by_number {
            if seen.state.is_busy() || seen.state.is_dismissed() {
                continue;
            }
            let since = seen.look(now);
            // Of those that are alike, the one goes that has been here the shortest.
            if longest.is_none_or(|(_, longest)| since <= longest) {
                longest = Some((*number, since));
            }
            if now.duration_since(since) >= LONG {
                break;
            }
        }
        longest.and_then(|(number, _)| self.by_number.get(&number))
    }

    fn count(&self, address: IpAddr) -> u32 {
        self.by_address.get(&address).copied().unwrap_or(0)
    }
}

impl Seen {
    /// A connection that has just come.
    fn new(state: &Arc<ClientState>) -> Self {
        Self { state: Arc::clone(state), begun: state.begun(), since: Instant::now() }
    }

    /// Since when it has had no request, as far as is known at `now`.
    fn look(&mut self, now: Instant) -> Instant {
        let begun = self.state.begun();
        if begun != self.begun {
            (self.begun, self.since) = (begun, now);
        }
        self.since
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut known = self.connections.known();
        known.by_number.remove(&self.number);
        if let Some(address) = self.address
            && let Some(count) = known.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                known.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn place(connections: &Arc<Connections>, address: &str) -> Option<Place> {
        connections.place(address.parse().unwrap(), false, &Arc::default()).await
    }

    #[tokio::test]
    async fn an_address_has_so_many_places() {
        let connections = Connections::new(10, 2);
        let first = place(&connections, "192.0.2.1").await;
        let _second = place(&connections, "::ffff:192.0.2.1").await.unwrap();
        assert!(place(&connections, "192.0.2.1").await.is_none());
        let _other = place(&connections, "192.0.2.2").await.unwrap();
        drop(first);
        assert!(place(&connections, "192.0.2.1").await.is_some());
        let (_a, _b) =
            tokio::join!(place(&connections, "2001:db8::1"), place(&connections, "2001:db8::2"));
        assert!(place(&connections, "2001:db8::3").await.is_none());
        assert!(place(&connections, "2001:db8:0:1::3").await.is_some());
        for _ in 0..3 {
            std::mem::forget(place(&connections, "127.0.0.1").await.unwrap());
        }
    }

    #[test]
    fn who_asks_again_and_again_does_not_wait() {
        let mut known = Known::default();
        for number in 0..3 {
            known.by_number.insert(number, Seen::new(&Arc::default()));
        }
        let state = |known: &Known, number| Arc::clone(&known.by_number[&number].state);
        let asks = |state: &ClientState| {
            state.begin();
            state.end(true);
        };
        let (first, second) = (state(&known, 0), state(&known, 1));
        let start = known.by_number[&2].since;
        let mut goes =
            |after: Duration| known.longest_waiting(start + after).map(|seen| seen.begun);
        asks(&first);
        asks(&first);
        assert_eq!(goes(LONG / 2), Some(0));
        asks(&second);
        second.dismiss();
        state(&known, 2).begin();
        let mut goes =
            |after: Duration| known.longest_waiting(start + after).map(|seen| seen.begun);
        assert_eq!(goes(LONG * 3), Some(2), "only the first is left");
        first.begin();
        assert_eq!(goes(LONG * 3), None);
    }

    #[tokio::test]
    async fn who_waits_longest_has_to_go() {
        let connections = Connections::new(3, 10);
        let states: Vec<Arc<ClientState>> = (0..3).map(|_| Arc::default()).collect();
        let mut places = Vec::new();
        for state in &states {
            places.push(connections.place([192, 0, 2, 1].into(), false, state).await.unwrap());
        }
        states[0].begin();
        let fourth = place(&connections, "192.0.2.1");
        let leave = async {
            tokio::task::yield_now().await;
            assert_eq!(
                states.iter().map(|state| state.is_dismissed()).collect::<Vec<_>>(),
                [false, true, false]
            );
            drop(places.remove(1));
        };
        let (fourth, ()) = tokio::join!(fourth, leave);
        assert!(fourth.is_some());
    }
}
