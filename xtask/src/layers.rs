//! Which crate of ours may know which: docs/ARCHITECTURE.md as a table that cargo's own words are held to.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// What each crate may use besides crates of others. Programs meet in `ace-api` alone, and only `ace`, which is
/// not here, sees them all.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("ace-cli", &["ace-api", "ace-backup", "ace-types"]),
    ("ace-control", &["ace-api", "ace-backup", "ace-store", "ace-types"]),
    ("ace-gateway", &["ace-api", "ace-types", "ace-upstream"]),
    ("ace-node", &["ace-api", "ace-sandbox", "ace-types", "ace-upstream"]),
    ("ace-builder", &["ace-api", "ace-sandbox", "ace-types"]),
    ("ace-backup", &[]),
    ("ace-store", &[]),
    ("ace-upstream", &["ace-sandbox", "ace-types"]),
    ("ace-api", &["ace-types"]),
    ("ace-sandbox", &["ace-types"]),
    ("ace-types", &[]),
];

/// What `cargo metadata` prints, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or none for what the crate itself uses.
    kind: Option<String>,
}

/// Checks every crate of the repository at `root`.
pub fn run(root: &Path) -> Result<()> {
    println!("== layers");
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new("cargo").args(arguments).current_dir(root).output();
    let output = output.context("could not run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata makes no sense")?;
    let problems: Vec<String> = metadata.packages.iter().flat_map(problems).collect();
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    match problems.len() {
        0 => Ok(()),
        count => bail!("{count} crates use what is not below them"),
    }
}

/// What `package` uses and may not.
fn problems(package: &Package) -> Vec<String> {
    let Some((name, allowed)) = MAY_USE.iter().find(|(name, _)| *name == package.name) else {
        return Vec::new();
    };
    let ours = package.dependencies.iter().filter(|it| it.kind.is_none());
    let ours = ours.filter(|it| it.name.starts_with("ace-"));
    let stray = ours.filter(|it| !allowed.contains(&it.name.as_str()));
    stray.map(|it| format!("{name} may not use {}: see docs/ARCHITECTURE.md", it.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, kind: Option<&str>, uses: &str) -> Package {
        let kind = kind.map(str::to_owned);
        let dependencies = vec![Dependency { name: uses.to_owned(), kind }];
        Package { name: name.to_owned(), dependencies }
    }

    #[test]
    fn a_program_knows_no_other() {
        assert_eq!(problems(&package("ace-cli", None, "ace-control")).len(), 1);
        assert_eq!(problems(&package("ace-gateway", None, "ace-node")).len(), 1);
        assert!(problems(&package("ace-cli", None, "ace-api")).is_empty());
        assert!(problems(&package("ace-cli", None, "serde")).is_empty());
        assert!(problems(&package("ace-control", Some("dev"), "ace-node")).is_empty());
        assert!(problems(&package("ace", None, "ace-node")).is_empty());
    }
}
