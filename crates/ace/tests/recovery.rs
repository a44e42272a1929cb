//! The engine may end at any moment: apps go on, and the next engine finds them.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, app, eventually};
use anyhow::{Context, Result};

const DEADLINE: Duration = Duration::from_secs(60);
/// When the server in the container started; another one has another time.
const STARTED: &str = "import os; answer = open(f'/proc/{os.getppid()}/stat').read().split()[21]";

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

/// Waits until `app` answers with `text`.
fn serves(engine: &Engine, app: &str, text: &str) -> Result<()> {
    eventually(&format!("{app}'s {text:?}"), DEADLINE, || {
        engine.get(app, "/").ok().filter(|answer| answer.text() == text)
    })?;
    Ok(())
}

#[test]
fn apps_outlive_an_engine_that_is_killed_or_asked_to_end() -> Result<()> {
    let mut engine = engine()?;
    engine.deploy(AppFolder::workbench()?.path(), "shop")?.ok()?;
    let started = engine.python("shop", STARTED)?;

    engine.kill()?;
    engine.start_server()?;
    let asked = || engine.python("shop", STARTED).ok();
    assert_eq!(eventually("the app", DEADLINE, asked)?, started, "after a kill");

    engine.terminate()?;
    assert!(!engine.leftovers()?.is_empty(), "the app's container still runs");
    engine.start_server()?;
    let asked = || engine.python("shop", STARTED).ok();
    assert_eq!(eventually("the app", DEADLINE, asked)?, started, "after an ordinary end");
    assert_eq!(engine.status("shop")?["instances"][0]["restarts"], 0);
    Ok(())
}

#[test]
fn a_deploy_cut_short_by_a_kill_leaves_the_old_release() -> Result<()> {
    let mut engine = engine()?;
    let shop = AppFolder::saying("one")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    for phase in ["building", "starting"] {
        let slow = format!("import time\ntime.sleep(20)\n{}", app::saying("slow"));
        shop.write("index.py", &slow)?;
        kill_in_phase(&mut engine, &shop, phase)?;
        engine.start_server()?;
        serves(&engine, "shop", "one")?;
        let status = engine.status("shop")?;
        assert_eq!(status["release"], 1, "{phase}");
        let error = status["last_deploy"]["error"].as_str().context("no error")?;
        assert!(error.contains("the engine stopped"), "{phase}: {error}");
        let alone = || engine.status("shop").ok().filter(|now| instances(now) == 1);
        eventually("the end of the unfinished instance", DEADLINE, alone)?;
    }
    shop.write("index.py", &app::saying("two"))?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    serves(&engine, "shop", "two")
}

/// Deploys `folder` and kills the engine as soon as the deploy is in `phase`.
fn kill_in_phase(engine: &mut Engine, folder: &AppFolder, phase: &str) -> Result<()> {
    let path = folder.path().to_str().context("no text")?;
    let mut deploy = engine
        .command(&["deploy", path, "--app", "shop"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(deploy.stderr.take().context("no output")?);
    let mut line = String::new();
    while line.trim_end() != phase {
        line.clear();
        anyhow::ensure!(said.read_line(&mut line)? > 0, "the deploy ended before {phase}");
    }
    engine.kill()?;
    // Read on, so that the command is not held up by a full pipe.
    std::io::copy(&mut said, &mut std::io::sink())?;
    assert_eq!(deploy.wait()?.code(), Some(1));
    Ok(())
}

fn instances(status: &serde_json::Value) -> usize {
    status["instances"].as_array().map_or(0, Vec::len)
}

#[test]
fn down_leaves_nothing_and_the_next_engine_starts_the_apps_again() -> Result<()> {
    let mut engine = engine()?;
    let shop = AppFolder::saying("one")?;
    shop.write("app.yaml", "volume: 64M\n")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    engine.down()?;
    assert_eq!(engine.leftovers()?, Vec::<String>::new());

    engine.start_server()?;
    serves(&engine, "shop", "one")?;
    engine.kill()?;
    engine.down()?;
    assert_eq!(engine.leftovers()?, Vec::<String>::new(), "also when no engine listens");
    Ok(())
}

/// Starts another engine with the folder `data`, which must end with these words.
fn refuses_a_second(data: &Path, words: &str) -> Result<()> {
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_ace"))
        .args(["server", "--http", "127.0.0.1:0", "--data"])
        .arg(data)
        .output()?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(words), "{said}");
    Ok(())
}

#[test]
fn two_engines_do_not_touch_each_other() -> Result<()> {
    let (mut left, right) = (engine()?, engine()?);
    assert_ne!(left.id()?, right.id()?);
    left.deploy(AppFolder::saying("left")?.path(), "shop")?.ok()?;
    right.deploy(AppFolder::saying("right")?.path(), "shop")?.ok()?;
    assert_eq!(left.get("shop", "/")?.text(), "left");
    assert_eq!(right.get("shop", "/")?.text(), "right");

    let elsewhere = tempfile::tempdir()?;
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(right.data(), &link)?;
    refuses_a_second(&right.data(), "is running already")?;
    refuses_a_second(&link, "is running already")?;
    std::fs::remove_file(right.data().join("lock"))?;
    refuses_a_second(&right.data(), "its lock file is gone")?;

    left.down()?;
    assert_eq!(left.leftovers()?, Vec::<String>::new());
    assert_eq!(right.get("shop", "/")?.text(), "right");
    Ok(())
}

#[test]
fn an_instance_that_cant_be_made_again_says_so_and_nothing_of_the_host() -> Result<()> {
    let engine = engine()?;
    engine.deploy(AppFolder::workbench()?.path(), "shop")?.ok()?;
    const NAME: &str = "import os, socket; answer = socket.socket(fileno=os.dup(3)).getsockname()";
    let named = engine.python("shop", NAME)?;
    let data = engine.data().display().to_string();
    assert!(!named.to_string().contains(&data), "the socket's name: {named}");

    std::fs::rename(engine.data().join("releases/shop"), engine.data().join("releases/gone"))?;
    let _ = engine.python("shop", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)");
    let end = eventually("a failed start", DEADLINE, || {
        let end = engine.status("shop").ok()?["instances"][0]["last_end"].clone();
        (end["kind"] == "not_started").then_some(end)
    })?;
    assert!(!end.to_string().contains(&data), "{end}");
    assert!(end.to_string().contains("its own log says why"), "{end}");
    Ok(())
}
