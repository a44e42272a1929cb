//! The two apps: deployed, found again, and destroyed.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ace_api::http::{AppView, Done, LimitsView};
use ace_types::limits::{BUILD_DISK, BUILD_INODES, Limits};
use ace_types::{AppName, BitRate, Bytes, TenantName};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::bait::{self, Bait, HostFacts};
use super::web::Site;
use crate::client::{Client, ClientError, STOP_DEADLINE, within};
use crate::error::CommandError;
use crate::operation::{Moved, SILENCE_MAX, read_events};
use crate::pack::{self, PackError};
use crate::progress::Progress;
use crate::screen::Screen;

/// Each is an app and its tenant.
const ATTACKER: &str = "ace-prove-attacker";
const NEIGHBOUR: &str = "ace-prove-neighbour";

/// How long an engine that has ended is waited for, so that nothing is left of us.
const RETURN_DEADLINE: Duration = Duration::from_secs(60);
const RETURN_PAUSE: Duration = Duration::from_secs(1);

/// The attacker's files. Those of the first list are there twice: for the app, and for its build.
const PROBES: [(&str, &str); 6] = [
    ("kit.py", include_str!("attacker/kit.py")),
    ("probe_files.py", include_str!("attacker/probe_files.py")),
    ("probe_kernel.py", include_str!("attacker/probe_kernel.py")),
    ("probe_limits.py", include_str!("attacker/probe_limits.py")),
    ("probe_network.py", include_str!("attacker/probe_network.py")),
    ("probe_processes.py", include_str!("attacker/probe_processes.py")),
];
const APP: [(&str, &str); 4] = [
    ("app.yaml", include_str!("attacker/app.yaml")),
    ("attacks.py", include_str!("attacker/attacks.py")),
    ("index.py", include_str!("attacker/index.py")),
    ("probes.py", include_str!("attacker/probes.py")),
];
const BUILD: [(&str, &str); 2] = [
    ("backend.py", include_str!("attacker/backend.py")),
    ("pyproject.toml", include_str!("attacker/pyproject.toml")),
];
const NEIGHBOURS: [(&str, &str); 1] = [("index.py", include_str!("neighbour/index.py"))];

/// The apps as they run.
pub struct Stage {
    attacker: AppName,
    neighbour: AppName,
    attacker_site: Site,
    neighbour_site: Site,
    /// What the attacker's instance wants to be asked with.
    secret: String,
    facts: Facts,
}

/// What the probes are told.
#[derive(Debug, Clone, Serialize)]
struct Facts {
    #[serde(flatten)]
    host: HostFacts,
    /// The neighbour's address; empty where it did not tell.
    neighbour: String,
    neighbour_port: u16,
    engine_ports: Vec<u16>,
    /// A file that an earlier container of the app has left beside its code.
    written_before: String,
    limits: FactLimits,
}

/// Of the container that probes; sizes in bytes, `cpu` in cores, `io`, `iops` and `bandwidth` of a second, that
/// in bits.
#[derive(Debug, Clone, Serialize)]
struct FactLimits {
    cpu: f64,
    memory: u64,
    pids: u64,
    tmp: u64,
    shm: u64,
    files: u64,
    io: u64,
    iops: u64,
    bandwidth: u64,
    volume: u64,
    /// The disk that a build works on.
    build_disk: u64,
    build_inodes: u64,
}

/// What the neighbour says at `/contacts`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Contacts {
    address: String,
    port: u16,
    /// Who has connected to it directly.
    pub contacts: Vec<String>,
}

