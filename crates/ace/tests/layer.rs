//! What an app writes beside its code.

#![forbid(unsafe_code)]

use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Result, ensure};

/// Counts its visits in a database beside itself, which it makes at its start.
const VISITS: &str = "
import os, sqlite3
os.makedirs('instance', exist_ok=True)
def application(environ, start_response):
    start_response('200 OK', [])
    with sqlite3.connect('instance/visits.db') as db:
        db.execute('create table if not exists visits (at)')
        db.execute('insert into visits values (1)')
        [(count,)] = db.execute('select count(*) from visits')
    open('log.txt', 'a').write('visited')
    return [b'%d' % count]
";

#[test]
fn an_app_writes_beside_its_code_until_its_end() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let app = AppFolder::new(VISITS)?;
    let visits = |at: &Engine| at.get("visits", "/").map(|answer| answer.text());
    engine.deploy(app.path(), "visits")?.ok()?;
    // The probe was the first.
    assert_eq!((visits(&engine)?.as_str(), visits(&engine)?.as_str()), ("2", "3"));

    let status = || engine.ace(&["status", "visits"]).ok()?.ok().ok();
    let lines = "add \"volume: 1G\" and \"keep: [instance, log.txt]\" to app.yaml";
    eventually("the way to keep it", Duration::from_secs(60), || {
        status()?.stdout.replace('\n', " ").contains(lines).then_some(())
    })?;
    let listed = engine.ace(&["run", "visits", "--", "ls", "-A"])?.ok()?;
    ensure!(!listed.stdout.contains("instance"), "{}", listed.stdout);

    let log_has = |text: &str| Some(engine.ace(&["logs", "visits"]).ok()?.stdout.contains(text));
    let soon = "gone when this container ends: instance/visits.db, log.txt; ";
    eventually("a warning", Duration::from_secs(60), || log_has(soon)?.then_some(()))?;
    engine.ace(&["restart", "visits"])?.ok()?;
    assert_eq!(visits(&engine)?, "2");
    let lost = "gone with this container: instance/visits.db, log.txt; ";
    eventually("the old instance's last word", Duration::from_secs(60), || {
        log_has(lost)?.then_some(())
    })
}

#[test]
fn what_is_to_be_kept_outlives_instances_and_releases() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let app = AppFolder::new(VISITS)?;
    app.write("media/logo.txt", "from the source")?;
    let made = "import sqlite3; sqlite3.connect('visits.db').execute('create table visits (at)')";
    app.write("app.yaml", &format!("volume: 64M\nkeep: [instance, media]\npredeploy: |\n  cd instance; python -c \"{made}\"\n"))?;
    engine.deploy(app.path(), "visits")?.ok()?;
    let visits = || engine.get("visits", "/").map(|answer| answer.text());
    assert_eq!(visits()?, "2");
    let run = |script| engine.ace(&["run", "visits", "--", "sh", "-c", script])?.ok();
    run("echo from a visitor > media/photo.txt; echo settings > ~/.shop")?;

    engine.ace(&["restart", "visits"])?.ok()?;
    assert_eq!(visits()?, "4");
    app.write("media/logo.txt", "from another release")?;
    app.write("app.yaml", "volume: 64M\nkeep: [instance, media]\n")?;
    engine.deploy(app.path(), "visits")?.ok()?;
    assert_eq!(visits()?, "6");
    engine.ace(&["rollback", "visits"])?.ok()?;
    assert_eq!(visits()?, "8");
    assert_eq!(run("cat media/* ~/.shop")?.stdout, "from the sourcefrom a visitor\nsettings\n");
    Ok(())
}

#[test]
fn a_command_says_what_goes_with_it() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let app = AppFolder::saying("hello")?;
    app.write("app.yaml", "predeploy: echo data > made.txt && cat made.txt\n")?;
    let deployed = engine.deploy(app.path(), "tidy")?.ok()?;
    ensure!(deployed.stderr.contains("gone with this container: made.txt; "), "{deployed:?}");
    let ran = engine.ace(&["run", "tidy", "--", "sh", "-c", "rm index.py; echo x > 'a\u{7}b'"])?;
    let ran = ran.ok()?;
    ensure!(ran.stderr.contains("gone with this container: a\u{fffd}b; "), "{ran:?}");
    assert_eq!(engine.get("tidy", "/")?.text(), "hello");
    Ok(())
}

#[test]
fn a_full_layer_is_told_from_other_ends() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let app = AppFolder::new("open('big', 'wb').write(bytes(2 << 20))\n")?;
    app.write("app.yaml", "limits: {tmp: 1M}\nentry: index:application\n")?;
    let deployed =
        engine.ace(&["--json", "deploy", &app.path().to_string_lossy(), "--app", "big"])?;
    let error = &deployed.json()?["error"];
    assert_eq!(error["code"], "code_full", "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(message.contains("its limit is 1M (tmp)"), "{message}");
    ensure!(message.contains("\"limits: {tmp: 2M}\" in app.yaml raises it"), "{message}");
    Ok(())
}
