//! `ace events`: what has happened on an engine, and what happens.

use std::io;

use ace_api::event::Event;
use ace_types::AppName;
use clap::Args;
use jiff::Timestamp;

use super::logs::past;
use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::follow::{Followed, follow, read};
use crate::screen::{self, Screen, Style};

/// Show what has happened: deploys, rollbacks, crashes, changes of every kind
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace events                 the newest 100, of all apps
  ace events shop            those of one app, also of one that is gone
  ace events shop -f         and what happens, until Ctrl-C
  ace events --since 2h      what is not older than two hours
  ace events --json          one JSON document a line

A line is its time (UTC), the app, what happened and who asked for it. The newest 1,000 events of
each tenant are kept.")]
pub struct EventsArgs {
    /// Only this app's
    #[arg(add = completion::app())]
    app: Option<AppName>,

    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,

    /// How many to begin with, up to 1,000 [default: 100; with --since: all]
    #[arg(short = 'n', long = "lines", value_name = "N", hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=PAGE as i64))]
    count: Option<u16>,

    /// Nothing older: 90s, 10m, 2h, 3d, or a time such as 2026-11-23T10:00, UTC unless it says otherwise
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<Timestamp>,
}

/// The most that the API gives at once.
const PAGE: u16 = 1000;

pub async fn run(args: EventsArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let (follows, all) = (args.follow, args.since.is_some() && args.count.is_none());
    let mut listing = Listing { args, screen, last: None, count: 0 };
    if follows {
        return follow(&mut listing, client, screen).await;
    }
    loop {
        let before = listing.count;
        read(&mut listing, client).await?;
        // A part that is not full is the last.
        if !all || listing.count - before < usize::from(PAGE) {
            break;
        }
    }
    if listing.count == 0 {
        screen.note("Nothing of the kind has happened, or it's no longer kept.");
    }
    Ok(())
}

/// What has been shown.
struct Listing<'a> {
    args: EventsArgs,
    screen: &'a Screen,
    last: Option<u64>,
    count: usize,
}

impl Followed for Listing<'_> {
    type Line = Event;

    fn path(&self) -> String {
        let args = &self.args;
        let mut path = format!("/v1/events?follow={}", args.follow);
        let mut add = |name: &str, value: Option<String>| {
            path.extend(value.map(|value| format!("&{name}={value}")));
        };
        let from_then_on = args.since.map(|_| PAGE);
        add("app", args.app.as_ref().map(AppName::to_string));
        add("after", self.last.map(|last| last.to_string()));
        add("since", args.since.map(|since| since.to_string()));
        add("limit", args.count.or(from_then_on).map(|count| count.to_string()));
        path
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        self.last = Some(event.id);
        self.count += 1;
        match self.screen.json() {
            true => self.screen.json_line(&event),
            false => self.screen.line(&render(&event, self.screen)),
        }
    }
}

fn render(event: &Event, screen: &Screen) -> String {
    let app = event.app.as_ref().map_or("-", AppName::as_str);
    let about = screen.paint(Style::Dim, &format!("{:.0} {app:<12}", event.at));
    let mut text = screen::escape(&event.what.to_string());
    if event.what.is_bad() {
        text = screen.paint(Style::Warning, &text);
    }
    match &event.by {
        Some(by) => format!("{about} {text} ({})", screen::escape(&by.to_string())),
        None => format!("{about} {text}"),
    }
}

#[cfg(test)]
mod tests {
    use ace_api::event::Happening;
    use ace_api::http::{Author, DeployKind};
    use ace_types::ReleaseNumber;

    use super::*;

    fn event(by: Option<Author>, what: Happening) -> Event {
        let at = Timestamp::from_second(1).expect("a time");
        Event { id: 1, at, tenant: None, app: "shop".parse().ok(), by, what }
    }

    #[test]
    fn an_event_is_a_line() {
        let (operation, release) = (DeployKind::Deploy, ReleaseNumber(3));
        let served = event(Some(Author::Root), Happening::Switched { operation, release });
        assert_eq!(
            render(&served, &Screen::plain()),
            "1970-01-01T00:00:01Z shop         release 3 serves: deploy (root)"
        );
    }

    #[test]
    fn what_an_app_says_can_not_move_the_cursor() {
        let error = "it said \x1b[A".to_owned();
        let (operation, release) = (DeployKind::Deploy, ReleaseNumber(3));
        let what = Happening::Failed { operation, release, code: "exited".to_owned(), error };
        let line = render(&event(None, what), &Screen::plain());
        assert!(line.ends_with("deploy failed: it said \\x1b[A"), "{line}");
    }
}
