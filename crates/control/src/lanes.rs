//! Whose turn it is: for each app one deploy or destruction at a time, the others in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ace_types::AppName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// One lane for each app that somebody works on.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Mutex<HashMap<AppName, Weak<Lane>>>,
}

#[derive(Debug)]
struct Lane {
    /// One permit, handed out in the order of asking.
    turn: Arc<Semaphore>,
    /// How often everyone in the lane has been asked to give up.
    cancels: watch::Sender<u64>,
}

/// A place in an app's lane; dropping it gives the place up.
#[derive(Debug)]
pub struct Ticket {
    lane: Arc<Lane>,
    cancels: watch::Receiver<u64>,
}

/// The app is its holder's until it's dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Lanes {
    /// Takes a place in the lane of `app`; `None` where `max` others have one.
    pub fn enter(&self, app: &AppName, max: usize) -> Option<Ticket> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| lane.strong_count() > 0);
        let lane = lanes.get(app).and_then(Weak::upgrade).unwrap_or_else(Lane::new);
        // Each ticket holds the lane once, and so does the line above.
        if Arc::strong_count(&lane) > max {
            return None;
        }
        lanes.insert(app.clone(), Arc::downgrade(&lane));
        let cancels = lane.cancels.subscribe();
        Some(Ticket { lane, cancels })
    }

    /// Asks everyone who now has a place in the lane of `app` to give up.
    pub fn cancel(&self, app: &AppName) {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(app).and_then(Weak::upgrade) {
            lane.cancels.send_modify(|times| *times += 1);
        }
    }
}

impl Lane {
    fn new() -> Arc<Self> {
        Arc::new(Self { turn: Arc::new(Semaphore::new(1)), cancels: watch::Sender::new(0) })
    }
}

impl Ticket {
    /// Whether the turn can be had without waiting.
    pub fn is_free(&self) -> bool {
        self.lane.turn.available_permits() > 0
    }

    /// Waits until it's this ticket's turn.
    pub async fn turn(&self) -> Turn {
        // Nobody closes the semaphore, so there is always a permit to come.
        Turn { _permit: Arc::clone(&self.lane.turn).acquire_owned().await.ok() }
    }

    /// Waits until [`Lanes::cancel`] is called; it's remembered where it has been already.
    pub async fn cancelled(&self) {
        let mut cancels = self.cancels.clone();
        if cancels.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::name;

    async fn waits(future: impl Future) -> bool {
        tokio::time::timeout(Duration::from_millis(1), future).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_waits_for_the_first() {
        let lanes = Lanes::default();
        let (first, second) = (lanes.enter(&name("a"), 9), lanes.enter(&name("a"), 9));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(first.is_free());
        let turn = first.turn().await;
        assert!(!second.is_free());
        assert!(waits(second.turn()).await);
        drop(turn);
        second.turn().await;
    }

    #[tokio::test(start_paused = true)]
    async fn apps_do_not_wait_for_each_other() {
        let lanes = Lanes::default();
        let (one, other) =
            (lanes.enter(&name("a"), 9).unwrap(), lanes.enter(&name("b"), 9).unwrap());
        let _turn = one.turn().await;
        other.turn().await;
    }

    #[test]
    fn a_lane_has_room_for_so_many() {
        let lanes = Lanes::default();
        let tickets: Vec<_> = (0..3).map_while(|_| lanes.enter(&name("a"), 3)).collect();
        assert_eq!(tickets.len(), 3);
        assert!(lanes.enter(&name("a"), 3).is_none());
        drop(tickets);
        assert!(lanes.enter(&name("a"), 3).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_enters_after_a_cancel_is_not_meant() {
        let lanes = Lanes::default();
        let before = lanes.enter(&name("a"), 9).unwrap();
        lanes.cancel(&name("a"));
        let after = lanes.enter(&name("a"), 9).unwrap();
        before.cancelled().await;
        before.cancelled().await;
        assert!(waits(after.cancelled()).await);
    }
}
