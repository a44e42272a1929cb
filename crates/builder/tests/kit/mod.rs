//! A builder with an engine's kernel objects of its own, which go when it is dropped.

#![allow(clippy::unwrap_used)] // All of it is for tests.
#![allow(dead_code)] // Each test file takes what it needs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ace_api::{
    BuildError, BuildRequest, Builder, Built, Interpreter, Program, RebuildRequest, Runtime,
    Serving,
};
use ace_builder::{BuilderConfig, ContainerBuilder, Network, NetworkLease, Places, Roots};
use ace_sandbox::cgroup::CgroupTree;
use ace_sandbox::claims::{self, Claim};
use ace_sandbox::launch::LauncherProgram;
use ace_sandbox::network::Wire;
use ace_sandbox::spec::NetworkSpec;
use ace_sandbox::{firewall, network};
use ace_types::app_yaml::Entry;
use ace_types::{AppYaml, BuildId, EngineId, IdRange, Limits};
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;
use tokio::sync::mpsc;

pub const INDEX: (&str, &str) = ("index.py", "def application(environ, start_response): pass\n");

/// A package in the source that any installer can build without the index's help.
pub const SETUP: &str =
    "from setuptools import setup\nsetup(name='own', version='1', py_modules=['own'])\n";

pub struct Kit {
    pub builder: ContainerBuilder,
    pub cgroups: Arc<CgroupTree>,
    pub data: TempDir,
    engine: EngineId,
    claim: Claim,
    built: AtomicU32,
}

type Archive = tar::Builder<GzEncoder<File>>;

/// A build's result and its log.
pub struct Outcome {
    pub result: Result<Built, BuildError>,
    pub log: Vec<String>,
}

/// A release that one of the engine's servers serves.
pub struct Made {
    pub code: PathBuf,
    pub environment: PathBuf,
    pub python: Interpreter,
    /// The server's packages.
    pub server: PathBuf,
    pub entry: Entry,
    pub app_yaml: AppYaml,
}

impl Kit {
    /// `None`, and a word about it, where this is not root.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make containers");
            return None;
        }
        let data = TempDir::new().unwrap();
        let engine = EngineId::from_random(random());
        let claim = claims::claim(&engine, data.path(), None).unwrap();
        firewall::ensure(&engine, claim.subnet(), &[]).unwrap();
        let cgroups = Arc::new(CgroupTree::find(&engine).unwrap());
        let executable = Path::new(env!("CARGO_BIN_EXE_ace-builder-test"));
        let home = std::env::var_os("HOME").map(PathBuf::from);
        take_from_earlier_tests(data.path());
        let builder = ContainerBuilder::new(BuilderConfig {
            data: data.path().to_owned(),
            launcher: Arc::new(LauncherProgram::seal(executable).unwrap()),
            cgroups: Arc::clone(&cgroups),
            network: Arc::new(Veth { engine: engine.clone(), claim }),
            nameservers: nameservers(),
            executable: executable.to_owned(),
            index_url: None,
            places: Places::usual(&Roots { home, ..Roots::default() }),
        });
        Some(Self { builder, cgroups, data, engine, claim, built: AtomicU32::new(0) })
    }

    /// Builds the app `shop` of `files`.
    pub async fn build(&self, files: &[(&str, &str)]) -> Outcome {
        self.build_with(files, None).await
    }

    pub async fn build_with(&self, files: &[(&str, &str)], pin: Option<Interpreter>) -> Outcome {
        self.run(BuildRequest { python: pin, ..self.request(files) }).await
    }

    /// Builds the app in `folder`.
    pub async fn build_folder(&self, folder: &Path) -> Outcome {
        self.run(self.request_of(|tar| tar.append_dir_all(".", folder).unwrap())).await
    }

    pub fn request(&self, files: &[(&str, &str)]) -> BuildRequest {
        self.request_of(|tar| {
            for (path, content) in files {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
        })
    }

    fn request_of(&self, fill: impl FnOnce(&mut Archive)) -> BuildRequest {
        let id = BuildId::from_random(random());
        let archive = self.data.path().join(format!("{id}.tgz"));
        let mut tar =
            tar::Builder::new(GzEncoder::new(File::create(&archive).unwrap(), Compression::fast()));
        fill(&mut tar);
        tar.into_inner().unwrap().finish().unwrap();
        let (tenant, app, ids) = (Default::default(), "shop".parse().unwrap(), self.ids());
        BuildRequest { id, tenant, app, ids, archive, python: None }
    }

    /// User ids that no build before had.
    fn ids(&self) -> IdRange {
        let number = self.built.fetch_add(1, Ordering::Relaxed);
        self.claim.id_range(1023 - number).unwrap()
    }

    async fn run(&self, request: BuildRequest) -> Outcome {
        self.listen(|lines| self.builder.build(request, lines)).await
    }

    /// Makes the environment of `built` anew.
    pub async fn rebuild(&self, built: &Built) -> Outcome {
        let request = RebuildRequest {
            id: BuildId::from_random(random()),
            tenant: Default::default(),
            app: "shop".parse().unwrap(),
            ids: self.ids(),
            built: built.clone(),
        };
        self.listen(|lines| self.builder.rebuild(request, lines)).await
    }

    async fn listen<F: Future<Output = Result<Built, BuildError>>>(
        &self,
        work: impl FnOnce(mpsc::Sender<String>) -> F,
    ) -> Outcome {
        let (sender, mut lines) = mpsc::channel(64);
        let reading = tokio::spawn(async move {
            let mut log = Vec::new();
            while let Some(line) = lines.recv().await {
                log.push(line);
            }
            log
        });
        let result = work(sender).await;
        assert_eq!(self.leftovers(), Vec::<String>::new());
        Outcome { result, log: reading.await.unwrap() }
    }

    /// Scratch folders and control groups of builds that are over.
    pub fn leftovers(&self) -> Vec<String> {
        let folders = fs::read_dir(self.data.path().join("builds")).into_iter().flatten();
        let mut found: Vec<String> =
            folders.map(|entry| entry.unwrap().path().display().to_string()).collect();
        found.extend(self.cgroups.list().unwrap());
        found
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        give_to_later_tests(self.data.path());
        let groups = self.cgroups.remove_all();
        let firewall = firewall::remove(&self.engine);
        let claim = claims::release(&self.engine);
        if !std::thread::panicking() {
            groups.unwrap();
            firewall.unwrap();
            claim.unwrap();
        }
    }
}

