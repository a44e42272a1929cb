//! `ace rollback`: an earlier release serves again.

use ace_api::http::Rollback;
use ace_types::{AppName, ReleaseNumber};
use clap::Args;
use http::Method;

use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::operation::{self, Request, Serving};
use crate::screen::{self, Screen};

/// Serve an earlier release again, with its configuration and limits
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace rollback shop      to the release that served before
  ace rollback shop 4    to release 4; `ace releases shop` lists them

Nothing is built and nothing is fetched. The release starts, is probed, and takes over without
losing a request. Its configuration and limits are the app's again. Ctrl-C before that changes
nothing.")]
pub struct RollbackArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// The release; without it, the one that served before
    #[arg(value_name = "RELEASE")]
    release: Option<u32>,
}

pub async fn run(args: RollbackArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let request = Request {
        app: &args.app,
        method: Method::POST,
        path: "rollback",
        document: Rollback { release: args.release.map(ReleaseNumber) },
        name: "rollback",
    };
    operation::run(request, client, screen, success).await
}

fn success(Serving { app, release, url, seconds, .. }: &Serving) -> String {
    format!("{app} serves release {release} again at {} ({seconds:.1} s)", screen::escape(url))
}
