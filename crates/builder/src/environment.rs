//! The virtual environment: what a source asks for, installed and named by its content.
//!
//! Requirements are first resolved to a *lock*, each package with its version and the hashes of its
//! files. The environment's name is the hash of that, of the interpreter, and of variables that say how to compile,
//! so a deploy that changes none of them installs nothing; it is kept beside the environment (see [`crate::kept`]), which is
//! made anew from it when the interpreter changes. Requirements that no hash can vouch for (a folder of the source,
//! a repository) count as changed with every change of the source.
//!
//! `uv` does it for Python 3, `pip` for Python 2.7; [`Installer`] is either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ace_api::{BuildError, Interpreter};
use ace_types::AppName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::container::{Bench, Command, Ended};
use crate::hash::hex;
use crate::mistagged;
use crate::old_setuptools;
use crate::pip::Pip;
use crate::python::Python;
use crate::setuptools;
use crate::site::{Site, blocking, engine};
use crate::unpack::{CODE, Inspection, Requirements};
use crate::uv::{self, Uv};

/// Where it stands in every container.
pub const ENVIRONMENT: &str = "/ace/user/virtualenv";
/// Its interpreter there.
pub const PYTHON: &str = "/ace/user/virtualenv/bin/python";
/// Where a command finds the lock it installs.
pub const PIP_LOCK: &str = "/ace/lock/requirements.txt";
/// The same where it is a `pylock.toml`, by which name it's known for one.
pub const PYLOCK: &str = "/ace/lock/pylock.toml";
const PYLOCK_SOURCE: &str = "pylock.toml";

/// Where a command finds what it resolves, and versions to keep to.
pub const PIP_INPUT: &str = "/ace/lock/requirements.in";
pub const PIP_CONSTRAINTS: &str = "/ace/lock/constraints.txt";
/// Where the installer's cache stands.
pub const CACHE: &str = "/ace/cache";
/// What pip downloads before it installs it.
pub const DOWNLOADS: &str = "/ace/user/downloads";
/// Where packages are installed that are no environment.
pub const APART: &str = "/ace/user/server";
/// The longest lock.
pub const LOCK_MAX: usize = 4 << 20;
/// Part of every environment's name; to be raised when they come to be made in another way.
const FORMAT: &str = "4";

/// What requirements were resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    text: String,
    form: Form,
    /// Hashes of the source's own lock, which packages must have besides those of an index.
    hashes: String,
    /// The hash of the source, unless every package's files are known by a hash of their own.
    source_hash: Option<String>,
}

/// What a [`Lock`]'s text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Lines of a `requirements.txt` with all that is needed.
    Resolved,
    /// The same by the source's word alone.
    Given,
    /// A `pylock.toml`.
    Pylock,
}

/// What installs packages for one Python.
pub enum Installer {
    Uv(Uv),
    Pip(Pip),
}

impl Installer {
    /// Makes an environment with nothing in it.
    pub async fn make_empty(
        &self,
        python: &Python,
        bench: &Bench,
        site: &Site,
    ) -> Result<(), BuildError> {
        let command = match self {
            Self::Uv(uv) => uv.make_empty(python),
            Self::Pip(pip) => pip.make_empty(python),
        };
        let ended = bench.run(command.writable(&site.user_folder(), "/ace/user")).await?;
        check_end(&ended, bench, "the virtual environment could not be made")
    }

    /// Resolves the requirements of a source, which are not none.
    ///
    /// pip makes the environment for it, since it asks sources for their requirements there.
    pub async fn resolve(
        &self,
        source: &Inspection,
        python: &Python,
        bench: &Bench,
        site: &Site,
    ) -> Result<Lock, BuildError> {
        let Inspection { requirements, source_hash, app_yaml, .. } = source;
        bench.log().say(source.which_packages()).await;
        let mut command = match (self, requirements) {
            (Self::Uv(_), Requirements::Locked { requirements, .. }) => {
                return Ok(Lock::given(requirements.clone()));
            }
            (Self::Uv(_), Requirements::Pylock) => Command::new(["/usr/bin/cat", PYLOCK_SOURCE]),
            (Self::Uv(uv), Requirements::UvLock { .. }) => uv.export(python),
            (Self::Uv(uv), _) => uv.resolve(python, requirements),
            (
                Self::Pip(_),
                Requirements::UvLock { .. } | Requirements::Project { .. } | Requirements::Pylock,
            ) => {
                let file = requirements.source();
                let message = format!("{file} is for Python 3; a requirements.txt is for any");
                return Err(BuildError::Rejected(message));
            }
            (Self::Pip(pip), _) => {
                self.make_empty(python, bench, site).await?;
                let command = pip.download(python, requirements);
                let ended = bench.run(in_source(command, &app_yaml.env, site)).await?;
                check_end(&ended, bench, "the requirements could not be resolved")?;
                pip.list_downloads(python, requirements)
            }
        };
        command.keep_stdout = Some(LOCK_MAX);
        let command = in_source(command, &app_yaml.env, site);
        let ended = self.run(command, python, bench).await?;
        check_end(&ended, bench, "the requirements could not be resolved")?;
        Lock::resolved(requirements, &ended.stdout, source_hash)
            .ok_or_else(|| BuildError::Rejected("the requirements resolve to no text".to_owned()))
    }

