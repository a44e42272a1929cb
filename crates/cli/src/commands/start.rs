//! `ace start`: a stopped app runs again.

use ace_types::AppName;
use clap::Args;
use http::Method;

use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::operation::{self, Request, Serving};
use crate::screen::{self, Screen};

/// Start an app that was stopped
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace start shop

Waits until the app answers. A start that fails leaves it stopped.")]
pub struct StartArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,
}

pub async fn run(args: StartArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let request = Request {
        app: &args.app,
        method: Method::POST,
        path: "start",
        document: (),
        name: "start",
    };
    operation::run(request, client, screen, success).await
}

fn success(Serving { app, release, url, seconds, .. }: &Serving) -> String {
    format!("{app} release {release} is live at {} ({seconds:.1} s)", screen::escape(url))
}
