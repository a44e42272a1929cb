//! Why instances end, or never begin to serve.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ace_types::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why an instance ended. Texts that come from the app may hold control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum EndReason {
    /// The server left with this status.
    Exited { status: i32 },
    /// The server was ended by this signal, and not by us.
    Signalled { signal: i32 },
    /// The server could not load the app, and has not said why.
    NotLoaded,
    /// The app's import, or its factory, raised an exception of this type; `KeyError: NAME` for a variable, as it seems,
    /// that is not set.
    ImportFailed { error: String },
    /// `place` is a file, relative to the source where it is below it, and a line.
    SyntaxError { place: String },
    /// The app imports `module`, which is not there, or only in a `folder` of the source where it's not looked for.
    ModuleMissing { module: String, folder: Option<String> },
    /// There is no such module, or it has no such name.
    EntryMissing { entry: String },
    /// The entry is a `found`, which can't be called.
    EntryNotCallable { entry: String, found: String },
    /// The entry is an ASGI application, and the server takes none.
    WrongInterface,
    /// The app was loaded, but said itself that it can't start: its lifespan failed.
    StartupFailed,
    /// Worker after worker ended while it loaded the app or just after; by `signal`, where the server tells.
    WorkersEnd { signal: Option<i32> },
    /// The kernel ended a process that went past the memory limit, and the server went with it.
    OutOfMemory { limit: Bytes },
    /// The engine ended it for memory that the kernel kept for it and no limit binds. `what` says of what: `more than …`.
    KernelMemory { what: String },
    /// The kernel refused a process or a thread, and the app did not come up.
    TooManyProcesses { limit: u32 },
    /// There was no room left in `/tmp`.
    TmpFull { limit: Bytes },
    /// There was no room left for what is written beside the code.
    CodeFull { limit: Bytes },
    /// There was no room left in `/dev/shm`.
    ShmFull { limit: Bytes },
    /// There was no room left on the volume.
    VolumeFull { size: Bytes },
    /// The app's import had not ended after this time, so nobody listened.
    StillLoading { after: Duration },
    /// It listens, but gave no whole answer within `after`. `last` is what the last probe got.
    NoAnswer { after: Duration, last: String },
    /// The app's own command did not listen on `port` within `after`, but on the addresses `elsewhere`.
    NothingListens { after: Duration, port: u16, elsewhere: Vec<SocketAddr> },
    /// Its last answer to the probe was of a `status` that is no sign of health. `body` is that
    /// answer's beginning.
    Unhealthy { after: Duration, path: String, status: u16, body: String },
    /// Somebody outside the container took away what it needs. `what` is fit for the tenant.
    Damaged { what: String },
    /// It was there when the engine stopped, and gone when it came back.
    Lost,
    /// The container could not be made. `message` is fit for the tenant.
    NotStarted { message: String },
}

