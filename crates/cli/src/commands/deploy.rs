//! `ace deploy`: sends a folder, shows what becomes of it.

use std::path::PathBuf;

use ace_types::{AppName, TenantName};
use clap::Args;
use http::Method;
use tokio::task::JoinHandle;

use crate::client::{Client, ClientError, RequestBody, within};
use crate::completion;
use crate::error::CommandError;
use crate::operation::{Moved, SILENCE_MAX, Serving, interruption, read_events};
use crate::pack::{self, PackError, Plan};
use crate::progress::Progress;
use crate::screen::{self, Screen, Style};

/// What is said of it when it's given up.
const NAME: &str = "deploy";

/// Build a folder, start it, and lead its requests there
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace deploy                    this folder; the app is named like it
  ace deploy ~/src/shop
  ace deploy . --app shop-test

The folder has an index.py with a WSGI `application`, and may have a requirements.txt and an
app.yaml. Version control, byte code, node_modules and virtual environments are not sent, nor
what .aceignore lists: one pattern a line, with *, ?, **, ! and # as in .gitignore.

A deploy that fails leaves the release that serves as it is. Ctrl-C does the same.")]
pub struct DeployArgs {
    /// The folder
    #[arg(default_value = ".")]
    dir: PathBuf,

    /// The app's name; otherwise it is made of the folder's
    #[arg(long, value_name = "NAME", add = completion::app())]
    app: Option<AppName>,

    /// Whose app it is; without it, whose it has been, or the tenant's named default
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantName>,

    /// Show all that the app and its server print while they start
    #[arg(short, long)]
    verbose: bool,
}

pub async fn run(args: DeployArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let DeployArgs { dir, app, tenant, verbose } = args;
    let plan = tokio::task::spawn_blocking(move || pack::plan(&dir)).await;
    let plan = plan.map_err(|_| PackError::Ended)??;
    let app = match app {
        Some(app) => app,
        None => name_of(&plan)?,
    };
    announce(&plan, &app, screen);
    let mut progress = Progress::new(screen, "sending", verbose);
    let (body, packing) = pack::stream(plan);
    let query = tenant.map_or(String::new(), |tenant| format!("?tenant={tenant}"));
    let path = format!("/v1/apps/{app}/deploys{query}");
    let deploy = follow(client, &path, body, packing, &mut progress);
    let ended = tokio::select! {
        ended = deploy => ended,
        _ = tokio::signal::ctrl_c() => Err(CommandError::Interrupted(String::new())),
    };
    let phase = progress.finish();
    match ended {
        Ok(moved) => Ok(screen.show(&moved, || success(&moved, screen))?),
        Err(CommandError::Interrupted(_)) => Err(interruption(client, &app, NAME, phase).await),
        Err(CommandError::Outcome(error)) => {
            Err(CommandError::Outcome(progress.what_is_left_to_show(error)))
        }
        Err(error) => Err(error),
    }
}

/// The app's name as its folder suggests it.
fn name_of(plan: &Plan) -> Result<AppName, CommandError> {
    let folder = plan.root().file_name().unwrap_or_default().to_string_lossy();
    AppName::suggest(&folder).map_err(|_| {
        let root = plan.root().display();
        CommandError::Refused(format!("{root} suggests no name for an app: give one with --app"))
    })
}

fn announce(plan: &Plan, app: &AppName, screen: &Screen) {
    let folder = screen::escape(&plan.root().display().to_string());
    let files = match plan.files() {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    let size = pack::readable(plan.size);
    screen.note(&format!("deploying {folder} as {app}: {files}, {size}"));
    for path in &plan.unpackable {
        let path = screen::escape(&path.display().to_string());
        screen.note(&format!("    {path} is no file, folder or link, and was left out"));
    }
}

/// Sends the archive and follows the deploy to its end.
async fn follow(
    client: &Client,
    path: &str,
    body: RequestBody,
    packing: JoinHandle<Result<(), PackError>>,
    progress: &mut Progress,
) -> Result<Moved, CommandError> {
    let lines = within(SILENCE_MAX, "taking the folder", client.lines(Method::POST, path, body));
    match lines.await {
        Ok(lines) => read_events(lines, NAME, progress).await,
        Err(error) => Err(why_not_sent(error, packing).await),
    }
}

/// The error behind a request that failed: packing may have broken it off.
async fn why_not_sent(
    error: ClientError,
    packing: JoinHandle<Result<(), PackError>>,
) -> CommandError {
    match (error, packing.await) {
        // The engine's own word comes first: it may have refused without reading everything.
        (error @ ClientError::Refused(_), _) | (error, Ok(Ok(()) | Err(PackError::Unwanted))) => {
            error.into()
        }
        (_, Ok(Err(error))) => error.into(),
        (_, Err(_)) => PackError::Ended.into(),
    }
}

fn success(moved: &Moved, screen: &Screen) -> String {
    match moved {
        Moved::To(Serving { app, release, url, seconds, .. }) => {
            let url = screen.paint(Style::Bold, &screen::escape(url));
            format!("{app} release {release} is live at {url} ({seconds:.1} s)")
        }
        Moved::Noted { message, .. } => screen::escape(message),
    }
}

#[cfg(test)]
mod tests {
    use ace_api::http::{ApiError, DeployEvent, DeployPhase};
    use ace_types::ReleaseNumber;

    use super::*;

    #[test]
    fn success_is_one_line_with_the_url() {
        let deployed = Moved::To(Serving {
            app: "shop".parse().expect("a name"),
            release: ReleaseNumber(3),
            url: "http://shop.localhost:8080".to_owned(),
            seconds: 4.234,
            note: None,
        });
        assert_eq!(
            success(&deployed, &Screen::plain()),
            "shop release 3 is live at http://shop.localhost:8080 (4.2 s)"
        );
    }

    #[test]
    fn the_folder_names_the_app() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let shop = folder.path().join("My Shop");
        std::fs::create_dir(&shop).expect("a folder");
        let plan = pack::plan(&shop).expect("a plan");
        assert_eq!(name_of(&plan).expect("a name").as_str(), "my-shop");
    }

    /// What following a deploy comes to, if the engine tells `events` and closes.
    async fn follow_of(events: &[DeployEvent]) -> Result<Moved, CommandError> {
        let lines: Vec<String> = events
            .iter()
            .map(|event| serde_json::to_string(event).expect("a document") + "\n")
            .collect();
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned();
        let (client, folder) = crate::client::tests::client_of(head + &lines.concat());
        let (body, packing) = pack::stream(pack::plan(folder.path())?);
        let mut progress = Progress::new(&Screen::plain(), "sending", false);
        follow(&client, "/v1/apps/shop/deploys", body, packing, &mut progress).await
    }

    #[tokio::test]
    async fn the_last_event_is_the_outcome() {
        let detail = Some("Traceback".to_owned());
        let error = ApiError { detail, ..ApiError::new("start_failed", "it did not start") };
        let events = [
            DeployEvent::Phase { phase: DeployPhase::Building },
            DeployEvent::Log { line: "Installing".to_owned() },
            DeployEvent::Failed { error: error.clone() },
        ];
        match follow_of(&events).await {
            Err(CommandError::Outcome(found)) => assert_eq!(found, error),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_engine_that_stops_meanwhile_is_a_failure() {
        match follow_of(&[DeployEvent::Phase { phase: DeployPhase::Starting }]).await {
            Err(CommandError::Outcome(found)) => assert_eq!(found.code, "engine_stopped"),
            other => panic!("{other:?}"),
        }
    }
}
