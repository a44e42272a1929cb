//! `POST /v1/apps/{app}/run`: a command that somebody has started, from their request to its end.
//!
//! Three tasks carry what passes: one listens to the client, one feeds the command what it said, one
//! talks back. Each waits for whoever is slow, and no queue between them grows.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ace_api::run::{
    ClientFrame, EngineFrame, Frame, FrameBuffer, INPUT_WINDOW, PAYLOAD_MAX, PROTOCOL, RunCommand,
    RunOutcome, RunRequest, RunTerminal,
};
use ace_api::{
    CommandControl, CommandEnd, CommandError, CommandIo, CommandOutput, CommandSpec, ErrorCode,
};
use ace_types::AppName;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::commands::{OF_AN_APP, Place, Starter};
use crate::engine::{Engine, new_instance_id};
use crate::http::{Document, Target};
use crate::plan;
use crate::refusal::Refusal;

/// The longest that a command may run.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// How long a client may take to change protocols.
const UPGRADED_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take the last words of a command that was made to end.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(10);
/// Resizes and signals that may wait.
const CONTROLS: usize = 16;
/// The longest name of a program that is shown.
const NAME_MAX: usize = 64;
/// The longest name of a kind of terminal.
const TERM_MAX: usize = 64;
/// A terminal of which nothing is known.
const TERM_UNKNOWN: &str = "dumb";

/// Becomes the best shell there is, with a prompt that says whose it is.
const SHELL: &str = r#"
if command -v bash >/dev/null; then
    export PS1="$ACE_APP:\w\\$ "
    exec bash --noprofile --norc
fi
export PS1="$ACE_APP\$ "
exec sh
"#;

/// Answers the request, and goes on in a task of its own.
pub async fn run_command(
    State(engine): State<Arc<Engine>>,
    target: Target,
    mut request: Request,
) -> Result<Response, Refusal> {
    let asks_for_frames = asks_for_frames(request.headers());
    let upgrade = hyper::upgrade::on(&mut request);
    let Document(asked): Document<RunRequest> = Document::from_request(request, &()).await?;
    check(&asked.command)?;
    if !asks_for_frames {
        return Err(not_in_frames());
    }
    let (place, command) = admit(&engine, &target, asked).await?;
    let session = Session { engine: Arc::clone(&engine), app: target.name, place, command };
    engine.tasks.spawn(session.run(upgrade));
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

/// Checks what is asked for, and takes a place for it.
async fn admit(
    engine: &Engine,
    target: &Target,
    asked: RunRequest,
) -> Result<(Place, CommandSpec), Refusal> {
    if engine.is_ending() {
        return Err(Refusal::ending());
    }
    let command = command(engine, target, asked).await?;
    let place = engine.commands.enter(&command, Starter::Person);
    let place = place.ok_or_else(|| too_many(&target.name))?;
    // Whoever destroys the app meanwhile sees the place, or we see that it is being destroyed.
    let state = engine.records.state().await?;
    match target.row(&state) {
        Ok(row) if !row.destroying => Ok((place, command)),
        _ => Err(Refusal::being_destroyed(&target.name)),
    }
}

/// What to run, in a container like those of the release that serves.
async fn command(
    engine: &Engine,
    target: &Target,
    asked: RunRequest,
) -> Result<CommandSpec, Refusal> {
    let state = engine.records.state().await?;
    let row = target.row(&state)?;
    let app = &row.name;
    let release = row.serving.and_then(|number| state.release(app, number));
    let release = release.ok_or_else(|| nothing_deployed(app))?;
    let like = plan::like_an_instance(&engine.config, row, release, new_instance_id()?);
    let like = like.ok_or_else(|| files_alone(app))?;
    let terminal = asked.terminal.as_ref();
    Ok(CommandSpec {
        like,
        name: name_of(&asked.command),
        argv: arguments(asked.command),
        env: terminal.map(|it| ("TERM".to_owned(), kind_of(it))).into_iter().collect(),
        terminal: terminal.map(|terminal| terminal.size),
        deadline: DEADLINE,
    })
}

fn arguments(command: RunCommand) -> Vec<String> {
    match command {
        RunCommand::Shell => ["sh", "-c", SHELL].map(str::to_owned).into(),
        RunCommand::Program(arguments) => arguments,
    }
}

/// Whether it can be a command at all.
fn check(command: &RunCommand) -> Result<(), Refusal> {
    let RunCommand::Program(arguments) = command else { return Ok(()) };
    if arguments.first().is_none_or(String::is_empty) {
        return Err(Refusal::bad_request("a command begins with the name of a program"));
    }
    if arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(Refusal::bad_request("an argument can't have a null byte in it"));
    }
    Ok(())
}