impl Stage {
    /// Deploys both.
    pub async fn set(
        client: &Client,
        screen: &Screen,
        bait: &Bait,
        gateway: Option<SocketAddr>,
    ) -> Result<Self, CommandError> {
        let (attacker, neighbour) = (name(ATTACKER)?, name(NEIGHBOUR)?);
        let folder = tempfile::tempdir()?;
        write(folder.path(), &NEIGHBOURS)?;
        let url = deploy(client, screen, &neighbour, folder.path()).await?;
        let neighbour_site = Site::of(&url, gateway)?;
        let contacts = contacts(&neighbour_site).await?;
        let mut facts = Facts {
            host: bait.facts.clone(),
            neighbour: contacts.address,
            neighbour_port: contacts.port,
            engine_ports: vec![neighbour_site.gateway.port()],
            written_before: format!("left-{}", bait.facts.nonce),
            limits: FactLimits::of_builds(),
        };
        let (folder, secret) = (tempfile::tempdir()?, bait::nonce()?);
        write_attacker(
            folder.path(),
            &secret,
            &serde_json::to_string(&facts).map_err(io::Error::other)?,
        )?;
        let url = deploy(client, screen, &attacker, folder.path()).await?;
        let attacker_site = Site::of(&url, gateway)?;
        facts.limits = FactLimits::of_app(client, &attacker).await?;
        Ok(Self { attacker, neighbour, attacker_site, neighbour_site, secret, facts })
    }

    pub fn attacker(&self) -> &AppName {
        &self.attacker
    }

    pub fn neighbour(&self) -> &AppName {
        &self.neighbour
    }

    pub fn attacker_site(&self) -> &Site {
        &self.attacker_site
    }

    pub fn neighbour_site(&self) -> &Site {
        &self.neighbour_site
    }

    /// Where the attacker's instance does `work`.
    pub fn work(&self, work: &str, argument: &str) -> String {
        format!("/{}/{work}/{argument}", self.secret)
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    pub fn written_before(&self) -> &str {
        &self.facts.written_before
    }

    /// The facts as the probes read them.
    pub fn facts(&self) -> io::Result<String> {
        serde_json::to_string(&self.facts).map_err(io::Error::other)
    }

    pub async fn contacts(&self) -> Result<Contacts, CommandError> {
        contacts(&self.neighbour_site).await
    }
}

impl FactLimits {
    fn of_builds() -> Self {
        let Limits { cpu_millicores, memory, pids, tmp, shm, files, io, iops, bandwidth, .. } =
            Limits::for_build();
        Self {
            cpu: f64::from(cpu_millicores) / 1000.0,
            memory: memory.0,
            pids: pids.into(),
            tmp: tmp.0,
            shm: shm.0,
            files: files.into(),
            io: io.0,
            iops: iops.into(),
            bandwidth: bandwidth.0,
            volume: 0,
            build_disk: BUILD_DISK.0,
            build_inodes: BUILD_INODES,
        }
    }

