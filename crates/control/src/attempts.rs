//! Counts wrong tokens by where they came from.
//!
//! A secret of 256 random bits can't be guessed, so this is not what keeps guessers out: it keeps
//! them cheap, and the log readable. Whoever has a right token is let in from anywhere, so nobody can
//! shut others out by sending wrong ones from their address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong tokens that one origin may send in a [`WINDOW`].
const WRONG_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Origins that are remembered.
const ORIGINS_MAX: usize = 4096;

/// Who has sent wrong tokens of late.
#[derive(Debug, Default)]
pub struct Attempts {
    windows: Mutex<HashMap<IpAddr, Window>>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    wrong: u32,
}

/// There were too many; there is no answer before so much time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany(pub Duration);

impl Attempts {
    /// Counts a wrong token that came from `address`.
    pub fn count(&self, address: IpAddr, now: Instant) -> Result<(), TooMany> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = origin(address);
        if windows.len() >= ORIGINS_MAX && !windows.contains_key(&origin) {
            make_room(&mut windows, now);
        }
        let window = windows.entry(origin).or_insert(Window { since: now, wrong: 0 });
        if now.duration_since(window.since) >= WINDOW {
            *window = Window { since: now, wrong: 0 };
        }
        window.wrong = window.wrong.saturating_add(1);
        match window.wrong {
            0..=WRONG_MAX => Ok(()),
            _ => Err(TooMany(WINDOW - now.duration_since(window.since))),
        }
    }
}

/// What counts as one origin: an IPv4 address, or the network that one customer has of IPv6.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

/// Forgets those whose time is over, or else the one that has been there longest.
fn make_room(windows: &mut HashMap<IpAddr, Window>, now: Instant) {
    windows.retain(|_, window| now.duration_since(window.since) < WINDOW);
    if windows.len() >= ORIGINS_MAX
        && let Some(oldest) =
            windows.iter().min_by_key(|(_, window)| window.since).map(|(origin, _)| *origin)
    {
        windows.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn the_eleventh_wrong_token_of_a_minute_is_one_too_many() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..WRONG_MAX {
            assert_eq!(attempts.count(address(1), start), Ok(()));
        }
        let wait = TooMany(Duration::from_secs(40));
        assert_eq!(attempts.count(address(1), later(20)), Err(wait));
        assert_eq!(attempts.count(address(2), later(20)), Ok(()));
        assert_eq!(attempts.count(address(1), later(60)), Ok(()));
    }

    #[test]
    fn a_customers_network_is_one_origin() {
        let v6 = |text: &str| origin(text.parse().expect("an address"));
        assert_eq!(v6("2001:db8:1:2::3"), v6("2001:db8:1:2:ffff::"));
        assert_ne!(v6("2001:db8:1:2::3"), v6("2001:db8:1:3::3"));
        assert_eq!(v6("::ffff:0.0.0.7"), address(7));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for n in 0..10_000 {
            assert_eq!(attempts.count(address(n), start), Ok(()));
        }
        assert_eq!(attempts.windows.lock().map(|all| all.len()).ok(), Some(ORIGINS_MAX));
    }
}
