//! One command in a container of its own, beside an app's instances.

use std::time::Duration;

use ace_types::{Bytes, TerminalSize};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::InstanceSpec;

/// A command to run.
#[derive(Debug, Clone)]
pub struct CommandSpec {
    /// The instance that its container is like: it has that one's id, and the same files, user ids,
    /// environment, limits, network and volume. It takes no requests.
    pub like: InstanceSpec,
    /// What it's called in logs and in an app's status: never its arguments, which may be secret.
    pub name: String,
    /// The program and its arguments. A program without a slash is looked for in `PATH`.
    pub argv: Vec<String>,
    /// Variables beyond those of an instance, which they replace.
    pub env: Vec<(String, String)>,
    /// The terminal to run on; `None` gives three pipes.
    pub terminal: Option<TerminalSize>,
    /// How long it may take before it is ended.
    pub deadline: Duration,
}

/// What goes in and out of a command. All of it is bounded: whoever is slow to read or to take makes
/// the other side wait.
#[derive(Debug)]
pub struct CommandIo {
    /// Standard input in pieces. Its sender's end is the input's end.
    pub input: mpsc::Receiver<Vec<u8>>,
    /// Once its sender is gone, the command is asked to end, and made to a few seconds later.
    pub controls: mpsc::Receiver<CommandControl>,
    /// Pieces of at most 64 KiB. With nobody to receive them, they are dropped.
    pub output: mpsc::Sender<CommandOutput>,
}

/// What a command is told while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandControl {
    /// Its terminal has another size now.
    Resize(TerminalSize),
    Signal(CommandSignal),
}

/// The signals that a command can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandSignal {
    Hangup,
    Interrupt,
    Quit,
    /// Starts the clock: what has not ended a few seconds later is killed.
    Terminate,
}

/// A piece of what a command printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandOutput {
    /// Standard output, or all there is on a terminal.
    Out(Vec<u8>),
    /// Standard error.
    Err(Vec<u8>),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CommandEnd {
    /// It left with this status.
    Exited { status: i32 },
    /// This signal ended it, and not because we asked for the end.
    Signalled { signal: i32 },
    /// The kernel ended it for going past the memory limit.
    OutOfMemory { limit: Bytes },
    /// The engine ended it for memory that the kernel kept for it and no limit binds. `what` says of what: `more than …`.
    KernelMemory { what: String },
    /// It was ended at its deadline.
    TooLong { after: Duration },
    /// It was ended since nobody wanted it any more.
    Stopped,
}

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing}")]
pub struct CommandError {
    pub doing: &'static str,
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl CommandSignal {
    pub const ALL: [Self; 4] = [Self::Hangup, Self::Interrupt, Self::Quit, Self::Terminate];

    /// Its number, the same on every Linux.
    pub fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::Terminate => 15,
        }
    }
}

impl CommandEnd {
    /// The status with which a shell would have it end: its own, or 128 and the signal's number.
    pub fn status(&self) -> u8 {
        match self {
            Self::Exited { status } => u8::try_from(*status).unwrap_or(u8::MAX),
            Self::Signalled { signal } => u8::try_from(*signal).map_or(u8::MAX, |it| it | 128),
            Self::OutOfMemory { .. } | Self::KernelMemory { .. } => 128 | 9,
            Self::TooLong { .. } | Self::Stopped => 128 | 15,
        }
    }
}

impl std::fmt::Display for CommandEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited { status } => write!(f, "it ended with status {status}"),
            Self::Signalled { signal } => write!(f, "it was ended by signal {signal}"),
            Self::OutOfMemory { limit } => write!(f, "out of memory: its limit is {limit}"),
            Self::KernelMemory { what } => {
                write!(
                    f,
                    "the engine ended it: it had {what}, which the kernel keeps in memory for it"
                )
            }
            Self::TooLong { after } => write!(f, "it took longer than {} s", after.as_secs()),
            Self::Stopped => write!(f, "it was stopped"),
        }
    }
}
