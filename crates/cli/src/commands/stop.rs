//! `ace stop`: an app does not run until it is started.

use ace_types::AppName;
use clap::Args;
use http::Method;

use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::operation::{self, Request, Serving};
use crate::screen::Screen;

/// Stop an app: nothing of it runs, and its requests are told so
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace stop shop     until `ace start shop`, or the next deploy

Requests under way have 30 seconds to end. New ones are answered with 503, files too. Releases,
configuration and volume stay. An app stays stopped when the engine or the machine starts again.")]
pub struct StopArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,
}

pub async fn run(args: StopArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let request =
        Request { app: &args.app, method: Method::POST, path: "stop", document: (), name: "stop" };
    operation::run(request, client, screen, success).await
}

fn success(Serving { app, .. }: &Serving) -> String {
    format!("{app} is stopped; start it: ace start {app}")
}
