//! What an instance does next: one pure function from state and event to state and effects.
//!
//! ```text
//! Starting ──▶ Running ──▶ Draining ──▶ Gone
//!   │  ▲          │                       ▲
//!   │  └─ Crashed ◀┘    (pauses double)   │
//!   ▼        └────────── asked to stop ───┤
//! Failed ────────────────────────────────-┘
//! ```
//!
//! Time is an argument. The task that owns the instance (`instance`) feeds events and carries the
//! effects out.

use std::time::Duration;

use ace_api::EndReason;
use jiff::Timestamp;

/// The first pause before a crashed instance is started again; it doubles each time.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// An instance that ran this long is forgiven its earlier crashes.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// What init gets beyond the tenant's own grace before its cgroup is killed.
pub const KILL_MARGIN: Duration = Duration::from_secs(3);

/// An instance's whole memory of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    pub phase: Phase,
    /// When it came into this phase.
    pub since: Timestamp,
    /// Whether it has ever answered. One that never did is not started again.
    pub ever_ready: bool,
    /// Crashes in a row.
    pub crashes: u32,
    pub restarts: u32,
    pub last_end: Option<EndReason>,
}

/// Where it is. Each phase carries only what is true in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    Starting { deadline: Timestamp },
    Running,
    Draining { kill_at: Timestamp },
    Crashed { retry_at: Timestamp },
    Failed,
    Gone,
}

/// News for an instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The server answered as a ready one does.
    Ready,
    /// The probe's deadline passed, and that is why.
    NotReady(EndReason),
    /// The container is gone, or could never be made.
    Ended(EndReason),
    /// The container is gone because it was asked to end.
    Stopped,
    /// Somebody outside has taken away `what` it can't do without.
    Damaged { what: String },
    /// It is no longer desired.
    StopAsked,
    /// Nothing but time.
    Tick,
}

/// What the owner has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the container and begin to probe it.
    Launch,
    /// Ask init to end the server.
    Terminate,
    /// End every process of the container at once.
    Kill,
    /// Remove what the ended container leaves in the kernel; its log stays.
    CleanUp,
    /// Remove everything, its folder too.
    Remove,
}

/// The two spans that differ between instances.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub startup: Duration,
    pub stop_grace: Duration,
}

impl Life {
    /// A new instance, about to be launched.
    pub fn new(now: Timestamp, patience: Patience) -> Self {
        Self {
            phase: Phase::Starting { deadline: now + patience.startup },
            since: now,
            ever_ready: false,
            crashes: 0,
            restarts: 0,
            last_end: None,
        }
    }

    /// The life after `event`, and what to do on the way there, in order.
    pub fn next(self, event: Event, now: Timestamp, patience: Patience) -> (Self, Vec<Effect>) {
        match (&self.phase, event) {
            (Phase::Starting { .. }, Event::Ready) => {
                (Self { ever_ready: true, ..self }.into_phase(Phase::Running, now), vec![])
            }
            (Phase::Starting { .. }, Event::NotReady(reason)) => self.killed(reason, now),
            (Phase::Starting { .. } | Phase::Running, Event::Damaged { what }) => {
                self.killed(EndReason::Damaged { what }, now)
            }
            (Phase::Starting { .. } | Phase::Running, Event::Ended(reason)) => {
                self.ended(reason, now)
            }
            // By an engine that is gone, or somebody outside: this one wants it to run.
            (Phase::Starting { .. } | Phase::Running, Event::Stopped) => {
                let deadline = now + patience.startup;
                let life = self.into_phase(Phase::Starting { deadline }, now);
                (life, vec![Effect::CleanUp, Effect::Launch])
            }
            // It has no requests yet that would need time to end.
            (Phase::Starting { .. }, Event::StopAsked) => self.terminated(now + KILL_MARGIN, now),
            (Phase::Running, Event::StopAsked) => {
                self.terminated(now + patience.stop_grace + KILL_MARGIN, now)
            }
            (Phase::Draining { .. }, Event::Ended(_) | Event::Stopped) => {
                (self.into_phase(Phase::Gone, now), vec![Effect::CleanUp, Effect::Remove])
            }
            (Phase::Draining { kill_at }, Event::Tick) if now >= *kill_at => {
                let kill_at = now + KILL_MARGIN;
                (Self { phase: Phase::Draining { kill_at }, ..self }, vec![Effect::Kill])
            }
            (Phase::Crashed { retry_at }, Event::Tick) if now >= *retry_at => {
                let deadline = now + patience.startup;
                let life = Self { restarts: self.restarts + 1, ..self };
                (life.into_phase(Phase::Starting { deadline }, now), vec![Effect::Launch])
            }
            (Phase::Crashed { .. } | Phase::Failed, Event::StopAsked) => {
                (self.into_phase(Phase::Gone, now), vec![Effect::Remove])
            }
            // Late or repeated news changes nothing.
            (
                _,
                Event::Ready
                | Event::NotReady(_)
                | Event::Ended(_)
                | Event::Stopped
                | Event::Damaged { .. }
                | Event::StopAsked
                | Event::Tick,
            ) => (self, vec![]),
        }
    }

