//! The `Procfile` at the top of a source: a line for each kind of process, `web: python app.py`.
//!
//! Only `web` and `release` are taken from it. What is wrong with it is kept rather than raised: most apps need no
//! `Procfile`, and theirs may be meant for another platform.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::inspect::read_text;

const NAME: &str = "Procfile";
/// The process that takes requests.
const WEB: &str = "web";
/// The command that runs before a release begins to serve.
const RELEASE: &str = "release";
/// The largest file that is read.
const SIZE_MAX: usize = 64 * 1024;
/// The longest command.
const COMMAND_MAX: usize = 8 * 1024;

/// What there is to know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Procfile {
    Absent,
    /// It can't be read: a sentence that names the line.
    Wrong(String),
    Read {
        /// The command of `web`: one line, not empty, without control characters but tabs.
        web: Option<String>,
        /// That of `release`, alike.
        release: Option<String>,
    },
}

impl Procfile {
    pub fn find(root: &OwnedFd) -> Self {
        match read_text(root, NAME, SIZE_MAX as u64 + 1) {
            Ok(Some(text)) => Self::parse(&text),
            Ok(None) => Self::Absent,
            Err(error) => Self::Wrong(error.to_string()),
        }
    }

    /// The command of `web`, where there is one.
    pub fn web(&self) -> Option<&str> {
        match self {
            Self::Read { web, .. } => web.as_deref(),
            Self::Absent | Self::Wrong(_) => None,
        }
    }

    /// The command of `release`, where there is one.
    pub fn release(&self) -> Option<&str> {
        match self {
            Self::Read { release, .. } => release.as_deref(),
            Self::Absent | Self::Wrong(_) => None,
        }
    }

    fn parse(text: &[u8]) -> Self {
        if text.len() > SIZE_MAX {
            return Self::Wrong(format!("{NAME} is longer than {SIZE_MAX} bytes"));
        }
        let (mut web, mut release) = (None, None);
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            match process(line) {
                Ok(Some((WEB, _))) if web.is_some() => {
                    return Self::wrong_at(index, "names web a second time");
                }
                Ok(Some((RELEASE, _))) if release.is_some() => {
                    return Self::wrong_at(index, "names release a second time");
                }
                Ok(Some((WEB, command))) => web = Some(command.to_owned()),
                Ok(Some((RELEASE, command))) => release = Some(command.to_owned()),
                Ok(_) => {}
                Err(wrong) => return Self::wrong_at(index, wrong),
            }
        }
        Self::Read { web, release }
    }

    fn wrong_at(index: usize, wrong: &str) -> Self {
        Self::Wrong(format!("{NAME}, line {}: {wrong}", index + 1))
    }
}

/// The name and the command of one line; `None` where it is empty or a remark.
fn process(line: &[u8]) -> Result<Option<(&str, &str)>, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "this is not UTF-8")?.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let form = "there should be a name and a command here, as in \"web: python app.py\"";
    let (name, command) = line.split_once(':').ok_or(form)?;
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let command = command.trim();
    if name.is_empty() || !name.bytes().all(in_name) || command.is_empty() {
        return Err(form);
    }
    if command.len() > COMMAND_MAX {
        return Err("this command is too long");
    }
    if command.chars().any(|char| char.is_control() && char != '\t') {
        return Err("there is a control character in this command");
    }
    Ok(Some((name, command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &[u8]) -> String {
        match Procfile::parse(text) {
            Procfile::Wrong(wrong) => wrong,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn web_and_release_are_found_among_the_others() {
        for text in [
            "web: python app.py --port $PORT\n",
            "# how it runs\r\n\r\nrelease: make\r\nweb:python app.py --port $PORT \r\nworker: x:y",
        ] {
            let read = Procfile::parse(text.as_bytes());
            assert_eq!(read.web(), Some("python app.py --port $PORT"), "{text}");
            assert_eq!(read.release().is_some(), text.contains("release"), "{text}");
        }
        let nothing = Procfile::Read { web: None, release: None };
        assert_eq!(Procfile::parse(b"worker: python mail.py\n"), nothing);
        assert_eq!(Procfile::parse(b""), nothing);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, wanted) in [
            (&b"web: a\nweb: b\n"[..], "Procfile, line 2: names web a second time"),
            (b"release: a\nrelease: b\n", "Procfile, line 2: names release a second time"),
            (b"\nweb:\n", "Procfile, line 2: there should be"),
            (b"python app.py\n", "Procfile, line 1: there should be"),
            (b": x\n", "Procfile, line 1: there should be"),
            (b"../x: y\n", "Procfile, line 1: there should be"),
            (b"web: a\0b\n", "Procfile, line 1: there is a control character"),
            (b"web: a\x1b[2J\n", "Procfile, line 1: there is a control character"),
            (b"x: y\nweb: \xff\n", "Procfile, line 2: this is not UTF-8"),
        ] {
            assert!(wrong(text).starts_with(wanted), "{}", wrong(text));
        }
        let long = [b"web: ".to_vec(), vec![b'x'; COMMAND_MAX + 1]].concat();
        assert!(wrong(&long).contains("too long"));
        assert!(wrong(&vec![b'\n'; SIZE_MAX + 1]).contains("longer than"));
    }
}
