//! Runs code of ours as the attacker's, in a container beside its instance, and reads what it prints.

use std::time::Duration;

use ace_api::run::{
    EngineFrame, FrameBuffer, PAYLOAD_MAX, PROTOCOL, RunCommand, RunOutcome, RunRequest,
};
use ace_api::{CommandEnd, CommandOutput};
use ace_types::AppName;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;

use super::report::Probe;
use super::stage::Stage;
use crate::client::{Client, ClientError, within};
use crate::error::CommandError;

const PROBES_DEADLINE: Duration = Duration::from_secs(1200);
/// What a command may print; the probes' lines are a hundred times less.
const OUTPUT_MAX_BYTES: usize = 8 << 20;

/// A command in a container of its own. It ends when this is dropped.
pub struct Inside {
    connection: TokioIo<Upgraded>,
    frames: FrameBuffer,
    /// What it has printed and nobody has read, and what it has said went wrong.
    out: Vec<u8>,
    err: Vec<u8>,
    end: Option<CommandEnd>,
}

/// Runs the probes, and returns what came of each, those of the build included.
pub async fn probe(client: &Client, stage: &Stage) -> Result<Vec<Probe>, CommandError> {
    let leave = format!("echo x > /ace/code/{}", stage.written_before());
    Inside::run(client, stage.attacker(), &["sh", "-c", &leave]).await?.finish().await?;
    let mut command =
        Inside::run(client, stage.attacker(), &["python", "probes.py", &stage.facts()?]).await?;
    let doing = "running the probes";
    let mut probes = Vec::new();
    let read = async {
        while let Some(line) = command.line().await? {
            let probe = serde_json::from_str(&line);
            probes.push(probe.map_err(|source| ClientError::Nonsense { source })?);
        }
        Ok(())
    };
    within(PROBES_DEADLINE, doing, read).await?;
    match command.end {
        Some(CommandEnd::Exited { status: 0 }) => Ok(probes),
        _ => Err(CommandError::Refused(format!(
            "the probes broke off after {}: {}",
            probes.len(),
            command.last_words()
        ))),
    }
}

impl Inside {
    pub async fn run(client: &Client, app: &AppName, argv: &[&str]) -> Result<Self, ClientError> {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let request = RunRequest { command: RunCommand::Program(argv), terminal: None };
        let path = format!("/v1/apps/{app}/run");
        let connection = TokioIo::new(client.upgrade(&path, &request, PROTOCOL).await?);
        let (out, err) = (Vec::new(), Vec::new());
        Ok(Self { connection, frames: FrameBuffer::default(), out, err, end: None })
    }

    /// The next line that it prints; `None` when it has ended.
    pub async fn line(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.out.iter().position(|byte| *byte == b'\n') {
                let rest = self.out.split_off(end + 1);
                let line = std::mem::replace(&mut self.out, rest);
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.end.is_some() {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    /// Waits for its end, and returns how that was.
    pub async fn finish(mut self) -> Result<Option<CommandEnd>, ClientError> {
        while self.line().await?.is_some() {}
        Ok(self.end)
    }

    /// How it ended, in words, with what it has said of it.
    fn last_words(&self) -> String {
        let end = self.end.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{end}\n{}", String::from_utf8_lossy(&self.err))
    }

    /// Takes what the engine says next.
    async fn read(&mut self) -> Result<(), ClientError> {
        let doing = "running the attacker's code";
        match self.frames.take().map_err(ClientError::broken(doing))? {
            Some(EngineFrame::Taken(_)) => {}
            Some(EngineFrame::Output(CommandOutput::Out(bytes))) => self.out.extend(bytes),
            Some(EngineFrame::Output(CommandOutput::Err(bytes))) => self.err.extend(bytes),
            Some(EngineFrame::Outcome(RunOutcome::Ended(end))) => self.end = Some(end),
            Some(EngineFrame::Outcome(RunOutcome::Failed(error))) => {
                return Err(ClientError::Refused(error));
            }
            None => {
                let mut bytes = vec![0; PAYLOAD_MAX];
                let read = self.connection.read(&mut bytes).await;
                let count = read.map_err(ClientError::broken(doing))?;
                if count == 0 || self.out.len() + self.err.len() > OUTPUT_MAX_BYTES {
                    return Err(ClientError::broken(doing)("it ended before its time"));
                }
                self.frames.add(&bytes[..count]);
            }
        }
        Ok(())
    }
}
