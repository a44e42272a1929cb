//! The Pythons of this machine, and which one an app gets.
//!
//! Candidates are found in the usual places, and where the operator said (`ace python add`), and
//! asked about themselves, and again when their file has changed or their answer has grown old: a
//! library of theirs may have changed, too. They run as root on the host, so only files that
//! root alone can write are asked.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ace_api::{BuildError, Interpreter, PythonState};
use ace_types::{PythonRange, error_chain};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::site::engine;

/// How long an interpreter may take to say what it is.
const QUESTION_DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer counts while the program's file stays the same.
const ANSWER_KEPT: Duration = Duration::from_secs(300);
/// The minor versions of Python 3 that there is an app server for; of Python 2 it is 2.7.
const SUPPORTED: std::ops::RangeInclusive<u32> = 6..=14;
/// Understood by every Python since 2.6.
const QUESTION: &str = "
import json, platform, sys, sysconfig
base = getattr(sys, 'real_prefix', None) or getattr(sys, 'base_prefix', None) or sys.prefix
print(json.dumps({
    'version': list(sys.version_info[:3]),
    'build': sys.version,
    'final': sys.version_info[3] == 'final',
    'implementation': platform.python_implementation(),
    'prefix': base,
    'virtual': sys.prefix != base,
    'free_threaded': bool(sysconfig.get_config_var('Py_GIL_DISABLED')),
}))";
/// The file in the engine's folder with the interpreters that were added by hand.
const ADDED: &str = "pythons.json";
/// The most that can be added by hand.
const ADDED_MAX: usize = 64;

/// Where interpreters are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// Folders with `python3`, `python3.11`, `python2.7`…: `/usr/bin`, `/usr/local/bin`.
    pub programs: Vec<PathBuf>,
    /// Folders with a folder a version, which has `bin/python3` or `bin/python2.7`: pyenv's and uv's.
    pub versions: Vec<PathBuf>,
}

/// Where whoever started the engine keeps Pythons.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    pub home: Option<PathBuf>,
    /// `PYENV_ROOT`.
    pub pyenv: Option<PathBuf>,
    /// `UV_PYTHON_INSTALL_DIR`.
    pub uv: Option<PathBuf>,
}

/// A Python that apps can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// Major, minor, micro.
    pub version: [u32; 3],
    pub interpreter: Interpreter,
}

/// Finds interpreters, and remembers what they said.
#[derive(Debug)]
pub struct Pythons {
    places: Places,
    /// `DATA/pythons.json`: programs that were added, a list of paths.
    added: PathBuf,
    adding: Mutex<()>,
    known: Mutex<HashMap<FileIdentity, Known>>,
}

/// What became of asking a program.
#[derive(Debug)]
struct Known {
    python: Option<Python>,
    asked: Instant,
}

/// There is no Python as it was asked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "this server has no Python {wanted} for apps; {}; ask for one of them by \"python:\" in app.yaml, or have it \
     installed (`ace python add PATH` where it isn't found by itself)",
    available(.versions)
)]
pub struct NoPython {
    wanted: String,
    versions: Vec<String>,
}

/// There is no Python any more for what was made with one.
#[derive(Debug, thiserror::Error)]
#[error(
    "Python {version} is gone from {}: install Python {minor} again (`ace python add PATH` where it \
     isn't found by itself), or deploy with another `python:`; {}",
    program.display(),
    available(.versions)
)]
pub struct GonePython {
    version: String,
    minor: String,
    program: PathBuf,
    versions: Vec<String>,
}

/// Why a program can't be one that apps run on. Sentences for the operator.
#[derive(Debug, thiserror::Error)]
pub enum UnfitPython {
    #[error("{} can't be found", .0.display())]
    Missing(PathBuf, #[source] io::Error),
    #[error("{} could be changed by others than root", .0.display())]
    Untrusted(PathBuf),
    #[error("{} does not answer as a Python does", .0.display())]
    Silent(PathBuf),
    #[error("{} {wrong}", program.display())]
    Unsupported { program: PathBuf, wrong: String },
}

/// A program that has not been replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FileIdentity {
    program: PathBuf,
    modified: (i64, i64),
    size: u64,
}

