//! Looks at an unpacked source: its `app.yaml`, and what that says must be there.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use ace_types::AppYaml;
use ace_types::app_yaml::{self, Entry};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::tree::{Tree, open_beneath};
use super::{Inspection, UnpackError};
use crate::statics;

/// More than the parser takes, so that it is the parser that says the file is too large.
const APP_YAML_READ_MAX: u64 = 128 * 1024;

/// What there is in `tree`; refused if it can't become an app.
pub fn inspect(tree: &Tree, source_hash: String) -> Result<Inspection, UnpackError> {
    let root = tree.root();
    let app_yaml = read_app_yaml(root)?;
    let requirements = is_file(root, "requirements.txt");
    let manage_py = is_file(root, "manage.py");
    // With requirements, the module may come from a package that they install.
    if !has_module(root, &app_yaml.entry) && (!requirements || app_yaml.entry == Entry::default()) {
        return Err(UnpackError::Source(missing_module(&app_yaml.entry)));
    }
    // Django may still collect what is missing.
    if let (Some(missing), false) = (statics::first_missing(root, &app_yaml.statics), manage_py) {
        return Err(UnpackError::Source(missing));
    }
    Ok(Inspection { app_yaml, requirements, manage_py, source_hash, entries: tree.entries() })
}

fn read_app_yaml(root: &OwnedFd) -> Result<AppYaml, UnpackError> {
    let unreadable = |errno: Errno| {
        UnpackError::Source(format!("app.yaml can't be read: {}", std::io::Error::from(errno)))
    };
    // Without waiting, in case it is no file.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = match open_beneath(root, Path::new("app.yaml"), flags) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(AppYaml::default()),
        Err(errno) => return Err(unreadable(errno)),
    };
    let mut text = Vec::new();
    file.take(APP_YAML_READ_MAX)
        .read_to_end(&mut text)
        .map_err(|error| UnpackError::Source(format!("app.yaml can't be read: {error}")))?;
    app_yaml::parse(&text).map_err(|error| UnpackError::Source(error.to_string()))
}

fn is_file(root: &OwnedFd, path: &str) -> bool {
    let Ok(fd) = open_beneath(root, Path::new(path), OFlags::PATH) else { return false };
    rustix::fs::fstat(&fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// The files that `import` would find the module in.
fn module_files(entry: &Entry) -> [String; 2] {
    let path = entry.module.replace('.', "/");
    [format!("{path}.py"), format!("{path}/__init__.py")]
}

fn has_module(root: &OwnedFd, entry: &Entry) -> bool {
    module_files(entry).iter().any(|path| is_file(root, path))
}

fn missing_module(entry: &Entry) -> String {
    let [module, package] = module_files(entry);
    let Entry { module: name, callable } = entry;
    let hint = if *entry == Entry::default() {
        "; an app begins with a file index.py that defines \"application\", or names another in app.yaml, as in \"entry: shop.wsgi:application\""
    } else {
        ""
    };
    format!("the source has neither {module} nor {package} for the entry {name}:{callable}{hint}")
}