    /// Installs what `lock` says into the empty environment, with the app's variables `env`.
    pub async fn install(
        &self,
        lock: &Lock,
        env: &BTreeMap<String, String>,
        python: &Python,
        bench: &Bench,
        site: &Site,
    ) -> Result<(), BuildError> {
        if !lock.is_hashed() {
            bench
                .log()
                .say("some requirements have no hash to know them by: installing all anew")
                .await;
        }
        let with_lock = |mut command: Command| {
            command.files.push((lock.path().into(), lock.text.clone()));
            command.files.push((PIP_CONSTRAINTS.into(), lock.hashes.clone()));
            in_source(command, env, site)
        };
        let command = match self {
            Self::Uv(uv) => uv.install(python, lock, &[]),
            Self::Pip(pip) => {
                let ended = bench.run(with_lock(pip.make_wheels(python))).await?;
                if !ended.success {
                    bench.log().say("not every package becomes a wheel: installing as it is").await;
                }
                pip.install(python)
            }
        };
        let mut ended = self.run(with_lock(command), python, bench).await?;
        if let (false, Self::Uv(uv)) = (ended.success, self)
            && !bench.log().mistagged().is_empty()
        {
            ended = mistagged::install(uv, lock, python, bench, site, with_lock).await?;
        }
        check_end(&ended, bench, "the requirements could not be installed")?;
        if let (Self::Uv(uv), false) = (self, lock.has_setuptools()) {
            add_setuptools(uv, python, bench, site).await?;
        }
        if matches!(self, Self::Uv(_)) && !uv::compiles(python) {
            // Packages may have files for other Pythons, which don't compile.
            let words = [PYTHON, "-E", "-s", "-m", "compileall", "-qq", ENVIRONMENT];
            bench.run(in_source(see_python(Command::new(words), python), env, site)).await?;
        }
        check_is_folder(site.environment()).await
    }

    /// Runs `command`, which may build packages.
    async fn run(
        &self,
        command: Command,
        python: &Python,
        bench: &Bench,
    ) -> Result<Ended, BuildError> {
        match self {
            Self::Uv(_) => old_setuptools::run(bench, python, command).await,
            Self::Pip(_) => Ok(bench.run(command).await?),
        }
    }

    /// Installs `requirement`, files known by their hash, in a container that sees nothing of a
    /// tenant's, and keeps it in the folder `place`, which belongs to root afterwards.
    pub async fn install_apart(
        &self,
        requirement: &str,
        python: &Python,
        bench: &Bench,
        site: &Site,
        place: PathBuf,
    ) -> Result<(), BuildError> {
        let mut command = match self {
            Self::Uv(uv) => uv.install_apart(python, APART),
            Self::Pip(pip) => pip.install_apart(python, APART),
        };
        command.files.push((PIP_LOCK.into(), requirement.to_owned()));
        make_apart(command, bench, site, place).await
    }
}

/// Runs `command`, which makes the folder [`APART`] and sees nothing of a tenant's, and keeps what it
/// made in the folder `place`, which belongs to root afterwards.
pub async fn make_apart(
    command: Command,
    bench: &Bench,
    site: &Site,
    place: PathBuf,
) -> Result<(), BuildError> {
    let fresh = site.add("apart").await?;
    let ended = bench.run(command.writable(&fresh, "/ace/user")).await?;
    if !ended.success {
        let message = "its installer failed; see the build's log";
        return Err(engine("install what serves or installs apps", message));
    }
    site.keep(fresh.join("server"), place).await?;
    site.remove_added("apart").await
}