/// What an interpreter says of itself.
#[derive(Debug, Deserialize)]
struct Answer {
    version: [u32; 3],
    /// `sys.version`: with the date of its build.
    build: String,
    r#final: bool,
    implementation: String,
    prefix: PathBuf,
    r#virtual: bool,
    free_threaded: bool,
}

impl Places {
    /// The usual places: the system's, and pyenv's and uv's below `roots`.
    pub fn usual(roots: &Roots) -> Self {
        let Roots { home, pyenv, uv } = roots;
        let mut versions = Vec::new();
        versions.extend(pyenv.as_ref().map(|root| root.join("versions")));
        versions.extend(uv.clone());
        versions.extend(home.as_ref().map(|home| home.join(".pyenv/versions")));
        versions.extend(home.as_ref().map(|home| home.join(".local/share/uv/python")));
        Self { programs: vec!["/usr/bin".into(), "/usr/local/bin".into()], versions }
    }

    /// Files that may be interpreters, links resolved.
    fn candidates(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        for folder in &self.programs {
            found.extend(entries(folder).into_iter().filter(|path| is_python_name(path)));
        }
        for folder in &self.versions {
            let programs = ["bin/python3", "bin/python2.7"];
            found.extend(
                entries(folder).iter().flat_map(|version| programs.map(|p| version.join(p))),
            );
        }
        found.iter().filter_map(|path| path.canonicalize().ok()).collect()
    }
}

impl Pythons {
    /// Those in `places`, and those that were added to the engine with the folder `data`.
    pub fn new(places: Places, data: &Path) -> Self {
        let (adding, known) = Default::default();
        Self { places, added: data.join(ADDED), adding, known }
    }

    /// All Pythons for apps, the newest first.
    pub async fn all(&self) -> Vec<Python> {
        let mut candidates = self.places.candidates();
        candidates.extend(self.added());
        candidates.sort();
        candidates.dedup();
        let mut pythons: Vec<Python> = Vec::new();
        let mut known = self.known.lock().await;
        for program in candidates {
            let Ok(identity) = FileIdentity::of(&program) else { continue };
            let fresh = |known: &Known| known.asked.elapsed() < ANSWER_KEPT;
            if !known.get(&identity).is_some_and(fresh) {
                let answer = Known { python: examine(program).await.ok(), asked: Instant::now() };
                known.insert(identity.clone(), answer);
            }
            pythons.extend(known.get(&identity).and_then(|known| known.python.clone()));
        }
        known.retain(|_, known| known.asked.elapsed() < ANSWER_KEPT);
        pythons.sort_by_key(|python| std::cmp::Reverse(python.version));
        pythons
    }

    /// Makes `program` known, for good.
    pub async fn add(&self, program: &Path) -> Result<Python, BuildError> {
        let unfit = |error: UnfitPython| BuildError::Rejected(error_chain(&error));
        let missing = |error| unfit(UnfitPython::Missing(program.to_owned(), error));
        let program = program.canonicalize().map_err(missing)?;
        let python = examine(program.clone()).await.map_err(unfit)?;
        let _adding = self.adding.lock().await;
        let mut added = self.added();
        if !added.contains(&program) {
            if added.len() == ADDED_MAX {
                let message = format!("{ADDED_MAX} Pythons were added already");
                return Err(BuildError::Rejected(message));
            }
            added.push(program);
            self.keep(&added).map_err(|error| engine("keep the list of Pythons", error))?;
        }
        Ok(python)
    }

