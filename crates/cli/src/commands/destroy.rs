//! `ace destroy`: removes an app with all it has.

use std::io::{self, BufRead, IsTerminal};

use ace_api::http::{AppView, Done};
use ace_types::AppName;
use clap::Args;
use http::Method;

use crate::client::{Client, STOP_DEADLINE};
use crate::completion;
use crate::error::CommandError;
use crate::screen::{self, Screen};

/// Remove an app: its instances, releases, logs and volume
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace destroy shop         asks before it does
  ace destroy shop --yes   does not ask

There is no way back: a volume is deleted with its app.")]
pub struct DestroyArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub async fn run(args: DestroyArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let DestroyArgs { app, yes } = args;
    let path = format!("/v1/apps/{app}");
    if !yes {
        let view: AppView = client.get(&path).await?;
        confirm(&view).await?;
    }
    let done: Done = client.document(Method::DELETE, &path, STOP_DEADLINE).await?;
    Ok(screen.show(&done, || screen::escape_lines(&done.message))?)
}

/// Lets a person type the app's name; a script has to say `--yes`.
async fn confirm(app: &AppView) -> Result<(), CommandError> {
    if !io::stdin().is_terminal() {
        let name = &app.name;
        return Err(CommandError::Refused(format!(
            "nobody is at the terminal to be asked; to destroy {name}: ace destroy {name} --yes"
        )));
    }
    let volume = match app.volume {
        Some(size) => format!(" and its volume of {size}"),
        None => String::new(),
    };
    // Always on standard error, so that the question is not part of a result.
    eprint!("Destroy {}, its releases, its logs{volume} for good? Type its name: ", app.name);
    let answer = tokio::task::spawn_blocking(read_line).await.map_err(io::Error::other)??;
    match answer.trim() == app.name.as_str() {
        true => Ok(()),
        false => Err(CommandError::Refused(format!("{} was not destroyed", app.name))),
    }
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line)
}
