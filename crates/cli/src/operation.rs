//! Asks for something that moves what serves an app, and follows it to its end.

use std::pin::pin;
use std::time::Duration;

use ace_api::http::{ApiError, AppView, DeployEvent, DeployPhase};
use ace_types::{AppName, ReleaseNumber};
use http::Method;
use serde::Serialize;

use crate::client::{Client, ClientError, Lines, json_body, within};
use crate::error::CommandError;
use crate::progress::{self, Progress};
use crate::screen::{self, Screen};

/// It may wait for others, which build for 15 minutes each without a word.
pub const SILENCE_MAX: Duration = Duration::from_secs(60 * 60);

/// How long the engine may take to say what became of something that was given up.
const FATE_WITHIN: Duration = Duration::from_secs(10);
/// How often it's asked.
const FATE_EVERY: Duration = Duration::from_millis(100);

/// How it went well; the document that `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Moved {
    To(Serving),
    /// Nothing had to move; the sentence says why.
    Noted {
        app: AppName,
        message: String,
    },
}

/// What serves now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Serving {
    pub app: AppName,
    pub release: ReleaseNumber,
    pub url: String,
    pub seconds: f64,
    /// What is amiss though it runs, in a line.
    pub note: Option<String>,
}

/// What is asked for.
pub struct Request<'a, T> {
    pub app: &'a AppName,
    pub method: Method,
    /// Below the app's own: `rollback`.
    pub path: &'a str,
    pub document: T,
    /// What it's called: `rollback`.
    pub name: &'static str,
}

/// Asks for `request`, shows how it goes, and prints `success`, or that nothing had to move.
pub async fn run<T: Serialize>(
    request: Request<'_, T>,
    client: &Client,
    screen: &Screen,
    success: impl FnOnce(&Serving) -> String,
) -> Result<(), CommandError> {
    let moved = follow(&request, client, screen).await?;
    let text = || match &moved {
        Moved::To(serving) => success(serving),
        Moved::Noted { message, .. } => screen::escape(message),
    };
    Ok(screen.show(&moved, text)?)
}

async fn follow<T: Serialize>(
    request: &Request<'_, T>,
    client: &Client,
    screen: &Screen,
) -> Result<Moved, CommandError> {
    let mut progress = Progress::new(screen, "asking", false);
    let path = format!("/v1/apps/{}/{}", request.app, request.path);
    let body = json_body(&request.document)?;
    let events = async {
        let lines = client.lines(request.method.clone(), &path, body);
        let lines = within(SILENCE_MAX, "asking for it", lines).await?;
        read_events(lines, request.name, &mut progress).await
    };
    let ended = tokio::select! {
        ended = events => ended,
        _ = tokio::signal::ctrl_c() => Err(CommandError::Interrupted(String::new())),
    };
    let phase = progress.finish();
    match ended {
        Err(CommandError::Interrupted(_)) => {
            Err(interruption(client, request.app, request.name, phase).await)
        }
        Err(CommandError::Outcome(error)) => {
            Err(CommandError::Outcome(progress.what_is_left_to_show(error)))
        }
        ended => ended,
    }
}

/// Reads events to the last one.
pub async fn read_events(
    mut lines: Lines,
    name: &'static str,
    progress: &mut Progress,
) -> Result<Moved, CommandError> {
    loop {
        match next_event(&mut lines, progress).await? {
            Some(DeployEvent::Phase { phase }) => progress.enter(phase),
            Some(DeployEvent::Log { line }) => progress.build_line(&line),
            Some(DeployEvent::AppLog { line }) => progress.app_line(&line),
            Some(DeployEvent::Done { app, release, url, seconds, note }) => {
                if let Some(note) = &note {
                    progress.remark(note);
                }
                return Ok(Moved::To(Serving { app, release, url, seconds, note }));
            }
            Some(DeployEvent::Noted { app, message }) => return Ok(Moved::Noted { app, message }),
            Some(DeployEvent::Failed { error }) => return Err(CommandError::Outcome(error)),
            None => {
                let message = format!(
                    "the engine stopped during the {name}; what served before still serves: try \
                     again"
                );
                return Err(CommandError::Outcome(ApiError::new("engine_stopped", message)));
            }
        }
    }
}

/// The next event; whoever waits for it is told from time to time that all goes on.
async fn next_event(
    lines: &mut Lines,
    progress: &mut Progress,
) -> Result<Option<DeployEvent>, ClientError> {
    let mut next = pin!(within(SILENCE_MAX, "following it", lines.next()));
    loop {
        tokio::select! {
            event = &mut next => return event,
            () = tokio::time::sleep(progress::SILENCE) => progress.go_on(),
        }
    }
}

/// What Ctrl-C in `phase` has come to, for those who use the app.
///
/// The engine is asked: it may have been past the switch before it noticed that nobody listens any more.
pub async fn interruption(
    client: &Client,
    app: &AppName,
    name: &str,
    phase: Option<DeployPhase>,
) -> CommandError {
    let fate = match phase {
        // It had not begun.
        None | Some(DeployPhase::Queued) => Some(Fate::GivenUp),
        Some(_) => tokio::time::timeout(FATE_WITHIN, fate(client, app)).await.ok().flatten(),
    };
    CommandError::Interrupted(match fate {
        Some(Fate::GivenUp) => format!("the {name} was given up; what served before still serves"),
        Some(Fate::Done(release)) => {
            format!("it was too late to give the {name} up: release {release} serves")
        }
        None => format!("stopped watching; what became of the {name} tells: ace status {app}"),
    })
}

/// What became of something that was given up, or was meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    GivenUp,
    /// This serves.
    Done(ReleaseNumber),
}

/// Waits until it's decided what becomes of the newest operation on `app`; `None` where nobody can tell.
async fn fate(client: &Client, app: &AppName) -> Option<Fate> {
    loop {
        let view: AppView = client.get(&format!("/v1/apps/{app}")).await.ok()?;
        if let Some(fate) = decided(&view) {
            return Some(fate);
        }
        tokio::time::sleep(FATE_EVERY).await;
    }
}

fn decided(app: &AppView) -> Option<Fate> {
    let (newest, serving) = (app.last_deploy.as_ref()?, app.release);
    // While the old instances end, it's not over, but what serves has changed already.
    let has_moved = app.deployed_at.is_some_and(|at| at >= newest.started_at);
    match (&newest.error, newest.ended_at) {
        (Some(_), _) => Some(Fate::GivenUp),
        (None, Some(_)) => serving.map(Fate::Done),
        (None, None) if has_moved => serving.map(Fate::Done),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use ace_api::http::{Author, DeployKind, DeployView};

    use super::*;

    #[test]
    fn what_became_of_it_is_what_the_engine_says() {
        let at = |second| jiff::Timestamp::from_second(second).expect("a time");
        let app = |ended: Option<i64>, error: Option<&str>, deployed: i64| AppView {
            deployed_at: Some(at(deployed)),
            last_deploy: Some(DeployView {
                kind: DeployKind::Deploy,
                by: Author::Root,
                release: ReleaseNumber(3),
                started_at: at(10),
                ended_at: ended.map(at),
                error: error.map(str::to_owned),
                code: None,
            }),
            ..crate::commands::status::tests::shop()
        };
        assert_eq!(decided(&app(None, None, 5)), None);
        assert_eq!(decided(&app(Some(11), Some("given up"), 5)), Some(Fate::GivenUp));
        assert_eq!(decided(&app(None, None, 11)), Some(Fate::Done(ReleaseNumber(3))));
        assert_eq!(decided(&app(Some(12), None, 11)), Some(Fate::Done(ReleaseNumber(3))));
    }
}