impl Outcome {
    /// The release, which one of the engine's servers serves.
    pub fn built(self) -> Made {
        let Built { code, serving, app_yaml, .. } = self.release();
        let Serving::Program(Runtime { python, environment, program, .. }) = serving else {
            panic!("it is files alone");
        };
        let Program::Server { packages, entry, .. } = program else {
            panic!("it has a command: {program:?}");
        };
        Made { code, environment, python, server: packages, entry, app_yaml }
    }

    pub fn release(self) -> Built {
        let log = self.log.join("\n");
        self.result.unwrap_or_else(|error| {
            panic!("{error}: {:?}\n{log}", std::error::Error::source(&error))
        })
    }

    /// What the tenant is told.
    pub fn rejection(&self) -> String {
        match &self.result {
            Err(BuildError::Rejected(message)) => message.clone(),
            other => panic!("{other:?}\n{}", self.log.join("\n")),
        }
    }

    pub fn logged(&self, text: &str) -> bool {
        self.log.iter().any(|line| line.contains(text))
    }
}

/// Whether this machine has a Python, such as `2.7`.
pub async fn has_python(kit: &Kit, minor_version: &str) -> bool {
    let beginning = format!("{minor_version}.");
    let known = kit.builder.pythons().await;
    let has = known.iter().any(|known| known.interpreter.version.starts_with(&beginning));
    if !has {
        eprintln!("skipped: this machine has no Python {minor_version}");
    }
    has
}

pub fn site_packages(environment: &Path) -> PathBuf {
    let lib = fs::read_dir(environment.join("lib")).unwrap().next().unwrap().unwrap().path();
    lib.join("site-packages")
}

/// The importable packages that an environment has, sorted.
pub fn packages(environment: &Path) -> Vec<String> {
    // What Pythons before 3.12 get beyond the requirements.
    let given = ["_distutils_hack", "pkg_resources", "setuptools"];
    let entries = fs::read_dir(site_packages(environment)).unwrap();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.as_ref().unwrap().path().join("__init__.py").exists())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !given.contains(&name.as_str()))
        .collect();
    names.sort();
    names
}

pub fn has_file(folder: &Path, beginning: &str) -> bool {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(beginning))
}

/// The way out of one engine's builds, which come one after the other.
struct Veth {
    engine: EngineId,
    claim: Claim,
}

impl Network for Veth {
    fn lease(&self, name: &str) -> Option<NetworkLease> {
        let spec = NetworkSpec::Veth(Wire {
            host_interface: network::veth_name(&self.engine, name),
            address: self.claim.address(0)?,
            gateway: self.claim.gateway(),
            bandwidth: Limits::for_build().bandwidth,
        });
        Some(NetworkLease { spec, held: Box::new(()) })
    }
}

fn nameservers() -> Vec<std::net::Ipv4Addr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok()).collect()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    bytes
}

/// What takes long to fetch, and is the same for all tests.
const SHARED: [&str; 2] = ["tools", "servers"];

fn shared(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("ace-builder").join(name)
}

fn take_from_earlier_tests(data: &Path) {
    for name in SHARED {
        copy(&shared(name), &data.join(name));
    }
}

fn give_to_later_tests(data: &Path) {
    for name in SHARED.into_iter().filter(|name| !shared(name).exists()) {
        let half = shared(&format!("{name}-{}", std::process::id()));
        copy(&data.join(name), &half);
        let _ = fs::rename(&half, shared(name));
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    }
}
