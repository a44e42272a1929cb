//! The command that an app has run before anything of a new release starts.
//!
//! It runs once a deploy, in a container like that of the new release's instances. What it prints
//! goes line by line to whoever deploys.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use ace_api::{CommandEnd, CommandIo, CommandOutput, CommandSpec, ErrorCode, InstanceSpec};
use futures_util::future::join;
use tokio::sync::mpsc;

use crate::commands::Starter;
use crate::engine::Engine;
use crate::refusal::Refusal;

/// How long it may take.
const DEADLINE: Duration = Duration::from_secs(600);
/// The longest line that is told, in bytes; what is longer goes on in a further one.
const LINE_MAX: usize = 8192;
/// Lines that tell why it failed.
const LAST_WORDS: usize = 60;

/// Why a release can't be started.
#[derive(Debug, Clone, PartialEq)]
pub enum PredeployError {
    /// The command did not do what it should.
    Failed { end: CommandEnd, last_words: Option<String> },
    /// It could not be run, or was not to run on.
    Refused(Refusal),
}

/// Runs `line`, as a shell would, in a container like `like`'s, and tells `lines` what it prints. Once
/// there is a reason to give up, it's made to end. Returns when it is gone.
pub async fn run(
    engine: &Engine,
    like: InstanceSpec,
    line: &str,
    lines: mpsc::Sender<String>,
    given_up: impl Future<Output = Refusal>,
) -> Result<(), PredeployError> {
    let command = CommandSpec {
        like,
        name: "predeploy".to_owned(),
        // Output and errors by one way, so that their lines come in the order in which they were said.
        argv: ["sh".to_owned(), "-c".to_owned(), format!("exec 2>&1; {line}")].into(),
        env: Vec::new(),
        terminal: None,
        deadline: DEADLINE,
    };
    let _place = engine.commands.enter(&command, Starter::Deploy);
    let (controls, told) = mpsc::channel(1);
    let (output, said) = mpsc::channel(1);
    let nothing = mpsc::channel(1).1; // It's asked for no input: there is nobody to give it.
    let mut ran =
        pin!(engine.node.run(command, CommandIo { input: nothing, controls: told, output }));
    let ran = async {
        tokio::select! {
            ended = &mut ran => Ok(ended),
            refusal = given_up => {
                drop(controls);
                // Nobody asks any more how it went.
                let _ = ran.await;
                Err(refusal)
            }
        }
    };
    let (ended, last_words) = join(ran, tell(said, lines)).await;
    match ended.map_err(PredeployError::Refused)? {
        Ok(CommandEnd::Exited { status: 0 }) => Ok(()),
        Ok(end) => Err(PredeployError::Failed { end, last_words }),
        Err(error) => {
            Err(PredeployError::Refused(Refusal::engine("run the predeploy command", &error)))
        }
    }
}

impl PredeployError {
    /// What the deploy says; `remains` is what serves now.
    pub fn refusal(self, remains: &str) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Failed { end, last_words } => {
                let message = format!("the predeploy command failed: {end}; {remains}");
                let mut refusal = Refusal::new(ErrorCode::PredeployFailed, message);
                refusal.error.detail = last_words;
                refusal
            }
        }
    }
}

/// Tells `lines` what is `said`, a line at a time. Returns the last ones, if there were any.
async fn tell(
    mut said: mpsc::Receiver<CommandOutput>,
    lines: mpsc::Sender<String>,
) -> Option<String> {
    let (mut out, mut err) = (Lines::default(), Lines::default());
    let mut last = VecDeque::new();
    loop {
        let (whole, is_last) = match said.recv().await {
            Some(CommandOutput::Out(bytes)) => (out.add(&bytes), false),
            Some(CommandOutput::Err(bytes)) => (err.add(&bytes), false),
            None => (out.rest().into_iter().chain(err.rest()).collect(), true),
        };
        for line in whole {
            if last.len() == LAST_WORDS {
                last.pop_front();
            }
            last.push_back(line.clone());
            // Whoever deploys may have left.
            let _ = lines.send(line).await;
        }
        if is_last {
            let last: Vec<String> = last.into();
            return (!last.is_empty()).then(|| last.join("\n"));
        }
    }
}

/// The bytes of one stream on their way to lines.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` make whole.
    fn add(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.begun.push(byte);
            }
            if byte == b'\n' || self.begun.len() == LINE_MAX {
                whole.push(self.take());
            }
        }
        whole
    }

    /// What has no line end.
    fn rest(&mut self) -> Option<String> {
        (!self.begun.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.begun);
        String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_their_bytes_come() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.add(b"o\n\nthr"), ["two", ""]);
        assert_eq!(lines.rest().as_deref(), Some("thr"));
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn a_line_has_a_bound() {
        let mut lines = Lines::default();
        let whole = lines.add(&vec![b'x'; LINE_MAX * 2 + 1]);
        assert_eq!((whole.len(), lines.rest().map(|rest| rest.len())), (2, Some(1)));
    }

    #[tokio::test]
    async fn the_last_lines_are_remembered() {
        let (output, said) = mpsc::channel(100);
        let (sender, mut lines) = mpsc::channel(100);
        for n in 1..=70 {
            let bytes = format!("line {n}\n").into_bytes();
            output.send(CommandOutput::Out(bytes)).await.expect("room");
        }
        output.send(CommandOutput::Err(b"why".to_vec())).await.expect("room");
        drop(output);
        let last = tell(said, sender).await.expect("lines");
        assert_eq!(last.lines().next(), Some("line 12"));
        assert_eq!((last.lines().last(), last.lines().count()), (Some("why"), LAST_WORDS));
        assert_eq!(lines.recv().await.as_deref(), Some("line 1"));
    }
}
