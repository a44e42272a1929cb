//! `Pipfile.lock` in the words of a `requirements.txt`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Requirements;
use crate::unpack::UnpackError;

const PYPI: [&str; 2] = ["https://pypi.org/simple", "https://pypi.python.org/simple"];

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
    /// An address, or a path in the source.
    file: Option<String>,
    path: Option<String>,
    #[serde(default)]
    editable: bool,
}

/// What the lock in `text` asks for.
pub fn requirements(text: &[u8]) -> Result<Requirements, UnpackError> {
    let lock: PipfileLock = serde_json::from_slice(text)
        .map_err(|error| UnpackError::Source(format!("Pipfile.lock can't be read: {error}")))?;
    let own_sources = lock.meta.sources.iter().map(|source| source.url.trim_end_matches('/'));
    let indexes = own_sources.filter(|url| !PYPI.contains(url));
    let mut lines: Vec<String> = indexes.map(|url| format!("--extra-index-url {url}")).collect();
    lines.extend(lock.default.iter().map(|(name, package)| package.line(name)));
    if lock.default.is_empty() {
        return Ok(Requirements::None);
    }
    let source = "Pipfile.lock".to_owned();
    Ok(Requirements::Text { source, requirements: lines.join("\n"), constraints: String::new() })
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
                format!("{name}{extras} @ git+{url}{}", reference.unwrap_or_default())
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
                                  {"url": "https://packages.example/simple", "name": "own"}]},
            "default": {
                "flask": {"version": "==3.0.1", "hashes": ["sha256:aa", "sha256:bb"],
                          "markers": "python_version >= '3.8'", "extras": ["async"]},
                "six": {"version": "*"},
                "own": {"path": "./lib/own", "editable": true},
                "kit": {"git": "https://h/kit", "ref": "abc"},
                "far": {"file": "https://h/far-1.zip"}
            },
            "develop": {"pytest": {"version": "==8"}}
        }"#;
        let Requirements::Text { requirements, .. } = requirements(lock.as_bytes()).unwrap() else {
            panic!("no text")
        };
        assert_eq!(
            requirements.lines().collect::<Vec<_>>(),
            [
                "--extra-index-url https://packages.example/simple",
                "far @ https://h/far-1.zip",
                "flask[async]==3.0.1 ; python_version >= '3.8' --hash=sha256:aa --hash=sha256:bb",
                "kit @ git+https://h/kit@abc",
                "-e ./lib/own",
                "six",
            ]
        );
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        assert!(requirements(b"[]").is_err());
        assert_eq!(requirements(b"{\"default\": {}}").unwrap(), Requirements::None);
    }
}
