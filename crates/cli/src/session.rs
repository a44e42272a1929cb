//! A command that runs in a container, and the person or program that has started it.
//!
//! Standard input is read, and output written, by threads of their own: either may block for as long
//! as it likes, and signals and the engine's words are still heard. The bytes of a command on a
//! terminal go to ours as they are: that is what a terminal is for.

mod raw_mode;
mod signals;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ace_api::run::{
    ClientFrame, EngineFrame, Frame, FrameBuffer, INPUT_WINDOW, PAYLOAD_MAX, PROTOCOL, RunCommand,
    RunOutcome, RunRequest, RunTerminal,
};
use ace_api::{CommandEnd, CommandOutput};
use ace_types::{AppName, TerminalSize};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::termios::tcgetwinsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::client::{Client, ClientError};
use crate::error::CommandError;
use crate::screen::{Screen, Style};
use raw_mode::RawMode;
use signals::{News, Signals};

/// The most that is read from standard input at once, in bytes.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces of output that may wait for a slow reader.
const OUTPUTS: usize = 4;

/// Runs `command` in a container of `app`, connected to this process's standard streams.
///
/// Errors: [`CommandError::Ended`] with its status, but for 0; [`CommandError::NotRun`].
pub async fn run(
    app: &AppName,
    command: RunCommand,
    has_terminal: bool,
    client: &Client,
    screen: &Screen,
) -> Result<(), CommandError> {
    let ended = attend(app, command, has_terminal, client).await;
    match ended {
        Ok(CommandEnd::Exited { status: 0 }) => Ok(()),
        Ok(end) => {
            if !matches!(end, CommandEnd::Exited { .. } | CommandEnd::Signalled { .. }) {
                screen.complain(&format!("{} {end}", screen.paint_err(Style::Error, "error:")));
            }
            Err(CommandError::Ended(end.status()))
        }
        // Nobody reads what it says any more.
        Err(error @ CommandError::Output(_)) => Err(error),
        Err(error) => Err(CommandError::NotRun(Box::new(error))),
    }
}

async fn attend(
    app: &AppName,
    command: RunCommand,
    has_terminal: bool,
    client: &Client,
) -> Result<CommandEnd, CommandError> {
    // Before the command can be there: no signal may be lost in between.
    let signals = Signals::listen()?;
    let terminal = has_terminal.then(|| RunTerminal { size: size(), kind: kind() });
    let path = format!("/v1/apps/{app}/run");
    let connection = client.upgrade(&path, &RunRequest { command, terminal }, PROTOCOL).await?;
    let (reader, writer) = split(TokioIo::new(connection));
    // From here to the end of this function, whatever that is.
    let raw_mode = if has_terminal { RawMode::enter()? } else { None };
    let session = Session { writer, signals, raw_mode };
    session.run(reader).await
}

struct Session {
    writer: WriteHalf<TokioIo<Upgraded>>,
    signals: Signals,
    /// Where our own terminal is the command's.
    raw_mode: Option<RawMode>,
}

impl Session {
    /// Carries what comes from here to the engine until it says how the command has ended.
    async fn run(
        mut self,
        reader: ReadHalf<TokioIo<Upgraded>>,
    ) -> Result<CommandEnd, CommandError> {
        let window = Window::default();
        let mut input = Some(read_standard_input());
        let mut outcome = std::pin::pin!(receive(reader, &window));
        loop {
            tokio::select! {
                outcome = &mut outcome => return outcome,
                piece = next_piece(&mut input, &window) => match piece {
                    Some(piece) => self.say(&ClientFrame::Input(piece)).await?,
                    None => {
                        input = None;
                        self.say(&ClientFrame::InputEnd).await?;
                    }
                },
                news = self.signals.next() => match news {
                    News::Resized => self.say(&ClientFrame::Resize(size())).await?,
                    News::Continued => {
                        self.raw_mode.iter().for_each(RawMode::again);
                        self.say(&ClientFrame::Resize(size())).await?;
                    }
                    // On a terminal these come from somebody else, and are meant for us.
                    News::Signal(signal) if self.raw_mode.is_some() => {
                        return Ok(CommandEnd::Signalled { signal: signal.number().into() });
                    }
                    News::Signal(signal) => self.say(&ClientFrame::Signal(signal)).await?,
                },
            }
        }
    }

    async fn say(&mut self, frame: &ClientFrame) -> Result<(), ClientError> {
        let sent = async {
            self.writer.write_all(&frame.encode()).await?;
            self.writer.flush().await
        };
        match sent.await {
            // What the engine has said before it left is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(ClientError::broken("running a command")),
        }
    }
}

