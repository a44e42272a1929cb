//! `ace completions`: the script that lets a shell complete commands, options and apps' names.

use std::io;

use clap::{Args, ValueEnum};
use clap_complete::env::EnvCompleter;

use crate::completion;
use crate::error::CommandError;
use crate::screen::Screen;

/// Print a script that lets your shell complete commands, options and apps' names
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace completions bash > /etc/bash_completion.d/ace
  ace completions zsh > \"${fpath[1]}/_ace\"
  ace completions fish > ~/.config/fish/completions/ace.fish
  source <(ace completions bash)      in this shell alone")]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub fn run(args: &CompletionsArgs, screen: &Screen) -> Result<(), CommandError> {
    let script = script(args.shell)?;
    match screen.json() {
        true => Ok(screen.show(&serde_json::json!({ "script": script }), String::new)?),
        false => Ok(screen.line(&script)?),
    }
}

fn script(shell: Shell) -> io::Result<String> {
    let completer = completer(shell);
    let mut script = Vec::new();
    completer.write_registration(completion::VARIABLE, "ace", "ace", "ace", &mut script)?;
    let script = String::from_utf8(script).map_err(io::Error::other)?;
    Ok(match shell {
        // Tells zsh's completion system, where it finds the file, what it's for.
        Shell::Zsh if !script.starts_with("#compdef") => format!("#compdef ace\n{script}"),
        _ => script,
    })
}

fn completer(shell: Shell) -> &'static dyn EnvCompleter {
    let [bash, zsh, fish] = completion::SHELLS;
    match shell {
        Shell::Bash => bash,
        Shell::Zsh => zsh,
        Shell::Fish => fish,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_has_a_script_that_asks_ace() {
        for (shell, registers) in [
            (Shell::Bash, "complete -o nospace"),
            (Shell::Zsh, "#compdef ace"),
            (Shell::Fish, "complete --keep-order"),
        ] {
            let script = script(shell).expect("a script");
            assert!(script.contains(completion::VARIABLE), "{script}");
            assert!(script.contains(registers), "{script}");
        }
    }
}