    /// When [`Event::Tick`] next makes a difference, if it ever does.
    pub fn wakes_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Draining { kill_at } => Some(kill_at),
            Phase::Crashed { retry_at } => Some(retry_at),
            Phase::Starting { .. } | Phase::Running | Phase::Failed | Phase::Gone => None,
        }
    }

    fn into_phase(self, phase: Phase, now: Timestamp) -> Self {
        Self { phase, since: now, ..self }
    }

    /// It is asked to end, and made to at `kill_at`.
    fn terminated(self, kill_at: Timestamp, now: Timestamp) -> (Self, Vec<Effect>) {
        (self.into_phase(Phase::Draining { kill_at }, now), vec![Effect::Terminate])
    }

    /// The container is there, but no good any more.
    fn killed(self, reason: EndReason, now: Timestamp) -> (Self, Vec<Effect>) {
        let (life, mut effects) = self.ended(reason, now);
        effects.insert(0, Effect::Kill);
        (life, effects)
    }

    /// The container ended without being asked.
    fn ended(mut self, reason: EndReason, now: Timestamp) -> (Self, Vec<Effect>) {
        let before = self.last_end.replace(reason);
        if !self.ever_ready {
            return (self.into_phase(Phase::Failed, now), vec![Effect::CleanUp]);
        }
        let ran = now.duration_since(self.since).unsigned_abs();
        let forgiven = matches!(self.phase, Phase::Running) && ran >= FORGIVEN_AFTER;
        // Nobody saw it end: the machine went down, say. That is no crash of the app's, unless it comes twice
        // in a row.
        if self.last_end == Some(EndReason::Lost) && before != self.last_end {
            self.crashes = if forgiven { 0 } else { self.crashes };
            let retry_at = now + FIRST_PAUSE;
            return (self.into_phase(Phase::Crashed { retry_at }, now), vec![Effect::CleanUp]);
        }
        self.crashes = if forgiven { 1 } else { self.crashes + 1 };
        let retry_at = now + pause_before_retry(self.crashes);
        (self.into_phase(Phase::Crashed { retry_at }, now), vec![Effect::CleanUp])
    }
}

