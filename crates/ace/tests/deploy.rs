//! Deploys: what fails changes nothing, what succeeds loses no request.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, app, eventually};
use anyhow::{Context, Result, ensure};

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

#[test]
fn a_release_that_does_not_import_shows_its_traceback_and_changes_nothing() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::saying("one")?;
    engine.deploy(shop.path(), "shop")?.ok()?;

    shop.write("index.py", "import no_such_module_at_all\napplication = None\n")?;
    let failed = engine.deploy(shop.path(), "shop")?;
    assert_eq!(failed.status, 1, "{failed:?}");
    assert!(failed.stderr.contains("Traceback (most recent call last)"), "{}", failed.stderr);
    assert!(failed.stderr.contains("no_such_module_at_all"), "{}", failed.stderr);
    assert!(failed.stderr.contains("error: "), "{}", failed.stderr);
    assert_eq!(engine.get("shop", "/")?.text(), "one");
    assert_eq!(engine.status("shop")?["release"], 1);
    let shown = engine.ace(&["status", "shop"])?.ok()?.stdout;
    assert!(shown.contains("failed"), "{shown}");
    let log = || engine.ace(&["logs", "shop"]).ok().map(|out| out.stdout);
    let told = || log().filter(|log| log.contains("no_such_module_at_all"));
    eventually("the failed release's log", Duration::from_secs(20), told)?;

    shop.write("index.py", &app::saying("two"))?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    assert_eq!(engine.get("shop", "/")?.text(), "two");
    Ok(())
}

#[test]
fn an_app_whose_first_deploy_failed_keeps_its_words_and_can_be_deployed() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::saying("never")?;
    shop.write("requirements.txt", "this-package-does-not-exist-for-ace==1.0\n")?;
    let failed = engine.deploy(shop.path(), "shop")?;
    assert_eq!(failed.status, 1);
    assert!(failed.stderr.contains("this-package-does-not-exist-for-ace"), "{}", failed.stderr);

    shop.write("requirements.txt", "")?;
    shop.write("index.py", "raise SystemError('never')\napplication = None\n")?;
    assert_eq!(engine.deploy(shop.path(), "shop")?.status, 1);
    let app = engine.status("shop")?;
    assert_eq!((app["state"].as_str(), app["release"].as_u64()), (Some("new"), None));
    let log = || engine.ace(&["logs", "shop"]).ok().map(|out| out.stdout);
    let told = || log().filter(|log| log.contains("SystemError"));
    eventually("its last words", Duration::from_secs(20), told)?;

    shop.write("index.py", &app::saying("at last"))?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    assert_eq!(engine.get("shop", "/")?.text(), "at last");

    let empty = tempfile::tempdir()?;
    let failed = engine.deploy(empty.path(), "empty")?;
    assert_eq!(failed.status, 1);
    assert!(failed.stderr.contains("index.py"), "{}", failed.stderr);
    engine.ace(&["destroy", "empty", "--yes"])?.ok()?;
    let apps = engine.ace(&["apps", "--json"])?.ok()?.json()?;
    assert_eq!(apps.as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn a_mistake_in_app_yaml_is_shown_with_its_place() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::saying("never")?;
    shop.write("app.yaml", "version: 1\nlimits: {memroy: 1G}\n")?;
    let failed = engine.deploy(shop.path(), "shop")?;
    assert_eq!(failed.status, 1);
    assert!(failed.stderr.contains("app.yaml:2:"), "{}", failed.stderr);
    Ok(())
}

#[test]
fn a_new_release_takes_over_without_losing_a_request() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::saying("1")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    let done = AtomicBool::new(false);
    let answers = thread::scope(|threads| -> Result<Vec<String>> {
        let clients: Vec<_> = (0..4).map(|_| threads.spawn(|| ask_until(&done, &engine))).collect();
        let deploys: Result<()> = (2..=3).try_for_each(|number| {
            shop.write("index.py", &app::saying(&number.to_string()))?;
            engine.deploy(shop.path(), "shop")?.ok().map(drop)
        });
        // However slow the clients were: this one comes after the last switch.
        let last = deploys.is_ok().then(|| engine.get("shop", "/")).transpose()?;
        done.store(true, Ordering::Relaxed);
        let mut answers = Vec::from_iter(last.map(|answer| answer.text()));
        for client in clients {
            answers.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        deploys.map(|()| answers)
    })?;
    for release in ["1", "2", "3"] {
        ensure!(answers.iter().any(|answer| answer == release), "release {release} never answered");
    }
    Ok(())
}

