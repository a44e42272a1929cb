//! What `ace prove` does: an attacker and a neighbour of its own, probes from inside, looks from outside.
//!
//! ```text
//! bait on the host ──▶ neighbour ──▶ attacker (whose build probes, too) ──▶ probes ──▶ looks ──▶ figures
//! ```
//!
//! The attacker's code is ours, run as any tenant's; it is in `attacker/`, a file for each kind of wall. Its names are
//! the same each time, so that what a killed `ace prove` has left is found by the next one.

mod bait;
mod inside;
mod neighbour;
mod outside;
mod report;
mod stage;
mod web;

use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::ServerAddress;
use crate::client::Client;
use crate::error::CommandError;
use crate::screen::Screen;

use bait::Bait;
pub use neighbour::Attack;
pub use report::Report;
use stage::Stage;

/// What is asked for.
pub struct Options {
    /// Where apps are served, where their URLs don't say it.
    pub gateway: Option<SocketAddr>,
    /// What the neighbour is measured under; with none, it isn't.
    pub attacks: Vec<Attack>,
    /// How long it is under each.
    pub period: Duration,
}

/// Proves, cleans up, and tells what was seen.
pub async fn run(
    options: &Options,
    client: &Client,
    screen: &Screen,
) -> Result<Report, CommandError> {
    let ServerAddress::Socket(socket) = client.server() else {
        return Err(CommandError::Refused(
            "walls are looked at from both sides: run this on the engine's machine, as root, with its socket"
                .to_owned(),
        ));
    };
    let _alone = be_the_only_one(&socket.display().to_string())?;
    let bait = Bait::lay(socket).await?;
    let proof = Proof { options, client, screen, bait };
    let ended = tokio::select! {
        ended = proof.go() => ended,
        reason = interruption() => Err(reason),
    };
    screen.note("removing the attacker and the neighbour");
    let cleared = stage::clear_patiently(client, screen).await;
    let mut report = ended?;
    cleared?;
    report.probes.extend(outside::after(&proof.bait));
    Ok(report)
}

/// One run.
struct Proof<'a> {
    options: &'a Options,
    client: &'a Client,
    screen: &'a Screen,
    bait: Bait,
}

impl Proof<'_> {
    async fn go(&self) -> Result<Report, CommandError> {
        stage::clear_patiently(self.client, self.screen).await?; // What a killed one has left.
        let stage = Stage::set(self.client, self.screen, &self.bait, self.options.gateway).await?;
        self.screen.note("probing the walls from inside");
        let mut probes = inside::probe(self.client, &stage).await?;
        self.screen.note("looking from outside");
        probes.extend(outside::look(self.client, &stage, &self.bait).await?);
        let Options { attacks, period, .. } = self.options;
        let neighbour =
            neighbour::measure(self.client, self.screen, &stage, attacks, *period).await?;
        Ok(Report { probes, neighbour })
    }
}

/// Held for as long as this process lives: two at a time would take each other's apps for leftovers.
fn be_the_only_one(socket: &str) -> Result<UnixListener, CommandError> {
    let name = UnixAddr::from_abstract_name(format!("ace-prove {socket}"))?;
    UnixListener::bind_addr(&name).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => CommandError::Refused(
            "`ace prove` is at work on this engine already; wait for its end".to_owned(),
        ),
        _ => error.into(),
    })
}

/// Ctrl-C, or a request to end.
async fn interruption() -> CommandError {
    let ended = async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => pressed,
            _ = terminate.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
        }
    };
    match ended.await {
        Ok(()) => CommandError::Interrupted("given up; nothing of it is left".to_owned()),
        Err(error) => error.into(),
    }
}
