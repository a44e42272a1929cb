//! Checks that what a release declares static is there.

use std::os::fd::OwnedFd;
use std::path::Path;

use ace_types::{ErrorPage, StaticRule};
use rustix::fs::{FileType, OFlags};

use crate::unpack::{is_file, open_beneath};

/// What to tell the tenant about the first of `rules` without its file or folder below `root`.
pub fn first_missing(root: &OwnedFd, rules: &[StaticRule]) -> Option<String> {
    let rule = rules.iter().find(|rule| !is_there(root, rule))?;
    let kind = if wants_folder(rule) { "folder" } else { "file" };
    let StaticRule { path, files, .. } = rule;
    Some(format!("app.yaml serves {path} from {files:?}, but the source has no such {kind}"))
}

/// What to tell the tenant about the first of `pages` without its file below `root`.
pub fn first_page_missing(root: &OwnedFd, pages: &[ErrorPage]) -> Option<String> {
    let page = pages.iter().find(|page| !is_file(root, &page.file))?;
    let ErrorPage { status, file } = page;
    Some(format!("app.yaml answers {status} with {file:?}, but the source has no such file"))
}

fn is_there(root: &OwnedFd, rule: &StaticRule) -> bool {
    // All of it is "", which can't be opened.
    let path = if rule.files.is_empty() { "." } else { &rule.files };
    let Ok(fd) = open_beneath(root, Path::new(path), OFlags::PATH) else { return false };
    let wanted = if wants_folder(rule) { FileType::Directory } else { FileType::RegularFile };
    rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == wanted)
}

fn wants_folder(rule: &StaticRule) -> bool {
    rule.path.ends_with('/')
}
