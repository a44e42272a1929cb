//! `ace server`: every part in one process.

use std::env::VarError;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ace_api::http::{DoctorCheck, DoctorReport, Verdict};
use ace_api::{Gateway, Node};
use ace_builder::{BuilderConfig, ContainerBuilder, Places, Roots};
use ace_control::{ApiSocket, ControlConfig, Listeners, Outcome, Parts};
use ace_gateway::{AccessLogConfig, GatewayConfig, GatewayServer};
use ace_sandbox::volume::{self, Store};
use ace_store::SqliteStore;
use ace_types::{HostName, Limits, error_chain};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use ipnet::IpNet;
use jiff::Timestamp;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::config_file::{Changes, ConfigFile, ceilings_of_machine, machine_memory, or_from_file};
use crate::doctor;
use crate::engine::EngineFolder;
use crate::handover::{self, Held};
use crate::machine::Machine;
use crate::memory;

/// Defaults of what can be told.
pub const DATA: &str = "/var/lib/ace";
const HTTP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 8080));
const DOMAIN: &str = "localhost";
/// How often apps are looked at for a Python that was upgraded.
const PYTHON_CHECK: Duration = Duration::from_secs(180);
/// The most builds at once, however much memory there is.
const BUILDS_MOST: usize = 16;
/// How long requests under way may take when the engine ends.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long an app that is asked to stop may take for what it has under way.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// What the engine wants to have open at once: a request takes two, one to each side.
const OPEN_FILES_WANTED: u64 = 1 << 20;
/// The most that this kernel lets any process have open.
const OPEN_FILES_MAX: &str = "/proc/sys/fs/nr_open";

/// Run the engine on this machine
///
/// Needs root. When it ends, apps go on running; the next `ace server` finds them. `ace down`
/// stops them.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// File with what these options say, and with what tenants may ask for; options go before it
    /// [default: /etc/ace/ace.toml, where it is there]
    #[arg(long, env = "ACE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Folder of all that the engine keeps [default: /var/lib/ace]
    #[arg(long, env = "ACE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,

    /// Where apps are served; port 0 takes a free one [default: 0.0.0.0:8080]
    #[arg(long, env = "ACE_HTTP", value_name = "ADDR")]
    http: Option<SocketAddr>,

    /// Where the API is served over TCP, to whoever shows a token; without it only at DATA/ace.sock.
    /// It's not encrypted: keep it on this machine or behind something that is
    #[arg(long, env = "ACE_API", value_name = "ADDR")]
    api: Option<SocketAddr>,

    /// Apps answer at NAME.DOMAIN [default: localhost]
    #[arg(long, env = "ACE_DOMAIN", value_name = "DOMAIN")]
    domain: Option<HostName>,

    /// Proxies in front of the engine, as addresses or networks: 10.0.0.0/8. Their word on who a
    /// client is counts, in X-Forwarded-* and Forwarded
    #[arg(
        long = "trusted-proxy",
        env = "ACE_TRUSTED_PROXIES",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = network
    )]
    trusted_proxies: Vec<IpNet>,

    /// Trusted proxies begin each connection with a header of the PROXY protocol, version 1 or 2
    #[arg(long, env = "ACE_PROXY_PROTOCOL")]
    proxy_protocol: bool,

    /// File with a line for each request, or `off`; DATA/logs/access.log unless told otherwise
    #[arg(long, env = "ACE_ACCESS_LOG", value_name = "FILE|off")]
    access_log: Option<PathBuf>,

    /// Package index that builds install from
    #[arg(long, env = "ACE_INDEX_URL", value_name = "URL")]
    index_url: Option<String>,
}

/// What was told, by whichever way, or else the default.
struct Settings {
    data: PathBuf,
    http: SocketAddr,
    api: Option<SocketAddr>,
    domain: HostName,
    trusted_proxies: Vec<IpNet>,
    proxy_protocol: bool,
    access_log: Option<PathBuf>,
    index_url: Option<String>,
    require: Vec<String>,
    ceilings: Changes,
    volumes: Store,
}

