//! What must be known of a `requirements.txt` before an installer reads it: whether it pins its
//! packages by hashes, and what its options mean to installers that don't read them there. uv gets some of its
//! lines in other words.
//!
//! Files that it includes are read with it. Source:
//! <https://pip.pypa.io/en/stable/reference/requirements-file-format/>.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use super::{FILE_MAX, Requirements, TRUSTED_HOST};
use crate::unpack::inspect::{is_folder, read_text};
use crate::unpack::{CODE, UnpackError};

pub const NAME: &str = "requirements.txt";
/// What pip-tools and uv make a [`NAME`] of.
pub const INPUT: &str = "requirements.in";
/// Files that include each other.
const FILES_MAX: usize = 50;
/// What names another file of requirements.
const INCLUDES: [&str; 2] = ["--requirement", "-r"];
/// What names a file of versions to keep to.
const CONSTRAINTS: [&str; 2] = ["--constraint", "-c"];
/// What names a source that is used where it lies.
const EDITABLE: [&str; 2] = ["--editable", "-e"];
/// What names a host that need not prove who it is. It has no short form.
const TRUSTS: [&str; 2] = [TRUSTED_HOST; 2];
/// What says of which packages only the sources, or only wheels, are to be had. They have no short form.
const FORMATS: [[&str; 2]; 2] = [["--no-binary"; 2], ["--only-binary"; 2]];
/// What names a folder or a page of packages.
const FIND_LINKS: [&str; 2] = ["--find-links", "-f"];

/// The lines of a file and of those that it includes, in their order.
struct Lines<'a> {
    files: usize,
    all: Vec<String>,
    /// Whether uv would take them for something else as they stand in their files.
    is_foreign: bool,
    /// What `${NAME}` stands for.
    env: &'a Env,
}

type Env = BTreeMap<String, String>;

/// What the `requirements.txt` below `root` asks for.
///
/// Errors: some of its packages have hashes and others have none, which pip refuses as well.
pub fn requirements(root: &OwnedFd, env: &Env) -> Result<Requirements, UnpackError> {
    let Lines { all, is_foreign, .. } = Lines::read(root, NAME, env)?;
    let wants_hashes = |line: &String| line == "--require-hashes" || line.contains(" --hash");
    if !all.iter().any(wants_hashes) {
        let prereleases = all.iter().any(|line| line == "--pre");
        let rewritten = is_foreign.then(|| all.join("\n"));
        return Ok(Requirements::File { prereleases, rewritten });
    }
    let is_package = |line: &&String| !line.starts_with('-') || is_editable(line);
    if let Some(line) = all.iter().filter(is_package).find(|line| !line.contains(" --hash")) {
        return Err(UnpackError::Source(format!(
            "{NAME} knows packages by their hash, so all of them need one: {line:?} has no --hash"
        )));
    }
    let kept = all.iter().filter(|line| *line != "--require-hashes");
    let requirements = kept.map(|line| format!("{line}\n")).collect();
    Ok(Requirements::Locked { source: NAME.to_owned(), requirements })
}

/// What the `requirements.in` below `root` asks for, where nobody has made a `requirements.txt` of it.
pub fn input(root: &OwnedFd, env: &Env) -> Result<Requirements, UnpackError> {
    let Lines { all, .. } = Lines::read(root, INPUT, env)?;
    Ok(super::text(INPUT, &all, ""))
}

impl<'a> Lines<'a> {
    fn read(root: &OwnedFd, name: &str, env: &'a Env) -> Result<Self, UnpackError> {
        let mut lines = Self { files: 0, all: Vec::new(), is_foreign: false, env };
        lines.add(root, Path::new(name))?;
        Ok(lines)
    }

