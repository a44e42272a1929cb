//! Asks for something that moves what serves an app, and follows it to its end.

use std::time::Duration;

use ace_api::http::{ApiError, DeployEvent, DeployPhase};
use ace_types::{AppName, ReleaseNumber};
use http::Method;
use serde::Serialize;

use crate::client::{Client, Lines, json_body, within};
use crate::error::CommandError;
use crate::progress::Progress;
use crate::screen::{self, Screen};

/// It may wait for others, which build for 15 minutes each without a word.
pub const SILENCE_MAX: Duration = Duration::from_secs(60 * 60);

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
            Err(CommandError::Interrupted(interruption(request.app, request.name, phase)))
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
        match within(SILENCE_MAX, "following it", lines.next::<DeployEvent>()).await? {
            Some(DeployEvent::Phase { phase }) => progress.enter(phase),
            Some(DeployEvent::Log { line }) => progress.build_line(&line),
            Some(DeployEvent::AppLog { line }) => progress.app_line(&line),
            Some(DeployEvent::Done { app, release, url, seconds }) => {
                return Ok(Moved::To(Serving { app, release, url, seconds }));
            }
            Some(DeployEvent::Noted { app, message }) => return Ok(Moved::Noted { app, message }),
            Some(DeployEvent::Failed { error }) => return Err(CommandError::Outcome(error)),
            None => {
                return Err(CommandError::Outcome(ApiError {
                    code: "engine_stopped".to_owned(),
                    message: format!(
                        "the engine stopped during the {name}; what served before still serves: \
                         try again"
                    ),
                    detail: None,
                }));
            }
        }
    }
}

/// What Ctrl-C in `phase` means for those who use the app.
pub fn interruption(app: &AppName, name: &str, phase: Option<DeployPhase>) -> String {
    match phase {
        Some(DeployPhase::Switching) => {
            format!("stopped watching; the {name} is past its switch already: ace status {app}")
        }
        _ => format!("the {name} was given up; what served before still serves"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_c_before_the_switch_changes_nothing() {
        let app = "shop".parse().expect("a name");
        let told = |phase| interruption(&app, "rollback", Some(phase));
        assert!(told(DeployPhase::Starting).contains("still serves"));
        assert!(told(DeployPhase::Switching).contains("ace status shop"));
    }
}
