//! `ace limits`: what an app's instances may use.

use ace_api::http::{LimitOrigin, LimitView, LimitsView};
use ace_types::{AppName, LimitChange, LimitOverrides};
use clap::Args;
use http::Method;

use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::operation::{self, Request, Serving};
use crate::screen::{self, Screen};

/// Show an app's limits, or set them
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace limits shop                      what they are, what is used, who says so
  ace limits shop cpu=0.5 memory=1G    from now on, whatever app.yaml says
  ace limits shop --reset memory       what app.yaml says, or the default

The words and bounds are those of `limits:` in app.yaml; how large a volume is, its `volume:` says
alone. A change makes a release: new instances
with the new limits take over without losing a request, and `ace rollback shop` brings the old
ones back.")]
pub struct LimitsArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// cpu, memory, pids, tmp, shm, files, io, iops, bandwidth, log, connections, body or timeout,
    /// each with its value
    #[arg(value_name = "LIMIT=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,

    /// A limit that is to be what app.yaml says, or the default
    #[arg(long, value_name = "LIMIT")]
    reset: Vec<String>,
}

pub async fn run(args: LimitsArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let LimitsArgs { app, set, reset } = args;
    if set.is_empty() && reset.is_empty() {
        let view: LimitsView = client.get(&format!("/v1/apps/{app}/limits")).await?;
        return Ok(screen.show(&view, || render(&view, screen))?);
    }
    let change = LimitChange { set: set.into_iter().collect(), reset: reset.into_iter().collect() };
    // Mistakes are told without an engine, too.
    LimitOverrides::default()
        .with(&change)
        .map_err(|error| CommandError::Refused(error.to_string()))?;
    let request = Request {
        app: &app,
        method: Method::PATCH,
        path: "limits",
        document: change,
        name: "change of limits",
    };
    operation::run(request, client, screen, success).await
}

fn success(Serving { app, release, seconds, .. }: &Serving) -> String {
    format!("{app} release {release} has the new limits ({seconds:.1} s)")
}

fn render(view: &LimitsView, screen: &Screen) -> String {
    let row = |limit: &LimitView| {
        let origin = match limit.origin {
            LimitOrigin::Default => "default",
            LimitOrigin::AppYaml => "app.yaml",
            LimitOrigin::Set => "ace limits",
        };
        let met = limit.met.as_ref().filter(|met| met.count > 0);
        vec![
            screen::escape(&limit.name),
            screen::escape(&limit.value),
            limit.used.as_deref().map_or("-".to_owned(), screen::escape),
            met.map_or("-".to_owned(), |met| {
                format!("{} {}", met.count, screen::escape(&met.what))
            }),
            origin.to_owned(),
        ]
    };
    screen
        .table(&["LIMIT", "VALUE", "USED", "MET", "SET BY"], view.limits.iter().map(row).collect())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write LIMIT=VALUE, as in memory=1G")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use ace_api::http::LimitMet;

    use super::*;

    #[test]
    fn a_limit_says_who_set_it() {
        let limit = |name: &str, value: &str, origin| LimitView {
            name: name.to_owned(),
            value: value.to_owned(),
            origin,
            used: None,
            met: None,
        };
        let met = LimitMet { count: 3, what: "processes ended".to_owned() };
        let memory = limit("memory", "1G", LimitOrigin::Set);
        let view = LimitsView {
            tenant: Default::default(),
            app: "shop".parse().expect("a name"),
            limits: vec![
                limit("cpu", "1", LimitOrigin::Default),
                LimitView { used: Some("990M".to_owned()), met: Some(met), ..memory },
            ],
        };
        assert_eq!(
            render(&view, &Screen::plain()),
            "LIMIT   VALUE  USED  MET                SET BY\n\
             cpu     1      -     -                  default\n\
             memory  1G     990M  3 processes ended  ace limits"
        );
    }
}
