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
  ace limits shop                      what they are, and who says so
  ace limits shop cpu=0.5 memory=1G    from now on, whatever app.yaml says
  ace limits shop --reset memory       what app.yaml says, or the default

The words and bounds are those of `limits:` in app.yaml. A change makes a release: new instances with
the new limits take over without losing a request, and `ace rollback shop` brings the old ones back.")]
pub struct LimitsArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// cpu, memory, pids, tmp, shm, files, log, connections, body or timeout, each with its value
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
        vec![screen::escape(&limit.name), screen::escape(&limit.value), origin.to_owned()]
    };
    screen.table(&["LIMIT", "VALUE", "SET BY"], view.limits.iter().map(row).collect())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write LIMIT=VALUE, as in memory=1G")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_says_who_set_it() {
        let limit = |name: &str, value: &str, origin| LimitView {
            name: name.to_owned(),
            value: value.to_owned(),
            origin,
        };
        let view = LimitsView {
            tenant: Default::default(),
            app: "shop".parse().expect("a name"),
            limits: vec![
                limit("cpu", "1", LimitOrigin::Default),
                limit("memory", "1G", LimitOrigin::Set),
            ],
        };
        assert_eq!(
            render(&view, &Screen::plain()),
            "LIMIT   VALUE  SET BY\ncpu     1      default\nmemory  1G     ace limits"
        );
    }
}
