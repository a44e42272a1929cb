//! The Pythons of this machine, and which one an app gets.
//!
//! Candidates are found in the usual places and asked about themselves, once for each file. They
//! run as root on the host, so only files that root alone can write are asked.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ace_api::Interpreter;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Mutex;

/// How long an interpreter may take to say what it is.
const QUESTION_DEADLINE: Duration = Duration::from_secs(10);
/// The minor versions of Python 3 that there is an app server for.
const SUPPORTED: std::ops::RangeInclusive<u32> = 8..=13;
const QUESTION: &str = "
import json, sys, sysconfig
print(json.dumps({
    'version': list(sys.version_info[:3]),
    'final': sys.version_info[3] == 'final',
    'implementation': sys.implementation.name,
    'prefix': sys.base_prefix,
    'virtual': sys.prefix != sys.base_prefix,
    'free_threaded': bool(sysconfig.get_config_var('Py_GIL_DISABLED')),
}))";

/// Where interpreters are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// Folders with `python3`, `python3.11`…: `/usr/bin`, `/usr/local/bin`.
    pub programs: Vec<PathBuf>,
    /// Folders with a folder a version, which has `bin/python3`: pyenv's and uv's.
    pub versions: Vec<PathBuf>,
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
    known: Mutex<HashMap<FileIdentity, Option<Python>>>,
}

/// There is no Python as it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("this server has no Python {wanted} for apps; {}", available(.versions))]
pub struct NoPython {
    wanted: String,
    versions: Vec<String>,
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
    r#final: bool,
    implementation: String,
    prefix: PathBuf,
    r#virtual: bool,
    free_threaded: bool,
}

impl Places {
    /// The usual places: the system's, and pyenv's and uv's below `home` and `pyenv_root`.
    pub fn usual(home: Option<&Path>, pyenv_root: Option<&Path>) -> Self {
        let mut versions = Vec::new();
        versions.extend(pyenv_root.map(|root| root.join("versions")));
        versions.extend(home.map(|home| home.join(".pyenv/versions")));
        versions.extend(home.map(|home| home.join(".local/share/uv/python")));
        Self { programs: vec!["/usr/bin".into(), "/usr/local/bin".into()], versions }
    }

    /// Files that may be interpreters, links resolved, each once.
    fn candidates(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        for folder in &self.programs {
            found.extend(entries(folder).into_iter().filter(|path| is_python_name(path)));
        }
        for folder in &self.versions {
            found.extend(entries(folder).into_iter().map(|version| version.join("bin/python3")));
        }
        let mut programs: Vec<PathBuf> =
            found.iter().filter_map(|path| path.canonicalize().ok()).collect();
        programs.sort();
        programs.dedup();
        programs
    }
}

impl Pythons {
    pub fn new(places: Places) -> Self {
        Self { places, known: Mutex::default() }
    }

    /// All Pythons for apps, the newest first.
    pub async fn all(&self) -> Vec<Python> {
        let mut pythons = Vec::new();
        let mut known = self.known.lock().await;
        for program in self.places.candidates() {
            let Some(identity) = FileIdentity::of(program) else { continue };
            if !known.contains_key(&identity) {
                let python = ask(&identity.program)
                    .await
                    .and_then(|answer| Python::from_answer(identity.program.clone(), answer));
                known.insert(identity.clone(), python);
            }
            pythons.extend(known.get(&identity).cloned().flatten());
        }
        pythons.sort_by_key(|python| std::cmp::Reverse(python.version));
        pythons
    }
}

impl Python {
    /// Where wheels for it say so: `cp311`.
    pub fn tag(&self) -> String {
        let [major, minor, _] = self.version;
        format!("cp{major}{minor}")
    }

    fn from_answer(program: PathBuf, answer: Answer) -> Option<Self> {
        let [major, minor, micro] = answer.version;
        let fits = major == 3
            && SUPPORTED.contains(&minor)
            && answer.r#final
            && answer.implementation == "cpython"
            && !answer.r#virtual
            && !answer.free_threaded;
        let version = format!("{major}.{minor}.{micro}");
        let interpreter = Interpreter { version, program, prefix: answer.prefix };
        fits.then_some(Self { version: answer.version, interpreter })
    }