    /// Reads the file at `path`. One that isn't there is for the installer to complain about.
    fn add(&mut self, root: &OwnedFd, path: &Path) -> Result<(), UnpackError> {
        self.files += 1;
        let name = path.to_string_lossy();
        if self.files > FILES_MAX {
            let message =
                format!("{NAME} includes more than {FILES_MAX} files: {name} is too many");
            return Err(UnpackError::Source(message));
        }
        let Some(text) = read_text(root, &name, FILE_MAX)? else {
            self.all.push(format!("--requirement {}", Path::new(CODE).join(path).display()));
            return Ok(());
        };
        let text = decode(&text);
        // A line that goes on ends a word for it.
        self.is_foreign |= text.lines().any(|line| line.ends_with('\\'));
        let folder = path.parent().unwrap_or(Path::new(""));
        for written in logical_lines(&text) {
            let line = expanded(&written, self.env);
            self.is_foreign |= line != written || argument(&line, TRUSTS).is_some();
            let beside = |other: &str| normal(&folder.join(other));
            let local = |other: &&str| !other.contains("://");
            if let Some(other) = argument(&line, INCLUDES).filter(local) {
                self.add(root, &beside(other))?;
            } else if let Some(other) = argument(&line, CONSTRAINTS).filter(local) {
                let other = Path::new(CODE).join(beside(other));
                self.all.push(format!("--constraint {}", other.display()));
            } else if let Some(place) = argument(&line, FIND_LINKS).filter(local) {
                // The lock that uv makes lies elsewhere.
                self.is_foreign = true;
                let beside = beside(place);
                let place = if is_folder(root, &beside.to_string_lossy()) {
                    beside
                } else {
                    normal(Path::new(place))
                };
                self.all.push(format!("--find-links {}", Path::new(CODE).join(place).display()));
            } else if let Some((option, names)) = formats(&line).filter(|(_, it)| it.contains(','))
            {
                // uv has one name an option.
                self.is_foreign = true;
                let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
                self.all.extend(names.map(|name| format!("{option} {name}")));
            } else if let Some(repository) = argument(&line, EDITABLE).filter(is_repository) {
                // uv has only folders of the source editable. Installed, it's the same.
                self.is_foreign = true;
                self.all.push(repository.to_owned());
            } else {
                self.all.push(line);
            }
        }
        Ok(())
    }
}

/// Text in UTF-8, or in UTF-16 where its first bytes say so, as an editor on Windows writes it.
fn decode(text: &[u8]) -> String {
    let utf_16 = |text: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = text.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match text {
        [0xff, 0xfe, rest @ ..] => utf_16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf_16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        text => String::from_utf8_lossy(text).into_owned(),
    }
}

/// Lines joined where they go on, without comments, and those that say something.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for line in text.lines().chain([""]) {
        let is_comment = line.trim_start().starts_with('#');
        if let (Some(part), false) = (line.strip_suffix('\\'), is_comment) {
            begun += part;
            continue;
        }
        let whole = std::mem::take(&mut begun) + if is_comment { "" } else { line };
        let end = whole.find(" #").unwrap_or(whole.len());
        let words: Vec<&str> = whole[..end].split_whitespace().collect();
        if !words.is_empty() {
            lines.push(words.join(" "));
        }
    }
    lines
}

/// `line` with the values of variables, as pip reads it. In an address, where a value may be secret, the installer
/// puts it.
fn expanded(line: &str, env: &Env) -> String {
    if line.contains("://") {
        return line.to_owned();
    }
    let mut parts = line.split("${");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let value = part.split_once('}').and_then(|(name, rest)| {
            let value = env.get(name).filter(|value| !value.is_empty() && is_variable(name))?;
            Some(format!("{value}{rest}"))
        });
        whole += &value.unwrap_or_else(|| format!("${{{part}"));
    }
    whole
}

/// Whether pip takes it for a variable's name.
fn is_variable(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// What follows one of the options `[long, short]` at the beginning of `line`.
fn argument<'a>(line: &'a str, [long, short]: [&str; 2]) -> Option<&'a str> {
    let rest = match line.strip_prefix(long) {
        Some(rest) => rest.strip_prefix(['=', ' '])?,
        None => line.strip_prefix(short)?,
    };
    Some(rest.trim()).filter(|rest| !rest.is_empty())
}

/// The option and the names of a line that says what packages are to be had as.
fn formats(line: &str) -> Option<(&'static str, &str)> {
    FORMATS.iter().find_map(|option| Some((option[0], argument(line, *option)?)))
}

fn is_editable(line: &str) -> bool {
    argument(line, EDITABLE).is_some()
}

fn is_repository(place: &&str) -> bool {
    ["git+", "hg+", "svn+", "bzr+"].iter().any(|scheme| place.starts_with(scheme))
}

