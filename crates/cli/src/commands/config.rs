//! `ace config`: variables that are set beside an app's code.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use ace_api::http::{ConfigView, VariableView};
use ace_types::{AppName, Config, ConfigChange, TenantName};
use clap::Args;
use http::Method;

use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::operation::{self, Request, Serving};
use crate::screen::{self, Screen};
use crate::variables;

/// What stands for a value that is not to be seen.
const MASK: &str = "\u{2022}\u{2022}\u{2022}\u{2022}";
/// The longest text of variables that is read: what an app can have, and room for comments.
const TEXT_MAX: u64 = 1 << 20;

/// List or change an app's configuration: variables that override app.yaml's
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace config shop                        the names; values are hidden
  ace config shop --reveal               the values too, as --stdin takes them
  ace config shop DEBUG=1 COLOUR=red
  ace config shop --unset DEBUG
  ace config shop --file .env            a KEY=VALUE a line, and # for comments
  pass show shop | ace config shop --stdin

What stands on a command line can be seen by other users of the machine while it runs: give
secrets by --stdin or --file. A change makes a release: new instances take over without losing a
request, and `ace rollback shop` brings the old values back. Before the first deploy, it's kept
for that.")]
pub struct ConfigArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// What to set
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,

    /// What to set no longer
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,

    /// Read what to set from standard input
    #[arg(long, conflicts_with = "file")]
    stdin: bool,

    /// Read what to set from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Whose app it is, where this makes it
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantName>,

    /// Show values
    #[arg(long, conflicts_with_all = ["set", "unset", "stdin", "file"])]
    reveal: bool,
}

pub async fn run(args: ConfigArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let changes =
        !args.set.is_empty() || !args.unset.is_empty() || args.stdin || args.file.is_some();
    let app = args.app.clone();
    if !changes {
        let query = if args.reveal { "?reveal=true" } else { "" };
        let view: ConfigView = client.get(&format!("/v1/apps/{app}/config{query}")).await?;
        return Ok(screen.show(&view, || render(&view))?);
    }
    let path = args.tenant.as_ref().map_or("config".to_owned(), |it| format!("config?tenant={it}"));
    let change = tokio::task::spawn_blocking(move || change(args));
    let change = change.await.map_err(std::io::Error::other)??;
    let request = Request {
        app: &app,
        method: Method::PATCH,
        path: &path,
        document: change,
        name: "change of configuration",
    };
    operation::run(request, client, screen, success).await
}

fn success(Serving { app, release, seconds, .. }: &Serving) -> String {
    format!("{app} release {release} has the new configuration ({seconds:.1} s)")
}

fn render(view: &ConfigView) -> String {
    if view.variables.is_empty() {
        return format!("No configuration yet. Set some:  ace config {} KEY=VALUE", view.app);
    }
    let line = |variable: &VariableView| {
        let value = variable.value.as_deref().map(variables::quoted);
        screen::escape(&format!("{}={}", variable.name, value.as_deref().unwrap_or(MASK)))
    };
    view.variables.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What is to be set and unset. The command line comes last, so that it wins over a file.
fn change(args: ConfigArgs) -> Result<ConfigChange, CommandError> {
    let mut set = BTreeMap::new();
    if let Some(text) = text(&args)? {
        let read = variables::parse(&text);
        set.extend(read.map_err(|error| CommandError::Refused(error.to_string()))?);
    }
    set.extend(args.set);
    let change = ConfigChange { set, unset: args.unset.into_iter().collect() };
    // Mistakes are told without an engine, too.
    Config::default().with(&change).map_err(|error| CommandError::Refused(error.to_string()))?;
    Ok(change)
}

fn text(args: &ConfigArgs) -> Result<Option<String>, CommandError> {
    let refuse = |what: &str, error: std::io::Error| {
        CommandError::Refused(format!("could not read {what}: {error}"))
    };
    match &args.file {
        Some(path) => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path).map_err(|error| refuse(&name, error))?;
            bounded(file).map(Some).map_err(|error| refuse(&name, error))
        }
        None if args.stdin => {
            let read = bounded(std::io::stdin().lock());
            read.map(Some).map_err(|error| refuse("standard input", error))
        }
        None => Ok(None),
    }
}

fn bounded(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(TEXT_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > TEXT_MAX {
        return Err(std::io::Error::other("it has more than 1 MiB"));
    }
    Ok(text)
}

/// Errors: never with the text in it, which may be a secret.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write KEY=VALUE, as in DEBUG=1")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(value: Option<&str>) -> ConfigView {
        let variable = VariableView { name: "KEY".to_owned(), value: value.map(str::to_owned) };
        let (app, tenant) = ("shop".parse().expect("a name"), Default::default());
        ConfigView { app, tenant, variables: vec![variable] }
    }

    #[test]
    fn a_value_is_hidden_unless_it_is_asked_for() {
        assert_eq!(render(&view(None)), format!("KEY={MASK}"));
        assert_eq!(render(&view(Some("a b"))), "KEY=\"a b\"");
        assert_eq!(render(&view(Some("\x1b[2J"))), "KEY=\"\\x1b[2J\"");
    }
}
