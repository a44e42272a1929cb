//! Rules about the source that no lint knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The only package with unsafe code.
const UNSAFE_HOME: &str = "crates/sandbox";
const FORBID: &str = "#![forbid(unsafe_code)]";

/// Paths that exist on one developer's machine only. Written in two parts, so that this file does
/// not break its own rule.
const PRIVATE_PATHS: [&str; 6] = [
    concat!("/wo", "rk/main"),
    concat!("/wo", "rk/shared"),
    concat!("/hom", "e/"),
    concat!("/Use", "rs/"),
    concat!("/root/.car", "go"),
    concat!("/var/tmp/", "t-"),
];

/// The folder that holds this repository: the one that cargo runs us for. Two checkouts with one
/// target folder may share the program, so what it was compiled from says nothing.
pub fn repository() -> Result<PathBuf> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").context("run this by cargo xtask")?;
    let package = PathBuf::from(package);
    let root = package.parent().context("xtask lies in no repository")?;
    Ok(root.to_owned())
}

/// Checks every rule and prints what breaks one.
pub fn run(root: &Path) -> Result<()> {
    println!("== guards");
    let mut files = Vec::new();
    collect(root, Path::new(""), &mut files)?;
    let mut broken = 0;
    for path in &files {
        // What is no text has no lines to hold against it.
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        for problem in problems(path, &text) {
            eprintln!("{}: {problem}", path.display());
            broken += 1;
        }
    }
    match broken {
        0 => Ok(()),
        count => bail!("{count} broken rules in {} files", files.len()),
    }
}

/// What is wrong with the file `path`.
fn problems(path: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if is_crate_root(path) && !path.starts_with(UNSAFE_HOME) && !text.contains(FORBID) {
        problems.push(format!("lacks {FORBID}; unsafe code lives in {UNSAFE_HOME}"));
    }
    for private in PRIVATE_PATHS {
        if let Some(index) = text.lines().position(|line| line.contains(private)) {
            problems.push(format!("line {} names a path of one machine: {private}", index + 1));
        }
    }
    problems
}

/// Whether rustc begins to read a crate of ours at `path`: a library, a program, a test.
fn is_crate_root(path: &Path) -> bool {
    let Some(folder) = path.parent() else { return false };
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let is_named = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    let holds_roots = folder.ends_with("tests") || folder.ends_with("src/bin");
    is_rust && (is_named || holds_roots)
}

/// All files below `folder` that belong to the repository, relative to `root`.
fn collect(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(folder);
    for entry in
        fs::read_dir(&full).with_context(|| format!("could not read {}", full.display()))?
    {
        let entry = entry?;
        let name = entry.file_name();
        let path = folder.join(&name);
        let kind = entry.file_type()?;
        let is_output = name == ".git" || name.to_string_lossy().starts_with("target");
        if kind.is_dir() && !is_output {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_but_the_sandbox_forbids_unsafe_code() {
        for root in ["crates/a/src/lib.rs", "xtask/src/main.rs", "crates/a/tests/t.rs"] {
            assert_eq!(problems(Path::new(root), "").len(), 1, "{root}");
            assert_eq!(problems(Path::new(root), FORBID).len(), 0, "{root}");
        }
        for other in
            ["crates/sandbox/src/lib.rs", "crates/a/src/module.rs", "crates/a/tests/x/y.txt"]
        {
            assert_eq!(problems(Path::new(other), "").len(), 0, "{other}");
        }
    }

    #[test]
    fn a_path_of_one_machine_is_found_with_its_line() {
        let text = format!("fine\nsee {}x", PRIVATE_PATHS[0]);
        let found = problems(Path::new("README.md"), &text);
        assert!(found[0].starts_with("line 2"), "{found:?}");
    }
}
