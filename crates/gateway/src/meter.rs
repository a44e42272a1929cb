//! Counts requests of one app or instance. Counting takes a few atomic additions and no lock.
//!
//! Durations are sorted into bounds that grow by a quarter (the preferred numbers R10 of ISO 3), so
//! that a quantile is right to a quarter of itself whatever the app's pace. The last minute is the
//! difference to what [`Pace::roll`] noted a minute ago.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ace_api::traffic::{DurationCount, Durations, Recent, Refused, StatusCounts};
use http::StatusCode;

use crate::failure::Failure;

/// How often [`Pace::roll`] is to be called.
pub const ROLL_EVERY: Duration = Duration::from_secs(5);
/// What counts as recent.
const RECENT: Duration = Duration::from_secs(60);

/// One decade of R10, times 100.
const STEPS: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
/// From 100 µs to 100 s.
const DECADES: usize = 6;
const BOUNDS: usize = STEPS.len() * DECADES + 1;
/// What took longer than the last bound stands behind it.
const COUNTS: usize = BOUNDS + 1;
const BOUNDS_USEC: [u64; BOUNDS] = bounds_usec();
/// The bounds that are told to others: these of each decade.
const TOLD: [u64; 3] = [100, 250, 500];

/// Counts what comes to one app.
#[derive(Debug)]
pub struct AppMeter {
    pace: Pace,
    /// By the first digit of the status, from 1 to 5; the first is for those without an answer.
    classes: [AtomicU64; 6],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    waits: AtomicU64,
    waited_usec: AtomicU64,
    refused: [AtomicU64; 4],
}

/// How fast requests are answered.
#[derive(Debug)]
pub struct Pace {
    durations: [AtomicU64; COUNTS],
    sum_usec: AtomicU64,
    server_errors: AtomicU64,
    past: Mutex<VecDeque<Past>>,
}

/// How it was at one time. Counts wrap around.
#[derive(Debug)]
struct Past {
    at: Instant,
    durations: Box<[u32; COUNTS]>,
    server_errors: u32,
}

/// One request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// `None`: the client left before there was an answer.
    pub status: Option<StatusCode>,
    pub duration: Duration,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// By which limit a request was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Connections,
    Body,
    Timeout,
    NoInstance,
}