impl ServerArgs {
    fn with(self, file: ConfigFile) -> Result<Settings> {
        let mut trusted_proxies = self.trusted_proxies;
        if trusted_proxies.is_empty() {
            let told: Option<String> = file.setting("trusted_proxies")?;
            let told = told.filter(|told| !told.is_empty());
            let all: Result<Vec<_>, String> =
                told.iter().flat_map(|t| t.split(',')).map(network).collect();
            trusted_proxies = all.map_err(|error| anyhow!("trusted_proxies: {error}"))?;
        }
        let proxy_protocol =
            self.proxy_protocol || file.setting("proxy_protocol")?.unwrap_or(false);
        if proxy_protocol && trusted_proxies.is_empty() {
            bail!("the PROXY protocol is for trusted proxies; name them with --trusted-proxy");
        }
        Ok(Settings {
            data: or_from_file(self.data, &file, "data")?.unwrap_or_else(|| DATA.into()),
            http: or_from_file(self.http, &file, "http")?.unwrap_or(HTTP),
            api: or_from_file(self.api, &file, "api")?,
            domain: match or_from_file(self.domain, &file, "domain")? {
                Some(domain) => domain,
                None => DOMAIN.parse()?,
            },
            trusted_proxies,
            proxy_protocol,
            access_log: or_from_file(self.access_log, &file, "access_log")?,
            index_url: or_from_file(self.index_url, &file, "index_url")?,
            require: file.require,
            ceilings: file.ceilings,
            volumes: file.volumes,
        })
    }
}

/// Runs the engine until it is told to end.
pub async fn run(args: ServerArgs) -> Result<()> {
    start_logging()?;
    require_root()?;
    let file = ConfigFile::read(args.config.as_deref())?;
    let args = args.with(file)?;
    raise_open_files().unwrap_or_else(|error| {
        tracing::warn!(%error, "could not raise the limit of open files; few clients at once fit");
    });
    let mut engine = EngineFolder::open(&args.data)?;
    refuse_unfit_machine(&doctor::report(engine.path(), args.volumes), &args.require)?;
    // First, since its port may be taken: then nothing of the machine has been touched.
    let gateway = start_gateway(&args, &engine)?;
    let tcp = listen_tcp(args.api).await?;
    thaw_volumes(&engine.folder("volumes")?);
    let machine = Machine::set_up(&mut engine, args.volumes).await?;
    tokio::spawn(engine.keep_identity());
    tokio::spawn(memory::keep_trim());
    let socket = engine.path().join("ace.sock");
    let listening = ApiSocket::bind(&socket)
        .with_context(|| format!("could not listen at {}", socket.display()))?;
    let listeners = Listeners { socket: listening, tcp };
    let config = control_config(&args, &engine, &machine, gateway.address().port())?;
    let parts = parts(&args, &engine, &machine, Arc::clone(&gateway))?;
    print_ready(gateway.address(), &socket, listeners.tcp.as_ref());
    let (stop, restarts) = stop_signal(engine.say_that_it_ends())?;
    let outcome = ace_control::run(config, parts, listeners, stop).await?;
    let is_restart = outcome == Outcome::Stopped && restarts.load(Ordering::Relaxed);
    // Before the gateway closes them, and until this process ends.
    let _held = is_restart.then(|| hold_sockets(&gateway, engine.path())).flatten();
    gateway.stop(STOP_DEADLINE).await;
    let ended = match outcome {
        Outcome::Down => machine.tear_down().await,
        Outcome::Stopped => {
            tracing::info!("the engine ends; apps go on running until `ace down`");
            Ok(())
        }
    };
    // Last: whoever waits for the engine's end looks for this.
    ApiSocket::remove(&socket);
    ended
}

