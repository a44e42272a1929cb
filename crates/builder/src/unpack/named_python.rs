//! The Python that a source was written on, as developers' tools note it: `.python-version` of pyenv and uv,
//! `runtime.txt` of Heroku and others.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::UnpackError;
use super::inspect::read_text;

/// Where it's noted, the most decisive first.
const FILES: [&str; 2] = [".python-version", "runtime.txt"];
/// The largest such file that is read.
const FILE_MAX: u64 = 4096;
/// What can stand before the number.
const PREFIXES: [&str; 3] = ["cpython", "python", "-"];

/// A noted Python.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPython {
    pub file: String,
    /// `3.12`, also where the file says `3.12.1`: that very one is on few machines.
    pub minor_version: String,
}

impl NamedPython {
    /// What the source below `root` notes; `None` also for what isn't CPython's version.
    pub fn find(root: &OwnedFd) -> Result<Option<Self>, UnpackError> {
        for file in FILES {
            let text = read_text(root, file, FILE_MAX)?.unwrap_or_default();
            if let Some(minor_version) = minor_version(&String::from_utf8_lossy(&text)) {
                return Ok(Some(Self { file: file.to_owned(), minor_version }));
            }
        }
        Ok(None)
    }
}

/// The first version in `text`, one a line, without its last part.
fn minor_version(text: &str) -> Option<String> {
    let line =
        text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let version =
        PREFIXES.iter().fold(line, |rest, prefix| rest.strip_prefix(prefix).unwrap_or(rest));
    let mut parts = version.split('.');
    let mut number = || parts.next()?.parse::<u32>().ok();
    Some(format!("{}.{}", number()?, number()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    #[test]
    fn a_version_is_read_without_its_last_part() {
        let read = |text| minor_version(text).unwrap_or_default();
        assert_eq!(read("# mine\n3.12.1\n3.11\n"), "3.12");
        assert_eq!(read("python-3.8.18\r\n"), "3.8");
        assert_eq!(read("cpython-3.13"), "3.13");
        for other in ["", "pypy3.10", "3", "system", "3.x", "shop/3.12", "3.14t"] {
            assert_eq!(read(other), "", "{other}");
        }
    }

    #[test]
    fn what_pyenv_and_uv_read_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(NamedPython::find(&root).unwrap(), None);
        fs::write(folder.path().join("runtime.txt"), "python-3.8.18").unwrap();
        assert_eq!(NamedPython::find(&root).unwrap().unwrap().minor_version, "3.8");
        fs::write(folder.path().join(".python-version"), "3.12\n").unwrap();
        assert_eq!(NamedPython::find(&root).unwrap().unwrap().file, ".python-version");
    }
}
