//! A bound on a rate that lets short bursts through.

use std::time::{Duration, Instant};

/// A token bucket: fills at a rate up to a capacity, and everything that passes takes from it.
///
/// Once it has refused something it refuses all until a second's worth has come back, so that a
/// flood is cut in one piece a second and not between any two lines.
#[derive(Debug)]
pub struct TokenBucket {
    rate_per_second: u64,
    capacity: u64,
    tokens: u64,
    filled_at: Instant,
    is_open: bool,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate_per_second: u64, capacity: u64, now: Instant) -> Self {
        Self { rate_per_second, capacity, tokens: capacity, filled_at: now, is_open: true }
    }

    /// Takes `cost` tokens if they are there; returns whether they were.
    pub fn take(&mut self, cost: u64, now: Instant) -> bool {
        if !self.is_open(now) {
            return false;
        }
        self.is_open = cost <= self.tokens;
        if self.is_open {
            self.tokens -= cost;
        }
        self.is_open
    }

    /// Whether anything passes at all.
    pub fn is_open(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.is_open |= self.tokens >= self.rate_per_second.min(self.capacity);
        self.is_open
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at);
        let gained = u128::from(self.rate_per_second) * elapsed.as_nanos()
            / Duration::from_secs(1).as_nanos();
        // Less than a token's time stays on the clock, or calls in quick succession would never
        // fill it.
        if gained > 0 {
            let gained = u64::try_from(gained).unwrap_or(u64::MAX);
            self.tokens = self.tokens.saturating_add(gained).min(self.capacity);
            self.filled_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_up_to_the_capacity() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(10, 100, now);
        assert!(bucket.take(100, now));
        assert!(!bucket.take(1, now));
    }

    #[test]
    fn after_a_refusal_nothing_passes_for_a_second() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(10, 100, now);
        assert!(!bucket.take(101, now));
        assert!(bucket.take(100, now), "a full bucket opens again");
        assert!(!bucket.take(1, now));
        assert!(!bucket.take(1, now + SECOND / 2));
        assert!(bucket.take(10, now + SECOND));
    }

    #[test]
    fn calls_in_quick_succession_still_fill_it() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 100, start);
        assert!(bucket.take(100, start));
        assert!(!bucket.take(1, start));
        for step in 1..500 {
            assert!(!bucket.is_open(start + SECOND * step / 500));
        }
        assert!(bucket.take(10, start + SECOND));
    }
}