/// Lines on standard error. `ACE_LOG` filters them, as in `ACE_LOG=warn,ace_node=debug`; with
/// `ACE_LOG_FORMAT=json` each is a JSON document.
fn start_logging() -> Result<()> {
    let filter = match std::env::var("ACE_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).with_context(|| {
            format!("ACE_LOG={text:?} is no filter; write info or warn,ace_node=debug")
        })?,
        _ => EnvFilter::new("info"),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match std::env::var("ACE_LOG_FORMAT").as_deref() {
        Ok("json") => lines.json().flatten_event(true).with_current_span(false).init(),
        Ok("text" | "") | Err(VarError::NotPresent) => {
            lines.with_ansi(io::stderr().is_terminal()).init();
        }
        _ => bail!("ACE_LOG_FORMAT can be text or json"),
    }
    Ok(())
}

pub fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the engine makes containers and needs root; run it with sudo");
    }
    Ok(())
}

/// Lets the engine have as many files open as it wants, or else as many as it may. Containers get
/// limits of their own.
fn raise_open_files() -> io::Result<()> {
    let kernel_max = fs::read_to_string(OPEN_FILES_MAX)?.trim().parse().unwrap_or(u64::MAX);
    let limit = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, raised(limit, OPEN_FILES_WANTED.min(kernel_max))) {
        // Raising what is allowed takes a capability that not every root has.
        Err(Errno::PERM) => Ok(setrlimit(Resource::Nofile, raised(limit, 0))?),
        result => Ok(result?),
    }
}

/// `limit` with all used that may be, and at least `wanted` allowed. `None` is no limit.
fn raised(limit: Rlimit, wanted: u64) -> Rlimit {
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    Rlimit { current: maximum, maximum }
}

/// An engine on a machine that lacks a wall would be an engine without it. `require` names those that
/// apps can run without, and are not to.
fn refuse_unfit_machine(report: &DoctorReport, require: &[String]) -> Result<()> {
    let is_required = |check: &DoctorCheck| require.contains(&check.name.replace(' ', "-"));
    let missing: Vec<String> = report
        .checks
        .iter()
        .filter(|check| match check.verdict {
            Verdict::Ok => false,
            Verdict::Warn => is_required(check),
            Verdict::Fail => true,
        })
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

/// An engine that was killed while it copied a volume has left it so that nobody can write to it.
fn thaw_volumes(folder: &Path) {
    let images = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for image in images.filter(|path| path.extension().is_some_and(|name| name == "img")) {
        match volume::thaw_image(&image) {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(image = %image.display(), "a volume could not be written; it can again")
            }
            Err(error) => {
                tracing::error!(error = %error_chain(&error), "could not look after a volume")
            }
        }
    }
}

fn start_gateway(args: &Settings, engine: &EngineFolder) -> Result<Arc<GatewayServer>> {
    let log = access_log(args.access_log.as_deref(), &engine.folder("logs")?);
    let config = GatewayConfig {
        // Request bodies until they are complete.
        spool: engine.folder("spool")?,
        access_log: log.map(AccessLogConfig::new),
        trusted_proxies: args.trusted_proxies.clone(),
        proxy_protocol: args.proxy_protocol,
        ..GatewayConfig::new(args.http)
    };
    let fitting = clients_that_fit(getrlimit(Resource::Nofile).current);
    let connections_max = config.connections_max.min(fitting);
    let listeners = handover::fetch(engine.path(), args.http);
    GatewayServer::start_with(GatewayConfig { connections_max, ..config }, listeners)
        .context("could not start the gateway")
}

/// Has the gateway's sockets held for the next engine. Without that, connections are refused until then.
fn hold_sockets(gateway: &GatewayServer, data: &Path) -> Option<Held> {
    let held = handover::hold(data, &gateway.hand_over());
    held.inspect_err(|error| tracing::warn!(%error, "connections are refused until the next start"))
        .ok()
}