/// Asks again and again; every answer must be a whole 200.
fn ask_until(done: &AtomicBool, engine: &Engine) -> Result<Vec<String>> {
    let mut answers = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let answer = engine.get("shop", "/")?;
        ensure!(answer.status == 200, "status {}: {}", answer.status, answer.text());
        answers.push(answer.text());
    }
    Ok(answers)
}

#[test]
fn logs_follow_an_app_and_hide_no_control_character() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::workbench()?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    let mut follower = engine
        .command(&["logs", "shop", "-f"])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?;
    let stdout = follower.stdout.take().context("no output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    engine.python("shop", "print('\\x1b[31mred', flush=True); answer = 1")?;
    let found = eventually("the line", Duration::from_secs(20), || {
        lines.try_iter().find(|line| line.contains("red"))
    });
    follower.kill()?;
    follower.wait()?;
    assert!(found?.ends_with("\\x1b[31mred"));
    let tail = engine.ace(&["logs", "shop", "--tail", "1000"])?.ok()?.stdout;
    assert!(tail.contains("\\x1b[31mred") && !tail.contains('\x1b'), "{tail}");
    Ok(())
}

#[test]
fn destroy_removes_an_app_with_all_it_has() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::workbench()?;
    shop.write("app.yaml", "volume: 64M\n")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    engine.python("shop", "open('/ace/data/kept', 'w').write('x'); answer = 1")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    let kept = engine.python("shop", "answer = open('/ace/data/kept').read()")?;
    assert_eq!(kept, "x", "a volume outlives a release");

    let refused = engine.ace(&["destroy", "shop"])?;
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(engine.status("shop")?["state"], "running");

    engine.ace(&["destroy", "shop", "--yes"])?.ok()?;
    assert_eq!(engine.get("shop", "/")?.status, 404);
    for path in ["releases/shop", "environments/shop", "volumes/shop.img"] {
        assert!(!engine.data().join(path).exists(), "{path} is left");
    }
    let unknown = engine.ace(&["status", "shop"])?;
    assert_eq!(unknown.status, 1);
    assert!(unknown.stderr.contains("shop"), "{}", unknown.stderr);

    engine.deploy(shop.path(), "shop")?.ok()?;
    let gone = engine.python("shop", "import os; answer = os.path.exists('/ace/data/kept')")?;
    assert_eq!(gone, false, "a new app of the name has a new volume");
    Ok(())
}

/// Ends its server, master and all, some time after it has begun to answer.
const SHORT_LIVED: &str = "\
import os, signal, threading
threading.Timer(2, os.kill, (os.getppid(), signal.SIGKILL)).start()
";

#[test]
fn a_release_that_dies_in_its_first_minute_is_taken_back_and_said_to_be() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::saying("one")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    shop.write("index.py", &format!("{SHORT_LIVED}{}", app::saying("two")))?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    eventually("the way back", Duration::from_secs(60), || {
        let app = engine.status("shop").ok()?;
        (app["release"] == 1 && app["withdrawn"]["release"] == 2).then_some(())
    })?;
    assert_eq!(engine.get("shop", "/")?.text(), "one");
    let said = |arguments: &[&str]| engine.ace(arguments)?.ok().map(|output| output.stdout);
    assert!(said(&["status", "shop"])?.contains("release 2 died after "));
    assert!(said(&["releases", "shop"])?.contains("the engine rolled back to release 1"));
    let journal = || said(&["logs", "shop"]).ok().filter(|log| log.contains("release 2 died"));
    eventually("a line in the log", Duration::from_secs(20), journal)?;
    Ok(())
}
