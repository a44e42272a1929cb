//! `ace logs`: what an app's instances print.

use ace_api::http::{AppView, LogLine, ServedBy};
use ace_types::{AppName, InstanceId};
use clap::Args;
use http::Method;

use crate::client::{ANSWER_DEADLINE, Client, empty_body, within};
use crate::error::CommandError;
use crate::screen::{self, Screen, Style};

/// Show what an app printed
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace logs shop              the last 100 lines
  ace logs shop -f           and what comes, until Ctrl-C
  ace logs shop --tail 1000
  ace logs shop --json       one JSON document a line

A line is its time (UTC), the instance that printed it, and its text. Characters that would
change the terminal are shown as \\x1b and the like.")]
pub struct LogsArgs {
    /// The app's name
    app: AppName,

    /// Go on with what is printed from now on
    #[arg(short, long)]
    follow: bool,

    /// How many lines of what is there to begin with
    #[arg(long, value_name = "N", default_value_t = 100)]
    tail: u32,
}

pub async fn run(args: LogsArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let LogsArgs { app, follow, tail } = args;
    let path = format!("/v1/apps/{app}/logs?follow={follow}&tail={tail}");
    let open = client.lines(Method::GET, &path, empty_body());
    let mut lines = within(ANSWER_DEADLINE, "opening the log", open).await?;
    let mut silent = true;
    // No deadline for the next line: an app may be silent, and Ctrl-C is at hand.
    while let Some(line) = lines.next::<LogLine>().await? {
        silent &= line.instance.is_none();
        match screen.json() {
            true => screen.json_line(&line)?,
            false => screen.line(&render(&line, screen))?,
        }
    }
    if silent && !follow {
        let view: AppView = client.get(&format!("/v1/apps/{app}")).await?;
        screen.note(&nothing(&view));
    }
    Ok(())
}

/// Why there is no line of an instance.
fn nothing(app: &AppView) -> String {
    let name = &app.name;
    match app.served_by {
        Some(ServedBy::Files) => {
            format!("{name} is files alone: nothing runs that could print; see: ace status {name}")
        }
        _ => format!("{name} has printed nothing yet; follow it with: ace logs {name} -f"),
    }
}

fn render(line: &LogLine, screen: &Screen) -> String {
    let text = screen::escape(&line.text);
    let instance = line.instance.as_ref().map_or("-", InstanceId::as_str);
    let about = screen.paint(Style::Dim, &format!("{:.3} {instance:<8}", line.at));
    match line.stream.as_str() {
        "ace" => format!("{about} {}", screen.paint(Style::Warning, &format!("ace: {text}"))),
        _ => format!("{about} {text}"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn line(stream: &str, text: &str) -> LogLine {
        LogLine {
            at: Timestamp::from_millisecond(1_500).expect("a time"),
            instance: "abcd1234".parse().ok(),
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
    fn the_engine_is_told_from_the_app() {
        assert!(render(&line("ace", "ended"), &Screen::plain()).ends_with(" ace: ended"));
    }
}
