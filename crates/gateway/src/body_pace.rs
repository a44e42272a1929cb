//! How slowly a body may go, either way, while it's the client that is waited for.

use std::time::Duration;

/// How slowly a body may go.
#[derive(Debug, Clone, Copy)]
pub struct BodyPace {
    /// The longest wait for the client at once.
    pub between: Duration,
    /// How long all waits may be together, before as much has to have gone as [`BYTES_PER_SECOND_MIN`] makes of
    /// what is beyond that.
    pub grace: Duration,
}

/// The pace of a client that is alive. A thousand clients at a byte in a while hold a thousand places.
const BYTES_PER_SECOND_MIN: u64 = 500;

impl BodyPace {
    /// That of an app which has few places left.
    pub fn hurried(self) -> Self {
        Self { grace: self.grace / 4, ..self }
    }

    /// How much longer a client may keep us waiting that has sent or taken `bytes` and was waited for so long.
    pub fn left(self, bytes: u64, waited: Duration) -> Duration {
        self.left_in_all(bytes, waited).min(self.between)
    }

    /// As [`Self::left`], for one of many bodies on a connection, any of which may be held up by the others.
    pub fn left_in_all(self, bytes: u64, waited: Duration) -> Duration {
        let earned = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_SECOND_MIN);
        (self.grace + earned).saturating_sub(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_time_for_what_it_moves() {
        let seconds = Duration::from_secs;
        let pace = BodyPace { between: seconds(60), grace: seconds(20) };
        assert_eq!(pace.left(0, Duration::ZERO), seconds(20));
        assert_eq!(pace.left(100, seconds(21)), Duration::ZERO);
        assert_eq!(pace.left(10_000, seconds(21)), seconds(19));
        assert_eq!(pace.left(1 << 40, seconds(3600)), seconds(60));
        assert_eq!(pace.left_in_all(50_000, seconds(20)), seconds(100));
        assert_eq!(pace.hurried().left(0, Duration::ZERO), seconds(5));
    }
}
