//! What `control` itself counts: deploys, builds, commits, requests to the API.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counts of this run of the engine.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Totals>);

/// How it stands.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Deploys and other operations, by kind and by what came of them.
    pub operations: BTreeMap<(&'static str, &'static str), u64>,
    /// How long those took that moved something, from being asked for to the switch, by kind.
    pub operation_durations: BTreeMap<&'static str, Durations>,
    pub build_durations: Durations,
    pub commit_durations: Durations,
    /// Requests to the API, by the first digit of their status.
    pub api_requests: BTreeMap<&'static str, u64>,
}

/// How long things took.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// One for each of [`BOUNDS`], and one beyond.
    counts: [u64; BOUNDS.len() + 1],
    sum_seconds: f64,
}

/// Seconds, from a commit on a fast disk to a build of half an hour.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

impl Tally {
    /// An operation of `kind` has ended, with `result`, after `duration` if it moved something.
    pub fn operation(&self, kind: &'static str, result: &'static str, duration: Option<Duration>) {
        let mut totals = self.lock();
        *totals.operations.entry((kind, result)).or_default() += 1;
        if let Some(duration) = duration {
            totals.operation_durations.entry(kind).or_default().add(duration);
        }
    }

    /// A build has ended, well or badly.
    pub fn built(&self, duration: Duration) {
        self.lock().build_durations.add(duration);
    }

    /// The store has committed, or refused to.
    pub fn committed(&self, duration: Duration) {
        self.lock().commit_durations.add(duration);
    }

    /// A request to the API was answered with `status`.
    pub fn answered(&self, status: u16) {
        let class = match status {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        *self.lock().api_requests.entry(class).or_default() += 1;
    }

    pub fn totals(&self) -> Totals {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one of everything.
    #[cfg(test)]
    pub fn example(&self) {
        self.operation("deploy", "done", Some(Duration::from_secs(4)));
        self.built(Duration::from_secs(3));
        self.committed(Duration::from_millis(2));
        self.answered(200);
    }
}

impl Durations {
    /// Each bound with how many lie between it and the one before.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.counts).collect()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_seconds
    }

    fn add(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.counts[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum_seconds += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_beyond_the_last_bound() {
        let mut durations = Durations::default();
        durations.add(Duration::from_millis(1));
        durations.add(Duration::from_secs(3600));
        let buckets = durations.buckets();
        assert_eq!((buckets[1], buckets[14]), ((0.001, 1), (f64::INFINITY, 1)));
        assert!((durations.sum_seconds() - 3600.001).abs() < 1e-9);
    }

    #[test]
    fn only_what_moved_something_has_a_duration() {
        let tally = Tally::default();
        tally.operation("deploy", "failed", None);
        tally.operation("deploy", "done", Some(Duration::from_secs(2)));
        let totals = tally.totals();
        assert_eq!(totals.operations[&("deploy", "failed")], 1);
        let counted: u64 =
            totals.operation_durations["deploy"].buckets().iter().map(|(_, count)| count).sum();
        assert_eq!(counted, 1);
    }
}