/// The pause after the `crashes`th crash in a row, from 1.
fn pause_before_retry(crashes: u32) -> Duration {
    let doublings = crashes.saturating_sub(1).min(16);
    (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { startup: Duration::from_secs(60), stop_grace: Duration::from_secs(30) };
    const EXIT: EndReason = EndReason::Exited { status: 1 };

    fn at(second: i64) -> Timestamp {
        Timestamp::constant(1_000_000 + second, 0)
    }

    /// The phase and effects after `events`, each with its second.
    fn live(events: Vec<(i64, Event)>) -> (Life, Vec<Effect>) {
        let first = (Life::new(at(0), PATIENCE), vec![]);
        events.into_iter().fold(first, |(life, mut all), (second, event)| {
            let (life, effects) = life.next(event, at(second), PATIENCE);
            all.extend(effects);
            (life, all)
        })
    }

    #[test]
    fn a_first_start_that_ends_is_not_tried_again() {
        let (life, effects) = live(vec![(1, Event::Ended(EXIT)), (400, Event::Tick)]);
        assert_eq!((life.phase, life.last_end), (Phase::Failed, Some(EXIT)));
        assert_eq!(effects, [Effect::CleanUp]);
    }

    #[test]
    fn a_start_that_never_answers_is_killed() {
        let (life, effects) = live(vec![(60, Event::NotReady(EXIT))]);
        assert_eq!(life.phase, Phase::Failed);
        assert_eq!(effects, [Effect::Kill, Effect::CleanUp]);
    }

    #[test]
    fn a_crash_after_the_first_answer_is_started_again_after_a_pause() {
        let (life, effects) = live(vec![
            (1, Event::Ready),
            (5, Event::Ended(EXIT)),
            (5, Event::Tick),
            (6, Event::Tick),
        ]);
        assert_eq!(life.phase, Phase::Starting { deadline: at(66) });
        assert_eq!(life.restarts, 1);
        assert_eq!(effects, [Effect::CleanUp, Effect::Launch]);
    }

    #[test]
    fn a_damaged_container_is_replaced_like_one_that_crashed() {
        let damaged = Event::Damaged { what: "its socket".into() };
        let (life, effects) = live(vec![(1, Event::Ready), (5, damaged), (6, Event::Tick)]);
        assert_eq!(life.phase, Phase::Starting { deadline: at(66) });
        assert_eq!(effects, [Effect::Kill, Effect::CleanUp, Effect::Launch]);
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let pauses: Vec<u64> = (1..=11).map(|n| pause_before_retry(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn a_long_run_is_forgiven_earlier_crashes() {
        let (life, _) = live(vec![
            (1, Event::Ready),
            (2, Event::Ended(EXIT)),
            (3, Event::Tick),
            (4, Event::Ready),
            (5, Event::Ended(EXIT)),
            (7, Event::Tick),
            (8, Event::Ready),
            (700, Event::Ended(EXIT)),
        ]);
        assert_eq!(life.phase, Phase::Crashed { retry_at: at(701) });
    }

    #[test]
    fn a_reboot_is_no_crash_but_two_in_a_row_are() {
        let lost = || Event::Ended(EndReason::Lost);
        let crashed = vec![(1, Event::Ready), (2, Event::Ended(EXIT)), (3, Event::Tick)];
        let rebooted = [crashed, vec![(4, Event::Ready), (5, lost())]].concat();
        let (life, _) = live(rebooted.clone());
        assert_eq!((life.phase, life.crashes), (Phase::Crashed { retry_at: at(6) }, 1));
        let again = vec![(6, Event::Tick), (7, Event::Ready), (8, lost())];
        let (life, _) = live([rebooted, again].concat());
        assert_eq!((life.phase, life.crashes), (Phase::Crashed { retry_at: at(10) }, 2));
    }

    #[test]
    fn what_an_earlier_engine_asked_to_end_starts_again_and_has_not_crashed() {
        let (life, effects) = live(vec![(1, Event::Ready), (5, Event::Stopped)]);
        assert_eq!((life.phase, life.crashes), (Phase::Starting { deadline: at(65) }, 0));
        assert_eq!(effects, [Effect::CleanUp, Effect::Launch]);
    }

    #[test]
    fn a_stop_terminates_then_kills_then_removes() {
        let (life, effects) = live(vec![
            (1, Event::Ready),
            (10, Event::StopAsked),
            (11, Event::StopAsked),
            (42, Event::Tick),
            (43, Event::Tick),
            (44, Event::Ended(EXIT)),
        ]);
        assert_eq!(life.phase, Phase::Gone);
        assert_eq!(effects, [Effect::Terminate, Effect::Kill, Effect::CleanUp, Effect::Remove]);
    }

    #[test]
    fn what_is_not_ready_yet_gets_no_time_to_finish_requests() {
        let (life, effects) = live(vec![(1, Event::StopAsked), (4, Event::Tick)]);
        assert_eq!(life.phase, Phase::Draining { kill_at: at(7) });
        assert_eq!(effects, [Effect::Terminate, Effect::Kill]);
    }

    #[test]
    fn stopping_what_does_not_run_removes_it_at_once() {
        let (life, effects) = live(vec![(1, Event::Ended(EXIT)), (2, Event::StopAsked)]);
        assert_eq!(life.phase, Phase::Gone);
        assert_eq!(effects, [Effect::CleanUp, Effect::Remove]);
    }
}
