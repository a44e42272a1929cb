//! The right of one large body to pass, a part at a time.
//!
//! A part that may pass at once still lets the thread do what else is ready: so one body, or a hundred, never hold up
//! small requests by more than a round of parts.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{AppBandwidth, Turn, Way};

/// What one body, or one way of a tunnel, may pass. Dropped, it gives back what it has not used.
pub struct Allowance {
    app: Arc<AppBandwidth>,
    way: Way,
    /// Bytes that may pass before they are reserved.
    credit: u64,
    reserved: u64,
    spent: u64,
    pause: Pause,
}

/// What is waited for before more may pass.
enum Pause {
    None,
    Others(Pin<Box<dyn Future<Output = ()> + Send + Sync>>),
    Slot { slot: Instant, bytes: u64, timer: Pin<Box<Sleep>> },
}

/// How often it's looked whether the wait is over because other apps have gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Allowance {
    pub fn new(app: &Arc<AppBandwidth>, way: Way) -> Self {
        Self::begin(app, way, 0)
    }

    /// For what begins at once, as what is small does, unless that has to wait, too.
    pub fn with_credit(app: &Arc<AppBandwidth>, way: Way) -> Self {
        Self::begin(app, way, app.credit(way))
    }

    /// The same for what is taken off the app's hands.
    pub fn ahead(&self) -> Self {
        Self::new(&self.app, Way::Ahead)
    }

    /// Ready with the bytes that may pass now, at least one.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        loop {
            match &mut self.pause {
                Pause::None => match (self.reserved + self.credit).saturating_sub(self.spent) {
                    0 => self.pause = self.ask(Instant::now()),
                    bytes => return Poll::Ready(bytes),
                },
                Pause::Others(others) => {
                    ready!(others.as_mut().poll(cx));
                    self.pause = Pause::None;
                }
                Pause::Slot { slot, bytes, timer } => {
                    ready!(timer.as_mut().poll(cx));
                    let now = Instant::now();
                    if now >= *slot || self.app.may_borrow(now) {
                        self.reserved += *bytes;
                        self.pause = Pause::None;
                    } else {
                        timer.as_mut().reset((now + LOOK_EVERY).min(*slot));
                    }
                }
            }
        }
    }

    /// As [`Self::poll_ready`].
    pub async fn ready(&mut self) -> u64 {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// So many bytes have passed, be they more than were allowed.
    pub fn spend(&mut self, bytes: u64) {
        self.app.note();
        self.spent += bytes;
    }

    fn begin(app: &Arc<AppBandwidth>, way: Way, credit: u64) -> Self {
        app.lane(way).transfers.fetch_add(1, Ordering::Relaxed);
        let app = Arc::clone(app);
        Self { app, way, credit, reserved: 0, spent: 0, pause: Pause::None }
    }

    fn ask(&mut self, now: Instant) -> Pause {
        self.credit = 0;
        match self.app.turn(self.way, self.spent - self.reserved, now) {
            Turn::Now { bytes } => {
                self.reserved += bytes;
                Pause::Others(Box::pin(yield_now()))
            }
            Turn::At { slot, bytes } => {
                let timer = Box::pin(sleep_until((now + LOOK_EVERY).min(slot)));
                Pause::Slot { slot, bytes, timer }
            }
        }
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        let waiting = match self.pause {
            Pause::Slot { bytes, .. } => bytes,
            Pause::None | Pause::Others(_) => 0,
        };
        self.app.close(self.way, self.reserved + waiting, self.spent);
    }
}