/// `path` without `.`, and without `..` where it can be told what that is.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some() => drop(normal.pop()),
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    fn read(files: &[(&str, &[u8])]) -> Result<Requirements, String> {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        let env = [("SIX", "1.16.0"), ("PLACE", "near"), ("lower", "x")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        requirements(&root, &env).map_err(|error| error.to_string())
    }

    fn locked(files: &[(&str, &[u8])]) -> String {
        match read(files) {
            Ok(Requirements::Locked { requirements, .. }) => requirements,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_hashes_it_is_for_the_installer_to_read() {
        let plain = Requirements::File { prereleases: false, rewritten: None };
        assert_eq!(read(&[(NAME, b"six # --hash=x\n# --hash\n-e .\n")]), Ok(plain));
        let pre = Requirements::File { prereleases: true, rewritten: None };
        assert_eq!(read(&[(NAME, b"-r a/b.txt"), ("a/b.txt", b"--pre\r\nsix\r\n")]), Ok(pre));
        assert!(read(&[(NAME, b"-r none.txt\n")]).is_ok());
    }

    #[test]
    fn what_uv_takes_for_something_else_is_rewritten() {
        let rewritten = |files: &[(&str, &[u8])]| match read(files) {
            Ok(Requirements::File { rewritten, .. }) => rewritten.unwrap_or_default(),
            other => panic!("{other:?}"),
        };
        let continued = b"six\\\r\n  <2 # why\r\n./own\r\n-r in/none.txt";
        let expected = "six <2\n./own\n--requirement /ace/code/in/none.txt";
        assert_eq!(rewritten(&[(NAME, continued)]), expected);
        let nested: [(&str, &[u8]); 3] = [
            (NAME, b"-f wheels\n-r in/base.txt\n--find-links https://host/wheels"),
            ("in/base.txt", b"--find-links=./near\n-f /srv/wheels\n-f far"),
            ("in/near/a.whl", b""),
        ];
        let places = ["/ace/code/wheels", "/ace/code/in/near", "/srv/wheels", "/ace/code/far"];
        let lines = places.map(|place| format!("--find-links {place}\n")).concat();
        assert_eq!(rewritten(&nested), lines + "--find-links https://host/wheels");
        let editable = b"-e git+https://host/own.git@v1#egg=own\n--editable=./near\n-e .";
        let expected = "git+https://host/own.git@v1#egg=own\n--editable=./near\n-e .";
        assert_eq!(rewritten(&[(NAME, editable)]), expected);
        let formats = b"--no-binary=a, b\n--only-binary :all:\n--only-binary c,d\nsix";
        let expected = "--no-binary a\n--no-binary b\n--only-binary :all:\n--only-binary c\n--only-binary d\nsix";
        assert_eq!(rewritten(&[(NAME, formats)]), expected);
        let variables = b"six==${SIX} # ${SIX}\na==${NONE}\nb==${lower}\n./${PLACE}/${SIX\n";
        let expected = "six==1.16.0\na==${NONE}\nb==${lower}\n./near/${SIX";
        assert_eq!(rewritten(&[(NAME, variables)]), expected);
        let trusting = b"--trusted-host own.test\n--index-url https://own.test/${SIX}";
        let trusting = rewritten(&[(NAME, trusting)]);
        assert_eq!(Requirements::trusted_hosts(&trusting).collect::<Vec<_>>(), ["own.test"]);
        assert!(trusting.ends_with("own.test/${SIX}"), "{trusting}");
    }

    #[test]
    fn with_hashes_it_is_a_lock() {
        let six = "six==1.16.0 \\\r\n  ; python_version > '2' \\\r\n  --hash=sha256:aa \\\r\n \
                   --hash=sha256:bb\r\n";
        let one = "six==1.16.0 ; python_version > '2' --hash=sha256:aa --hash=sha256:bb\n";
        assert_eq!(locked(&[(NAME, six.as_bytes())]), one);
        let marked = [b"\xef\xbb\xbf--require-hashes\n", six.as_bytes()].concat();
        assert_eq!(locked(&[(NAME, &marked)]), one);
        let wide: Vec<u8> = six.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(locked(&[(NAME, &[&[0xff, 0xfe], &wide[..]].concat())]), one);
        let nested = locked(&[
            (NAME, b"--requirement=in/base.txt\n--no-binary six\n"),
            ("in/base.txt", b"-r ../other.txt # more\n-c ./versions.txt\n"),
            ("other.txt", six.as_bytes()),
        ]);
        let constraint = "--constraint /ace/code/in/versions.txt\n";
        assert_eq!(nested, format!("{one}{constraint}--no-binary six\n"));
    }

    #[test]
    fn a_package_without_a_hash_among_others_is_refused() {
        for line in ["flask==3", "-e ./own"] {
            let text = format!("six==1 --hash=sha256:aa\n{line}\n");
            let error = read(&[(NAME, text.as_bytes())]).unwrap_err();
            assert!(error.contains(&format!("{line:?} has no --hash")), "{error}");
        }
        assert!(read(&[(NAME, b"--require-hashes\nsix==1\n")]).is_err());
    }

    #[test]
    fn a_circle_of_files_ends() {
        assert!(read(&[(NAME, b"-r requirements.txt\n")]).unwrap_err().contains("too many"));
    }
}