    /// What was added by hand. Programs that are gone are left out when they are asked.
    fn added(&self) -> Vec<PathBuf> {
        let Ok(text) = std::fs::read(&self.added) else { return Vec::new() };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::error!(path = %self.added.display(), %error, "no list of Pythons");
            Vec::new()
        })
    }

    fn keep(&self, added: &[PathBuf]) -> io::Result<()> {
        let half = self.added.with_extension("half");
        let mut file = File::create(&half)?;
        serde_json::to_writer_pretty(&mut file, added)?;
        file.sync_all()?;
        std::fs::rename(&half, &self.added)
    }
}

impl Python {
    /// Where wheels for it say so: `cp311`.
    pub fn tag(&self) -> String {
        let [major, minor, _] = self.version;
        format!("cp{major}{minor}")
    }

    /// `3.11`.
    pub fn minor_version(&self) -> String {
        let [major, minor, _] = self.version;
        format!("{major}.{minor}")
    }

    pub fn is_python_2(&self) -> bool {
        self.version[0] == 2
    }

    fn from_answer(identity: FileIdentity, answer: Answer) -> Result<Self, UnfitPython> {
        let build = identity.build(&answer);
        let program = identity.program;
        let [major, minor, micro] = answer.version;
        let version = format!("{major}.{minor}.{micro}");
        let supported = (major, minor) == (2, 7) || (major == 3 && SUPPORTED.contains(&minor));
        let wrong = match &answer {
            _ if !supported => format!("is Python {version}; apps run on 2.7 and 3.6 to 3.14"),
            Answer { r#final: false, .. } => format!("is a preview of Python {version}"),
            Answer { implementation, .. } if implementation != "CPython" => {
                format!("is {implementation}; apps run on CPython")
            }
            Answer { r#virtual: true, .. } => {
                "belongs to a virtual environment; add what that was made with".to_owned()
            }
            Answer { free_threaded: true, .. } => "is free-threaded, which uWSGI isn't".to_owned(),
            // All below the prefix is shown to apps.
            Answer { prefix, .. } if prefix.components().count() < 3 && prefix != "/usr" => {
                format!("has the prefix {}, which apps must not see", prefix.display())
            }
            _ => {
                let prefix = answer.prefix;
                let interpreter = Interpreter { version, program, prefix, build };
                return Ok(Self { version: answer.version, interpreter });
            }
        };
        Err(UnfitPython::Unsupported { program, wrong })
    }

    /// Whether packages for `pinned` work in it: the same minor version.
    fn can_replace(&self, pinned: &Interpreter) -> bool {
        pinned.version.starts_with(&format!("{}.", self.minor_version()))
    }
}

/// The Python of `pythons` (the newest first) for an app that had `pin` and now wants `wanted`.
///
/// An app keeps its interpreter; if that is gone, one of the same minor version takes its place.
/// Errors: [`NoPython`], which names those that there are.
pub fn choose<'a>(
    pythons: &'a [Python],
    pin: Option<&Interpreter>,
    wanted: Option<&PythonRange>,
) -> Result<&'a Python, NoPython> {
    let fits = |python: &&Python| wanted.is_none_or(|wanted| wanted.contains(python.version));
    pin.and_then(|pin| successor(pythons, pin, wanted).ok())
        .or_else(|| pythons.iter().find(fits))
        .ok_or_else(|| NoPython {
            wanted: wanted.map_or("3".to_owned(), PythonRange::to_string),
            versions: pythons.iter().map(|python| python.interpreter.version.clone()).collect(),
        })
}