/// Where the access log is written, if anywhere; `logs` is where it is unless told otherwise.
fn access_log(told: Option<&Path>, logs: &Path) -> Option<PathBuf> {
    match told {
        None => Some(logs.join("access.log")),
        Some(off) if off == "off" => None,
        Some(file) => Some(file.to_owned()),
    }
}

/// `10.0.0.0/8`, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse())
        .map_err(|_| "it is no address or network, as in 10.0.0.0/8".to_owned())
}

/// How many clients may be connected where so many files may be open: each takes two, one for what
/// answers it, and a quarter is for everything else.
fn clients_that_fit(open_files: Option<u64>) -> u32 {
    let files = open_files.unwrap_or(u64::MAX);
    u32::try_from(files / 8 * 3).unwrap_or(u32::MAX).max(1)
}

fn control_config(
    args: &Settings,
    engine: &EngineFolder,
    machine: &Machine,
    public_port: u16,
) -> Result<ControlConfig> {
    for name in ["archives", "builds", "releases", "environments", "volumes", "logs"] {
        engine.folder(name)?;
    }
    Ok(ControlConfig {
        data: engine.path().to_owned(),
        domain: args.domain.clone(),
        public_port,
        id_ranges: machine.id_ranges(),
        stop_grace: STOP_GRACE,
        builds_max: builds_at_once()?,
        ceilings: args.ceilings.over(ceilings_of_machine(engine.path())?),
        python_check: PYTHON_CHECK,
    })
}

/// As many builds as have room in three quarters of the machine's memory.
fn builds_at_once() -> Result<usize> {
    let fitting = machine_memory()?.0 / 4 * 3 / Limits::for_build().memory.0;
    Ok(usize::try_from(fitting)?.clamp(1, BUILDS_MOST))
}

/// The programs that `control` directs.
fn parts(
    args: &Settings,
    engine: &EngineFolder,
    machine: &Machine,
    gateway: Arc<GatewayServer>,
) -> Result<Parts> {
    let store = SqliteStore::open(&engine.path().join("ace.db"))
        .context("could not open the store of the engine's state")?;
    let builder = ContainerBuilder::new(BuilderConfig {
        data: engine.path().to_owned(),
        launcher: Arc::clone(&machine.launcher),
        cgroups: Arc::clone(&machine.cgroups),
        network: Arc::new(machine.build_network()),
        nameservers: machine.resolvers.nameservers.clone(),
        executable: std::env::current_exe().context("could not find this program's file")?,
        index_url: args.index_url.clone(),
        places: python_places(),
    });
    let (scratch, volumes) = (engine.path().to_owned(), args.volumes);
    Ok(Parts {
        store: Arc::new(store),
        node: Arc::clone(&machine.node) as Arc<dyn Node>,
        gateway,
        builder: Arc::new(builder),
        doctor: Arc::new(move || doctor::report(&scratch, volumes)),
        clock: Arc::new(Timestamp::now),
    })
}

async fn listen_tcp(address: Option<SocketAddr>) -> Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    if !address.ip().is_loopback() {
        tracing::warn!(
            "the API at {address} can be reached from elsewhere, and what passes is not encrypted: \
             put a proxy with TLS or a tunnel before it"
        );
    }
    let listener = TcpListener::bind(address).await;
    listener.map(Some).with_context(|| format!("could not serve the API at {address}"))
}

/// Where this machine's Pythons are looked for: the system's, and those of whoever started us.
fn python_places() -> Places {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    let (home, pyenv) = (folder("HOME"), folder("PYENV_ROOT"));
    Places::usual(&Roots { home, pyenv, uv: folder("UV_PYTHON_INSTALL_DIR") })
}

