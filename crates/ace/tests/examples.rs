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

#[test]
fn files_and_tornado_old_and_new_answer() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    engine.deploy(&example("static"), "static")?.ok()?;
    assert!(engine.get("static", "/")?.text().contains("<h1>Lighthouses"));
    assert!(engine.get("static", "/notes/")?.text().contains("rhythm"));
    assert_eq!(engine.get("static", "/README.md")?.status, 404);

    engine.deploy(&example("tornado"), "tornado")?.ok()?;
    assert!(engine.get("tornado", "/")?.text().contains("Tea or coffee?"));
    assert_eq!(engine.request("tornado", "POST", "/votes/tea", &[], b"")?.status, 204);
    assert_eq!(engine.request("tornado", "POST", "/votes/milk", &[], b"")?.status, 404);

    if !engine.ace(&["python", "list", "--json"])?.ok()?.stdout.contains("\"2.7.") {
        eprintln!("skipped in part: this machine has no Python 2.7");
        return Ok(());
    }
    engine.deploy(&example("tornado4"), "tornado4")?.ok()?;
    let first = engine.get("tornado4", "/")?;
    assert!(first.text().contains("Tornado 4.5.3 on Python 2.7."), "{}", first.text());
    let cookie = first.header("set-cookie").and_then(|cookie| cookie.split(';').next());
    let cookie = [("Cookie", cookie.context("no cookie")?)];
    let second = engine.request("tornado4", "GET", "/", &cookie, b"")?;
    assert!(second.text().contains("visit 2 of yours"), "{}", second.text());
    Ok(())
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
