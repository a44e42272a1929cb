//! `ace server`: every part in one process.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ace_api::Gateway;
use ace_api::http::{DoctorReport, Verdict};
use ace_builder::{BuilderConfig, ContainerBuilder};
use ace_control::{ControlConfig, Outcome, Parts};
use ace_gateway::{GatewayConfig, GatewayServer};
use ace_store::SqliteStore;
use ace_types::HostName;
use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::doctor;
use crate::engine::EngineFolder;
use crate::machine::Machine;

/// How long requests under way may take when the engine ends.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Run the engine on this machine
///
/// Needs root. When it ends, apps go on running; the next `ace server` finds them. `ace down`
/// stops them.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Folder of all that the engine keeps
    #[arg(long, env = "ACE_DATA", value_name = "DIR", default_value = "/var/lib/ace")]
    data: PathBuf,

    /// Where apps are served; port 0 takes a free one
    #[arg(long, env = "ACE_HTTP", value_name = "ADDR", default_value = "0.0.0.0:8080")]
    http: SocketAddr,

    /// Apps answer at NAME.DOMAIN
    #[arg(long, env = "ACE_DOMAIN", value_name = "DOMAIN", default_value = "localhost")]
    domain: HostName,

    /// Package index that builds install from
    #[arg(long, env = "ACE_INDEX_URL", value_name = "URL")]
    index_url: Option<String>,
}

/// Runs the engine until it is told to end.
pub async fn run(args: ServerArgs) -> Result<()> {
    start_logging();
    require_root()?;
    let report = doctor::report();
    refuse_unfit_machine(&report)?;
    let mut engine = EngineFolder::open(&args.data)?;
    let machine = Machine::set_up(&mut engine).await?;
    let gateway = start_gateway(args.http)?;
    let listener = listen(&engine.path().join("ace.sock"))?;
    let config = control_config(&args, &engine, &machine, gateway.address().port());
    let parts = parts(&args, &engine, &machine, Arc::clone(&gateway))?;
    print_ready(gateway.address(), engine.path());
    let outcome = ace_control::run(config, parts, listener, stop_signal()?).await?;
    gateway.stop(STOP_DEADLINE).await;
    remove_socket(&engine.path().join("ace.sock"));
    match outcome {
        Outcome::Down => machine.tear_down().await,
        Outcome::Stopped => {
            tracing::info!("the engine ends; apps go on running until `ace down`");
            Ok(())
        }
    }
}

/// Lines on standard error; `ACE_LOG` filters them, as in `ACE_LOG=warn,ace_node=debug`.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ACE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the engine makes containers and needs root; run it with sudo");
    }
    Ok(())
}

/// An engine on a machine that lacks a wall would be an engine without it.
fn refuse_unfit_machine(report: &DoctorReport) -> Result<()> {
    let missing: Vec<String> = report
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .map(|check| {
            let remedy = check.remedy.as_deref().unwrap_or("see `ace doctor`");
            format!("\n  {}: {} ({remedy})", check.name, check.detail)
        })
        .collect();
    if !missing.is_empty() {
        bail!("this machine can't run apps yet:{}", missing.concat());
    }
    Ok(())
}

fn start_gateway(address: SocketAddr) -> Result<Arc<GatewayServer>> {
    GatewayServer::start(GatewayConfig::new(address))
        .with_context(|| format!("could not serve apps at {address}"))
}

/// Binds the API's socket, for root alone. The folder's lock says that nobody else has it.
fn listen(path: &Path) -> Result<UnixListener> {
    remove_socket(path);
    let listener = UnixListener::bind(path)
        .with_context(|| format!("could not listen at {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn remove_socket(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("could not remove {}: {error}", path.display());
        }
        _ => {}
    }
}

fn print_ready(address: SocketAddr, data: &Path) {
    println!("ace is ready: http://{address} (apps), unix:{}/ace.sock (api)", data.display());
}

/// Becomes true at the first SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(stopped)
}
