//! `ace python`: the Pythons of the engine's machine.

use std::path::PathBuf;

use ace_api::http::{AddPython, PythonView};
use clap::{Args, Subcommand};

use crate::client::Client;
use crate::error::CommandError;
use crate::screen::{self, Screen};

/// List the Pythons that apps can have, or add one
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace python list
  ace python add /opt/python-3.6/bin/python3

Found by themselves are those in /usr/bin and /usr/local/bin, pyenv's and uv's.")]
pub struct PythonArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// List the Pythons: version, program, the app servers that run on them, and the apps that do
    List,
    /// Let apps have a further Python
    Add {
        /// The interpreter on the engine's machine; only root may be able to write it
        #[arg(value_name = "PATH")]
        program: PathBuf,
    },
}

pub async fn run(args: PythonArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    match args.action {
        Action::List => {
            let pythons: Vec<PythonView> = client.get("/v1/pythons").await?;
            Ok(screen.show(&pythons, || render(&pythons, screen))?)
        }
        Action::Add { program } => {
            // As the shell's user sees it; a path that can't be made absolute is refused as it is.
            let program = std::path::absolute(&program).unwrap_or(program);
            let added: PythonView = client.post("/v1/pythons", &AddPython { program }).await?;
            Ok(screen.show(&added, || format!("Apps can have Python {} now.", added.name))?)
        }
    }
}

fn render(pythons: &[PythonView], screen: &Screen) -> String {
    if pythons.is_empty() {
        return "No Python that apps can have. Install python3, 3.6 to 3.14, on the engine's \
                machine."
            .to_owned();
    }
    let headings = ["VERSION", "PROGRAM", "RUNS", "APPS"];
    let mut parts = vec![screen.table(&headings, pythons.iter().map(row).collect())];
    parts.extend(pythons.iter().filter_map(|python| python.gone.as_deref()).map(screen::escape));
    parts.join("\n\n")
}

fn row(python: &PythonView) -> Vec<String> {
    let program = python.program.display().to_string();
    let apps: Vec<String> = python.apps.iter().map(ToString::to_string).collect();
    let runs = match python.gone {
        Some(_) => "gone".to_owned(),
        None => python.servers.join(", "),
    };
    let apps = if apps.is_empty() { "-".to_owned() } else { apps.join(", ") };
    vec![screen::escape(&python.name), screen::escape(&program), runs, apps]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_is_a_line_and_one_that_is_gone_is_told() {
        let python = PythonView {
            name: "3.13.1".to_owned(),
            program: "/usr/bin/python3.13".into(),
            servers: vec!["uwsgi-2.0.30".to_owned()],
            apps: vec!["blog".parse().expect("a name"), "shop".parse().expect("a name")],
            gone: None,
        };
        let gone = PythonView {
            name: "3.12.1".to_owned(),
            program: "/opt/python/3.12".into(),
            servers: Vec::new(),
            apps: Vec::new(),
            gone: Some("Python 3.12.1 is gone: install it".to_owned()),
        };
        assert_eq!(
            render(&[python, gone], &Screen::plain()),
            "VERSION  PROGRAM              RUNS          APPS\n\
             3.13.1   /usr/bin/python3.13  uwsgi-2.0.30  blog, shop\n\
             3.12.1   /opt/python/3.12     gone          -\n\n\
             Python 3.12.1 is gone: install it"
        );
        assert!(render(&[], &Screen::plain()).contains("Install python3"));
    }
}
