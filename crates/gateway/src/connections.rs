//! Who may be connected: so many in all, and so many from one address.
//!
//! Where there is no place left, the connection goes that has waited longest without a request, be
//! it between two or in the middle of a head. So whoever holds many and asks for nothing keeps
//! nobody out. A connection whose request is being answered stays.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
    by_number: BTreeMap<u64, Arc<ClientState>>,
    by_address: HashMap<IpAddr, u32>,
}

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
        known.by_number.insert(number, Arc::clone(state));
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

    /// Tells the connection to go that has been here longest of those without a request.
    fn dismiss_one(&self) {
        let known = self.known();
        _ = known.by_number.values().find(|state| state.dismiss());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing that holds the lock leaves half a change behind.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn count(&self, address: IpAddr) -> u32 {
        self.by_address.get(&address).copied().unwrap_or(0)
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
