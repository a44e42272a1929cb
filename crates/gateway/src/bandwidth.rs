//! How much may pass for one app, each way: its `bandwidth`, kept where its visitors are served.
//!
//! What is small passes at once and is only counted, when its request ends. What is more than [`SMALL_BYTES`] passes in parts, each
//! with an [`Allowance`] of the app's [`Bucket`] for that way, and pays for what is small, too. Small answers themselves
//! wait only while they alone are more than the app may have.
//!
//! **Borrowing.** A limit that nobody has chosen is what an app can count on, not what it's held to: while no other app
//! wants the gateway ([`Crowd`]), it may have more. One that somebody has set is always kept.

mod allowance;
mod bucket;
mod crowd;
mod past;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ace_api::traffic::BandwidthUse;
use ace_types::{BitRate, Limits};
use tokio::time::Instant;

pub use allowance::Allowance;
pub use crowd::Crowd;

use bucket::{Bucket, Rate};
use crowd::Member;
use past::{Mark, Past};

/// What passes for one app.
#[derive(Debug)]
pub struct AppBandwidth {
    member: Member,
    bytes_per_second: AtomicU64,
    /// Somebody has set the limit.
    is_ceiling: AtomicBool,
    ways: [Lane; 3],
    past: Mutex<Past>,
}

/// What is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Requests' bodies, and what clients send through tunnels.
    Received,
    /// Answers' bodies, and what apps send through tunnels.
    Sent,
    /// Answers that are taken off an app's hands before their clients have them.
    Ahead,
}

/// One way.
#[derive(Debug, Default)]
struct Lane {
    bucket: Bucket,
    /// How much is under way in parts.
    transfers: AtomicU32,
}

/// When a part may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// After what others have to do.
    Now {
        bytes: u64,
    },
    At {
        slot: Instant,
        bytes: u64,
    },
}

/// What passes at once, of a body.
pub const SMALL_BYTES: u64 = 64 * 1024;

/// The bounds of a part: small ones cost calls, large ones hold others up, on the same thread and of the same app.
const PART_BYTES: (u64, u64) = (16 * 1024, 256 * 1024);
/// What all transfers of an app that borrows may move between two looks at what else there is to do, as far as their
/// parts allow: a few milliseconds of the thread's time.
const ROUND_BYTES: u64 = 8 * 1024 * 1024;
/// How long a part takes at the app's rate, as far as its bounds allow.
const PART_TIME: Duration = Duration::from_millis(5);

/// How much faster an app may hand over answers than its clients may have them.
const AHEAD_TIMES: u64 = 4;

impl AppBandwidth {
    pub fn new(crowd: &Arc<Crowd>) -> Self {
        let default = Limits::for_app().bandwidth;
        let app = Self {
            member: crowd.join(),
            bytes_per_second: AtomicU64::new(default.bytes_per_second()),
            is_ceiling: AtomicBool::new(false),
            ways: Default::default(),
            past: Mutex::default(),
        };
        app.roll(Instant::now());
        app
    }

    /// Holds to `limit` from now on, also what is under way.
    pub fn set_limit(&self, limit: BitRate) {
        self.bytes_per_second.store(limit.bytes_per_second(), Ordering::Relaxed);
        self.is_ceiling.store(limit != Limits::for_app().bandwidth, Ordering::Relaxed);
    }

    /// The app wants the gateway, for something small.
    pub fn note(&self) {
        self.member.note();
    }

    /// Counts a body that was small enough to pass at once.
    pub fn count(&self, way: Way, bytes: u64) {
        let bucket = &self.lane(way).bucket;
        if bucket.count(bytes) {
            let now = Instant::now();
            match self.may_borrow(now) {
                true => bucket.forgive(now),
                false => bucket.settle(self.rate(way), now),
            }
        }
    }

    /// Whether even what is small has to wait.
    pub fn is_in_arrears(&self, way: Way) -> bool {
        self.lane(way).bucket.is_in_arrears()
    }

    /// Notes how much has passed until `now`, so that the last minute can be told.
    pub fn roll(&self, now: Instant) {
        self.past().note(self.mark(now));
    }

    /// What has passed, and what was held back.
    pub fn usage(&self, now: Instant) -> BandwidthUse {
        self.past().usage(self.mark(now))
    }

    fn mark(&self, now: Instant) -> Mark {
        let [received, sent] = [Way::Received, Way::Sent].map(|way| &self.lane(way).bucket);
        Mark {
            at: now,
            received: received.passed(),
            sent: sent.passed(),
            held_back: received.held_back(now) + sent.held_back(now),
        }
    }

    /// What a body may begin with.
    fn credit(&self, way: Way) -> u64 {
        match (self.is_in_arrears(way), self.may_borrow(Instant::now())) {
            (_, true) => PART_BYTES.1,
            (false, false) => SMALL_BYTES,
            (true, false) => 0,
        }
    }

