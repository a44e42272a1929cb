//! Chores of this repository. `cargo xtask check` is what `make test` and `.ci/run` run.

#![forbid(unsafe_code)]

mod check;
mod guards;
mod layers;
mod tally;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

check   formatting, guards, lints, dependencies and all tests, with their sum in the last line
guards  only the rules about the source that no lint knows, and which crate may use which";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["check"] => check::run(),
        ["guards"] => check_guards().map(|()| true),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check_guards() -> anyhow::Result<()> {
    let root = guards::repository()?;
    let guarded = guards::run(&root);
    layers::run(&root)?;
    guarded
}