impl AppMeter {
    pub fn new(now: Instant) -> Self {
        Self {
            pace: Pace::new(now),
            classes: Default::default(),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            waited_usec: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    pub fn ended(&self, request: Ended) {
        self.pace.ended(request);
        let class = request.status.map_or(0, |status| usize::from(status.as_u16() / 100));
        add(&self.classes[class.min(self.classes.len() - 1)], 1);
        add(&self.received_bytes, request.received_bytes);
        add(&self.sent_bytes, request.sent_bytes);
    }

    /// A request has waited for an instance, whether one came or not.
    pub fn waited(&self, duration: Duration) {
        add(&self.waits, 1);
        add(&self.waited_usec, micros(duration));
    }

    /// A request was not answered by the app, for this reason.
    pub fn failed(&self, failure: &Failure) {
        if let Some(limit) = Limit::of(failure) {
            add(&self.refused[limit as usize], 1);
        }
    }

    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    pub fn status_counts(&self) -> StatusCounts {
        let [unanswered, informational, successful, redirected, client_errors, server_errors] =
            self.classes.each_ref().map(get);
        StatusCounts {
            informational,
            successful,
            redirected,
            client_errors,
            server_errors,
            unanswered,
        }
    }

    /// Bytes of bodies, received and sent.
    pub fn bytes(&self) -> (u64, u64) {
        (get(&self.received_bytes), get(&self.sent_bytes))
    }

    /// How many requests have waited for an instance, and for how many microseconds in all.
    pub fn waits(&self) -> (u64, u64) {
        (get(&self.waits), get(&self.waited_usec))
    }

    pub fn refused(&self) -> Refused {
        let [connections, body, timeout, no_instance] = self.refused.each_ref().map(get);
        Refused { connections, body, timeout, no_instance }
    }
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        let pace = Self {
            durations: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_usec: AtomicU64::new(0),
            server_errors: AtomicU64::new(0),
            past: Mutex::default(),
        };
        pace.roll(now);
        pace
    }

    pub fn ended(&self, request: Ended) {
        // A tunnel's time is no measure of the app's pace.
        if request.status != Some(StatusCode::SWITCHING_PROTOCOLS) {
            let usec = micros(request.duration);
            add(&self.durations[BOUNDS_USEC.partition_point(|bound| *bound < usec)], 1);
            add(&self.sum_usec, usec);
        }
        if request.status.is_some_and(|status| status.is_server_error()) {
            add(&self.server_errors, 1);
        }
    }

    /// Notes how it is at `now`, and forgets what is older than is needed.
    pub fn roll(&self, now: Instant) {
        let mut past = self.past();
        while past.get(1).is_some_and(|second| now.duration_since(second.at) >= RECENT) {
            past.pop_front();
        }
        past.push_back(Past {
            at: now,
            durations: Box::new(self.durations.each_ref().map(|count| low(get(count)))),
            server_errors: low(get(&self.server_errors)),
        });
    }

    /// What has come since a minute ago, to [`ROLL_EVERY`].
    pub fn recent(&self, now: Instant) -> Recent {
        let past = self.past();
        let Some(then) = past.front() else { return Recent::default() };
        let counts: [u64; COUNTS] = std::array::from_fn(|index| {
            u64::from(low(get(&self.durations[index])).wrapping_sub(then.durations[index]))
        });
        let server_errors = low(get(&self.server_errors)).wrapping_sub(then.server_errors);
        Recent {
            seconds: now.duration_since(then.at).as_secs_f64(),
            requests: counts.iter().sum(),
            server_errors: u64::from(server_errors),
            p50_usec: quantile_usec(&counts, 50),
            p99_usec: quantile_usec(&counts, 99),
        }
    }

    pub fn durations(&self) -> Durations {
        let counts = self.durations.each_ref().map(get);
        let is_told = |step: usize| TOLD.contains(&STEPS[step % STEPS.len()]);
        let mut count = 0;
        let mut within = Vec::new();
        for (step, bound_usec) in BOUNDS_USEC.into_iter().enumerate() {
            count += counts[step];
            if is_told(step) {
                within.push(DurationCount { bound_usec, count });
            }
        }
        Durations { within, count: count + counts[BOUNDS], sum_usec: get(&self.sum_usec) }
    }

    fn past(&self) -> MutexGuard<'_, VecDeque<Past>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limit {
    fn of(failure: &Failure) -> Option<Self> {
        match failure {
            Failure::Busy { .. } | Failure::Crowding { .. } => Some(Self::Connections),
            Failure::BodyTooLarge { .. } => Some(Self::Body),
            Failure::Timeout { .. } => Some(Self::Timeout),
            Failure::Held { .. } | Failure::NoInstance { .. } => Some(Self::NoInstance),
            _ => None,
        }
    }
}

const fn bounds_usec() -> [u64; BOUNDS] {
    let mut bounds = [0; BOUNDS];
    let (mut index, mut decade) = (0, 1);
    while index < BOUNDS {
        bounds[index] = STEPS[index % STEPS.len()] * decade;
        index += 1;
        if index.is_multiple_of(STEPS.len()) {
            decade *= 10;
        }
    }
    bounds
}

/// What `percent` of all took no longer than, evenly spread between two bounds.
fn quantile_usec(counts: &[u64; COUNTS], percent: u64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    let rank = (total * percent).div_ceil(100);
    let mut below = 0;
    for (index, count) in counts.iter().copied().enumerate() {
        if count > 0 && below + count >= rank {
            let lower = if index == 0 { 0 } else { BOUNDS_USEC[index - 1] };
            let upper = BOUNDS_USEC.get(index).copied().unwrap_or(lower);
            return Some(lower + (upper - lower) * (rank - below) / count);
        }
        below += count;
    }
    None
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// The low half, which is enough for differences.
fn low(count: u64) -> u32 {
    (count & u64::from(u32::MAX)) as u32
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ended(status: u16, millis: u64) -> Ended {
        Ended {
            status: Some(StatusCode::from_u16(status).unwrap()),
            duration: Duration::from_millis(millis),
            received_bytes: 1,
            sent_bytes: 10,
        }
    }

    #[test]
    fn quantiles_are_right_to_a_quarter() {
        let now = Instant::now();
        let pace = Pace::new(now);
        for millis in 1..=1000 {
            pace.ended(ended(200, millis));
        }
        let recent = pace.recent(now + SECOND);
        let (p50, p99) = (recent.p50_usec.unwrap(), recent.p99_usec.unwrap());
        assert!((400_000..=625_000).contains(&p50), "{p50}");
        assert!((800_000..=1_000_000).contains(&p99), "{p99}");
        assert_eq!((recent.requests, recent.seconds), (1000, 1.0));
    }

    #[test]
    fn what_is_older_than_a_minute_is_not_recent() {
        let start = Instant::now();
        let pace = Pace::new(start);
        for _ in 0..7 {
            pace.ended(ended(500, 1));
        }
        for round in 1..=11 {
            pace.roll(start + ROLL_EVERY * round);
        }
        pace.ended(ended(200, 1));
        let after = |seconds| pace.recent(start + SECOND * seconds);
        assert_eq!((after(59).requests, after(59).server_errors), (8, 7));
        for round in 12..=13 {
            pace.roll(start + ROLL_EVERY * round);
        }
        assert_eq!((after(65).requests, after(65).server_errors), (1, 0));
        assert!((60.0..=65.0).contains(&after(65).seconds));
    }

    #[test]
    fn nothing_came_and_nothing_is_known() {
        let now = Instant::now();
        let recent = Pace::new(now).recent(now);
        assert_eq!((recent.p50_usec, recent.requests_per_second()), (None, 0.0));
        assert_eq!(recent.server_error_percent(), 0.0);
    }

    #[test]
    fn the_slowest_are_counted_beyond_the_last_bound() {
        let now = Instant::now();
        let pace = Pace::new(now);
        pace.ended(ended(200, 0));
        pace.ended(ended(200, 500_000));
        let durations = pace.durations();
        assert_eq!((durations.count, durations.sum_usec), (2, 500_000_000));
        assert_eq!(durations.within.last().map(|last| last.count), Some(1));
        assert_eq!(pace.recent(now).p99_usec, Some(100_000_000));
    }

    #[test]
    fn bounds_grow_and_the_usual_ones_are_told() {
        assert!(BOUNDS_USEC.is_sorted_by(|a, b| a < b));
        let told: Vec<u64> =
            Pace::new(Instant::now()).durations().within.iter().map(|at| at.bound_usec).collect();
        assert_eq!(told[..4], [100, 250, 500, 1000]);
        assert_eq!(told[told.len() - 2..], [50_000_000, 100_000_000]);
    }

    #[test]
    fn a_tunnel_is_counted_and_not_timed() {
        let now = Instant::now();
        let meter = AppMeter::new(now);
        meter.ended(ended(101, 3_600_000));
        meter.ended(Ended { status: None, ..ended(200, 5) });
        let counts = meter.status_counts();
        assert_eq!((counts.informational, counts.unanswered), (1, 1));
        assert_eq!((meter.pace().durations().count, meter.bytes()), (1, (2, 20)));
    }

    #[test]
    fn what_a_limit_turned_away_is_told_by_the_limit() {
        let meter = AppMeter::new(Instant::now());
        meter.failed(&Failure::Busy { connections: 1 });
        meter.failed(&Failure::NoSuchFile);
        let wanted = Refused { connections: 1, ..Refused::default() };
        assert_eq!(meter.refused(), wanted);
    }
}
