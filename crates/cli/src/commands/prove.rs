//! `ace prove`: attacks the walls of this engine, and shows what held.

use std::net::SocketAddr;
use std::time::Duration;

use ace_api::http::ApiError;
use clap::Args;

use crate::client::Client;
use crate::error::CommandError;
use crate::prove::{self, Attack, Options};
use crate::screen::Screen;

/// Attack this engine's walls from inside an app, and show what held
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace prove                    every probe, then a neighbour's service under each attack
  ace prove --skip-neighbour   the probes alone
  ace prove --json

As root, on the engine's machine, beside apps that serve: it deploys an attacker and a neighbour of its
own, named ace-prove-…, and destroys them in the end. What the attacker takes is bounded, should a wall
fail. Other apps may be slower meanwhile, as beside any busy neighbour.

The exit status is 1 if a wall failed.")]
pub struct ProveArgs {
    /// Leave out how a neighbour fares under attack
    #[arg(long)]
    skip_neighbour: bool,

    /// How long each attack on the neighbour's service is measured
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    /// Measure under these attacks alone
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = Attack::names(), conflicts_with = "skip_neighbour")]
    attack: Vec<String>,

    /// Where apps are served, if not at 127.0.0.1 and the port of their URLs
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<SocketAddr>,
}

pub async fn run(args: ProveArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let ProveArgs { skip_neighbour, seconds, attack, gateway } = args;
    let is_chosen = |it: &Attack| attack.is_empty() || attack.iter().any(|name| name == it.name());
    let attacks = match skip_neighbour {
        true => Vec::new(),
        false => Attack::ALL.into_iter().filter(is_chosen).collect(),
    };
    let options = Options { gateway, attacks, period: Duration::from_secs(seconds) };
    let report = prove::run(&options, client, screen).await?;
    screen.show(&report, || report.text(screen))?;
    match report.failures() {
        0 => Ok(()),
        // In JSON mode the document has been printed, and there is to be only one.
        _ if screen.json() => Err(CommandError::Told),
        _ => Err(CommandError::Outcome(ApiError::new("walls_failed", report.verdict()))),
    }
}