    async fn of_app(client: &Client, app: &AppName) -> Result<Self, CommandError> {
        let view: LimitsView = client.get(&format!("/v1/apps/{app}/limits")).await?;
        let app: AppView = client.get(&format!("/v1/apps/{app}")).await?;
        let text = |name: &str| {
            let limit = view.limits.iter().find(|limit| limit.name == name);
            let missing = || CommandError::Refused(format!("the engine has no limit named {name}"));
            limit.map(|limit| limit.value.as_str()).ok_or_else(missing)
        };
        let unknown =
            |name: &str| CommandError::Refused(format!("the limit named {name} makes no sense"));
        let size = |name: &str| match text(name)?.parse() {
            Ok(Bytes(size)) => Ok(size),
            Err(_) => Err(unknown(name)),
        };
        let bandwidth = text("bandwidth")?.parse();
        let BitRate(bandwidth) = bandwidth.map_err(|_| unknown("bandwidth"))?;
        Ok(Self {
            cpu: cores(text("cpu")?),
            memory: size("memory")?,
            pids: size("pids")?,
            tmp: size("tmp")?,
            shm: size("shm")?,
            files: size("files")?,
            io: size("io")?,
            iops: size("iops")?,
            bandwidth,
            volume: app.volume.map_or(0, |volume| volume.0),
            build_disk: 0,
            build_inodes: 0,
        })
    }
}

/// Destroys what an earlier run has left.
async fn clear(client: &Client) -> Result<(), CommandError> {
    for app in [ATTACKER, NEIGHBOUR] {
        let path = format!("/v1/apps/{app}");
        let view: AppView = match client.get(&path).await {
            Err(ClientError::Refused(error)) if error.code == "no_such_app" => continue,
            view => view?,
        };
        if view.tenant != tenant(app)? {
            return Err(CommandError::Refused(format!(
                "there is an app named {app} of the tenant {}, which is not ours to destroy; `ace prove` needs the name",
                view.tenant
            )));
        }
        let _: Done = client.document(Method::DELETE, &path, STOP_DEADLINE).await?;
    }
    Ok(())
}

/// The same when the engine may be away for a moment.
pub async fn clear_patiently(client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let (deadline, mut is_told) = (Instant::now() + RETURN_DEADLINE, false);
    loop {
        match clear(client).await {
            // Also where it refuses: an app that is on its way out is gone a moment later.
            Err(CommandError::Client(error)) if Instant::now() < deadline => {
                if !is_told {
                    screen.note(&format!("{error}; waiting for it, to clean up"));
                }
                is_told = true;
                sleep(RETURN_PAUSE).await;
            }
            Err(CommandError::Client(ClientError::Refused(error))) => {
                return Err(CommandError::Outcome(error));
            }
            Err(CommandError::Client(_)) => {
                return Err(CommandError::Refused(format!(
                    "the engine is away; when it's back: ace destroy {ATTACKER} --yes; ace destroy {NEIGHBOUR} --yes"
                )));
            }
            cleared => return cleared,
        }
    }
}

async fn contacts(neighbour: &Site) -> Result<Contacts, CommandError> {
    let (_, body) =
        neighbour.get("/contacts").await.map_err(|error| not_served(neighbour, &error))?;
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

fn not_served(site: &Site, error: &io::Error) -> CommandError {
    CommandError::Refused(format!(
        "no app is served at {} ({error}); name the address by --gateway ADDRESS:PORT",
        site.gateway
    ))
}

/// Deploys `folder`; returns where the app answers.
async fn deploy(
    client: &Client,
    screen: &Screen,
    app: &AppName,
    folder: &Path,
) -> Result<String, CommandError> {
    screen.note(&format!("deploying {app}"));
    let folder = folder.to_owned();
    let plan = tokio::task::spawn_blocking(move || pack::plan(&folder)).await;
    let (body, _) = pack::stream(plan.map_err(|_| PackError::Ended)??);
    let path = format!("/v1/apps/{app}/deploys?tenant={app}");
    let lines = client.lines(Method::POST, &path, body);
    let lines = within(SILENCE_MAX, "taking the folder", lines).await?;
    let mut progress = Progress::new(screen, "sending", false);
    let ended = read_events(lines, "deploy", &mut progress).await;
    progress.finish();
    match ended? {
        Moved::To(serving) => Ok(serving.url),
        Moved::Noted { message, .. } => Err(CommandError::Refused(message)),
    }
}

fn write_attacker(folder: &Path, secret: &str, facts: &str) -> io::Result<()> {
    write(folder, &PROBES)?;
    write(folder, &APP)?;
    fs::write(folder.join("secret"), secret)?;
    fs::write(folder.join("requirements.txt"), "./build_probes\n")?;
    let build = folder.join("build_probes");
    fs::create_dir(&build)?;
    write(&build, &PROBES)?;
    write(&build, &BUILD)?;
    fs::write(build.join("facts.json"), facts)?;
    let files = folder.join("files");
    fs::create_dir(&files)?;
    fs::write(files.join("plain"), "served\n")
}

fn write(folder: &Path, files: &[(&str, &str)]) -> io::Result<()> {
    files.iter().try_for_each(|(name, content)| fs::write(folder.join(name), content))
}

/// `1`, `0.5` or `500m` in cores.
fn cores(text: &str) -> f64 {
    match text.strip_suffix('m') {
        Some(millicores) => millicores.parse().map_or(0.0, |it: f64| it / 1000.0),
        None => text.parse().unwrap_or(0.0),
    }
}

fn name(text: &str) -> Result<AppName, CommandError> {
    text.parse().map_err(|error| CommandError::Refused(format!("{text}: {error}")))
}

fn tenant(text: &str) -> Result<TenantName, CommandError> {
    text.parse().map_err(|error| CommandError::Refused(format!("{text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_in_each_form() {
        assert_eq!(["1", "0.5", "500m"].map(cores), [1.0, 0.5, 0.5]);
    }

    #[test]
    fn the_apps_names_are_names_of_tenants_too() {
        for text in [ATTACKER, NEIGHBOUR] {
            assert!(name(text).is_ok() && tenant(text).is_ok(), "{text}");
        }
    }
}