/// Takes what the engine says, writes out the command's output, and returns how the command has ended
/// once all of that is written.
async fn receive(
    mut reader: ReadHalf<TokioIo<Upgraded>>,
    window: &Window,
) -> Result<CommandEnd, CommandError> {
    let doing = "running a command";
    let (output, written) = write_output();
    let (mut frames, mut bytes) = (FrameBuffer::default(), vec![0; PAYLOAD_MAX]);
    loop {
        let frame = frames.take().map_err(ClientError::broken(doing))?;
        match frame {
            Some(EngineFrame::Taken(count)) => window.grow(count as usize),
            Some(EngineFrame::Output(said)) => {
                if output.send(said).await.is_err() {
                    break;
                }
            }
            Some(EngineFrame::Outcome(RunOutcome::Failed(error))) => {
                return Err(CommandError::Outcome(error));
            }
            Some(EngineFrame::Outcome(RunOutcome::Ended(end))) => {
                drop(output);
                // A writer that is gone has panicked, and said so.
                written.await.unwrap_or(Ok(()))?;
                return Ok(end);
            }
            None => {
                let read = reader.read(&mut bytes).await.map_err(ClientError::broken(doing))?;
                if read == 0 {
                    let gone = "it ended before the command did";
                    return Err(ClientError::broken(doing)(gone).into());
                }
                frames.add(&bytes[..read]);
            }
        }
    }
    // The writer has given up.
    let reason = written.await.unwrap_or(Ok(())).err();
    Err(CommandError::Output(reason.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
}

/// Waits for the next piece of input and for room to send it; `None` at its end. For ever where that
/// has been already.
async fn next_piece(
    input: &mut Option<mpsc::Receiver<Vec<u8>>>,
    window: &Window,
) -> Option<Vec<u8>> {
    let Some(input) = input else { return std::future::pending().await };
    window.has_room().await;
    let piece = input.recv().await?;
    window.shrink(piece.len());
    Some(piece)
}

/// How many bytes of input the engine still takes.
#[derive(Debug)]
struct Window {
    free: AtomicUsize,
    grown: Notify,
}

impl Default for Window {
    fn default() -> Self {
        Self { free: AtomicUsize::new(INPUT_WINDOW), grown: Notify::new() }
    }
}

impl Window {
    async fn has_room(&self) {
        while self.free.load(Ordering::Acquire) < PIECE_BYTES {
            self.grown.notified().await;
        }
    }

    fn shrink(&self, count: usize) {
        self.free.fetch_sub(count, Ordering::AcqRel);
    }

    fn grow(&self, count: usize) {
        self.free.fetch_add(count, Ordering::AcqRel);
        self.grown.notify_one();
    }
}

/// Reads standard input in a thread that ends with the process: a read of a terminal can't be called
/// off. What can't be read is the end.
fn read_standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        let (mut input, mut buffer) = (io::stdin().lock(), vec![0; PIECE_BYTES]);
        loop {
            match input.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count @ 1..) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => return,
            }
        }
    });
    receiver
}

/// Writes what is sent to it, in a thread for the same reason, and says when all is written.
fn write_output() -> (mpsc::Sender<CommandOutput>, oneshot::Receiver<io::Result<()>>) {
    let (sender, mut receiver) = mpsc::channel(OUTPUTS);
    let (done, written) = oneshot::channel();
    thread::spawn(move || {
        let mut result = Ok(());
        while let (Ok(()), Some(output)) = (&result, receiver.blocking_recv()) {
            result = write(&output);
        }
        drop(receiver);
        // Nobody waits any more where the connection broke.
        let _ = done.send(result);
    });
    (sender, written)
}

fn write(output: &CommandOutput) -> io::Result<()> {
    fn all(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
        to.write_all(bytes)?;
        to.flush()
    }
    match output {
        CommandOutput::Out(bytes) => all(io::stdout().lock(), bytes),
        CommandOutput::Err(bytes) => all(io::stderr().lock(), bytes),
    }
}

/// Our terminal's size, by whichever stream knows one.
fn size() -> TerminalSize {
    let known = tcgetwinsize(io::stdout())
        .or_else(|_| tcgetwinsize(io::stdin()))
        .or_else(|_| tcgetwinsize(io::stderr()));
    match known {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            TerminalSize { columns: size.ws_col, rows: size.ws_row }
        }
        _ => TerminalSize::default(),
    }
}

fn kind() -> String {
    std::env::var("TERM").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_more_input_is_sent_than_the_engine_takes() {
        let window = Window::default();
        let (sender, receiver) = mpsc::channel(64);
        for _ in 0..INPUT_WINDOW / PIECE_BYTES + 1 {
            sender.send(vec![0; PIECE_BYTES]).await.expect("room");
        }
        let mut input = Some(receiver);
        for _ in 0..INPUT_WINDOW / PIECE_BYTES {
            assert!(next_piece(&mut input, &window).await.is_some());
        }
        let blocked = next_piece(&mut input, &window).now_or_never();
        assert_eq!(blocked, None);
        window.grow(PIECE_BYTES);
        assert!(next_piece(&mut input, &window).await.is_some());
    }

    #[tokio::test]
    async fn a_size_is_never_nothing() {
        let TerminalSize { columns, rows } = size();
        assert!(columns > 0 && rows > 0);
    }
}
