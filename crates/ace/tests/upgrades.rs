//! A Python that is upgraded on the machine, or removed from it, under apps that run on it.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(120);

/// Answers with the Python that it runs on and the package that it found there; `/end` ends its server.
const INDEX: &str = "
import os, signal, sys
from importlib import metadata


def application(environ, start_response):
    if environ['PATH_INFO'] == '/end':
        os.kill(os.getppid(), signal.SIGKILL)
    start_response('200 OK', [('Content-Type', 'text/plain')])
    version = metadata.version('itsdangerous')
    return [('%s with %s' % (sys.base_prefix, version)).encode()]
";

/// A home with a Python 3.12 of its own, as pyenv would have put it there.
struct Home {
    folder: TempDir,
    /// The folder of the version that it was made of.
    original: PathBuf,
}

impl Home {
    /// `None`, after a word about it, where there is no such Python to make it of.
    fn new() -> Result<Option<Self>> {
        let versions = Path::new(&std::env::var("HOME")?).join(".pyenv/versions");
        let is_it = |path: &PathBuf| path.join("bin/python3.12").is_file();
        let entries = fs::read_dir(versions).into_iter().flatten();
        let Some(original) = entries.flatten().map(|entry| entry.path()).find(is_it) else {
            eprintln!("skipped: there is no Python 3.12 of pyenv's to make another of");
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("ace-home.").tempdir_in("/var/tmp")?;
        let home = Self { folder, original };
        fs::create_dir_all(home.versions())?;
        let linked =
            Command::new("cp").arg("-al").arg(&home.original).arg(home.python()).status()?;
        ensure!(linked.success(), "cp ended with {linked}");
        home.upgrade("2020-01-01")?;
        Ok(Some(home))
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap_or_default()
    }

    fn versions(&self) -> PathBuf {
        self.folder.path().join(".pyenv/versions")
    }

    fn python(&self) -> PathBuf {
        self.versions().join("3.12")
    }

    /// Puts another build of the interpreter in its place, as if it had been made on `date`.
    fn upgrade(&self, date: &str) -> Result<()> {
        let (place, new) = (self.python().join("bin/python3.12"), self.folder.path().join("new"));
        let program = fs::read(self.original.join("bin/python3.12"))?;
        // Its library is looked for below its own prefix.
        let library = self.original.join("lib").display().to_string();
        let mut moved = b"$ORIGIN/../lib".to_vec();
        moved.resize(library.len(), 0);
        fs::write(&new, replaced(program, library.as_bytes(), &moved))?;
        let made = Command::new("touch").args(["-d", date]).arg(&new).status()?;
        ensure!(made.success(), "touch ended with {made}");
        fs::set_permissions(&new, fs::metadata(&place)?.permissions())?;
        fs::rename(new, place)?;
        Ok(())
    }
}

fn replaced(mut text: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    if let Some(at) = text.windows(from.len()).position(|part| part == from) {
        text[at..at + from.len()].copy_from_slice(to);
    }
    text
}

/// What of `app`'s status is now as it was waited for.
fn status_with(engine: &Engine, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(what, DEADLINE, || engine.status("shop").ok().filter(|status| is_it(status)))
}

fn newest_cause(engine: &Engine) -> Result<Value> {
    let releases = engine.ace(&["releases", "shop", "--json"])?.ok()?.json()?;
    Ok(releases["releases"][0]["cause"].clone())
}

/// The program of the app's Python, as an argument.
fn program(home: &Home) -> String {
    home.python().join("bin/python3").display().to_string()
}

#[test]
fn an_app_is_rebuilt_for_an_upgraded_python_and_loses_no_request() -> Result<()> {
    let Some(home) = Home::new()? else { return Ok(()) };
    let env = [("HOME", home.path()), ("PYENV_ROOT", home.path())];
    let engine = Engine::start_with(env!("CARGO_BIN_EXE_ace"), &env)?;
    let app = AppFolder::new(INDEX)?;
    app.write("requirements.txt", "itsdangerous==2.2.0\n")?;
    app.write("app.yaml", "python: \"3.12\"\n")?;
    engine.deploy(app.path(), "shop")?.ok()?;
    let page = format!("{} with 2.2.0", home.python().display());
    assert_eq!(engine.get("shop", "/")?.text(), page);

    home.upgrade("2020-02-02")?;
    let done = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                let answer = engine.get("shop", "/")?;
                ensure!(answer.text() == page, "{} {}", answer.status, answer.text());
                asked += 1;
            }
            Ok(asked)
        });
        // Whoever adds a Python has all of them looked at.
        let added = engine.ace(&["python", "add", &program(&home)]);
        let rebuilt = status_with(&engine, "the rebuild", |status| status["release"] == 2);
        let drained = status_with(&engine, "the old instance's end", |status| {
            status["instances"].as_array().is_some_and(|all| all.len() == 1)
        });
        done.store(true, Ordering::Relaxed);
        added?.ok()?;
        rebuilt?;
        drained?;
        visitor.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the visitor panicked")))
    })?;
    assert!(asked > 0);
    assert_eq!(newest_cause(&engine)?["kind"], "rebuilt");
    let logs = fs::read_dir(engine.data().join("logs/builds"))?;
    let logs = logs.map(|log| Ok(fs::read_to_string(log?.path())?)).collect::<Result<Vec<_>>>()?;
    let log = logs.iter().find(|log| log.contains("was upgraded")).context("it has no log")?;
    assert!(logs.iter().any(|log| log.contains("Prepared")), "the first build fetched: {logs:?}");
    assert!(!log.contains("Prepared"), "what the cache has was fetched again: {log}");

    engine.ace(&["rollback", "shop", "1"])?.ok()?;
    assert_eq!(newest_cause(&engine)?["of"], 1);
    assert_eq!(engine.get("shop", "/")?.text(), page);

    home.upgrade("2020-03-03")?;
    engine.ace(&["scale", "shop", "2"])?.ok()?;
    let status = status_with(&engine, "instances of the rebuilt release", |status| {
        let instances = status["instances"].as_array().map_or(&[][..], Vec::as_slice);
        instances.len() == 2 && instances.iter().all(|it| it["release"] == status["release"])
    })?;
    assert_eq!(newest_cause(&engine)?["kind"], "rebuilt", "{status}");
    assert_eq!(engine.get("shop", "/")?.text(), page);

    home.upgrade("2020-04-04")?;
    let _ = engine.get("shop", "/end");
    let scaled = status["release"].as_u64();
    status_with(&engine, "the rebuild after a crash", |now| now["release"].as_u64() > scaled)?;
    assert_eq!(engine.get("shop", "/")?.text(), page);
    Ok(())
}

