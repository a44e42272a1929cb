//! `ace status`: one app and its instances.

mod instances;

use std::time::Duration;

use ace_api::http::{
    AppView, CommandView, DeployKind, DeployView, PythonTrouble, ServedBy, WithdrawnView,
};
use ace_types::{AppName, Domain};
use clap::Args;
use jiff::Timestamp;

use crate::client::{Client, ClientError};
use crate::commands::apps;
use crate::completion;
use crate::error::CommandError;
use crate::screen::{self, Screen, Style};

/// Show one app: its release, its instances, its last deploy
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace status shop
  ace status shop --watch         again every two seconds, until Ctrl-C
  ace status shop --json
  ace status shop --watch --json  one JSON document a line")]
pub struct StatusArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// Show it again every two seconds, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// How often figures are read anew.
const WATCH_PAUSE: Duration = Duration::from_secs(2);

pub async fn run(args: StatusArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let path = format!("/v1/apps/{}", args.app);
    let app: AppView = client.get(&path).await?;
    if !args.watch {
        return Ok(screen.show(&app, || render(&app, screen, Timestamp::now()))?);
    }
    let mut shown: Result<AppView, ClientError> = Ok(app);
    loop {
        match shown {
            Ok(app) => screen.show_anew(&app, || render(&app, screen, Timestamp::now()))?,
            Err(error) if is_passing(&error) => screen.note(&format!("{error}; trying again")),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(WATCH_PAUSE).await;
        shown = client.get(&path).await;
    }
}

/// Whether it ends with an engine that is being replaced.
fn is_passing(error: &ClientError) -> bool {
    use ClientError::{Broken, NotRunning, Slow, Unreachable};
    matches!(error, NotRunning { .. } | Unreachable { .. } | Broken { .. } | Slow { .. })
}

fn render(app: &AppView, screen: &Screen, now: Timestamp) -> String {
    let mut parts = vec![heading(app, screen), facts(app, now)];
    if !app.instances.is_empty() {
        parts.extend(instances::render(app, screen, now));
    }
    if !app.commands.is_empty() {
        parts.push(commands(&app.commands, screen, now));
    }
    parts.extend(app.withdrawn.as_ref().map(|withdrawn| withdrawn_text(withdrawn, screen, now)));
    parts.extend(unkept(app));
    // A rebuild that failed is told below, with what follows.
    let told =
        |deploy: &&DeployView| app.python_trouble.is_some() && deploy.kind == DeployKind::Rebuild;
    let last = app.last_deploy.as_ref().filter(|deploy| !told(deploy));
    parts.extend(last.and_then(|deploy| last_deploy(app, deploy, now)));
    parts.extend(
        app.python_trouble.as_ref().map(|trouble| python_trouble(app, trouble, screen, now)),
    );
    if !app.missing.is_empty() {
        parts.push(missing(app, screen));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn heading(app: &AppView, screen: &Screen) -> String {
    let name = screen.paint(Style::Bold, app.name.as_str());
    format!("{name}  {}  {}", apps::state(app.state, screen), screen::escape(&app.url))
}

fn facts(app: &AppView, now: Timestamp) -> String {
    let deployed = |at| format!(", deployed {} ago", ago(at, now));
    let release = match app.release {
        Some(number) => format!("{number}{}", app.deployed_at.map_or(String::new(), deployed)),
        None => format!("none yet: ace deploy DIR --app {}", app.name),
    };
    let domains = app.domains.iter().map(Domain::to_string).collect::<Vec<_>>().join(", ");
    let facts = [
        ("release", Some(release)),
        ("domains", (!domains.is_empty()).then_some(domains)),
        ("served", app.served_by.as_ref().map(served_by)),
        ("python", app.python.as_deref().map(screen::escape)),
        ("memory", app.memory_limit.map(|limit| format!("{limit} at most, each instance"))),
        ("volume", app.volume.map(|size| format!("{size} at /ace/data"))),
        ("requests", app.traffic.as_ref().map(instances::requests)),
    ];
    let lines: Vec<String> = facts
        .into_iter()
        .filter_map(|(name, fact)| fact.map(|fact| format!("{name:<10}{fact}")))
        .collect();
    lines.join("\n")
}

fn served_by(served_by: &ServedBy) -> String {
    match served_by {
        ServedBy::Files => "from files alone; nothing runs".to_owned(),
        ServedBy::Server { name } => format!("by {name}"),
        ServedBy::Command { line, port } => {
            format!("by its own command on port {port}: {}", screen::escape(line))
        }
    }
}

fn commands(commands: &[CommandView], screen: &Screen, now: Timestamp) -> String {
    let row = |command: &CommandView| {
        let CommandView { id, release, name, since } = command;
        vec![id.to_string(), release.to_string(), screen::escape(name), ago(*since, now)]
    };
    screen.table(&["COMMAND", "RELEASE", "NAME", "FOR"], commands.iter().map(row).collect())
}

/// That the app has turned back from a release by itself.
pub fn withdrawn_text(withdrawn: &WithdrawnView, screen: &Screen, now: Timestamp) -> String {
    let WithdrawnView { release, to, at, reason } = withdrawn;
    let what = screen.paint(Style::Error, &format!("release {release} died"));
    format!(
        "{what} {}; the engine rolled back to release {to} {} ago",
        screen::escape(reason),
        ago(*at, now)
    )
}

/// What an instance would lose with its container; others of the app write the same.
fn unkept(app: &AppView) -> Option<String> {
    let usages = app.instances.iter().filter_map(|instance| instance.usage.as_ref());
    let written = usages.filter_map(|usage| usage.written.as_ref()).max_by_key(|it| it.count)?;
    Some(screen::escape(&written.told(app.volume.is_some())))
}

/// What is wrong with the Python of the release that serves.
fn python_trouble(
    app: &AppView,
    trouble: &PythonTrouble,
    screen: &Screen,
    now: Timestamp,
) -> String {
    match trouble {
        PythonTrouble::Gone { message } => {
            let what = screen.paint(Style::Error, "its Python is gone");
            format!("{what}:\n{}", screen::indent(&screen::escape_lines(message)))
        }
        PythonTrouble::NotRebuilt { version, error, retry_at } => {
            let what = format!("its Python was upgraded to {}", screen::escape(version));
            let what = screen.paint(Style::Error, &what);
            format!(
                "{what}, and it still runs as it was built before:\n{}\ntried again in {}, or now \
                 with: ace restart {}",
                screen::indent(&screen::escape_lines(error)),
                ago(now, *retry_at),
                app.name
            )
        }
    }
}

/// That somebody has removed files of the release.
fn missing(app: &AppView, screen: &Screen) -> String {
    let parts: Vec<String> = app.missing.iter().map(ToString::to_string).collect();
    let what = format!("the release's {} was removed from the engine's disk", parts.join(", "));
    format!(
        "{}; no instance can start until it's deployed again: ace deploy DIR --app {}",
        screen.paint(Style::Error, &what),
        app.name
    )
}

/// The last deploy, where it says more than the release does.
fn last_deploy(app: &AppView, deploy: &DeployView, now: Timestamp) -> Option<String> {
    let DeployView { kind, release, .. } = deploy;
    match (&deploy.error, deploy.ended_at) {
        (Some(error), ended) => {
            let ended = ago(ended.unwrap_or(deploy.started_at), now);
            let next = match kind {
                DeployKind::Deploy => {
                    format!("next: mend it and deploy again; ace logs {}", app.name)
                }
                _ => format!("next: ace logs {}", app.name),
            };
            Some(format!(
                "last {kind}, of release {release}, failed {ended} ago:\n{}\n{next}",
                screen::indent(&screen::escape_lines(error))
            ))
        }
        (None, None) => Some(format!(
            "a {kind} is under way, of release {release}, for {}",
            ago(deploy.started_at, now)
        )),
        (None, Some(_)) => None,
    }
}

/// The time from `then` to `now` in its largest unit: `3 min`. What lies ahead counts as now.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
pub mod tests {
    use ace_api::http::{AppState, Author, InstanceView, ReleasePart};
    use ace_api::{EndReason, InstanceState};
    use ace_types::{Bytes, ReleaseNumber, Server, TenantName};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// An app with one instance, ten seconds after its deploy at second 0.
    pub fn shop() -> AppView {
        AppView {
            name: "shop".parse().expect("a name"),
            tenant: TenantName::default(),
            url: "http://shop.localhost:8080".to_owned(),
            domains: Vec::new(),
            state: AppState::Running,
            release: Some(ReleaseNumber(3)),
            deployed_at: Some(at(0)),
            withdrawn: None,
            scale: 1,
            served_by: Some(ServedBy::Server { name: Server::Uwsgi }),
            python: Some("3.13.1".to_owned()),
            python_trouble: None,
            missing: Vec::new(),
            memory_limit: Some(Bytes::mib(512)),
            volume: None,
            instances: vec![InstanceView {
                id: "abcd1234".parse().expect("an id"),
                release: ReleaseNumber(3),
                state: InstanceState::Running,
                since: at(0),
                restarts: 1,
                last_end: Some(EndReason::OutOfMemory { limit: Bytes::mib(512) }),
                memory_kills: 0,
                usage: None,
                traffic: None,
            }],
            traffic: None,
            commands: Vec::new(),
            last_deploy: None,
        }
    }

    #[test]
    fn an_app_shows_why_its_instance_ended() {
        assert_eq!(
            render(&shop(), &Screen::plain(), at(600)),
            "shop  running  http://shop.localhost:8080\n\n\
             release   3, deployed 10 min ago\n\
             served    by uwsgi\n\
             python    3.13.1\n\
             memory    512M at most, each instance\n\n\
             INSTANCE  RELEASE  STATE    FOR     RESTARTS  CPU  MEMORY  PROCESSES\n\
             abcd1234  3        running  10 min  1         -    -       -\n\n\
             abcd1234 last ended: out of memory: its limit is 512M (memory)"
        );
    }

    #[test]
    fn files_alone_have_neither_python_nor_instances() {
        let app = AppView {
            served_by: Some(ServedBy::Files),
            python: None,
            memory_limit: None,
            instances: Vec::new(),
            ..shop()
        };
        assert_eq!(
            render(&app, &Screen::plain(), at(600)),
            "shop  running  http://shop.localhost:8080\n\n\
             release   3, deployed 10 min ago\n\
             served    from files alone; nothing runs"
        );
    }

    #[test]
    fn what_runs_beside_the_instances_is_listed() {
        let mut app = shop();
        app.commands.push(CommandView {
            id: "efgh5678".parse().expect("an id"),
            release: ReleaseNumber(3),
            name: "shell".to_owned(),
            since: at(480),
        });
        let told = render(&app, &Screen::plain(), at(600));
        let list = "COMMAND   RELEASE  NAME   FOR\nefgh5678  3        shell  2 min";
        assert!(told.ends_with(list), "{told}");
    }

    #[test]
    fn a_failed_deploy_is_told_without_control_characters() {
        let failed = DeployView {
            kind: DeployKind::Deploy,
            by: Author::Root,
            release: ReleaseNumber(4),
            started_at: at(0),
            ended_at: Some(at(5)),
            code: Some("no_answer".to_owned()),
            error: Some("not ready:\x1b[2J".to_owned()),
        };
        let app = AppView { last_deploy: Some(failed), ..shop() };
        let text = render(&app, &Screen::plain(), at(65));
        assert!(text.contains("release 4, failed 1 min ago:\n    not ready:\\x1b[2J"), "{text}");
    }

    #[test]
    fn a_python_that_was_upgraded_or_is_gone_is_told_with_the_way_out() {
        let with = |trouble| {
            let app = AppView { python_trouble: Some(trouble), ..shop() };
            render(&app, &Screen::plain(), at(60))
        };
        let message = "Python 3.13.1 is gone: install it again".to_owned();
        let gone = with(PythonTrouble::Gone { message });
        assert!(gone.ends_with("its Python is gone:\n    Python 3.13.1 is gone: install it again"));
        let (version, error) = ("3.13.2".to_owned(), "the index is away".to_owned());
        let told = with(PythonTrouble::NotRebuilt { version, error, retry_at: at(360) });
        let end = "the index is away\ntried again in 5 min, or now with: ace restart shop";
        assert!(told.ends_with(end), "{told}");
    }

    #[test]
    fn a_release_whose_files_are_gone_is_told_with_the_way_out() {
        let app = AppView { missing: vec![ReleasePart::Code, ReleasePart::Server], ..shop() };
        let told = render(&app, &Screen::plain(), at(0));
        let end = "the release's code, app server was removed from the engine's disk; no instance can \
                   start until it's deployed again: ace deploy DIR --app shop";
        assert!(told.ends_with(end), "{told}");
    }

    #[test]
    fn an_app_that_was_never_deployed_says_what_to_do() {
        let app = AppView { release: None, instances: Vec::new(), ..shop() };
        assert!(render(&app, &Screen::plain(), at(0)).contains("ace deploy DIR --app shop"));
    }

    #[test]
    fn time_has_one_unit() {
        let since = |seconds| ago(at(0), at(seconds));
        assert_eq!(
            [since(-5), since(59), since(3599), since(7200), since(172_800)],
            ["0 s", "59 s", "59 min", "2 h", "2 days"]
        );
    }
}
