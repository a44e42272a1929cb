//! `ace shell`: a shell in a container like those of an app's instances.

use ace_api::run::RunCommand;
use ace_types::AppName;
use clap::Args;

use crate::client::Client;
use crate::commands::run::is_on_terminal;
use crate::completion;
use crate::error::CommandError;
use crate::screen::Screen;
use crate::session;

/// Open a shell in an app's release
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace shell shop
  echo 'ls -l /ace/data' | ace shell shop

It's bash where the engine's machine has it, else sh, in a fresh container of the release that
serves, as for `ace run`. The app's code is in /ace/code and can't be changed; its volume, if it
has one, is /ace/data. `exit` or Ctrl-D ends it.")]
pub struct ShellArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,
}

pub async fn run(args: ShellArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    session::run(&args.app, RunCommand::Shell, is_on_terminal(), client, screen).await
}
