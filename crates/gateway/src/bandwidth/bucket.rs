//! A token bucket, as the time at which all that was taken from it will have passed at its rate.
//!
//! Whoever reserves is told when it's his turn, in the order of asking. Time is an argument.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What an app may have one way.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes that were counted when they had passed.
    counted: AtomicU64,
    is_in_arrears: AtomicBool,
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    /// Bytes that were reserved.
    reserved: u64,
    /// How much of [`Bucket::counted`] is settled.
    settled: u64,
    /// When all will have passed at the rate.
    through: Instant,
    /// The same of what was counted alone.
    counted_through: Instant,
    /// Up to when it's known that something waits.
    held_until: Instant,
    /// How long something waited, up to then.
    held: Duration,
}

/// Bytes a second; never none.
#[derive(Debug, Clone, Copy)]
pub struct Rate(u64);

/// What may pass at once after a pause, in time at the rate.
const BURST: Duration = Duration::from_millis(100);
/// The longest wait. It is reached where what is small takes all there is.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How far what is small may be ahead of the rate before it has to wait, and when it no longer has to.
const ARREARS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));
/// How often counting looks at the time.
const SETTLE_EVERY_BYTES: u64 = 256 * 1024;

impl Rate {
    pub fn new(bytes_per_second: u64) -> Self {
        Self(bytes_per_second.max(1))
    }

    /// How many bytes pass in `time`.
    pub fn bytes_in(self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.0) * time.as_nanos() / NANOS).unwrap_or(u64::MAX)
    }

    /// How long `bytes` take, up to an hour.
    fn time_of(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * NANOS / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(HOUR)
    }
}

const NANOS: u128 = 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

impl Default for Bucket {
    fn default() -> Self {
        let now = Instant::now();
        let ledger = Ledger {
            reserved: 0,
            settled: 0,
            through: now,
            counted_through: now,
            held_until: now,
            held: Duration::ZERO,
        };
        Self {
            counted: AtomicU64::new(0),
            is_in_arrears: AtomicBool::new(false),
            ledger: Mutex::new(ledger),
        }
    }
}

impl Bucket {
    /// Counts what has passed. Returns whether it's time to settle that.
    pub fn count(&self, bytes: u64) -> bool {
        let before = self.counted.fetch_add(bytes, Ordering::Relaxed);
        before / SETTLE_EVERY_BYTES != (before + bytes) / SETTLE_EVERY_BYTES
    }

    /// Takes into account what was counted.
    pub fn settle(&self, rate: Rate, now: Instant) {
        let mut ledger = self.ledger();
        self.settle_in(&mut ledger, rate, now);
    }

    /// Takes `bytes`. Returns when they may pass.
    pub fn reserve(&self, bytes: u64, rate: Rate, now: Instant) -> Instant {
        let mut ledger = self.ledger();
        self.settle_in(&mut ledger, rate, now);
        let slot = ledger.through.checked_sub(BURST).unwrap_or(now).max(now);
        ledger.reserved += bytes;
        ledger.advance(rate.time_of(bytes), now);
        ledger.hold(slot, now);
        slot
    }

    /// Counts `bytes` that pass beside the rate.
    pub fn pass(&self, bytes: u64) {
        self.ledger().reserved += bytes;
    }

    /// Forgets what was taken so far, as if it had passed by now.
    pub fn forgive(&self, now: Instant) {
        let mut ledger = self.ledger();
        ledger.settled = self.counted.load(Ordering::Relaxed);
        ledger.through = now + BURST;
        ledger.counted_through = now;
        ledger.release(now);
        self.is_in_arrears.store(false, Ordering::Relaxed);
    }

    /// Takes back what was reserved and has not passed.
    pub fn give_back(&self, bytes: u64, rate: Rate) {
        let mut ledger = self.ledger();
        ledger.reserved -= bytes;
        let through = ledger.through.checked_sub(rate.time_of(bytes));
        ledger.through = through.unwrap_or(ledger.through);
    }

