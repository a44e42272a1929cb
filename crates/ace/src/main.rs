//! The program `ace`: parses its arguments, wires the parts, and knows the hidden commands that a
//! container starts. Nothing else happens here.

#![forbid(unsafe_code)]

mod config_file;
mod doctor;
mod engine;
mod handover;
mod machine;
mod memory;
mod offline;
mod restore;
mod server;

use std::process::ExitCode;
use std::sync::Arc;

use ace_sandbox::volume::scratch::keep_mounts_apart;
use clap::{CommandFactory, Parser, Subcommand};

use offline::OfflineEngine;
use restore::RestoreArgs;
use server::ServerArgs;

/// An application engine for Python: deploy a folder, get a URL.
///
/// Every app runs in a container of its own, with limits on by default.
#[derive(Parser)]
#[command(name = "ace", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    global: ace_cli::Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ace server                     run the engine on this machine, as root
  ace deploy                     deploy this folder; its name is the app's
  ace deploy shop/ --app shop    deploy another folder, under a name of your choice
  ace logs shop -f               follow what the app prints";

#[derive(Subcommand)]
enum Command {
    Server(ServerArgs),
    Restore(RestoreArgs),
    #[command(flatten)]
    Client(ace_cli::Command),
}

/// Commands that the engine starts, never a person: the launcher of a container, what runs in a build's,
/// and who holds its sockets after it. They are known before clap looks.
fn hidden(name: &str) -> Option<fn() -> ExitCode> {
    match name {
        handover::HOLDER => Some(handover::holder_main),
        "__launcher" => Some(ace_sandbox::launch::main),
        "__compress" => Some(ace_builder::compress_main),
        "__unpack" => Some(ace_builder::unpack_main),
        _ => None,
    }
}

/// About three times the weight of a process that nobody has given one.
const ENGINE_NICENESS: i32 = -5;

fn main() -> ExitCode {
    // Before anything else: the launcher must stay a process of one thread.
    if let Some(run) = std::env::args().nth(1).as_deref().and_then(hidden) {
        return run();
    }
    ace_cli::completion::answer(Arguments::command);
    if std::env::args_os().len() < 2 {
        return help();
    }
    let arguments = Arguments::parse();
    // While there is one thread: the disks of builds are mounted for the engine alone, and go with it.
    if matches!(arguments.command, Command::Server(_))
        && rustix::process::geteuid().is_root()
        && let Err(error) = keep_mounts_apart()
    {
        return fail(
            &anyhow::Error::new(error).context("could not have mounts of the engine's own"),
        );
    }
    if matches!(arguments.command, Command::Server(_)) {
        go_first();
    }
    match start_runtime() {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => fail(&error.into()),
    }
}

/// What a bare `ace` says. clap would see an argument in a variable that is set, and miss the command.
fn help() -> ExitCode {
    match Arguments::command().print_help() {
        Ok(()) => ExitCode::from(2),
        Err(error) => fail(&error.into()),
    }
}

/// Has the processor go to the engine before it goes to apps: every request passes by the gateway. The threads that are
/// started later inherit it; launchers give it up. Whoever started the engine with a niceness of
/// its own meant that; without the right to, it stays as it is.
fn go_first() {
    use rustix::process::{getpriority_process, setpriority_process};
    if getpriority_process(None) == Ok(0) {
        let _ = setpriority_process(None, ENGINE_NICENESS);
    }
}

fn start_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Server(args) => match server::run(args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Restore(args) => match restore::run(args, arguments.global.json).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Client(command) => {
            ace_cli::run(command, &arguments.global, Arc::new(OfflineEngine)).await
        }
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