impl EndReason {
    /// The reason in one word that stays, for programs; as `kind` in its JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::Signalled { .. } => "signalled",
            Self::NotLoaded => "not_loaded",
            Self::ImportFailed { .. } => "import_failed",
            Self::SyntaxError { .. } => "syntax_error",
            Self::ModuleMissing { .. } => "module_missing",
            Self::EntryMissing { .. } => "entry_missing",
            Self::EntryNotCallable { .. } => "entry_not_callable",
            Self::WrongInterface => "wrong_interface",
            Self::StartupFailed => "startup_failed",
            Self::WorkersEnd { .. } => "workers_end",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::KernelMemory { .. } => "kernel_memory",
            Self::TooManyProcesses { .. } => "too_many_processes",
            Self::TmpFull { .. } => "tmp_full",
            Self::CodeFull { .. } => "code_full",
            Self::ShmFull { .. } => "shm_full",
            Self::VolumeFull { .. } => "volume_full",
            Self::StillLoading { .. } => "still_loading",
            Self::NoAnswer { .. } => "no_answer",
            Self::NothingListens { .. } => "nothing_listens",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Damaged { .. } => "damaged",
            Self::Lost => "lost",
            Self::NotStarted { .. } => "not_started",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status } => write!(f, "the app server ended with status {status}"),
            Self::Signalled { signal } => {
                write!(f, "the app server was ended by {}", SignalName(*signal))
            }
            Self::NotLoaded => write!(f, "the app could not be loaded"),
            Self::ImportFailed { error } => write!(f, "its import failed with {error}"),
            Self::SyntaxError { place } => write!(f, "a syntax error in {place}"),
            Self::ModuleMissing { module, .. } => write!(f, "the module \"{module}\" is missing"),
            Self::EntryMissing { entry } => {
                write!(f, "there is no {entry}; \"entry:\" in app.yaml says what to call")
            }
            Self::EntryNotCallable { entry, found } => {
                write!(f, "{entry} can't be called, being of type {found}")
            }
            Self::WrongInterface => write!(
                f,
                "the app is an ASGI application, which its server can't serve; say \
                 \"server: uvicorn\" in app.yaml"
            ),
            Self::StartupFailed => write!(f, "the app's own startup failed (ASGI lifespan)"),
            Self::WorkersEnd { signal } => {
                write!(f, "its worker processes end as soon as they start")?;
                signal.map_or(Ok(()), |signal| write!(f, ", by {}", SignalName(signal)))
            }
            Self::OutOfMemory { limit } => {
                write!(f, "out of memory: its limit is {limit} (memory)")
            }
            Self::KernelMemory { what } => {
                write!(
                    f,
                    "the engine ended it: it had {what}, which the kernel keeps in memory for it"
                )
            }
            Self::TooManyProcesses { limit } => {
                write!(f, "too many processes and threads: its limit is {limit} (pids)")
            }
            Self::TmpFull { limit } => write!(f, "/tmp is full: its limit is {limit} (tmp)"),
            Self::CodeFull { limit } => write!(
                f,
                "there is no more room for what is written in /ace/code: its limit is {limit} (tmp)"
            ),
            Self::ShmFull { limit } => write!(f, "/dev/shm is full: its limit is {limit} (shm)"),
            Self::VolumeFull { size } => {
                write!(f, "the volume is full: /ace/data has {size} (volume)")
            }
            Self::StillLoading { after } => {
                write!(f, "its import has not ended after {} s (startup)", after.as_secs())
            }
            Self::NoAnswer { after, last } => {
                write!(f, "no answer after {} s (startup): {last}", after.as_secs())
            }
            Self::NothingListens { after, port, elsewhere } => {
                let seconds = after.as_secs();
                write!(f, "nothing listens on port {port} ($PORT) after {seconds} s (startup)")?;
                elsewhere.iter().enumerate().try_for_each(|(index, address)| {
                    write!(f, "{} {address}", if index == 0 { ", but on" } else { "," })
                })
            }
            Self::Unhealthy { after, path, status, .. } => write!(
                f,
                "not healthy after {} s (startup): GET {path} was answered with {status}",
                after.as_secs()
            ),
            Self::Damaged { what } => write!(f, "{what} was removed from outside"),
            Self::Lost => write!(f, "it ended while the engine was not running"),
            Self::NotStarted { message } => write!(f, "it could not be started: {message}"),
        }
    }
}

/// A signal's number with its name and what it is a sign of.
struct SignalName(i32);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, sign) = match self.0 {
            4 => ("SIGILL", "an instruction that this processor lacks"),
            6 => ("SIGABRT", "a C extension or library gave up"),
            7 => ("SIGBUS", "a fault in a C extension or library"),
            8 => ("SIGFPE", "a fault in a C extension or library"),
            9 => ("SIGKILL", "sent from inside the container"),
            11 => ("SIGSEGV", "a fault in a C extension or library"),
            15 => ("SIGTERM", "sent from inside the container"),
            31 => ("SIGSYS", "a system call that is not allowed"),
            number => return write!(f, "signal {number}"),
        };
        write!(f, "signal {} ({name}: {sign})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_kind_in_json() {
        let after = Duration::from_secs(60);
        let (text, limit) = (String::new, Bytes::mib(1));
        let all = [
            EndReason::Exited { status: 1 },
            EndReason::Signalled { signal: 9 },
            EndReason::NotLoaded,
            EndReason::ImportFailed { error: text() },
            EndReason::SyntaxError { place: text() },
            EndReason::ModuleMissing { module: text(), folder: None },
            EndReason::EntryMissing { entry: text() },
            EndReason::EntryNotCallable { entry: text(), found: text() },
            EndReason::WrongInterface,
            EndReason::StartupFailed,
            EndReason::WorkersEnd { signal: None },
            EndReason::OutOfMemory { limit },
            EndReason::KernelMemory { what: text() },
            EndReason::TooManyProcesses { limit: 1 },
            EndReason::TmpFull { limit },
            EndReason::CodeFull { limit },
            EndReason::ShmFull { limit },
            EndReason::VolumeFull { size: limit },
            EndReason::StillLoading { after },
            EndReason::NoAnswer { after, last: text() },
            EndReason::NothingListens { after, port: 80, elsewhere: Vec::new() },
            EndReason::Unhealthy { after, path: text(), status: 500, body: text() },
            EndReason::Damaged { what: text() },
            EndReason::Lost,
            EndReason::NotStarted { message: text() },
        ];
        for reason in all {
            let document = serde_json::to_value(&reason).expect("a document");
            assert_eq!(document["kind"], reason.code());
        }
    }
}
