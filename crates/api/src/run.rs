//! What crosses the API's socket while a command runs: `POST /v1/apps/{app}/run`.
//!
//! The request has `Upgrade: ace-run` and a [`RunRequest`] as its body. What is wrong with it is
//! answered as elsewhere; else the answer is 101, and both sides go on in *frames*: a byte of kind, the
//! payload's length in four bytes, the highest first, and the payload, at most [`PAYLOAD_MAX`] bytes.
//!
//! | kind | from | payload |
//! |---|---|---|
//! | 1 | client | standard input |
//! | 2 | client | nothing: the input's end |
//! | 3 | client | the terminal's new size: columns, rows, two bytes each |
//! | 4 | client | a signal's number, one byte: 1, 2, 3 or 15 |
//! | 16 | engine | how many more bytes of input the command has taken, four bytes |
//! | 17 | engine | standard output, or all there is on a terminal |
//! | 18 | engine | standard error |
//! | 19 | engine | a [`RunOutcome`] in JSON, and then nothing more |
//!
//! A client sends at most [`INPUT_WINDOW`] bytes of input that have not been taken: so the engine can
//! always read what comes after them. An engine waits for a client that does not read. A connection
//! that ends before its outcome ends the command.

use ace_types::TerminalSize;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::http::ApiError;
use crate::{CommandEnd, CommandOutput, CommandSignal};

/// The protocol's name in `Upgrade`.
pub const PROTOCOL: &str = "ace-run";
/// The largest payload of a frame, in bytes.
pub const PAYLOAD_MAX: usize = 64 << 10;
/// Bytes of input that may be under way.
pub const INPUT_WINDOW: usize = 256 << 10;

/// Kind and length.
const HEAD_BYTES: usize = 5;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    pub command: RunCommand,
    /// The client's terminal; `None` keeps output and errors apart, and bytes as they are.
    pub terminal: Option<RunTerminal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunCommand {
    /// A program and its arguments.
    Program(#[schemars(schema_with = "program_schema")] Vec<String>),
    /// The best shell that there is.
    Shell,
}

/// The first is a program's name, and none has a null byte in it.
fn program_schema(_: &mut SchemaGenerator) -> Schema {
    const WITHOUT_NULL: &str = r"^[^\x00]*$";
    json_schema!({
        "type": "array",
        "minItems": 1,
        "prefixItems": [{ "type": "string", "minLength": 1, "pattern": WITHOUT_NULL }],
        "items": { "type": "string", "pattern": WITHOUT_NULL },
    })
}

/// A client's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunTerminal {
    pub size: TerminalSize,
    /// Its `TERM`.
    pub kind: String,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// The command ran to this end.
    Ended(CommandEnd),
    /// It did not, or the engine can't say how it went.
    Failed(ApiError),
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    Input(Vec<u8>),
    InputEnd,
    Resize(TerminalSize),
    Signal(CommandSignal),
}

/// What an engine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineFrame {
    Taken(u32),
    Output(CommandOutput),
    Outcome(RunOutcome),
}

/// What one side says to the other.
pub trait Frame: Sized {
    /// Its kind and payload.
    fn render(&self) -> (u8, Vec<u8>);

    /// What `kind` and `payload` mean; `None` where they mean nothing.
    fn parse(kind: u8, payload: &[u8]) -> Option<Self>;

    /// Its bytes on the way.
    fn encode(&self) -> Vec<u8> {
        let (kind, payload) = self.render();
        // A payload is far smaller than four bytes can say.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
        bytes.push(kind);
        bytes.extend(length.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// What came is no frame of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes is too long")]
    Long { length: u32 },
    #[error("a frame of kind {kind} makes no sense")]
    Unknown { kind: u8 },
}

/// Bytes that came, on their way to frames.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// Adds what came. The caller takes all frames before it adds more, so that no more than one
    /// unfinished frame is kept.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` where more has to come first.
    pub fn take<F: Frame>(&mut self) -> Result<Option<F>, FrameError> {
        let Some((&[kind, ref length @ ..], rest)) = self.bytes.split_first_chunk::<HEAD_BYTES>()
        else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > PAYLOAD_MAX {
            return Err(FrameError::Long { length });
        }
        let Some(payload) = rest.get(..size) else { return Ok(None) };
        let frame = F::parse(kind, payload).ok_or(FrameError::Unknown { kind })?;
        self.bytes.drain(..HEAD_BYTES + size);
        Ok(Some(frame))
    }
}

impl Frame for ClientFrame {
    fn render(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Input(bytes) => (1, bytes.clone()),
            Self::InputEnd => (2, Vec::new()),
            Self::Resize(TerminalSize { columns, rows }) => {
                (3, [columns.to_be_bytes(), rows.to_be_bytes()].concat())
            }
            Self::Signal(signal) => (4, vec![signal.number()]),
        }
    }