/// What packages for `pin` work in: the same program, upgraded or not, or else another one of its
/// minor version. Only what `wanted` contains counts.
pub fn successor<'a>(
    pythons: &'a [Python],
    pin: &Interpreter,
    wanted: Option<&PythonRange>,
) -> Result<&'a Python, GonePython> {
    let fits = |python: &&Python| {
        python.can_replace(pin) && wanted.is_none_or(|wanted| wanted.contains(python.version))
    };
    let mut same_minor = pythons.iter().filter(fits);
    let same_program = same_minor.clone().find(|python| python.interpreter.program == pin.program);
    same_program.or_else(|| same_minor.next()).ok_or_else(|| {
        let version = pin.version.clone();
        let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
        let minor = minor.to_owned();
        let versions = pythons.iter().map(|python| python.interpreter.version.clone()).collect();
        GonePython { version, minor, program: pin.program.clone(), versions }
    })
}

/// What has become of `pin`, with which an environment was made, where `wanted` is asked for.
pub fn state_of(
    pythons: &[Python],
    pin: &Interpreter,
    wanted: Option<&PythonRange>,
) -> PythonState {
    match successor(pythons, pin, wanted) {
        Ok(python) if python.interpreter == *pin => PythonState::Same,
        Ok(python) => PythonState::Replaced(python.interpreter.clone()),
        Err(gone) => PythonState::Gone(gone.to_string()),
    }
}

impl FileIdentity {
    /// Errors: it is gone, or someone else than root could have written it.
    fn of(program: &Path) -> Result<Self, UnfitPython> {
        let missing = |error| UnfitPython::Missing(program.to_owned(), error);
        let file = program.metadata().map_err(missing)?;
        if !file.is_file() || file.uid() != 0 || file.mode() & 0o022 != 0 {
            return Err(UnfitPython::Untrusted(program.to_owned()));
        }
        let modified = (file.mtime(), file.mtime_nsec());
        Ok(Self { program: program.to_owned(), modified, size: file.size() })
    }

