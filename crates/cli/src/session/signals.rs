//! The signals that concern a command elsewhere.

use std::io;

use ace_api::CommandSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that have been asked for; none of them ends this process any more.
pub struct Signals {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    resized: Signal,
    continued: Signal,
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Our terminal has another size.
    Resized,
    /// We were stopped and go on.
    Continued,
    /// One that would have ended us.
    Signal(CommandSignal),
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            resized: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(CONTINUE))?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> News {
        tokio::select! {
            _ = self.hangup.recv() => News::Signal(CommandSignal::Hangup),
            _ = self.interrupt.recv() => News::Signal(CommandSignal::Interrupt),
            _ = self.quit.recv() => News::Signal(CommandSignal::Quit),
            _ = self.terminate.recv() => News::Signal(CommandSignal::Terminate),
            _ = self.resized.recv() => News::Resized,
            _ = self.continued.recv() => News::Continued,
        }
    }
}

/// SIGCONT's number on Linux, which tokio has no name for.
const CONTINUE: i32 = 18;
