//! Whether more than one app wants the gateway.
//!
//! All apps share one number: who came last. A request that finds its own app's there changes nothing, so one app alone
//! costs a read of what nobody writes. Whoever moves a large body looks there for each part, and leaves its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// All apps.
#[derive(Debug)]
pub struct Crowd {
    last: Last,
    joined: AtomicU64,
    began: Instant,
}

/// Who came last; in a cache line that nothing else changes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Last(AtomicU64);

/// One app among them.
#[derive(Debug)]
pub struct Member {
    crowd: Arc<Crowd>,
    /// Above zero, which is nobody.
    number: u64,
    /// When somebody else was there, in milliseconds after [`Crowd::began`], from 1; 0 is never.
    met_millis: AtomicU64,
}

/// For how long a request says that its app wants the gateway.
const REMEMBERED: Duration = Duration::from_secs(1);

impl Default for Crowd {
    fn default() -> Self {
        Self { last: Last::default(), joined: AtomicU64::new(0), began: Instant::now() }
    }
}

impl Crowd {
    pub fn join(self: &Arc<Self>) -> Member {
        let number = self.joined.fetch_add(1, Ordering::Relaxed) + 1;
        Member { crowd: Arc::clone(self), number, met_millis: AtomicU64::new(0) }
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl Member {
    /// Is there.
    pub fn note(&self) {
        if self.takes_over() {
            self.meet(Instant::now());
        }
    }

    /// Is there, and asks whether nobody else was for a while.
    pub fn is_alone(&self, now: Instant) -> bool {
        if self.takes_over() {
            self.meet(now);
        }
        match self.met_millis.load(Ordering::Relaxed) {
            0 => true,
            met => {
                let since = self.crowd.millis(now).saturating_sub(met);
                Duration::from_millis(since) >= REMEMBERED
            }
        }
    }

    /// Becomes who came last. Returns whether that was somebody else.
    fn takes_over(&self) -> bool {
        let last = &self.crowd.last.0;
        if last.load(Ordering::Relaxed) == self.number {
            return false;
        }
        last.swap(self.number, Ordering::Relaxed) != 0
    }

    fn meet(&self, now: Instant) {
        self.met_millis.store(self.crowd.millis(now), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_met_nobody_for_a_second_is_alone() {
        let crowd = Arc::new(Crowd::default());
        let (one, other) = (crowd.join(), crowd.join());
        assert!(one.is_alone(Instant::now()));
        other.note();
        one.note();
        assert!(!one.is_alone(Instant::now()));
        tokio::time::advance(REMEMBERED).await;
        assert!(one.is_alone(Instant::now()));
        assert!(!other.is_alone(Instant::now()), "the first one is still there");
    }
}
