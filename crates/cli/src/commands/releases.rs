//! `ace releases`: what an app can be rolled back to.

use ace_api::http::{ReleaseView, ReleasesView};
use ace_types::AppName;
use clap::Args;
use jiff::Timestamp;

use crate::client::Client;
use crate::commands::status::{ago, withdrawn_text};
use crate::completion;
use crate::error::CommandError;
use crate::pack::readable;
use crate::pages;
use crate::screen::{self, Screen, Style};

/// List an app's releases: which serves, why there is each, their size
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace releases shop
  ace releases shop --json
  ace rollback shop 4      to serve release 4 again

A release is the code, its environment, its configuration and its limits. Each deploy and each
change of configuration or limits makes one. The last ten are kept, and any in use. A size is
what a release takes besides what it shares with an older one.")]
pub struct ReleasesArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,
}

pub async fn run(args: ReleasesArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let path = format!("/v1/apps/{}/releases", args.app);
    let view: ReleasesView = pages::all(client, &path).await?;
    Ok(screen.show(&view, || render(&view, screen, Timestamp::now()))?)
}

fn render(view: &ReleasesView, screen: &Screen, now: Timestamp) -> String {
    if view.releases.is_empty() {
        return format!("No releases yet. Deploy one:  ace deploy DIR --app {}", view.app);
    }
    let rows = view.releases.iter().map(|release| row(release, screen, now)).collect();
    let table = screen.table(&["RELEASE", "AGE", "BY", "SIZE", "PYTHON", "BECAUSE"], rows);
    let withdrawn = view.releases.iter().filter_map(|release| release.withdrawn.as_ref());
    let mut parts = vec![table];
    parts.extend(withdrawn.map(|withdrawn| withdrawn_text(withdrawn, screen, now)));
    parts.push(format!(
        "{} on disk together; kept are the last ten and those in use",
        readable(view.size)
    ));
    parts.join("\n\n")
}

fn row(release: &ReleaseView, screen: &Screen, now: Timestamp) -> Vec<String> {
    let number = match release.serves {
        true => screen.paint(Style::Good, &format!("{} serves", release.number)),
        false if release.withdrawn.is_some() => {
            screen.paint(Style::Error, &format!("{} died", release.number))
        }
        false => release.number.to_string(),
    };
    vec![
        number,
        ago(release.created_at, now),
        screen::escape(&release.by.to_string()),
        readable(release.size),
        release.python.as_deref().map_or("-".to_owned(), screen::escape),
        screen::escape(&release.cause.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use ace_api::http::{Author, ReleaseCause, WithdrawnView};
    use ace_types::{Bytes, ReleaseNumber};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn release(number: u32, cause: ReleaseCause) -> ReleaseView {
        ReleaseView {
            number: ReleaseNumber(number),
            cause,
            by: Author::Root,
            created_at: at(0),
            serves: number == 2,
            python: Some("3.13.1".to_owned()),
            size: Bytes::mib(u64::from(number % 2) * 12),
            withdrawn: None,
        }
    }

    fn deployed(changed: &[&str]) -> ReleaseCause {
        ReleaseCause::Deployed { changed: changed.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn a_release_says_what_is_different_and_whether_it_died() {
        let names = vec!["COLOUR".to_owned(), "DEBUG".to_owned()];
        let died = WithdrawnView {
            release: ReleaseNumber(3),
            to: ReleaseNumber(2),
            at: at(60),
            reason: "after 4 s: the app server ended with status 1".to_owned(),
        };
        let view = ReleasesView {
            tenant: Default::default(),
            app: "shop".parse().expect("a name"),
            releases: vec![
                ReleaseView { withdrawn: Some(died), ..release(3, deployed(&["packages"])) },
                release(2, ReleaseCause::Configured { names }),
                release(1, deployed(&[])),
            ],
            size: Bytes::mib(24),
            next: None,
        };
        assert_eq!(
            render(&view, &Screen::plain(), at(120)),
            "RELEASE   AGE    BY    SIZE      PYTHON  BECAUSE\n\
             3 died    2 min  root  12.0 MiB  3.13.1  deployed: packages\n\
             2 serves  2 min  root  0 bytes   3.13.1  config: COLOUR, DEBUG\n\
             1         2 min  root  12.0 MiB  3.13.1  deployed\n\n\
             release 3 died after 4 s: the app server ended with status 1; the engine rolled back to \
             release 2 1 min ago\n\n\
             24.0 MiB on disk together; kept are the last ten and those in use"
        );
    }

    #[test]
    fn an_app_without_releases_says_what_to_do() {
        let app = "shop".parse().expect("a name");
        let view = ReleasesView {
            app,
            tenant: Default::default(),
            releases: Vec::new(),
            size: Bytes(0),
            next: None,
        };
        let text = render(&view, &Screen::plain(), at(0));
        assert!(text.contains("ace deploy DIR --app shop"), "{text}");
    }
}