/// The terminal's `TERM`, which programs look up in folders.
fn kind_of(terminal: &RunTerminal) -> String {
    let kind = &terminal.kind;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    let fits = (1..=TERM_MAX).contains(&kind.len()) && kind.bytes().all(is_plain);
    if fits && !kind.starts_with('.') { kind.clone() } else { TERM_UNKNOWN.to_owned() }
}

/// The program's name, without the folder it is in.
fn name_of(command: &RunCommand) -> String {
    let program = match command {
        RunCommand::Shell => "shell",
        RunCommand::Program(arguments) => arguments.first().map(String::as_str).unwrap_or_default(),
    };
    let name = program.rsplit('/').next().unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

/// One command and the connection that it is bound to.
struct Session {
    engine: Arc<Engine>,
    app: AppName,
    place: Place,
    command: CommandSpec,
}

impl Session {
    async fn run(self, upgrade: OnUpgrade) {
        let upgraded = match timeout(UPGRADED_WITHIN, upgrade).await {
            Ok(Ok(upgraded)) => upgraded,
            // Clients leave when they please.
            _ => return tracing::debug!(app = %self.app, "a client left before its command ran"),
        };
        let (reader, writer) = split(TokioIo::new(upgraded));
        let pending = Arc::new(PendingInput::default());
        let (controls, told) = mpsc::channel(CONTROLS);
        let (input, fed) = mpsc::channel(1);
        let (output, said) = mpsc::channel(1);
        let (taken, credit) = mpsc::channel(1);
        let mut listening = tokio::spawn(listen(reader, Arc::clone(&pending), controls));
        let mut feeding = JoinSet::new(); // Ends with this function, whatever it still waits for.
        feeding.spawn(feed(pending, input, taken));
        let mut talking = tokio::spawn(talk(writer, said, credit));

        let Self { engine, app, place, command } = self;
        let io = CommandIo { input: fed, controls: told, output };
        let mut ran = pin!(engine.node.run(command, io));
        let (outcome, interrupted) = tokio::select! {
            ended = &mut ran => (outcome(ended), false),
            // It's asked to end by the end of its controls, and has nobody to tell.
            _ = &mut listening => {
                talking.abort();
                feeding.shutdown().await;
                let _ = ran.await;
                return;
            }
            refusal = reason_to_stop(&engine, &app, &place) => {
                listening.abort();
                if timeout(LAST_WORDS_WITHIN, &mut ran).await.is_err() {
                    talking.abort();
                    let _ = ran.await;
                }
                (RunOutcome::Failed(refusal.error), true)
            }
        };
        drop(place);
        feeding.shutdown().await; // With it goes the last who could talk.
        let last_words = async {
            if let Ok(Some(writer)) = (&mut talking).await {
                conclude(writer, outcome).await;
            }
        };
        tokio::select! {
            () = last_words => {}
            _ = &mut listening, if !interrupted => {}
            () = out_of_patience(&engine, interrupted) => {}
        }
        talking.abort();
        listening.abort();
    }
}

/// Waits for as long as a client that reads slowly may take for the last words: as it pleases, unless
/// the command, or now the engine, does not end by itself.
async fn out_of_patience(engine: &Engine, interrupted: bool) {
    if !interrupted {
        engine.ended().await;
    }
    tokio::time::sleep(LAST_WORDS_WITHIN).await;
}

/// Waits until the command is to end though its client stays, and says why.
async fn reason_to_stop(engine: &Engine, app: &AppName, place: &Place) -> Refusal {
    tokio::select! {
        () = place.stopped() => ended_with(&format!("the app \"{app}\" was destroyed")),
        () = engine.ended() => ended_with("the engine stopped"),
    }
}

fn outcome(ended: Result<CommandEnd, CommandError>) -> RunOutcome {
    match ended {
        Ok(end) => RunOutcome::Ended(end),
        Err(error) => RunOutcome::Failed(Refusal::engine("run the command", &error).error),
    }
}

/// Takes in what the client says until it leaves, or says what makes no sense.
async fn listen(
    mut reader: ReadHalf<TokioIo<Upgraded>>,
    pending: Arc<PendingInput>,
    controls: mpsc::Sender<CommandControl>,
) {
    let (mut frames, mut bytes) = (FrameBuffer::default(), vec![0; PAYLOAD_MAX]);
    while let Ok(count @ 1..) = reader.read(&mut bytes).await {
        frames.add(&bytes[..count]);
        loop {
            let control = match frames.take() {
                Ok(None) => break,
                Ok(Some(ClientFrame::Input(bytes))) if pending.add(&bytes) => continue,
                Ok(Some(ClientFrame::InputEnd)) => {
                    pending.end();
                    continue;
                }
                Ok(Some(ClientFrame::Resize(size))) => CommandControl::Resize(size),
                Ok(Some(ClientFrame::Signal(signal))) => CommandControl::Signal(signal),
                Ok(Some(ClientFrame::Input(_))) => {
                    return tracing::debug!("a client sent more input than it may");
                }
                Err(error) => return tracing::debug!(%error, "a client's words make no sense"),
            };
            // The command may have ended; the client will be told.
            let _ = controls.send(control).await;
        }
    }
}

/// Gives the command its input as it takes it, and lets the client know.
async fn feed(pending: Arc<PendingInput>, input: mpsc::Sender<Vec<u8>>, taken: mpsc::Sender<u32>) {
    while let Some(piece) = pending.take().await {
        let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        if input.send(piece).await.is_err() || taken.send(count).await.is_err() {
            return;
        }
    }
}

/// Tells the client what the command says, until nothing more can come. Returns the way to the client,
/// if it still listens.
async fn talk(
    mut writer: WriteHalf<TokioIo<Upgraded>>,
    mut said: mpsc::Receiver<CommandOutput>,
    mut credit: mpsc::Receiver<u32>,
) -> Option<WriteHalf<TokioIo<Upgraded>>> {
    loop {
        let frame = tokio::select! {
            Some(output) = said.recv() => EngineFrame::Output(output),
            Some(count) = credit.recv() => EngineFrame::Taken(count),
            else => return Some(writer),
        };
        send(&mut writer, &frame).await.ok()?;
    }
}

async fn conclude(mut writer: WriteHalf<TokioIo<Upgraded>>, outcome: RunOutcome) {
    let sent = send(&mut writer, &EngineFrame::Outcome(outcome)).await;
    if let Err(error) = sent.and(writer.shutdown().await) {
        tracing::debug!(%error, "a client left before it knew how its command ended");
    }
}

async fn send(writer: &mut WriteHalf<TokioIo<Upgraded>>, frame: &EngineFrame) -> io::Result<()> {
    writer.write_all(&frame.encode()).await?;
    writer.flush().await
}

/// Input that a command has not taken yet, at most [`INPUT_WINDOW`] bytes.
#[derive(Debug, Default)]
struct PendingInput {
    state: Mutex<PendingState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct PendingState {
    bytes: Vec<u8>,
    ended: bool,
}

impl PendingInput {
    /// Returns whether there was room. What comes after the end is dropped.
    fn add(&self, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        if state.bytes.len() + bytes.len() > INPUT_WINDOW {
            return false;
        }
        if !state.ended {
            state.bytes.extend_from_slice(bytes);
        }
        self.changed.notify_one();
        true
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// The next piece; `None` at the end.
    async fn take(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.lock();
                if !state.bytes.is_empty() {
                    let count = state.bytes.len().min(PAYLOAD_MAX);
                    let rest = state.bytes.split_off(count);
                    return Some(std::mem::replace(&mut state.bytes, rest));
                }
                if state.ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, PendingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn asks_for_frames(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|protocol| protocol == PROTOCOL)
}

fn not_in_frames() -> Refusal {
    let message = format!("a command runs over a connection upgraded to {PROTOCOL}: use `ace run`");
    Refusal::new(ErrorCode::UpgradeRequired, message)
}

fn ended_with(what: &str) -> Refusal {
    let message = format!("{what}, and the command with it");
    Refusal::new(ErrorCode::CommandStopped, message)
}

fn too_many(app: &AppName) -> Refusal {
    let message = format!(
        "too many commands run already: {app} can have {OF_AN_APP}; `ace status {app}` lists them"
    );
    Refusal::new(ErrorCode::TooManyCommands, message)
}

fn nothing_deployed(app: &AppName) -> Refusal {
    let message = format!("{app} has no release yet to run a command in: ace deploy --app {app}");
    Refusal::new(ErrorCode::NothingDeployed, message)
}

fn files_alone(app: &AppName) -> Refusal {
    let message = format!("{app} is files alone: there is no Python to run a command with");
    Refusal::new(ErrorCode::FilesAlone, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_is_bounded_and_comes_to_its_end() {
        let pending = PendingInput::default();
        assert!(pending.add(&vec![b'a'; INPUT_WINDOW - 1]) && pending.add(b"b"));
        assert!(!pending.add(b"c"));
        let mut taken = Vec::new();
        pending.end();
        while let Some(piece) = pending.take().await {
            assert!(piece.len() <= PAYLOAD_MAX);
            taken.extend(piece);
        }
        assert_eq!((taken.len(), taken.last()), (INPUT_WINDOW, Some(&b'b')));
    }

    #[test]
    fn a_kind_of_terminal_names_no_path() {
        let kind =
            |text: &str| kind_of(&RunTerminal { size: Default::default(), kind: text.to_owned() });
        assert_eq!(kind("xterm-256color"), "xterm-256color");
        for odd in ["", "../../etc/passwd", ".x", "a b", "x\n", &"x".repeat(65)] {
            assert_eq!(kind(odd), TERM_UNKNOWN, "{odd:?}");
        }
    }
}
