//! The examples answer as their READMEs say.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use ace_testkit::Engine;
use anyhow::{Context, Result};

fn example(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples")).join(name)
}

#[test]
fn the_examples_answer() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    for name in ["webpy", "flask", "django"] {
        let said = engine.deploy(&example(name), name)?.ok()?;
        assert!(said.stdout.contains(&format!("{name} release 1 is live at http://")), "{said:?}");
    }
    assert_eq!(engine.get("webpy", "/")?.text().trim_end(), "Hello, world!");
    static_files_are_cached(&engine)?;
    assert_eq!(engine.get("django", "/")?.status, 200);
    listed(&engine)
}

/// Flask's page names a file below `/static/`, which the gateway answers by itself.
fn static_files_are_cached(engine: &Engine) -> Result<()> {
    let page = engine.get("flask", "/")?;
    assert_eq!(page.status, 200);
    let text = page.text();
    let path = text.split('"').find(|part| part.starts_with("/static/"));
    let path = path.context("the page names no static file")?;
    let file = engine.get("flask", path)?;
    assert_eq!(file.status, 200);
    let cached = file.header("cache-control").unwrap_or_default();
    assert!(cached.contains("max-age"), "{cached:?}");
    let tag = file.header("etag").context("no ETag")?;
    let again = engine.request("flask", "GET", path, &[("If-None-Match", tag)], b"")?;
    assert_eq!((again.status, again.body.len()), (304, 0));
    Ok(())
}

fn listed(engine: &Engine) -> Result<()> {
    let apps = engine.ace(&["apps", "--json"])?.ok()?.json()?;
    let mut names: Vec<&str> =
        apps.as_array().context("no list")?.iter().filter_map(|app| app["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["django", "flask", "webpy"]);
    let status = engine.status("flask")?;
    assert_eq!((&status["state"], &status["release"]), (&"running".into(), &1.into()));
    Ok(())
}