    /// See [`Interpreter::build`]. Without the inode, so that a restored backup is what it was.
    fn build(&self, answer: &Answer) -> u64 {
        let (seconds, _) = self.modified;
        let mut hash = Sha256::new();
        hash.update(format!("{} {seconds} {}", self.size, answer.build));
        hash.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

async fn examine(program: PathBuf) -> Result<Python, UnfitPython> {
    // Before it is asked: if it is replaced meanwhile, that shows the next time.
    let identity = FileIdentity::of(&program)?;
    let answer = ask(&program).await.ok_or(UnfitPython::Silent(program))?;
    Python::from_answer(identity, answer)
}

async fn ask(program: &Path) -> Option<Answer> {
    let answer = Command::new(program)
        .args(["-E", "-s", "-c", QUESTION])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(QUESTION_DEADLINE, answer).await.ok()?.ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

fn available(versions: &[String]) -> String {
    match versions {
        [] => "it has none: install python3, 3.6 to 3.14, on it".to_owned(),
        versions => format!("it has {}", versions.join(", ")),
    }
}

/// Whether it is `python3`, `python3.` and a number, or `python2.7`.
fn is_python_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_minor =
        |minor: &str| !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit());
    name == "python3" || name == "python2.7" || name.strip_prefix("python3.").is_some_and(is_minor)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn answer(version: [u32; 3]) -> Answer {
        Answer {
            version,
            build: format!("{version:?} (main)"),
            r#final: true,
            implementation: "CPython".to_owned(),
            prefix: "/usr".into(),
            r#virtual: false,
            free_threaded: false,
        }
    }

    fn file(program: &str) -> FileIdentity {
        FileIdentity { program: program.into(), modified: (0, 0), size: 1 }
    }

    fn python(program: &str, version: [u32; 3]) -> Python {
        Python::from_answer(file(program), answer(version)).unwrap()
    }

    fn machine() -> [Python; 3] {
        [
            python("/a/3.13", [3, 13, 0]),
            python("/b/3.11", [3, 11, 7]),
            python("/usr/3.11", [3, 11, 2]),
        ]
    }

    fn chosen(pin: Option<&Python>, wanted: Option<&str>) -> Result<PathBuf, String> {
        let wanted = wanted.map(|text| text.parse().unwrap());
        choose(&machine(), pin.map(|pin| &pin.interpreter), wanted.as_ref())
            .map(|python| python.interpreter.program.clone())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_app_gets_the_newest_python_and_then_keeps_it() {
        assert_eq!(chosen(None, None), Ok("/a/3.13".into()));
        let pin = python("/usr/3.11", [3, 11, 2]);
        assert_eq!(chosen(Some(&pin), None), Ok("/usr/3.11".into()));
        assert_eq!(chosen(Some(&python("/usr/3.11", [3, 11, 1])), None), Ok("/usr/3.11".into()));
        assert_eq!(chosen(Some(&python("/gone/3.11", [3, 11, 2])), None), Ok("/b/3.11".into()));
        assert_eq!(chosen(Some(&python("/gone/3.9", [3, 9, 2])), None), Ok("/a/3.13".into()));
    }

    #[test]
    fn what_app_yaml_asks_for_goes_before_the_pin() {
        let pin = python("/usr/3.11", [3, 11, 2]);
        assert_eq!(chosen(Some(&pin), Some("3.13")), Ok("/a/3.13".into()));
        assert_eq!(chosen(Some(&pin), Some("3")), Ok("/usr/3.11".into()));
        assert_eq!(chosen(None, Some("3.11.2")), Ok("/usr/3.11".into()));
        assert_eq!(chosen(None, Some(">=3.8,<3.12")), Ok("/b/3.11".into()));
        let error = chosen(None, Some("3.1")).unwrap_err();
        let has =
            "this server has no Python 3.1 for apps; it has 3.13.0, 3.11.7, 3.11.2; ask for one";
        assert!(error.starts_with(has), "{error}");
        assert!(choose(&[], None, None).unwrap_err().to_string().contains("install python3"));
    }

    #[test]
    fn what_became_of_a_python_is_seen() {
        let state = |pin: &Python, wanted: Option<&str>| {
            let wanted = wanted.map(|text| text.parse().unwrap());
            state_of(&machine(), &pin.interpreter, wanted.as_ref())
        };
        assert_eq!(state(&python("/usr/3.11", [3, 11, 2]), None), PythonState::Same);
        let rebuilt = FileIdentity { modified: (1, 0), ..file("/usr/3.11") };
        let rebuilt = Python::from_answer(rebuilt, answer([3, 11, 2])).unwrap();
        let now = |program, version| PythonState::Replaced(python(program, version).interpreter);
        assert_eq!(state(&rebuilt, None), now("/usr/3.11", [3, 11, 2]));
        assert_eq!(state(&python("/gone", [3, 11, 9]), Some("3.11")), now("/b/3.11", [3, 11, 7]));
        for (pin, wanted) in [([3, 9, 2], None), ([3, 11, 9], Some("3.11.9"))] {
            let PythonState::Gone(message) = state(&python("/gone", pin), wanted) else {
                panic!("{pin:?} has a successor")
            };
            assert!(message.contains("install Python 3.") && message.contains("3.13.0, 3.11.7"));
        }
    }

    #[test]
    fn only_names_of_interpreters_are_tried() {
        for (name, is) in [
            ("python3", true),
            ("python3.11", true),
            ("python3-config", false),
            ("python2.7", true),
        ] {
            assert_eq!(is_python_name(Path::new(name)), is, "{name}");
        }
    }

    #[test]
    fn what_apps_cant_run_on_is_told_why() {
        for (change, word) in [
            ((|answer| answer.version = [3, 5, 2]) as fn(&mut Answer), "is Python 3.5.2"),
            (|answer| answer.r#virtual = true, "virtual environment"),
            (|answer| answer.implementation = "PyPy".to_owned(), "is PyPy"),
            (|answer| answer.prefix = "/".into(), "must not see"),
        ] {
            let mut answer = answer([3, 11, 2]);
            change(&mut answer);
            let error = Python::from_answer(file("/p"), answer).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    /// A program at `path` that answers as a Python of `version` would; `virtual` as one of a virtual
    /// environment.
    fn stand_in(path: &Path, version: [u32; 3], is_virtual: bool) {
        let answer = format!(
            "#!/bin/sh\ncat <<EOF\n{{\"version\": {version:?}, \"build\": \"{version:?}\", \
             \"final\": true, \"implementation\": \"CPython\", \"prefix\": \"/usr\", \
             \"virtual\": {is_virtual}, \"free_threaded\": false}}\nEOF\n"
        );
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, answer).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn pythons_are_found_where_systems_pyenv_and_uv_put_them() {
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        for (path, version) in [
            ("usr/bin/python3.11", [3, 11, 2]),
            ("usr/bin/python3.14", [3, 14, 0]), // As deadsnakes has it.
            ("usr/bin/python3.13t", [3, 13, 9]),
            ("usr/bin/python3-config", [3, 12, 9]),
            ("usr/bin/python2.7", [2, 7, 18]),
            ("usr/local/bin/python3.12", [3, 12, 4]),
            ("home/.pyenv/versions/3.8.18/bin/python3.8", [3, 8, 18]),
            ("home/.pyenv/versions/2.7.16/bin/python2.7", [2, 7, 16]),
            ("home/.local/share/uv/python/cpython-3.9.1-linux/bin/python3.9", [3, 9, 1]),
            ("uv/cpython-3.10.2-linux/bin/python3.10", [3, 10, 2]),
        ] {
            stand_in(&at(path), version, false);
        }
        stand_in(&at("home/.pyenv/versions/project/bin/python3"), [3, 7, 1], true);
        stand_in(&at("usr/local/bin/python3.6"), [3, 6, 1], false);
        let writable = PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(at("usr/local/bin/python3.6"), writable).unwrap();
        for (target, link) in [
            ("python3.11", "usr/bin/python3"),
            ("python3.8", "home/.pyenv/versions/3.8.18/bin/python3"),
            ("python3.9", "home/.local/share/uv/python/cpython-3.9.1-linux/bin/python3"),
            ("cpython-3.9.1-linux", "home/.local/share/uv/python/cpython-3.9-linux"),
            ("python3.10", "uv/cpython-3.10.2-linux/bin/python3"),
        ] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        let roots = Roots { home: Some(at("home")), pyenv: None, uv: Some(at("uv")) };
        let programs = vec![at("usr/bin"), at("usr/local/bin")];
        let places = Places { programs, ..Places::usual(&roots) };
        let found = Pythons::new(places, tree.path()).all().await;
        let versions: Vec<_> =
            found.iter().map(|python| python.interpreter.version.as_str()).collect();
        assert_eq!(
            versions,
            ["3.14.0", "3.12.4", "3.11.2", "3.10.2", "3.9.1", "3.8.18", "2.7.18", "2.7.16"]
        );
    }

    #[tokio::test]
    async fn a_python_of_this_machine_is_found_once() {
        let data = tempfile::tempdir().unwrap();
        let pythons = Pythons::new(Places::usual(&Roots::default()), data.path());
        let found = pythons.all().await;
        for python in &found {
            assert!(python.interpreter.program.is_absolute() && python.interpreter.prefix.is_dir());
        }
        assert_eq!(pythons.all().await, found);
        let nowhere = Places { programs: Vec::new(), versions: Vec::new() };
        let by_hand = Pythons::new(nowhere.clone(), data.path());
        for python in &found {
            assert_eq!(&by_hand.add(&python.interpreter.program).await.unwrap(), python);
            by_hand.add(&python.interpreter.program).await.unwrap();
        }
        assert_eq!(Pythons::new(nowhere, data.path()).all().await, found);
        let error = by_hand.add(Path::new("/bin/true")).await.unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
        assert!(by_hand.add(Path::new("/nowhere")).await.is_err());
    }
}
