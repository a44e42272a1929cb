//! What a shell completes while somebody types: commands and options as they are declared, and apps' names as
//! the engine knows them.
//!
//! A shell's script calls `ace` with [`VARIABLE`] set for each Tab. `commands::completions` prints the script.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use ace_api::http::{AppView, AppsView};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Shells, Zsh};

use crate::client::{Client, within};
use crate::pages;
use crate::server::ServerAddress;
use crate::token::Token;

/// Names the shell that asks.
pub const VARIABLE: &str = "ACE_COMPLETE";
/// The shells that there are scripts for.
pub const SHELLS: [&dyn EnvCompleter; 3] = [&Bash, &Zsh, &Fish];
/// Nobody waits longer for a Tab.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Answers a shell that asks, and ends the program then. Called before anything is printed, and while the
/// program has one thread.
pub fn answer(program: fn() -> clap::Command) {
    CompleteEnv::with_factory(program).var(VARIABLE).shells(Shells(&SHELLS)).complete();
}

/// Completes an app's name.
pub fn app() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let typed = typed.to_string_lossy();
        let names = apps().unwrap_or_default().into_iter().map(|app| app.name.to_string());
        names.filter(|name| name.starts_with(&*typed)).map(CompletionCandidate::new).collect()
    })
}

/// All apps, of the engine that `ACE_SERVER` names; `None` where it does not answer.
fn apps() -> Option<Vec<AppView>> {
    let named = std::env::var(crate::SERVER_VARIABLE).ok();
    let address: ServerAddress = named.as_deref().unwrap_or(crate::SERVER_DEFAULT).parse().ok()?;
    let file = std::env::var_os(crate::TOKEN_FILE_VARIABLE).map(PathBuf::from);
    let token = match address {
        ServerAddress::Http(_) => Token::find(file.as_deref()).ok()?,
        ServerAddress::Socket(_) => None,
    };
    let client = Client::new(address, token, false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime
        .block_on(within(ANSWER_WITHIN, "completing a name", pages::all(&client, "/v1/apps")))
        .ok()
        .map(|view: AppsView| view.apps)
}
