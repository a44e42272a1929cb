//! `ace logs`: what an app's instances print.

use std::collections::VecDeque;
use std::io;

use ace_api::http::{AppView, BuildLine, BuildsView, LogLine, ServedBy};
use ace_types::{AppName, InstanceId};
use clap::Args;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

use crate::client::Client;
use crate::commands::builds::follow_log;
use crate::completion;
use crate::error::CommandError;
use crate::follow::{Followed, follow, read};
use crate::pages;
use crate::screen::{self, Screen, Style};

/// Show what an app printed, or what a build of it said
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace logs shop                           the last 100 lines
  ace logs shop -f                        and what comes, until Ctrl-C
  ace logs shop --lines 1000
  ace logs shop --since 10m               what is not older than ten minutes
  ace logs shop --since 2026-11-23T10:00  from then on, UTC
  ace logs shop --release 4               what instances of release 4 printed
  ace logs shop --build                   what the newest build said; --build 4: that of release 4
  ace logs shop --json                    one JSON document a line

A line is its time (UTC), the instance that printed it, and its text. Characters that would
change the terminal are shown as \\x1b and the like.")]
pub struct LogsArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// Go on with what is printed from now on
    #[arg(short, long)]
    follow: bool,

    /// How many lines of what is there to begin with, up to 10,000 [default: 100; with --since: all]
    #[arg(short = 'n', long, value_name = "N", visible_alias = "tail", hide_default_value = true)]
    lines: Option<u32>,

    /// Nothing older: 90s, 10m, 2h, 3d, or a time such as 2026-11-23T10:00, UTC unless it says otherwise
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<Timestamp>,

    /// Only what this release's instances printed
    #[arg(long, value_name = "RELEASE")]
    release: Option<u32>,

    /// Only what this instance printed
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,

    /// What a build said: the newest, or that of this release
    #[arg(
        long,
        value_name = "RELEASE",
        conflicts_with_all = ["lines", "since", "release", "instance"]
    )]
    build: Option<Option<u32>>,
}

/// Lines that are remembered while a log is followed.
const RECENT: usize = 2000;
/// How far back a stream that broke is asked for again: the lines of several instances come in no strict order.
const OVERLAP: SignedDuration = SignedDuration::from_secs(5);

pub async fn run(args: LogsArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    match args.build {
        Some(release) => show_build(&args, release, client, screen).await,
        None => show_lines(&args, client, screen).await,
    }
}

async fn show_lines(args: &LogsArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let mut listing =
        Listing { args, screen, silent: true, recent: VecDeque::new(), resumed_at: None };
    if args.follow {
        return follow(&mut listing, client, screen).await;
    }
    read(&mut listing, client).await?;
    if listing.silent {
        let view: AppView = client.get(&format!("/v1/apps/{}", args.app)).await?;
        screen.note(&nothing(&view, args));
    }
    Ok(())
}

/// What has been shown of a log.
struct Listing<'a> {
    args: &'a LogsArgs,
    screen: &'a Screen,
    /// No instance has said anything.
    silent: bool,
    /// The last lines, by which those that come again after a break are known.
    recent: VecDeque<LogLine>,
    /// The time of the newest line before the last break.
    resumed_at: Option<Timestamp>,
}

impl Listing<'_> {
    fn newest(&self) -> Option<Timestamp> {
        self.recent.iter().map(|line| line.at).max()
    }

    /// Whether it was shown before the stream broke.
    fn was_shown(&self, line: &LogLine) -> bool {
        self.resumed_at.is_some_and(|then| line.at <= then) && self.recent.contains(line)
    }
}

impl Followed for Listing<'_> {
    type Line = LogLine;

    fn path(&self) -> String {
        match self.newest() {
            None => path(self.args),
            Some(newest) => {
                let since = newest.checked_sub(OVERLAP).unwrap_or(newest);
                let since = self.args.since.map_or(since, |asked| asked.max(since));
                path(&LogsArgs { since: Some(since), lines: None, ..self.args.clone() })
            }
        }
    }

    fn take(&mut self, line: LogLine) -> io::Result<()> {
        if self.was_shown(&line) {
            return Ok(());
        }
        self.silent &= line.instance.is_none();
        match self.screen.json() {
            true => self.screen.json_line(&line)?,
            false => self.screen.line(&render(&line, self.screen))?,
        }
        if self.args.follow {
            self.recent.truncate(RECENT - 1);
            self.recent.push_front(line);
        }
        Ok(())
    }

    fn resume(&mut self) {
        self.resumed_at = self.newest();
    }
}

/// Why there is no line of an instance.
fn nothing(app: &AppView, args: &LogsArgs) -> String {
    let name = &app.name;
    let asked = args.since.is_some() || args.release.is_some() || args.instance.is_some();
    match app.served_by {
        _ if asked => format!("{name} has printed nothing of the kind; ace logs {name} shows all"),
        Some(ServedBy::Files) => {
            format!("{name} is files alone: nothing runs that could print; see: ace status {name}")
        }
        _ => format!("{name} has printed nothing yet; follow it with: ace logs {name} -f"),
    }
}

fn path(args: &LogsArgs) -> String {
    let mut path = format!("/v1/apps/{}/logs?follow={}", args.app, args.follow);
    let mut add = |name: &str, value: Option<String>| {
        path.extend(value.map(|value| format!("&{name}={value}")));
    };
    add("tail", args.lines.map(|lines| lines.to_string()));
    add("since", args.since.map(|since| since.to_string()));
    add("release", args.release.map(|release| release.to_string()));
    add("instance", args.instance.as_ref().map(InstanceId::to_string));
    path
}

