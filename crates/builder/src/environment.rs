//! The virtual environment: what `requirements.txt` asks for, installed and named by its content.
//!
//! uv first resolves the requirements to a *lock*, each package with its version and the hashes of
//! its files. The environment's name is the hash of that and of the interpreter, so a deploy that
//! changes neither installs nothing. Requirements that no hash can vouch for (a folder of the source,
//! a repository) count as changed with every change of the source.

use std::path::{Path, PathBuf};

use ace_api::BuildError;
use ace_types::AppName;
use sha2::{Digest, Sha256};

use crate::container::{Bench, Command, Ended};
use crate::hash::hex;
use crate::python::Python;
use crate::site::{Site, blocking};
use crate::tools::UV;
use crate::unpack::CODE;

/// Where it stands in every container.
pub const ENVIRONMENT: &str = "/ace/user/virtualenv";
/// Its interpreter there.
pub const PYTHON: &str = "/ace/user/virtualenv/bin/python";
/// Where a command finds the lock it installs.
pub const PIP_LOCK: &str = "/ace/lock/requirements.txt";

const CACHE: &str = "/ace/cache";
const LOCK_MAX: usize = 4 << 20;
/// Part of every environment's name; to be raised when they come to be made in another way.
const FORMAT: &str = "1";

/// What uv resolved requirements to.
pub struct Lock {
    text: String,
    /// Every package's files are known by their hash.
    hashed: bool,
}

/// uv, as a build's commands run it.
pub struct Installer {
    /// uv on the host.
    pub program: PathBuf,
    /// The index packages come from.
    pub index: String,
}

impl Installer {
    /// `uv pip WORDS…`, with `python` in sight.
    pub fn pip<const N: usize>(&self, python: &Python, words: [&str; N]) -> Command {
        self.uv(python, ["pip"].iter().chain(&words))
    }

    fn uv<'a>(&self, python: &Python, words: impl IntoIterator<Item = &'a &'a str>) -> Command {
        let argv = [UV].iter().chain(words).map(|word| (*word).to_owned());
        see_python(Command::new(argv), python)
            .read_only(&self.program, UV)
            .env("UV_DEFAULT_INDEX", &self.index)
            .env("UV_LINK_MODE", "copy")
            .env("UV_NO_CONFIG", "1")
            .env("UV_NO_PROGRESS", "1")
            .env("UV_PYTHON_DOWNLOADS", "never")
            .env("NO_COLOR", "1")
            .online()
    }

    fn cached_pip<const N: usize>(
        &self,
        python: &Python,
        site: &Site,
        words: [&str; N],
    ) -> Command {
        self.pip(python, words)
            .env("UV_CACHE_DIR", CACHE)
            .writable(&site.cache(), CACHE)
            .writable(&site.code(), CODE)
            .in_folder(CODE)
    }

    /// Makes an environment with nothing in it.
    pub async fn make_empty(
        &self,
        python: &Python,
        bench: &Bench,
        site: &Site,
    ) -> Result<(), BuildError> {
        let program = python.interpreter.program.display().to_string();
        let words = ["venv", "--quiet", "--no-project", "--python", &program, ENVIRONMENT];
        let command = self.uv(python, words.iter()).writable(&site.user_folder(), "/ace/user");
        let ended = bench.run(command).await?;
        check_end(&ended, bench, "the virtual environment could not be made")
    }

    /// Resolves `requirements.txt`.
    pub async fn resolve(
        &self,
        python: &Python,
        bench: &Bench,
        site: &Site,
    ) -> Result<Lock, BuildError> {
        bench.log().say("resolving requirements.txt").await;
        let program = python.interpreter.program.display().to_string();
        let mut command = self.cached_pip(
            python,
            site,
            [
                "compile",
                "requirements.txt",
                "--generate-hashes",
                "--no-header",
                "--no-annotate",
                "--emit-index-url",
                "--emit-find-links",
                "--emit-build-options",
                "--python",
                &program,
            ],
        );
        command.keep_stdout = Some(LOCK_MAX);
        let ended = bench.run(command).await?;
        check_end(&ended, bench, "the requirements could not be resolved")?;
        Lock::parse(&ended.stdout)
            .ok_or_else(|| BuildError::Rejected("the requirements resolve to no text".to_owned()))
    }

    /// Installs what `lock` says into the empty environment.
    pub async fn install(
        &self,
        lock: &Lock,
        python: &Python,
        bench: &Bench,
        site: &Site,
    ) -> Result<(), BuildError> {
        let command = if lock.hashed {
            let words =
                ["sync", PIP_LOCK, "--require-hashes", "--compile-bytecode", "--python", PYTHON];
            let mut command = self.cached_pip(python, site, words);
            command.files.push((PIP_LOCK.into(), lock.text.clone()));
            command
        } else {
            bench
                .log()
                .say("some requirements have no hash to know them by: installing all anew")
                .await;
            let words = [
                "install",
                "--requirements",
                "requirements.txt",
                "--compile-bytecode",
                "--python",
                PYTHON,
            ];
            self.cached_pip(python, site, words)
        };
        let command = command.writable(&site.user_folder(), "/ace/user");
        let ended = bench.run(command).await?;
        check_end(&ended, bench, "the requirements could not be installed")?;
        check_is_folder(site.environment()).await
    }
}

