//! `Pipfile.lock` and `Pipfile` in the words of a `requirements.txt`.
//!
//! Source: <https://pipenv.pypa.io/en/latest/pipfile.html>.

use std::collections::BTreeMap;

use serde::Deserialize;

use toml::{Table, Value};

use super::{Requirements, index_lines, lookup, poetry, text, trusted_line};
use crate::unpack::UnpackError;

/// What of a `Pipfile.lock` counts; its packages for development don't.
#[derive(Deserialize)]
struct PipfileLock {
    #[serde(rename = "_meta", default)]
    meta: Meta,
    default: BTreeMap<String, Package>,
}

#[derive(Deserialize, Default)]
struct Meta {
    #[serde(default)]
    sources: Vec<Source>,
}

#[derive(Deserialize)]
struct Source {
    url: String,
    #[serde(default = "checked")]
    verify_ssl: bool,
}

fn checked() -> bool {
    true
}

#[derive(Deserialize)]
struct Package {
    /// `==3.0.1`, or `*`.
    version: Option<String>,
    #[serde(default)]
    hashes: Vec<String>,
    #[serde(default)]
    extras: Vec<String>,
    markers: Option<String>,
    git: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    subdirectory: Option<String>,
    /// An address, or a path in the source.
    file: Option<String>,
    path: Option<String>,
    #[serde(default)]
    editable: bool,
}

/// What the lock in `text` asks for. It is a lock for the installer, too, where it has all hashes.
pub fn of_lock(text: &[u8]) -> Result<Requirements, UnpackError> {
    let lock: PipfileLock = serde_json::from_slice(text)
        .map_err(|error| UnpackError::Source(format!("Pipfile.lock can't be read: {error}")))?;
    if lock.default.is_empty() {
        return Ok(Requirements::None);
    }
    let sources = lock.meta.sources.iter();
    let trusted = sources.clone().filter(|source| !source.verify_ssl);
    let trusted: String = trusted.map(|source| trusted_line(&source.url)).collect();
    let options = index_lines(sources.map(|source| source.url.as_str())) + &trusted;
    let lines: Vec<String> =
        lock.default.iter().map(|(name, package)| package.line(name)).collect();
    let source = "Pipfile.lock";
    if !lines.iter().all(|line| line.contains(" --hash=")) {
        return Ok(super::text(source, &lines, &options));
    }
    let requirements = options + &lines.join("\n");
    Ok(Requirements::Locked { source: source.to_owned(), requirements })
}

/// What a `Pipfile` without a lock asks for. Its packages look like Poetry's, but for the meaning of
/// a version: here it is a specifier.
pub fn requirements(pipfile: &Table) -> Requirements {
    let Some(packages) = pipfile.get("packages").and_then(Value::as_table) else {
        return Requirements::None;
    };
    let lines: Vec<String> =
        packages.iter().flat_map(|(name, value)| poetry::lines(name, value)).collect();
    if lines.is_empty() {
        return Requirements::None;
    }
    let sources = pipfile.get("source").and_then(Value::as_array).cloned().unwrap_or_default();
    let urls = sources.iter().filter_map(|source| source.get("url")?.as_str());
    let options = index_lines(urls) + &unchecked(&sources);
    text("Pipfile", &lines, &options)
}

/// Lines for those of the tables `sources` that have `verify_ssl = false`.
pub fn unchecked(sources: &[Value]) -> String {
    let is_unchecked =
        |source: &&Value| source.get("verify_ssl").and_then(Value::as_bool) == Some(false);
    let urls = sources.iter().filter(is_unchecked).filter_map(|source| source.get("url")?.as_str());
    urls.map(trusted_line).collect()
}

/// The Python that a `Pipfile` is for.
pub fn python(pipfile: &Table) -> Option<String> {
    let requires = |key| lookup(pipfile, &["requires", key])?.as_str();
    let version = requires("python_version").or_else(|| requires("python_full_version"))?;
    let minor: Vec<&str> = version.split('.').take(2).collect();
    Some(format!("=={}.*", minor.join(".")))
}