    /// Whether what is small has to wait.
    pub fn is_in_arrears(&self) -> bool {
        self.is_in_arrears.load(Ordering::Relaxed)
    }

    /// Bytes so far.
    pub fn passed(&self) -> u64 {
        self.ledger().reserved + self.counted.load(Ordering::Relaxed)
    }

    /// How long something has been held back.
    pub fn held_back(&self, now: Instant) -> Duration {
        let ledger = self.ledger();
        ledger.held.saturating_sub(ledger.held_until.saturating_duration_since(now))
    }

    fn settle_in(&self, ledger: &mut Ledger, rate: Rate, now: Instant) {
        let counted = self.counted.load(Ordering::Relaxed);
        let time = rate.time_of(counted - std::mem::replace(&mut ledger.settled, counted));
        // First what passed since the last time, then the time that has gone by since.
        ledger.advance(time, now);
        ledger.counted_through = (ledger.counted_through + time).clamp(now, now + WAIT_MAX);
        let ahead = ledger.counted_through.saturating_duration_since(now);
        if ahead > ARREARS.1 {
            self.is_in_arrears.store(true, Ordering::Relaxed);
        } else if ahead < ARREARS.0 {
            self.is_in_arrears.store(false, Ordering::Relaxed);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing that holds the lock leaves half a change behind.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn advance(&mut self, time: Duration, now: Instant) {
        self.through = (self.through + time).clamp(now, now + BURST + WAIT_MAX);
    }

    /// Something waits from `now` until `slot`.
    fn hold(&mut self, slot: Instant, now: Instant) {
        let known = self.held_until.max(now);
        if slot > known {
            self.held += slot - known;
            self.held_until = slot;
        }
    }

    /// Nothing waits any more.
    fn release(&mut self, now: Instant) {
        let untrue = self.held_until.saturating_duration_since(now);
        self.held = self.held.saturating_sub(untrue);
        self.held_until = self.held_until.min(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate(1_000_000);

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_reserved_passes_at_the_rate_in_the_order_of_asking() {
        let (bucket, now) = (Bucket::default(), Instant::now());
        let slots = [0; 4].map(|_| bucket.reserve(100_000, RATE, now));
        assert_eq!(slots, [now, now, now + millis(100), now + millis(200)]);
        assert_eq!(bucket.held_back(now + millis(50)), millis(50));
        assert_eq!(bucket.held_back(now + millis(900)), millis(200));
        assert_eq!(bucket.passed(), 400_000);
        // A pause gives back no more than the burst.
        let later = now + Duration::from_secs(60);
        assert_eq!(bucket.reserve(200_000, RATE, later), later);
        assert_eq!(bucket.reserve(1, RATE, later), later + millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_is_there_for_others() {
        let (bucket, now) = (Bucket::default(), Instant::now());
        bucket.reserve(500_000, RATE, now);
        bucket.give_back(450_000, RATE);
        assert_eq!((bucket.reserve(1, RATE, now), bucket.passed()), (now, 50_001));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_longest_wait() {
        let (bucket, now) = (Bucket::default(), Instant::now());
        bucket.count(u64::MAX / 2);
        assert_eq!(bucket.reserve(u64::MAX / 2, RATE, now), now + WAIT_MAX);
        bucket.forgive(now);
        assert_eq!(bucket.reserve(1, RATE, now), now);
        assert!(!bucket.is_in_arrears());
        assert_eq!(bucket.held_back(now + millis(5)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_slowly_owes_nothing() {
        let (bucket, mut now) = (Bucket::default(), Instant::now());
        for _ in 0..100 {
            bucket.count(900_000);
            now += Duration::from_secs(1);
            bucket.settle(RATE, now);
            assert!(!bucket.is_in_arrears());
        }
        assert_eq!(bucket.reserve(1, RATE, now), now);
    }
}
