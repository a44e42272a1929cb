//! `ace restart`: new instances of the release that serves take over.

use ace_types::AppName;
use clap::Args;
use http::Method;

use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::operation::{self, Request, Serving};
use crate::screen::Screen;

/// Replace an app's instances by new ones of the same release
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace restart shop

The new instances start and are probed before the old ones go: no request is lost. An app that
keeps crashing is started anew, too. Ctrl-C before they take over changes nothing.")]
pub struct RestartArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,
}

pub async fn run(args: RestartArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let request = Request {
        app: &args.app,
        method: Method::POST,
        path: "restart",
        document: (),
        name: "restart",
    };
    operation::run(request, client, screen, success).await
}

fn success(Serving { app, release, seconds, .. }: &Serving) -> String {
    format!("{app} was restarted; release {release} serves ({seconds:.1} s)")
}