    /// Reserves a part that pays for `behind` as well.
    fn turn(&self, way: Way, behind: u64, now: Instant) -> Turn {
        let Lane { bucket, transfers } = self.lane(way);
        if self.may_borrow(now) {
            let transfers = u64::from(transfers.load(Ordering::Relaxed)).max(1);
            let bytes = behind + (ROUND_BYTES / transfers).clamp(PART_BYTES.0, PART_BYTES.1);
            bucket.pass(bytes);
            bucket.forgive(now);
            return Turn::Now { bytes };
        }
        let rate = self.rate(way);
        let bytes = behind + rate.bytes_in(PART_TIME).clamp(PART_BYTES.0, PART_BYTES.1);
        match bucket.reserve(bytes, rate, now) {
            slot if slot <= now => Turn::Now { bytes },
            slot => Turn::At { slot, bytes },
        }
    }

    /// Takes back what was reserved and not used, or counts what was used without.
    fn close(&self, way: Way, reserved: u64, used: u64) {
        let Lane { bucket, transfers } = self.lane(way);
        transfers.fetch_sub(1, Ordering::Relaxed);
        match reserved.checked_sub(used) {
            Some(unused) => bucket.give_back(unused, self.rate(way)),
            None => self.count(way, used - reserved),
        }
    }

    fn may_borrow(&self, now: Instant) -> bool {
        // Looked at in any case: whoever looks wants the gateway.
        self.member.is_alone(now) && !self.is_ceiling.load(Ordering::Relaxed)
    }

    fn rate(&self, way: Way) -> Rate {
        let times = if way == Way::Ahead { AHEAD_TIMES } else { 1 };
        Rate::new(self.bytes_per_second.load(Ordering::Relaxed).saturating_mul(times))
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, way: Way) -> &Lane {
        &self.ways[way as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// An app with a limit that was set, of 8 Mbit: a million bytes a second.
    fn held_app() -> Arc<AppBandwidth> {
        let app = AppBandwidth::new(&Arc::default());
        app.set_limit(BitRate::mega(8));
        Arc::new(app)
    }

    async fn transfer(app: &Arc<AppBandwidth>, bytes: u64) -> Duration {
        let (began, mut left) = (Instant::now(), bytes);
        let mut allowance = Allowance::with_credit(app, Way::Sent);
        while left > 0 {
            let part = allowance.ready().await.min(left);
            allowance.spend(part);
            left -= part;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_was_set_is_kept() {
        let took = transfer(&held_app(), 10_000_000).await;
        assert!((9_700..10_000).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn transfers_share_alike() {
        let app = held_app();
        let (a, b) = tokio::join!(transfer(&app, 2_000_000), transfer(&app, 2_000_000));
        assert!(a.as_millis().abs_diff(b.as_millis()) < 100, "{a:?} {b:?}");
        assert!((3_700..4_000).contains(&b.as_millis()), "{b:?}");
        let held_back = app.mark(Instant::now()).held_back;
        assert!(held_back.as_millis().abs_diff(b.as_millis()) < 200, "{held_back:?} of {b:?}");
        assert_eq!(app.mark(Instant::now()).sent, 4_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_default_gives_way_while_no_other_app_is_there() {
        let crowd = Arc::default();
        let (app, other) = (Arc::new(AppBandwidth::new(&crowd)), AppBandwidth::new(&crowd));
        app.note();
        assert_eq!(transfer(&app, 1000 * MIB).await, Duration::ZERO);
        other.note();
        // A second of 50 Mbit passes before the other one's request is forgotten.
        let took = transfer(&app, 1000 * MIB).await;
        assert!((900..1_300).contains(&took.as_millis()), "{took:?}");
        assert!(app.mark(Instant::now()).held_back <= took);
    }

    #[tokio::test(start_paused = true)]
    async fn another_app_s_requests_hold_a_transfer_to_its_rate() {
        let crowd = Arc::default();
        let (app, other) = (Arc::new(AppBandwidth::new(&crowd)), AppBandwidth::new(&crowd));
        let asking = async {
            loop {
                other.note();
                app.note(); // Its own small requests hide nobody's.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let took = tokio::select! {
            took = transfer(&app, 62_500_000) => took,
            () = asking => unreachable!(),
        };
        assert!((9_700..10_100).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_is_paid_for_by_what_is_large() {
        let app = held_app();
        for _ in 0..100 {
            app.count(Way::Sent, 10_000);
        }
        assert!(!app.is_in_arrears(Way::Sent));
        let took = transfer(&app, 1_000_000).await;
        assert!((1_700..2_000).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_waits_once_it_is_too_much() {
        let app = held_app();
        for _ in 0..300 {
            app.count(Way::Sent, 10_000);
        }
        assert!(app.is_in_arrears(Way::Sent) && !app.is_in_arrears(Way::Received));
        tokio::time::sleep(Duration::from_secs(5)).await;
        _ = transfer(&app, 1).await;
        assert!(!app.is_in_arrears(Way::Sent));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_reserved_and_not_used_is_given_back() {
        let app = held_app();
        for _ in 0..1000 {
            let mut allowance = Allowance::new(&app, Way::Sent);
            let waiting = tokio::time::timeout(Duration::from_millis(1), allowance.ready());
            _ = waiting.await;
        }
        assert_eq!(app.mark(Instant::now()).sent, 0);
        assert!(transfer(&app, 200_000).await < Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_holds_for_what_is_under_way() {
        let app = held_app();
        let raised = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            app.set_limit(BitRate::mega(80));
        };
        let (took, ()) = tokio::join!(transfer(&app, 11_000_000), raised);
        assert!((1_800..2_100).contains(&took.as_millis()), "{took:?}");
    }
}