impl Lock {
    /// No requirements.
    pub fn empty() -> Self {
        Self { text: String::new(), hashed: true }
    }

    /// Reads what `uv pip compile --generate-hashes` printed; `None` where it is no text.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8(text.to_vec()).ok()?;
        let joined = text.replace("\\\n", " ");
        let mut requirements = joined.lines().map(str::trim).filter(|line| {
            // An editable requirement begins like an option.
            let option = line.starts_with("--") && !line.starts_with("--editable");
            !line.is_empty() && !line.starts_with('#') && !option
        });
        let hashed = requirements.all(|line| line.contains(" --hash=") && !line.starts_with('-'));
        Some(Self { text, hashed })
    }

    pub fn is_empty(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line.starts_with("--")
        })
    }

    /// The folder, below `environments`, of the environment that this lock makes.
    pub fn folder(
        &self,
        environments: &Path,
        app: &AppName,
        python: &Python,
        source_hash: &str,
    ) -> PathBuf {
        let mut hash = Sha256::new();
        let program = python.interpreter.program.display().to_string();
        let source = if self.hashed { "" } else { source_hash };
        for field in [FORMAT, &python.interpreter.version, &program, source, &self.text] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        environments.join(app.as_str()).join(hex(&hash.finalize()))
    }
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
        Ended { .. } => Err(BuildError::Rejected(complaint.to_owned())),
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
    use ace_api::Interpreter;

    const HASHED: &str = "--index-url https://pypi.org/simple\n\nflask==3.1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nweb-py==0.62 \\\n    --hash=sha256:cc\n";

    fn lock(text: &str) -> Lock {
        Lock::parse(text.as_bytes()).unwrap()
    }

    fn python(version: &str) -> Python {
        let interpreter =
            Interpreter { version: version.to_owned(), program: "/p".into(), prefix: "/".into() };
        Python { version: [3, 11, 2], interpreter }
    }

    #[test]
    fn a_lock_is_hashed_when_all_its_packages_are() {
        assert!(lock(HASHED).hashed && !lock(HASHED).is_empty());
        assert!(lock("").hashed && lock("").is_empty());
        for unhashed in ["-e .\n", "./pkg\n", "--editable ./pkg\n", "a @ git+https://h/a@123\n"] {
            assert!(!lock(&format!("{HASHED}{unhashed}")).hashed, "{unhashed}");
        }
    }

    #[test]
    fn an_environment_is_named_by_lock_and_interpreter() {
        let app = "shop".parse().unwrap();
        let name = |text: &str, version: &str, source: &str| {
            lock(text).folder(Path::new("/environments"), &app, &python(version), source)
        };
        assert_eq!(name(HASHED, "3.11.2", "a"), name(HASHED, "3.11.2", "b"));
        assert_ne!(name(HASHED, "3.11.2", "a"), name(HASHED, "3.11.4", "a"));
        assert_ne!(name("", "3.11.2", "a"), name(HASHED, "3.11.2", "a"));
        assert_ne!(name("-e .\n", "3.11.2", "a"), name("-e .\n", "3.11.2", "b"));
        assert!(name("", "3.11.2", "a").starts_with("/environments/shop"));
    }
}