async fn show_build(
    args: &LogsArgs,
    release: Option<u32>,
    client: &Client,
    screen: &Screen,
) -> Result<(), CommandError> {
    let app = &args.app;
    let builds = format!("/v1/apps/{app}/builds");
    let release = match release {
        Some(release) => release,
        None => {
            let view: BuildsView = pages::all(client, &builds).await?;
            let newest = view.builds.first().ok_or_else(|| {
                CommandError::Refused(format!(
                    "{app} has no builds yet: ace deploy DIR --app {app}"
                ))
            })?;
            newest.release.0
        }
    };
    let path = format!("{builds}/{release}/log?follow={}", args.follow);
    follow_log(client, &path, |line| match screen.json() {
        true => screen.json_line(&BuildLine { line }),
        false => screen.line(&screen::escape(&line)),
    })
    .await
}

/// A time that has been: so long ago, or at that time.
pub fn past(text: &str) -> Result<Timestamp, String> {
    since(text, Timestamp::now())
}

fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let bad = || "write 90s, 10m, 2h, 3d, or a time such as 2026-11-23T10:00".to_owned();
    let at = match text.parse::<Span>() {
        Ok(span) => now.to_zoned(TimeZone::UTC).checked_sub(span).map_err(|_| bad())?.timestamp(),
        Err(_) => match text.parse::<Timestamp>() {
            Ok(at) => at,
            Err(_) => {
                let at: DateTime = text.parse().map_err(|_| bad())?;
                at.to_zoned(TimeZone::UTC).map_err(|_| bad())?.timestamp()
            }
        },
    };
    match at <= now {
        true => Ok(at),
        false => Err(format!("{at:.0} has not been yet; {}", bad())),
    }
}

/// The stream of the engine's own lines, and what they begin with.
const ENGINE: &str = "ace";

fn render(line: &LogLine, screen: &Screen) -> String {
    let text = screen::escape(&line.text);
    let instance = line.instance.as_ref().map_or("-", InstanceId::as_str);
    let about = screen.paint(Style::Dim, &format!("{:.3} {instance:<8}", line.at));
    match line.stream.as_str() {
        ENGINE => format!("{about} {}", screen.paint(Style::Warning, &format!("{ENGINE}: {text}"))),
        // Where it would look like the engine's, it's said whose it is.
        stream if text.starts_with("ace:") => format!("{about} {}: {text}", screen::escape(stream)),
        _ => format!("{about} {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stream: &str, text: &str) -> LogLine {
        LogLine {
            at: Timestamp::from_millisecond(1_500).expect("a time"),
            instance: "abcd1234".parse().ok(),
            release: None,
            stream: stream.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_line_has_its_time_and_its_instance() {
        assert_eq!(
            render(&line("out", "hello"), &Screen::plain()),
            "1970-01-01T00:00:01.500Z abcd1234 hello"
        );
    }

    #[test]
    fn an_app_can_not_move_the_cursor_or_fake_a_line() {
        let text = render(&line("err", "\x1b[A\r1970 ok\nnext"), &Screen::plain());
        assert!(text.ends_with("abcd1234 \\x1b[A\\x0d1970 ok\\x0anext"), "{text}");
    }

    #[test]
    fn after_a_break_no_line_is_shown_twice_and_none_is_left_out() {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            args: LogsArgs,
        }
        let Program { args } = clap::Parser::parse_from(["logs", "shop", "-f"]);
        let screen = Screen::plain();
        let mut listing = Listing {
            args: &args,
            screen: &screen,
            silent: true,
            recent: VecDeque::new(),
            resumed_at: None,
        };
        assert_eq!(listing.path(), "/v1/apps/shop/logs?follow=true");
        listing.take(line("out", "one")).expect("a line");
        listing.resume();
        assert!(listing.path().ends_with("since=1969-12-31T23:59:56.5Z"), "{}", listing.path());
        assert!(listing.was_shown(&line("out", "one")));
        assert!(!listing.was_shown(&line("out", "two")));
        let later =
            LogLine { at: Timestamp::from_second(9).expect("a time"), ..line("out", "one") };
        assert!(!listing.was_shown(&later));
    }

    #[test]
    fn an_app_that_speaks_like_the_engine_is_told_from_it() {
        let text = render(&line("out", "ace: release 7 serves"), &Screen::plain());
        assert!(text.ends_with("abcd1234 out: ace: release 7 serves"), "{text}");
    }

    #[test]
    fn the_engine_is_told_from_the_app() {
        assert!(render(&line("ace", "ended"), &Screen::plain()).ends_with(" ace: ended"));
    }

    #[test]
    fn a_time_is_so_long_ago_or_then() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().expect("a time");
        let since = |text| since(text, now).map(|at| at.to_string());
        for (text, at) in [
            ("90s", "2026-11-23T11:58:30Z"),
            ("10m", "2026-11-23T11:50:00Z"),
            ("1h30m", "2026-11-23T10:30:00Z"),
            ("2d", "2026-11-21T12:00:00Z"),
            ("2026-11-23T10:00", "2026-11-23T10:00:00Z"),
            ("2026-11-23", "2026-11-23T00:00:00Z"),
            ("2026-11-23T12:30+02:00", "2026-11-23T10:30:00Z"),
        ] {
            assert_eq!(since(text), Ok(at.to_owned()), "{text}");
        }
        for text in ["", "x", "10", "-5m", "2026-11-24", "99999999999999999d"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