/// Gives the environment the setuptools that `python -m venv` would, if that gives any.
async fn add_setuptools(
    uv: &Uv,
    python: &Python,
    bench: &Bench,
    site: &Site,
) -> Result<(), BuildError> {
    let Some(requirement) = setuptools::of_its_time(python) else { return Ok(()) };
    let mut command = uv.add(python);
    command.files.push((PIP_LOCK.into(), requirement.to_owned()));
    let ended = bench.run(in_source(command, &BTreeMap::new(), site)).await?;
    check_end(&ended, bench, "the setuptools of this Python's time could not be installed")
}

/// A command in the source's folder, with the cache, the environment, and those of the app's
/// variables that neither we have set nor tell the programs themselves how to run.
pub fn in_source(mut command: Command, env: &BTreeMap<String, String>, site: &Site) -> Command {
    for (name, value) in env {
        let is_set = command.env.iter().any(|(other, _)| other == name);
        if !is_set && !name.starts_with("PYTHON") && !name.starts_with("LD_") {
            command = command.env(name, value);
        }
    }
    if let Some(name) = build_variables(env) {
        // Installers know what they have built by its source alone, not by these.
        let caches = command.env.iter_mut().filter(|(_, value)| value == CACHE);
        caches.for_each(|(_, value)| *value = format!("{CACHE}/with-{name}"));
    }
    command
        .writable(&site.cache(), CACHE)
        .writable(&site.code(), CODE)
        .writable(&site.user_folder(), "/ace/user")
        .in_folder(CODE)
}