impl Package {
    fn line(&self, name: &str) -> String {
        let extras = match self.extras.is_empty() {
            true => String::new(),
            false => format!("[{}]", self.extras.join(",")),
        };
        if let Some(path) = self.path.as_ref().or(self.file.as_ref()) {
            let option = if self.editable { "-e " } else { "" };
            return match path.contains("://") {
                true => format!("{name}{extras} @ {path}"),
                false => format!("{option}./{}{extras}", path.trim_start_matches("./")),
            };
        }
        let mut line = match &self.git {
            Some(url) => {
                let reference = self.reference.as_ref().map(|name| format!("@{name}"));
                let within = self.subdirectory.as_ref().map(|path| format!("#subdirectory={path}"));
                let reference = reference.unwrap_or_default() + &within.unwrap_or_default();
                format!("{name}{extras} @ git+{url}{reference}")
            }
            None => {
                let version = self.version.as_deref().filter(|version| *version != "*");
                format!("{name}{extras}{}", version.unwrap_or_default())
            }
        };
        if let Some(markers) = &self.markers {
            line += &format!(" ; {markers}");
        }
        if self.git.is_none() {
            line.extend(self.hashes.iter().map(|hash| format!(" --hash={hash}")));
        }
        line
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_package_becomes_a_line() {
        let lock = r#"{
            "_meta": {"sources": [{"url": "https://pypi.org/simple/", "name": "pypi"},
                                  {"url": "https://me:secret@packages.example:8443/simple", "name": "own",
                                   "verify_ssl": false}]},
            "default": {
                "flask": {"version": "==3.0.1", "hashes": ["sha256:aa", "sha256:bb"],
                          "markers": "python_version >= '3.8'", "extras": ["async"]},
                "six": {"version": "*"},
                "own": {"path": "./lib/own", "editable": true},
                "kit": {"git": "https://h/kit", "ref": "abc", "subdirectory": "in/kit"},
                "far": {"file": "https://h/far-1.zip"}
            },
            "develop": {"pytest": {"version": "==8"}}
        }"#;
        let Requirements::Text { requirements, .. } = of_lock(lock.as_bytes()).unwrap() else {
            panic!("it has all hashes")
        };
        assert_eq!(
            requirements.lines().collect::<Vec<_>>(),
            [
                "--extra-index-url https://me:secret@packages.example:8443/simple",
                "--trusted-host packages.example:8443",
                "far @ https://h/far-1.zip",
                "flask[async]==3.0.1 ; python_version >= '3.8' --hash=sha256:aa --hash=sha256:bb",
                "kit @ git+https://h/kit@abc#subdirectory=in/kit",
                "-e ./lib/own",
                "six",
            ]
        );
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        assert!(of_lock(b"[]").is_err());
        assert_eq!(of_lock(b"{\"default\": {}}").unwrap(), Requirements::None);
    }

    #[test]
    fn with_all_hashes_it_is_a_lock() {
        let lock = r#"{"default": {"six": {"version": "==1.16", "hashes": ["sha256:aa"]}}}"#;
        let source = "Pipfile.lock".to_owned();
        let requirements = "six==1.16 --hash=sha256:aa".to_owned();
        let locked = Requirements::Locked { source, requirements };
        assert_eq!(of_lock(lock.as_bytes()).unwrap(), locked);
    }

    #[test]
    fn a_pipfile_alone_will_do() {
        let pipfile: Table = concat!(
            "[[source]]\nurl = 'https://own.test/simple'\nverify_ssl = false\n",
            "[packages]\na = '*'\nb = '~=1.4'\n",
            "c = {version = '==2', extras = ['x'], markers = \"os_name == 'posix'\"}\n",
            "d = {version = '*', sys_platform = \"== 'win32'\"}\n",
            "[dev-packages]\npytest = '*'\n[requires]\npython_version = '3.8'\n",
        )
        .parse()
        .unwrap();
        let lines =
            ["a", "b~=1.4", "c[x]==2 ; (os_name == 'posix')", "d ; sys_platform == 'win32'"];
        let lines = lines.map(str::to_owned);
        let options = "--extra-index-url https://own.test/simple\n--trusted-host own.test\n";
        assert_eq!(requirements(&pipfile), text("Pipfile", &lines, options));
        assert_eq!(python(&pipfile).as_deref(), Some("==3.8.*"));
        assert_eq!(requirements(&Table::new()), Requirements::None);
    }
}