fn print_ready(address: SocketAddr, socket: &Path, tcp: Option<&TcpListener>) {
    let tcp = tcp.and_then(|listener| listener.local_addr().ok());
    let tcp = tcp.map_or(String::new(), |address| format!(", http://{address} (api, with tokens)"));
    println!("ace is ready: http://{address} (apps), unix:{} (api){tcp}", socket.display());
}

/// Becomes true at the first SIGTERM or SIGINT. The second is true after SIGTERM, which comes from
/// somebody who may start the next engine; Ctrl-C does not.
fn stop_signal(
    tell: impl FnOnce() + Send + 'static,
) -> Result<(watch::Receiver<bool>, Arc<AtomicBool>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    let restarts: Arc<AtomicBool> = Arc::default();
    let restart = Arc::clone(&restarts);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => restart.store(true, Ordering::Relaxed),
            _ = interrupt.recv() => {}
        }
        tell();
        stop.send_replace(true);
    });
    Ok((stopped, restarts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(current: u64, maximum: Option<u64>) -> Rlimit {
        Rlimit { current: Some(current), maximum }
    }

    #[test]
    fn a_limit_is_raised_and_never_lowered() {
        let of = |limit| raised(limit, 5000).current;
        assert_eq!(of(limit(1024, Some(4096))), Some(5000));
        assert_eq!(of(limit(1024, Some(9000))), Some(9000));
        assert_eq!(of(limit(1024, None)), None);
    }

    #[test]
    fn an_option_goes_before_the_file_and_the_file_before_the_default() {
        let file = |text: &str| ConfigFile::parse(text).unwrap();
        let args = || ServerArgs {
            config: None,
            data: None,
            http: Some(HTTP),
            api: None,
            domain: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            access_log: None,
            index_url: None,
        };
        let text = "http = '127.0.0.1:1'\ndomain = 'apps.example'\ntrusted_proxies = ['10.0.0.1', '10.1.0.0/16']\n";
        let settings = args().with(file(text)).unwrap();
        assert_eq!((settings.http, settings.domain.to_string().as_str()), (HTTP, "apps.example"));
        assert_eq!((settings.data, settings.trusted_proxies.len()), (DATA.into(), 2));
        assert!(args().with(file("proxy_protocol = true")).is_err());
        assert!(args().with(file("domain = '..'")).is_err());
    }

    #[test]
    fn what_is_required_is_refused_where_it_is_only_warned_of() {
        let check = DoctorCheck {
            name: "writable code".to_owned(),
            verdict: Verdict::Warn,
            detail: "no overlay".to_owned(),
            remedy: None,
        };
        let report = DoctorReport { checks: vec![check] };
        assert!(refuse_unfit_machine(&report, &[]).is_ok());
        assert!(refuse_unfit_machine(&report, &["io".to_owned()]).is_ok());
        let refused = refuse_unfit_machine(&report, &["writable-code".to_owned()]);
        assert!(refused.unwrap_err().to_string().contains("no overlay"));
    }

    #[test]
    fn no_more_clients_than_files_for_them() {
        assert_eq!(clients_that_fit(Some(1024)), 384);
        assert_eq!(clients_that_fit(None), u32::MAX);
    }

    #[test]
    fn the_access_log_is_beside_the_others_unless_told() {
        let at = |told: Option<&str>| access_log(told.map(Path::new), Path::new("/d/logs"));
        assert_eq!(at(None), Some(PathBuf::from("/d/logs/access.log")));
        assert_eq!(at(Some("/x")), Some(PathBuf::from("/x")));
        assert_eq!(at(Some("off")), None);
    }

    #[test]
    fn all_that_may_be_open_can_be() -> io::Result<()> {
        let before = getrlimit(Resource::Nofile);
        let few = Rlimit { current: Some(100), ..before };
        setrlimit(Resource::Nofile, few)?;
        raise_open_files()?;
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.current, after.maximum);
        assert!(after.maximum.is_none_or(|after| before.maximum.is_some_and(|max| max <= after)));
        Ok(())
    }
}