/// A hash of those of the app's variables that say how packages are compiled; `None` where there are none.
fn build_variables(env: &BTreeMap<String, String>) -> Option<String> {
    let mut hash = Sha256::new();
    let variables: Vec<_> = env.iter().filter(|(name, _)| is_build_variable(name)).collect();
    for field in variables.iter().flat_map(|(name, value)| [name, value]) {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    (!variables.is_empty()).then(|| hex(&hash.finalize()))
}

/// Whether compilers, build systems or the usual `setup.py` look for it. Not only they may: then an
/// environment is made anew where it need not be.
fn is_build_variable(name: &str) -> bool {
    const NAMES: [&str; 13] =
        ["AR", "AS", "CC", "CPP", "CXX", "F77", "F90", "FC", "LD", "LIBS", "NM", "RANLIB", "STRIP"];
    const BEGINNINGS: [&str; 7] =
        ["CARGO_", "CMAKE_", "MESON", "NPY_", "PKG_CONFIG", "RUST", "SETUPTOOLS_"];
    const ENDS: [&str; 10] = [
        "FLAGS", "_CONFIG", "_DIR", "_HOME", "_INCLUDE", "_LIB", "_LIBRARY", "_LIBS", "_PREFIX",
        "_ROOT",
    ];
    const WORDS: [&str; 4] = ["BUILD", "COMPILE", "STATIC", "EXTENSION"];
    NAMES.contains(&name)
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || ENDS.iter().any(|end| name.ends_with(end))
        || WORDS.iter().any(|word| name.contains(word))
}

impl Requirements {
    /// The file that they stand in.
    pub fn source(&self) -> &str {
        match self {
            Self::None => "",
            Self::File { .. } => "requirements.txt",
            Self::UvLock { .. } => "uv.lock",
            Self::Pylock => PYLOCK_SOURCE,
            Self::Project { .. } => "pyproject.toml",
            Self::Locked { source, .. } | Self::Text { source, .. } => source,
        }
    }

    /// The file that an installer is to read, and the files to render for it.
    pub fn input(&self) -> (&str, Vec<(PathBuf, String)>) {
        match self {
            Self::Locked { requirements, .. } => {
                (PIP_INPUT, vec![(PIP_INPUT.into(), requirements.clone())])
            }
            Self::Text { requirements, constraints, .. } => (
                PIP_INPUT,
                vec![
                    (PIP_INPUT.into(), requirements.clone()),
                    (PIP_CONSTRAINTS.into(), constraints.clone()),
                ],
            ),
            others => (others.source(), Vec::new()),
        }
    }

    /// Whether there are versions to keep to, at [`PIP_CONSTRAINTS`].
    pub fn has_constraints(&self) -> bool {
        matches!(self, Self::Text { .. })
    }
}

impl Inspection {
    /// Which file says what is installed, and which others don't.
    fn which_packages(&self) -> String {
        let source = self.requirements.source();
        match self.ignored[..] {
            [] => format!("packages: {source}"),
            _ => format!("packages: {source}; not read: {}", self.ignored.join(", ")),
        }
    }

    /// That nothing is installed, and which files might have been meant to say what.
    pub fn no_packages(&self) -> String {
        match self.ignored[..] {
            [] => "packages: none".to_owned(),
            _ => format!(
                "packages: none, since no file asks for any; not read: {}; a requirements.txt may \
                 include others, as in \"-r requirements/base.txt\"",
                self.ignored.join(", ")
            ),
        }
    }
}

impl Lock {
    /// No requirements.
    pub fn empty() -> Self {
        Self::of(String::new(), Form::Resolved)
    }

    /// Requirements with all their hashes, as the source has them.
    fn given(text: String) -> Self {
        Self::of(text, Form::Given)
    }

    fn of(text: String, form: Form) -> Self {
        Self { text, form, hashes: String::new(), source_hash: None }
    }

    /// What became of `requirements` in the source of that hash, as an installer printed it; `None`
    /// where it is no text.
    pub fn resolved(
        requirements: &Requirements,
        printed: &[u8],
        source_hash: &str,
    ) -> Option<Self> {
        let text = String::from_utf8(printed.to_vec()).ok()?;
        let trusted = Requirements::trusted_hosts(requirements.lines());
        let trusted: String = trusted.map(|host| format!("--trusted-host {host}\n")).collect();
        Some(match requirements {
            // What it names may be a folder of the source.
            Requirements::Pylock => {
                let source_hash = text.contains("directory").then(|| source_hash.to_owned());
                Self { source_hash, ..Self::of(text, Form::Pylock) }
            }
            Requirements::UvLock { options } | Requirements::Project { options } => {
                Self::parse(options.clone() + &text, source_hash)
            }
            Requirements::Text { hashes, .. } => {
                Self { hashes: hashes.clone(), ..Self::parse(trusted + &text, source_hash) }
            }
            _ => Self::parse(trusted + &text, source_hash),
        })
    }

    /// Reads requirements with their hashes.
    fn parse(text: String, source_hash: &str) -> Self {
        let joined = text.replace("\\\n", " ");
        let mut requirements = joined.lines().map(str::trim).filter(|line| {
            // An editable requirement begins like an option.
            let option = line.starts_with("--") && !line.starts_with("--editable");
            !line.is_empty() && !line.starts_with('#') && !option
        });
        let hashed = requirements.all(|line| {
            (line.contains(" --hash=") || line.contains("#sha256=")) && !line.starts_with('-')
        });
        let source_hash = (!hashed).then(|| source_hash.to_owned());
        Self { source_hash, ..Self::of(text, Form::Resolved) }
    }

    /// Whether every package's files are known by their hash.
    pub fn is_hashed(&self) -> bool {
        self.source_hash.is_none()
    }

    pub fn is_empty(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line.starts_with("--")
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether there are hashes to check besides its own, at [`PIP_CONSTRAINTS`].
    pub fn has_constraints(&self) -> bool {
        !self.hashes.is_empty() && self.is_hashed()
    }

    /// Where an installer finds it.
    pub fn path(&self) -> &'static str {
        match self.form {
            Form::Resolved | Form::Given => PIP_LOCK,
            Form::Pylock => PYLOCK,
        }
    }

    fn has_setuptools(&self) -> bool {
        match self.form {
            Form::Resolved | Form::Given => self.names("setuptools"),
            Form::Pylock => self.text.lines().any(|line| line == "name = \"setuptools\""),
        }
    }

    /// Whether the package of this normal name is among what it installs.
    fn names(&self, name: &str) -> bool {
        let mut beginnings = self.text.lines().map(|line| {
            let end = line.find(|character: char| !is_of_name(character)).unwrap_or(line.len());
            line[..end].replace(['_', '.'], "-").to_ascii_lowercase()
        });
        beginnings.any(|beginning| beginning == name)
    }

    /// The folder, below `environments`, of the environment that this lock makes with the app's variables
    /// `env`.
    pub fn folder(
        &self,
        environments: &Path,
        app: &AppName,
        env: &BTreeMap<String, String>,
        python: &Python,
    ) -> PathBuf {
        let mut hash = Sha256::new();
        let Interpreter { version, program, build, .. } = &python.interpreter;
        let program = program.display().to_string();
        let source = self.source_hash.as_deref().unwrap_or_default();
        let (build, variables) = (build.to_string(), build_variables(env).unwrap_or_default());
        let fields: [&str; 8] =
            [FORMAT, version, &program, &build, source, &self.text, &self.hashes, &variables];
        for field in fields {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        environments.join(app.as_str()).join(hex(&hash.finalize()))
    }
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.".contains(character)
}

/// Binds the interpreter where it isn't below `/usr`, which every container has.
pub fn see_python(command: Command, python: &Python) -> Command {
    let prefix = &python.interpreter.prefix;
    if prefix.starts_with("/usr") { command } else { command.read_only(prefix, prefix) }
}

/// Turns an unsuccessful end into `complaint`.
pub fn check_end(ended: &Ended, bench: &Bench, complaint: &str) -> Result<(), BuildError> {
    match ended {
        Ended { success: true, .. } => Ok(()),
        Ended { out_of_memory: true, .. } => Err(BuildError::Rejected(format!(
            "the build ran out of memory: its limit is {}",
            bench.memory_max()
        ))),
        Ended { .. } => {
            let remedy = bench.log().remedy();
            let message = [Some(complaint.to_owned()), remedy].into_iter().flatten();
            Err(BuildError::Rejected(message.collect::<Vec<_>>().join("; ")))
        }
    }
}

/// What was installed ran as it was installed, in a folder that it could write to: it may have put a
/// link to something of the host's in the environment's place.
async fn check_is_folder(environment: PathBuf) -> Result<(), BuildError> {
    let look = move || Ok(environment.symlink_metadata().is_ok_and(|found| found.is_dir()));
    match blocking("look at the environment", look).await? {
        true => Ok(()),
        false => Err(BuildError::Rejected(
            "the requirements removed the virtual environment that they were installed into"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASHED: &str = "--index-url https://pypi.org/simple\n\nflask==3.1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nweb-py==0.62 \\\n    --hash=sha256:cc\n";

    fn lock(text: &str) -> Lock {
        Lock::parse(text.to_owned(), "a")
    }

    fn python(version: &str, build: u64) -> Python {
        let interpreter = Interpreter {
            version: version.to_owned(),
            program: "/p".into(),
            prefix: "/".into(),
            build,
        };
        Python { version: [3, 11, 2], interpreter }
    }

    #[test]
    fn a_lock_is_hashed_when_all_its_packages_are() {
        assert!(lock(HASHED).is_hashed() && !lock(HASHED).is_empty());
        assert!(lock("").is_hashed() && lock("").is_empty());
        assert!(lock("file:///ace/user/downloads/a-1.zip#sha256=aa\n").is_hashed());
        for unhashed in ["-e .\n", "./pkg\n", "--editable ./pkg\n", "a @ git+https://h/a@123\n"] {
            assert!(!lock(&format!("{HASHED}{unhashed}")).is_hashed(), "{unhashed}");
        }
    }

    #[test]
    fn a_lock_names_its_packages() {
        let lock =
            lock("SetupTools==56.0.0 \\\n    --hash=sha256:aa\nweb.py @ https://host/web.whl\n");
        assert!(lock.names("setuptools") && lock.names("web-py"));
        assert!(!lock.names("setup") && !lock.names("56.0.0"));
    }

    #[test]
    fn an_environment_is_named_by_lock_and_interpreter() {
        let app = "shop".parse().unwrap();
        let name = |text: &str, build: u64, source: &str| {
            let lock = Lock::parse(text.to_owned(), source);
            let none = BTreeMap::new();
            lock.folder(Path::new("/environments"), &app, &none, &python("3.11.2", build))
        };
        assert_eq!(name(HASHED, 1, "a"), name(HASHED, 1, "b"));
        assert_ne!(name(HASHED, 1, "a"), name(HASHED, 2, "a"));
        assert_ne!(name("", 1, "a"), name(HASHED, 1, "a"));
        assert_ne!(name("-e .\n", 1, "a"), name("-e .\n", 1, "b"));
        assert!(name("", 1, "a").starts_with("/environments/shop"));
    }

    #[test]
    fn variables_that_say_how_to_compile_are_part_of_an_environments_name() {
        let app = "shop".parse().unwrap();
        let name = |variable: &str, value: &str| {
            let env = BTreeMap::from([(variable.to_owned(), value.to_owned())]);
            lock(HASHED).folder(Path::new("/environments"), &app, &env, &python("3.11.2", 1))
        };
        assert_eq!(name("DEBUG", "1"), name("DEBUG", "2"));
        for variable in ["CC", "LDFLAGS", "MYSQLCLIENT_CFLAGS", "PYCURL_SSL_LIBRARY", "CMAKE_ARGS"]
        {
            assert_ne!(name(variable, "1"), name(variable, "2"), "{variable}");
            assert_ne!(name(variable, "1"), name("DEBUG", "1"), "{variable}");
        }
    }
}
