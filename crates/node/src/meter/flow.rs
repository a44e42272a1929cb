//! How fast counters grow, and for how long that was as fast as a limit allows.
//!
//! No kernel tells how long a throttle has held a group back. So readings tell it: where counters have grown by as much as the
//! limit lets them, the limit is what held them back for all the time between the two. What goes to a volume passes two
//! throttles, its own and then its disk's, and waits at both: so for this the growth of all devices counts together.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ace_api::FlowUsage;

use super::KEPT;

/// Over how long the speed is averaged.
const SPAN: Duration = Duration::from_secs(10);
/// Between two readings that are nearer to each other, a burst would look like a speed.
const APART: Duration = Duration::from_secs(1);
/// What counts as as fast as the limit, in percent: throttles reckon in slices of time, and readings fall within one.
const AT_LIMIT_PERCENT: u128 = 90;

/// Counters that one limit bounds, each by itself: those of each device `D`, each way.
#[derive(Debug)]
pub struct Flow<D> {
    past: VecDeque<Past<D>>,
    at_limit: Duration,
}

#[derive(Debug)]
struct Past<D> {
    at: Instant,
    counts: Counts<D>,
    /// How long it had been at its limit by then.
    at_limit: Duration,
}

pub type Counts<D> = BTreeMap<(D, Way), u64>;

/// Each limit a second is of one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    In,
    Out,
}

impl<D: Ord> Flow<D> {
    pub fn new() -> Self {
        Self { past: VecDeque::new(), at_limit: Duration::ZERO }
    }

    /// A new container is made, and its counters begin anew. What was at the limit has been.
    pub fn container_made(&mut self) {
        self.past.clear();
    }

    /// Takes what the counters are at `now`, and what each may grow by in a second.
    pub fn take(&mut self, counts: Counts<D>, limit: u64, now: Instant) -> FlowUsage {
        let since = self.past.back().map(|last| now.duration_since(last.at));
        if since.is_none_or(|since| since >= APART) {
            let grown = self.past.back().map_or(0, |last| last.most_of_a_way(&counts));
            let span = since.unwrap_or_default();
            let allowed = u128::from(limit) * span.as_millis() * AT_LIMIT_PERCENT / 100_000;
            if span > Duration::ZERO && u128::from(grown) >= allowed.max(1) {
                self.at_limit += span;
            }
            self.past.push_back(Past { at: now, counts, at_limit: self.at_limit });
        }
        while self.past.get(1).is_some_and(|second| now.duration_since(second.at) >= KEPT) {
            self.past.pop_front();
        }
        let minute_ago = self.past.front().map_or(Duration::ZERO, |first| first.at_limit);
        FlowUsage {
            per_second: self.per_second(),
            limit_per_second: limit,
            at_limit_usec: usec(self.at_limit),
            at_limit_last_minute_usec: usec(self.at_limit - minute_ago),
        }
    }

    fn per_second(&self) -> u64 {
        let Some(newest) = self.past.back() else { return 0 };
        let is_old = |past: &&Past<D>| newest.at.duration_since(past.at) >= SPAN;
        let Some(then) = self.past.iter().rfind(is_old).or(self.past.front()) else { return 0 };
        let span_ms = newest.at.duration_since(then.at).as_millis();
        let grown = u128::from(then.most(&newest.counts)) * 1000;
        grown.checked_div(span_ms).and_then(|speed| u64::try_from(speed).ok()).unwrap_or(0)
    }
}

impl<D: Ord> Past<D> {
    /// By how much the counter has grown that has grown most since.
    fn most(&self, counts: &Counts<D>) -> u64 {
        counts.iter().map(|counter| self.growth(counter)).max().unwrap_or(0)
    }

    /// By how much all devices' counters together have grown, the way that has grown more.
    fn most_of_a_way(&self, counts: &Counts<D>) -> u64 {
        let of = |way| {
            let counters = counts.iter().filter(|((_, found), _)| *found == way);
            counters.map(|counter| self.growth(counter)).sum::<u64>()
        };
        of(Way::In).max(of(Way::Out))
    }

    /// A counter that wasn't there was at zero.
    fn growth(&self, (key, count): (&(D, Way), &u64)) -> u64 {
        count.saturating_sub(self.counts.get(key).copied().unwrap_or(0))
    }
}

fn usec(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// `counts` are of each device what has come in and gone out.
    fn take(flow: &mut Flow<u8>, counts: &[(u64, u64)], at: Instant) -> FlowUsage {
        let both = |(device, (came, went)): (u8, &(u64, u64))| {
            [((device, Way::In), *came), ((device, Way::Out), *went)]
        };
        flow.take((0..).zip(counts).flat_map(both).collect(), 100, at)
    }

    #[test]
    fn what_grows_as_its_limit_allows_is_at_the_limit() {
        let (mut flow, start) = (Flow::new(), Instant::now());
        assert_eq!(take(&mut flow, &[(7, 0)], start).per_second, 0);
        let free = take(&mut flow, &[(107, 0)], start + SECOND * 2);
        assert_eq!((free.per_second, free.at_limit_usec), (50, 0));
        let held = take(&mut flow, &[(297, 0)], start + SECOND * 4);
        assert_eq!((held.per_second, held.at_limit_usec), (72, 2_000_000));
        let later = take(&mut flow, &[(297, 0)], start + SECOND * 90);
        assert_eq!((later.at_limit_usec, later.at_limit_last_minute_usec), (2_000_000, 0));
    }

    #[test]
    fn each_way_has_the_limit_for_itself() {
        let (mut flow, start) = (Flow::new(), Instant::now());
        take(&mut flow, &[], start);
        let both = take(&mut flow, &[(120, 130)], start + SECOND * 2);
        assert_eq!((both.per_second, both.at_limit_usec), (65, 0));
    }

    #[test]
    fn what_passes_two_throttles_waits_at_both() {
        let (mut flow, start) = (Flow::new(), Instant::now());
        take(&mut flow, &[(0, 0), (0, 0)], start);
        let through_both = take(&mut flow, &[(0, 100), (0, 100)], start + SECOND * 2);
        assert_eq!((through_both.per_second, through_both.at_limit_usec), (50, 2_000_000));
    }

    #[test]
    fn a_burst_between_two_readings_close_together_is_no_speed() {
        let (mut flow, start) = (Flow::new(), Instant::now());
        take(&mut flow, &[(0, 0)], start);
        let soon = take(&mut flow, &[(90, 0)], start + SECOND / 10);
        assert_eq!((soon.per_second, soon.at_limit_usec), (0, 0));
        let then = take(&mut flow, &[(90, 0)], start + SECOND * 2);
        assert_eq!((then.per_second, then.at_limit_usec), (45, 0));
    }

    #[test]
    fn a_new_container_counts_from_zero() {
        let (mut flow, start) = (Flow::new(), Instant::now());
        take(&mut flow, &[(0, 0)], start);
        take(&mut flow, &[(200, 0)], start + SECOND * 2);
        flow.container_made();
        let made = take(&mut flow, &[(500, 0)], start + SECOND * 4);
        assert_eq!((made.per_second, made.at_limit_usec), (0, 2_000_000));
    }
}