#[test]
fn a_python_that_is_gone_is_told_until_another_takes_its_place() -> Result<()> {
    let Some(home) = Home::new()? else { return Ok(()) };
    let env = [("HOME", home.path()), ("PYENV_ROOT", home.path())];
    let mut engine = Engine::start_with(env!("CARGO_BIN_EXE_ace"), &env)?;
    let app = AppFolder::new(INDEX)?;
    app.write("requirements.txt", "itsdangerous==2.2.0\n")?;
    app.write("app.yaml", "python: \"3.12\"\n")?;
    engine.deploy(app.path(), "shop")?.ok()?;
    let listed = engine.ace(&["python", "list"])?.ok()?.stdout;
    let row = listed.lines().find(|line| line.starts_with("3.12")).unwrap_or_default();
    assert!(row.contains("uwsgi-") && row.ends_with("shop"), "{listed}");

    fs::rename(home.python(), home.folder.path().join("away"))?;
    engine.kill()?;
    engine.start_server()?;
    status_with(&engine, "the warning", |status| status["python_trouble"]["kind"] == "gone")?;
    for command in [&["status", "shop"][..], &["python", "list"]] {
        let told = engine.ace(command)?.ok()?.stdout;
        assert!(told.contains("install Python 3.12 again (`ace python add PATH`"), "{told}");
    }
    assert_eq!(engine.get("shop", "/")?.status, 200, "what runs goes on");
    let refused = engine.ace(&["restart", "shop"])?;
    assert!(refused.stderr.contains("release 1 can't start: Python 3.12"), "{}", refused.stderr);

    fs::rename(home.folder.path().join("away"), home.versions().join("3.12.99"))?;
    let program = home.versions().join("3.12.99/bin/python3.12").display().to_string();
    engine.ace(&["python", "add", &program])?.ok()?;
    status_with(&engine, "the rebuild", |status| {
        status["release"] == 2 && status["python_trouble"].is_null()
    })?;
    let page = format!("{} with 2.2.0", home.versions().join("3.12.99").display());
    assert_eq!(engine.get("shop", "/")?.text(), page);
    Ok(())
}
