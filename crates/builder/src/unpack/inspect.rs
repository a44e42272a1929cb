//! Looks at an unpacked source: its `app.yaml`, and what that says must be there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use ace_types::AppYaml;
use ace_types::app_yaml::{self, Entry};
use rustix::fs::{Dir, FileType, OFlags};
use rustix::io::Errno;

use super::named_python::NamedPython;
use super::needs::{self, Needs, Requirements};
use super::procfile::Procfile;
use super::tree::{Tree, open_beneath};
use super::{Inspection, UnpackError};
use crate::statics;

/// More than the parser takes, so that it is the parser that says the file is too large.
const APP_YAML_READ_MAX: u64 = 128 * 1024;

/// Files that only a Python project has, besides its source and requirements.
const PYTHON_FILES: [&[u8]; 8] = [
    b"pyproject.toml",
    b"setup.cfg",
    b"Pipfile",
    b"Pipfile.lock",
    b"poetry.lock",
    b"pdm.lock",
    b"pylock.toml",
    b"uv.lock",
];
/// See `find_entry.py`.
const PACKAGES: [&str; 3] = ["app", "wsgi", "main"];

/// What there is in `tree`; refused if it can't become an app.
pub fn inspect(tree: &Tree, source_hash: String) -> Result<Inspection, UnpackError> {
    let root = tree.root();
    if tree.entries() == 0 {
        return Err(UnpackError::Source(
            "the source is empty; an app begins with a file such as index.py".to_owned(),
        ));
    }
    let app_yaml = read_app_yaml(root)?;
    let Needs { requirements, ignored, python, undescribed } = needs::find(root, &app_yaml.env)?;
    let manage_py = is_file(root, "manage.py");
    if let Some(entry) = &app_yaml.entry {
        // With requirements, the module may come from a package that they install.
        if !has_module(root, entry) && matches!(requirements, Requirements::None) {
            return Err(UnpackError::Source(missing_module(entry)));
        }
    }
    // Django may still collect what is missing.
    if let (Some(missing), false) = (statics::first_missing(root, &app_yaml.statics), manage_py) {
        return Err(UnpackError::Source(missing));
    }
    if let Some(missing) = statics::first_page_missing(root, &app_yaml.errors) {
        return Err(UnpackError::Source(missing));
    }
    Ok(Inspection {
        app_yaml,
        requirements,
        ignored,
        python,
        named_python: NamedPython::find(root)?,
        undescribed,
        manage_py,
        procfile: Procfile::find(root),
        has_python: has_python(root)?,
        index_html: is_file(root, "index.html"),
        source_hash,
        entries: tree.entries(),
    })
}

/// Whether something at the top is Python's, or one of the packages that are searched for an entry.
fn has_python(root: &OwnedFd) -> Result<bool, UnpackError> {
    let unreadable =
        |errno: Errno| UnpackError::Source(format!("the source can't be listed: {errno}"));
    for entry in Dir::read_from(root).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?;
        let name = name.file_name().to_bytes();
        let is_requirements = name.starts_with(b"requirements") && name.ends_with(b".txt");
        let is_source = name.ends_with(b".py") || name.ends_with(b".wsgi");
        if is_source || is_requirements || PYTHON_FILES.contains(&name) {
            return Ok(true);
        }
    }
    Ok(PACKAGES.iter().any(|package| is_file(root, &format!("{package}/__init__.py"))))
}

fn read_app_yaml(root: &OwnedFd) -> Result<AppYaml, UnpackError> {
    match read_text(root, "app.yaml", APP_YAML_READ_MAX)? {
        Some(text) => {
            app_yaml::parse(&text).map_err(|error| UnpackError::Source(error.to_string()))
        }
        None => Ok(AppYaml::default()),
    }
}

/// At most `max` bytes of a file of the source; `None` where there is none.
pub fn read_text(root: &OwnedFd, path: &str, max: u64) -> Result<Option<Vec<u8>>, UnpackError> {
    let unreadable =
        |error: io::Error| UnpackError::Source(format!("{path} can't be read: {error}"));
    // Without waiting, in case it is no file.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = match open_beneath(root, Path::new(path), flags) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(unreadable(errno.into())),
    };
    let mut text = Vec::new();
    file.take(max).read_to_end(&mut text).map_err(unreadable)?;
    Ok(Some(text))
}

pub fn is_file(root: &OwnedFd, path: &str) -> bool {
    is(root, path, FileType::RegularFile)
}

pub fn is_folder(root: &OwnedFd, path: &str) -> bool {
    is(root, path, FileType::Directory)
}

fn is(root: &OwnedFd, path: &str, kind: FileType) -> bool {
    let Ok(fd) = open_beneath(root, Path::new(path), OFlags::PATH) else { return false };
    rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

/// The files that `import` would find the module in.
fn module_files(entry: &Entry) -> [String; 2] {
    let path = entry.module.replace('.', "/");
    [format!("{path}.py"), format!("{path}/__init__.py")]
}

fn has_module(root: &OwnedFd, entry: &Entry) -> bool {
    is_file(root, &entry.module) || module_files(entry).iter().any(|path| is_file(root, path))
}

fn missing_module(entry: &Entry) -> String {
    if entry.is_file() {
        return format!("the source has no {} for the entry {entry}", entry.module);
    }
    let [module, package] = module_files(entry);
    format!("the source has neither {module} nor {package} for the entry {entry}")
}
