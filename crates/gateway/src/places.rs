//! So many requests of one kind as an app may have at once, and how many of them one address has.
//!
//! Whoever wants places may have most of them, but the last quarter is for addresses that have less
//! than a quarter: one visitor with many connections or streams leaves room for the others. Where there
//! are few places, a browser alone may want all of them, and nobody is kept from it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The places of one kind that an app has.
#[derive(Debug, Default)]
pub struct Places {
    taken: AtomicU32,
    /// Of those addresses that are counted.
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    Full,
    /// Those that are left are for addresses that have fewer.
    ForOthers,
}

/// With fewer places than this, one address may have all of them.
const SHARED_LEAST: u32 = 32;

/// The part of the places that is kept for others, and that an address may have before it is.
const SHARE: u32 = 4;

impl Places {
    /// Takes one of `max` places, for `address` if it's one that counts. Give it back in either case.
    pub fn take(&self, max: u32, address: Option<IpAddr>) -> Result<(), NoPlace> {
        let before = self.taken.fetch_add(1, Ordering::AcqRel);
        let of_address = address.map_or(0, |address| self.count_in(address));
        let share = max / SHARE;
        match before {
            _ if before >= max => Err(NoPlace::Full),
            _ if max < SHARED_LEAST || before < max - share || of_address < share => Ok(()),
            _ => Err(NoPlace::ForOthers),
        }
    }

    /// Gives back what [`Self::take`] took, or could not.
    pub fn give_back(&self, address: Option<IpAddr>) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        let Some(address) = address else { return };
        let mut by_address = self.by_address();
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Acquire)
    }

    /// Counts one more of `address`; returns how many it had.
    fn count_in(&self, address: IpAddr) -> u32 {
        let mut by_address = self.by_address();
        let count = by_address.entry(address).or_default();
        *count += 1;
        *count - 1
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        // Nothing that holds the lock leaves half a change behind.
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address: of version 6, the 64 bits that one customer gets at least.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: Option<IpAddr> = Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)));

    fn other(number: u8) -> Option<IpAddr> {
        Some([192, 0, 2, number].into())
    }

    /// How many of `places` the greedy one gets.
    fn take_all(places: &Places, max: u32) -> usize {
        (0..2 * max).take_while(|_| places.take(max, GREEDY).is_ok()).count()
    }

    #[test]
    fn the_last_quarter_is_for_others() {
        let places = Places::default();
        assert_eq!(take_all(&places, 100), 75);
        places.give_back(GREEDY);
        assert_eq!(places.take(100, GREEDY), Err(NoPlace::ForOthers));
        places.give_back(GREEDY);
        let others = (0..50).take_while(|number| places.take(100, other(number % 2)).is_ok());
        assert_eq!(others.count(), 25);
        assert_eq!(places.take(100, other(0)), Err(NoPlace::Full));
    }

    #[test]
    fn who_is_not_counted_and_who_has_few_may_have_all() {
        let places = Places::default();
        assert!((0..100).all(|_| places.take(100, None).is_ok()));
        assert_eq!(take_all(&Places::default(), 31), 31);
        assert_eq!(take_all(&Places::default(), 32), 24);
    }

    #[test]
    fn what_is_given_back_is_forgotten() {
        let places = Places::default();
        for _ in 0..3 {
            assert!(places.take(100, GREEDY).is_ok());
            places.give_back(GREEDY);
        }
        assert!(places.by_address().is_empty() && places.taken() == 0);
    }

    #[test]
    fn a_network_is_one_address() {
        let network = |text: &str| super::network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:0:0:2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
