//! The commands of `ace` that talk to an engine: each is arguments → API call → print.
//!
//! The program in `crates/ace` parses [`Command`] and [`Global`] beside its own `ace server` and
//! calls [`run`]. This crate knows the API's socket and a terminal; it never looks into an
//! engine's data folder. What has to be done while no engine listens is handed in as [`Offline`].
//!
//! Results go to standard output, progress and errors to standard error. All text that an app or
//! an engine wrote passes [`screen::escape`] before it reaches a terminal.

#![forbid(unsafe_code)]

pub mod client;
pub mod completion;
pub mod pack;
pub mod screen;

mod commands;
mod error;
mod follow;
mod operation;
mod pages;
mod progress;
mod prove;
mod server;
mod session;
mod token;
mod variables;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use ace_api::http::DoctorReport;
use async_trait::async_trait;
use clap::{Args, Subcommand};

use client::Client;
use screen::Screen;
use token::Token;

pub use error::CommandError;
pub use server::ServerAddress;

/// Names the engine where `--server` does not.
const SERVER_VARIABLE: &str = "ACE_SERVER";
const TOKEN_FILE_VARIABLE: &str = "ACE_TOKEN_FILE";
/// Where an engine listens unless told otherwise.
const SERVER_DEFAULT: &str = "unix:/var/lib/ace/ace.sock";

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Where the engine listens: unix:PATH, or http://HOST:PORT with a token
    #[arg(
        long,
        global = true,
        env = SERVER_VARIABLE,
        value_name = "ADDRESS",
        default_value = SERVER_DEFAULT
    )]
    pub server: ServerAddress,

    /// File with the token for http://; without it, the token is in ACE_TOKEN
    #[arg(long, global = true, env = TOKEN_FILE_VARIABLE, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Send the token in clear text to another machine, too
    #[arg(long, global = true, env = "ACE_INSECURE")]
    pub insecure: bool,

    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// Print results and errors alone, nothing on the way there
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    Deploy(commands::deploy::DeployArgs),
    Apps(commands::apps::AppsArgs),
    Status(commands::status::StatusArgs),
    Logs(commands::logs::LogsArgs),
    Builds(commands::builds::BuildsArgs),
    Events(commands::events::EventsArgs),
    Releases(commands::releases::ReleasesArgs),
    Rollback(commands::rollback::RollbackArgs),
    Restart(commands::restart::RestartArgs),
    Stop(commands::stop::StopArgs),
    Start(commands::start::StartArgs),
    Config(commands::config::ConfigArgs),
    Limits(commands::limits::LimitsArgs),
    Scale(commands::scale::ScaleArgs),
    Domains(commands::domains::DomainsArgs),
    Run(commands::run::RunArgs),
    Shell(commands::shell::ShellArgs),
    Destroy(commands::destroy::DestroyArgs),
    Backup(commands::backup::BackupArgs),
    Python(commands::python::PythonArgs),
    Token(commands::token::TokenArgs),
    Doctor(commands::doctor::DoctorArgs),
    Prove(commands::prove::ProveArgs),
    Down(commands::down::DownArgs),
    Completions(commands::completions::CompletionsArgs),
}

/// What a command does when no engine listens.
#[async_trait]
pub trait Offline: Send + Sync {
    /// Stops the apps that an engine with the folder `data` left running and removes what they
    /// have in the kernel. Returns a sentence that says what was done.
    async fn down(&self, data: &Path) -> anyhow::Result<String>;

    /// What this kernel can enforce.
    async fn doctor(&self) -> anyhow::Result<DoctorReport>;
}

/// The status of `ace run` where the command's own can't be had.
const STATUS_NOT_RUN: u8 = 255;

/// Runs `command` to its end. The status is 0, or 1 if it failed, and then standard error says why;
/// that of a command in a container is its own.
pub async fn run(command: Command, global: &Global, offline: Arc<dyn Offline>) -> ExitCode {
    let screen = Screen::new(global.json, global.quiet);
    let result = run_command(command, global, &*offline, &screen).await;
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as in `ace logs shop | head`.
        Err(CommandError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(CommandError::Told) => ExitCode::FAILURE,
        Err(CommandError::Ended(status)) => ExitCode::from(status),
        Err(error @ CommandError::NotRun(_)) => {
            screen.failure(&error.report());
            ExitCode::from(STATUS_NOT_RUN)
        }
        Err(error) => {
            screen.failure(&error.report());
            ExitCode::FAILURE
        }
    }
}

async fn run_command(
    command: Command,
    global: &Global,
    offline: &dyn Offline,
    screen: &Screen,
) -> Result<(), CommandError> {
    let token = match global.server {
        ServerAddress::Http(_) => Token::find(global.token_file.as_deref())?,
        // Root's own: it needs none.
        ServerAddress::Socket(_) => None,
    };
    let client = Client::new(global.server.clone(), token, global.insecure);
    match command {
        Command::Deploy(args) => commands::deploy::run(args, &client, screen).await,
        Command::Apps(args) => commands::apps::run(args, &client, screen).await,
        Command::Status(args) => commands::status::run(args, &client, screen).await,
        Command::Logs(args) => commands::logs::run(args, &client, screen).await,
        Command::Events(args) => commands::events::run(args, &client, screen).await,
        Command::Builds(args) => commands::builds::run(args, &client, screen).await,
        Command::Releases(args) => commands::releases::run(args, &client, screen).await,
        Command::Rollback(args) => commands::rollback::run(args, &client, screen).await,
        Command::Restart(args) => commands::restart::run(args, &client, screen).await,
        Command::Stop(args) => commands::stop::run(args, &client, screen).await,
        Command::Start(args) => commands::start::run(args, &client, screen).await,
        Command::Config(args) => commands::config::run(args, &client, screen).await,
        Command::Limits(args) => commands::limits::run(args, &client, screen).await,
        Command::Scale(args) => commands::scale::run(args, &client, screen).await,
        Command::Domains(args) => commands::domains::run(args, &client, screen).await,
        Command::Run(args) => commands::run::run(args, &client, screen).await,
        Command::Shell(args) => commands::shell::run(args, &client, screen).await,
        Command::Destroy(args) => commands::destroy::run(args, &client, screen).await,
        Command::Backup(args) => commands::backup::run(args, &client, screen).await,
        Command::Python(args) => commands::python::run(args, &client, screen).await,
        Command::Token(args) => commands::token::run(args, &client, screen).await,
        Command::Doctor(args) => commands::doctor::run(args, &client, offline, screen).await,
        Command::Prove(args) => commands::prove::run(args, &client, screen).await,
        Command::Down(args) => commands::down::run(args, &client, offline, screen).await,
        Command::Completions(args) => commands::completions::run(&args, screen),
    }
}