    fn parse(kind: u8, payload: &[u8]) -> Option<Self> {
        match (kind, payload) {
            (1, bytes) => Some(Self::Input(bytes.to_vec())),
            (2, []) => Some(Self::InputEnd),
            (3, &[a, b, c, d]) => {
                let (columns, rows) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Some(Self::Resize(TerminalSize { columns, rows }))
            }
            (4, &[number]) => {
                let signal = CommandSignal::ALL.into_iter().find(|it| it.number() == number)?;
                Some(Self::Signal(signal))
            }
            _ => None,
        }
    }
}

impl Frame for EngineFrame {
    fn render(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Taken(count) => (16, count.to_be_bytes().into()),
            Self::Output(CommandOutput::Out(bytes)) => (17, bytes.clone()),
            Self::Output(CommandOutput::Err(bytes)) => (18, bytes.clone()),
            // Plain data always has a JSON form.
            Self::Outcome(outcome) => (19, serde_json::to_vec(outcome).unwrap_or_default()),
        }
    }

    fn parse(kind: u8, payload: &[u8]) -> Option<Self> {
        match kind {
            16 => Some(Self::Taken(u32::from_be_bytes(payload.try_into().ok()?))),
            17 => Some(Self::Output(CommandOutput::Out(payload.to_vec()))),
            18 => Some(Self::Output(CommandOutput::Err(payload.to_vec()))),
            19 => serde_json::from_slice(payload).ok().map(Self::Outcome),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: TerminalSize = TerminalSize { columns: 300, rows: 24 };

    fn take_all<F: Frame>(buffer: &mut FrameBuffer) -> Result<Vec<F>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = buffer.take()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_arrive_however_their_bytes_are_cut() {
        let sent = [
            ClientFrame::Input(b"a\0b".to_vec()),
            ClientFrame::Resize(SIZE),
            ClientFrame::Signal(CommandSignal::Interrupt),
            ClientFrame::InputEnd,
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(Frame::encode).collect();
        for cut in 1..bytes.len() {
            let mut buffer = FrameBuffer::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                buffer.add(piece);
                got.extend(take_all::<ClientFrame>(&mut buffer).expect("frames"));
            }
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn an_engines_frames_mean_the_same_to_a_client() {
        let failed = ApiError::new("x", "y");
        let sent = [
            EngineFrame::Taken(70_000),
            EngineFrame::Output(CommandOutput::Out(vec![0xff, 0])),
            EngineFrame::Output(CommandOutput::Err(b"oh".to_vec())),
            EngineFrame::Outcome(RunOutcome::Ended(CommandEnd::Exited { status: 3 })),
            EngineFrame::Outcome(RunOutcome::Failed(failed)),
        ];
        let mut buffer = FrameBuffer::default();
        sent.iter().for_each(|frame| buffer.add(&frame.encode()));
        assert_eq!(take_all::<EngineFrame>(&mut buffer).expect("frames"), sent);
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_all_there() {
        let refusal = |bytes: &[u8]| {
            let mut buffer = FrameBuffer::default();
            buffer.add(bytes);
            buffer.take::<ClientFrame>()
        };
        assert_eq!(refusal(&[1, 0, 1, 0, 1]), Err(FrameError::Long { length: 65_537 }));
        assert_eq!(refusal(&[9, 0, 0, 0, 0]), Err(FrameError::Unknown { kind: 9 }));
        assert_eq!(refusal(&[4, 0, 0, 0, 1, 9]), Err(FrameError::Unknown { kind: 4 }));
        assert_eq!(refusal(&[1, 0, 0, 0]), Ok(None));
    }

    #[test]
    fn a_signal_is_a_status_as_in_a_shell() {
        let statuses = [
            CommandEnd::Exited { status: 3 },
            CommandEnd::Signalled { signal: 2 },
            CommandEnd::OutOfMemory { limit: ace_types::Bytes::mib(32) },
            CommandEnd::KernelMemory { what: "more than 7 locks".to_owned() },
        ]
        .map(|end| end.status());
        assert_eq!(statuses, [3, 130, 137, 137]);
    }
}
