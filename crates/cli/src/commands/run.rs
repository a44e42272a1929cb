//! `ace run`: one command, in a container like those of an app's instances.

use std::io::{self, IsTerminal};

use ace_api::run::RunCommand;
use ace_types::AppName;
use clap::Args;

use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::screen::Screen;
use crate::session;

/// Run a command in an app's release
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace run shop -- python manage.py createsuperuser
  ace run shop -- python -c 'print(6 * 7)'
  ace run shop -- sqlite3 /ace/data/db.sqlite3 .dump > dump.sql
  ace run shop -- python load.py < data.csv

The command runs in a fresh container of the release that serves: with its code, environment,
configuration, limits, network and volume, beside the app's instances. Ctrl-C reaches it, and it
ends with its connection. `ace run` ends with the command's own status, 128 and the signal's
number where a signal ended it, and 255 where it could not be run.

With a terminal on both sides the command has one too, as large as yours. Otherwise its output
and its errors stay apart, and every byte is as it was.")]
pub struct RunArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// Give the command a terminal, whether there is one here or not
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,

    /// Give the command no terminal
    #[arg(short = 'T', long)]
    no_tty: bool,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub async fn run(args: RunArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let RunArgs { app, tty, no_tty, command } = args;
    let has_terminal = !no_tty && (tty || is_on_terminal());
    session::run(&app, RunCommand::Program(command), has_terminal, client, screen).await
}

/// Whether a person sits at both ends.
pub fn is_on_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}