    /// Whether it is what `wanted` says: `3`, `3.11` or `3.11.7`.
    fn is(&self, wanted: &str) -> bool {
        let mut parts = wanted.split('.');
        let same =
            self.version.iter().zip(&mut parts).all(|(ours, part)| *part == ours.to_string());
        same && parts.next().is_none()
    }

    /// Whether packages for `pinned` work in it: the same minor version.
    fn can_replace(&self, pinned: &Interpreter) -> bool {
        let [major, minor, _] = self.version;
        pinned.version.starts_with(&format!("{major}.{minor}."))
    }
}

/// The Python of `pythons` (the newest first) for an app that had `pin` and now wants `wanted`.
///
/// An app keeps its interpreter; if that is gone, one of the same minor version takes its place.
/// Errors: [`NoPython`], which names those that there are.
pub fn choose<'a>(
    pythons: &'a [Python],
    pin: Option<&Interpreter>,
    wanted: Option<&str>,
) -> Result<&'a Python, NoPython> {
    let fits = |python: &&Python| wanted.is_none_or(|wanted| python.is(wanted));
    let same_program = |pin: &Interpreter| {
        pythons
            .iter()
            .filter(fits)
            .find(|python| python.interpreter.program == pin.program && python.can_replace(pin))
    };
    let same_minor =
        |pin: &Interpreter| pythons.iter().filter(fits).find(|python| python.can_replace(pin));
    pin.and_then(|pin| same_program(pin).or_else(|| same_minor(pin)))
        .or_else(|| pythons.iter().find(fits))
        .ok_or_else(|| NoPython {
            wanted: wanted.unwrap_or("3").to_owned(),
            versions: pythons.iter().map(|python| python.interpreter.version.clone()).collect(),
        })
}

impl FileIdentity {
    /// `None` where someone else than root could have written it.
    fn of(program: PathBuf) -> Option<Self> {
        let file = program.metadata().ok()?;
        let trusted = file.is_file() && file.uid() == 0 && file.mode() & 0o022 == 0;
        trusted.then(|| Self {
            program,
            modified: (file.mtime(), file.mtime_nsec()),
            size: file.size(),
        })
    }
}

async fn ask(program: &Path) -> Option<Answer> {
    let answer = Command::new(program)
        .args(["-I", "-c", QUESTION])
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
        [] => "it has none: install python3, 3.8 to 3.13, on it".to_owned(),
        versions => format!("it has {}", versions.join(", ")),
    }
}

/// Whether it is `python3`, or `python3.` and a number.
fn is_python_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_minor =
        |minor: &str| !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit());
    name == "python3" || name.strip_prefix("python3.").is_some_and(is_minor)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(program: &str, version: [u32; 3]) -> Python {
        let answer = Answer {
            version,
            r#final: true,
            implementation: "cpython".to_owned(),
            prefix: "/usr".into(),
            r#virtual: false,
            free_threaded: false,
        };
        Python::from_answer(program.into(), answer).unwrap()
    }

    fn machine() -> [Python; 3] {
        [
            python("/a/3.13", [3, 13, 0]),
            python("/b/3.11", [3, 11, 7]),
            python("/usr/3.11", [3, 11, 2]),
        ]
    }

    fn chosen(pin: Option<&Python>, wanted: Option<&str>) -> Result<PathBuf, String> {
        choose(&machine(), pin.map(|pin| &pin.interpreter), wanted)
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
        let error = chosen(None, Some("3.1")).unwrap_err();
        assert_eq!(error, "this server has no Python 3.1 for apps; it has 3.13.0, 3.11.7, 3.11.2");
        assert!(choose(&[], None, None).unwrap_err().to_string().contains("install python3"));
    }

    #[test]
    fn only_names_of_interpreters_are_tried() {
        for (name, is) in [("python3", true), ("python3.11", true), ("python3-config", false)] {
            assert_eq!(is_python_name(Path::new(name)), is, "{name}");
        }
    }

    #[tokio::test]
    async fn a_python_of_this_machine_is_found_once() {
        let pythons = Pythons::new(Places::usual(None, None));
        let found = pythons.all().await;
        for python in &found {
            assert!(python.interpreter.program.is_absolute() && python.interpreter.prefix.is_dir());
        }
        assert_eq!(pythons.all().await, found);
    }
}
