//! How much has passed in the last seconds, and for how much of the last minute parts were held back.

use std::collections::VecDeque;
use std::time::Duration;

use ace_api::traffic::BandwidthUse;
use tokio::time::Instant;

/// What was at earlier times, the oldest first.
#[derive(Debug, Default)]
pub struct Past(VecDeque<Mark>);

/// How it was at one time.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub at: Instant,
    pub received: u64,
    pub sent: u64,
    pub held_back: Duration,
}

/// Over how long rates are averaged, at least.
const RATE_SPAN: Duration = Duration::from_secs(10);
/// What counts as the last minute.
const KEPT: Duration = Duration::from_secs(60);

impl Past {
    /// Notes `mark`, and forgets what is older than is needed.
    pub fn note(&mut self, mark: Mark) {
        while self.0.get(1).is_some_and(|second| mark.at.duration_since(second.at) >= KEPT) {
            self.0.pop_front();
        }
        self.0.push_back(mark);
    }

    /// What there is to be told at the time of `now`.
    pub fn usage(&self, now: Mark) -> BandwidthUse {
        let minute = self.before(now, KEPT);
        let recent = self.before(now, RATE_SPAN);
        let bits = |bytes: u64| {
            let millis = u64::try_from(now.at.duration_since(recent.at).as_millis()).unwrap_or(0);
            bytes.saturating_mul(8 * 1000).checked_div(millis).unwrap_or(0)
        };
        BandwidthUse {
            received_bits_per_second: bits(now.received.saturating_sub(recent.received)),
            sent_bits_per_second: bits(now.sent.saturating_sub(recent.sent)),
            held_back_usec: usec(now.held_back),
            held_back_last_minute_usec: usec(now.held_back.saturating_sub(minute.held_back)),
        }
    }

    /// The youngest mark that is at least `span` old, or else the oldest.
    fn before(&self, now: Mark, span: Duration) -> Mark {
        let old = self.0.iter().rfind(|mark| now.at.duration_since(mark.at) >= span);
        old.or(self.0.front()).copied().unwrap_or(now)
    }
}

fn usec(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_seconds_and_waits_of_the_last_minute() {
        let start = Instant::now();
        let mark = |second: u64| Mark {
            at: start + Duration::from_secs(second),
            received: 0,
            sent: 1_000_000 * second,
            held_back: Duration::from_secs(second / 2),
        };
        let mut past = Past::default();
        assert_eq!(past.usage(mark(0)), BandwidthUse::default());
        (0..=24).for_each(|step| past.note(mark(step * 5)));
        let BandwidthUse { held_back_usec, held_back_last_minute_usec, .. } = past.usage(mark(122));
        assert_eq!((held_back_usec, held_back_last_minute_usec), (61_000_000, 31_000_000));
        assert_eq!(past.usage(mark(122)).sent_bits_per_second, 8_000_000);
        assert_eq!(past.usage(mark(122)).received_bits_per_second, 0);
    }
}
