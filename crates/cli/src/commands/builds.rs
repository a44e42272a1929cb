//! `ace builds`: what was built for an app, and what the builds said.

use std::time::Duration;

use ace_api::http::{BuildLine, BuildResult, BuildView, BuildsView};
use ace_types::AppName;
use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::Serialize;

use crate::client::{ANSWER_DEADLINE, Client, empty_body, within};
use crate::commands::status::ago;
use crate::completion;
use crate::error::CommandError;
use crate::pages;
use crate::screen::{self, Screen, Style};

/// List an app's builds, or show one with its log
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace builds shop             when each was, how long it took, what came of it
  ace builds shop 4           the build of release 4, with all that it said
  ace logs shop --build -f    what the build that runs says, as it comes

Kept are the last ten, and those of releases that are kept. A build that failed has the number
that its release would have had.")]
pub struct BuildsArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// The release that the build was for
    #[arg(value_name = "RELEASE")]
    release: Option<u32>,
}

/// One build as `--json` prints it.
#[derive(Serialize)]
struct BuildWithLog {
    #[serde(flatten)]
    build: BuildView,
    log: Vec<String>,
}

pub async fn run(args: BuildsArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let path = format!("/v1/apps/{}/builds", args.app);
    let Some(release) = args.release else {
        let view: BuildsView = pages::all(client, &path).await?;
        return Ok(screen.show(&view, || render(&view, screen, Timestamp::now()))?);
    };
    let path = format!("{path}/{release}");
    let build: BuildView = client.get(&path).await?;
    if !screen.json() {
        screen.line(&heading(&build, screen, Timestamp::now()))?;
        let print = |line: String| screen.line(&screen::escape(&line));
        return follow_log(client, &format!("{path}/log"), print).await;
    }
    let mut log = Vec::new();
    follow_log(client, &format!("{path}/log"), |line| {
        log.push(line);
        Ok(())
    })
    .await?;
    Ok(screen.show(&BuildWithLog { build, log }, String::new)?)
}

/// Gives every line of the log at `path` to `take`.
pub async fn follow_log(
    client: &Client,
    path: &str,
    mut take: impl FnMut(String) -> std::io::Result<()>,
) -> Result<(), CommandError> {
    let open = client.lines(Method::GET, path, empty_body());
    let mut lines = within(ANSWER_DEADLINE, "opening the log", open).await?;
    // No deadline for the next line: a build may be silent, and Ctrl-C is at hand.
    while let Some(BuildLine { line }) = lines.next().await? {
        take(line)?;
    }
    Ok(())
}

fn render(view: &BuildsView, screen: &Screen, now: Timestamp) -> String {
    if view.builds.is_empty() {
        return format!("No builds yet. Deploy something:  ace deploy DIR --app {}", view.app);
    }
    let rows = view.builds.iter().map(|build| row(build, screen, now)).collect();
    screen.table(&["RELEASE", "BUILD", "AGE", "TOOK", "RESULT"], rows)
}

fn row(build: &BuildView, screen: &Screen, now: Timestamp) -> Vec<String> {
    let cause = build.error.as_deref().and_then(|error| error.lines().next());
    let cause = cause.map_or(String::new(), |cause| format!(": {}", screen::escape(cause)));
    vec![
        build.release.to_string(),
        build.id.to_string(),
        ago(build.started_at, now),
        build.ended_at.map_or("-".to_owned(), |ended| took(build.started_at, ended)),
        format!("{}{cause}", result(build.state, screen)),
    ]
}

fn heading(build: &BuildView, screen: &Screen, now: Timestamp) -> String {
    let took = match build.ended_at {
        Some(ended) => format!(", took {}", took(build.started_at, ended)),
        None => String::new(),
    };
    let began = ago(build.started_at, now);
    let mut text = format!(
        "build {} of release {}: {}, began {began} ago{took}",
        build.id,
        build.release,
        result(build.state, screen)
    );
    if let Some(error) = &build.error {
        text += &format!("\n{}", screen::indent(&screen::escape_lines(error)));
    }
    text + "\n"
}

fn result(state: BuildResult, screen: &Screen) -> String {
    let (style, word) = match state {
        BuildResult::Building => (Style::Warning, "building"),
        BuildResult::Built => (Style::Good, "built"),
        BuildResult::Failed => (Style::Error, "failed"),
        BuildResult::Unfit => (Style::Error, "did not start"),
    };
    screen.paint(style, word)
}

fn took(from: Timestamp, to: Timestamp) -> String {
    screen::seconds(Duration::try_from(to.duration_since(from)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use ace_types::ReleaseNumber;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn build(release: u32, state: BuildResult, error: Option<&str>) -> BuildView {
        BuildView {
            release: ReleaseNumber(release),
            id: format!("{release:08}").parse().expect("an id"),
            state,
            started_at: at(0),
            ended_at: (state != BuildResult::Building).then(|| at(75)),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn a_build_says_what_came_of_it() {
        let builds = vec![
            build(4, BuildResult::Building, None),
            build(3, BuildResult::Unfit, Some("it ended\x1b[2J\nTraceback")),
            build(2, BuildResult::Built, None),
        ];
        let view = BuildsView {
            app: "shop".parse().expect("a name"),
            tenant: Default::default(),
            builds,
            next: None,
        };
        assert_eq!(
            render(&view, &Screen::plain(), at(120)),
            "RELEASE  BUILD     AGE    TOOK        RESULT\n\
             4        00000004  2 min  -           building\n\
             3        00000003  2 min  1 min 15 s  did not start: it ended\\x1b[2J\n\
             2        00000002  2 min  1 min 15 s  built"
        );
        let none = BuildsView { builds: Vec::new(), ..view };
        assert!(render(&none, &Screen::plain(), at(0)).contains("ace deploy DIR --app shop"));
    }

    #[test]
    fn a_failed_build_is_told_with_its_cause() {
        let failed = build(3, BuildResult::Failed, Some("no such package"));
        assert_eq!(
            heading(&failed, &Screen::plain(), at(120)),
            "build 00000003 of release 3: failed, began 2 min ago, took 1 min 15 s\n    \
             no such package\n"
        );
    }
}
