//! Containers that do not do what they are told: frozen, stopped, short of memory, waiting for a disk. They are
//! destroyed all the same.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually, leftovers};
use anyhow::{Context, Result, ensure};

use crate::{engine, processes, run};

/// Some seconds are for what an app has under way; one that was waited for longer than this would be for ever.
const DESTROYED_WITHIN: Duration = Duration::from_secs(30);

/// Goes round in a file that is larger than the memory it may have.
const THRASH: &str = "
import mmap, os
if os.fork() == 0:
    with open('/ace/data/large', 'w+b') as file:
        file.truncate(128 << 20)
        room = mmap.mmap(file.fileno(), 0)
        print('ready', flush=True)
        while True:
            for offset in range(0, len(room), 4096):
                room[offset]
answer = 1
";
/// Waits, and can't be interrupted, until the disk has taken what its limit lets pass in minutes.
const WAIT_FOR_DISK: &str = "
import os
if os.fork() == 0:
    with open('/ace/data/much', 'wb') as file:
        file.write(bytes(24 << 20))
        print('ready', flush=True)
        os.fsync(file.fileno())
        os._exit(0)
answer = 1
";
const SETTINGS: &str = "volume: 64M\nlimits: {memory: 64M, io: 64K}\n";

#[test]
fn what_does_not_move_is_destroyed_all_the_same() -> Result<()> {
    let (engine, mut going) = (engine()?, Vec::new());
    for (app, hold) in [
        ("frozen", frozen as Hold),
        ("stopped", stopped),
        ("thrashing", thrashing),
        ("waiting", waiting),
    ] {
        let folder = AppFolder::workbench()?;
        folder.write("app.yaml", SETTINGS)?;
        engine.deploy(folder.path(), app)?.ok()?;
        let status = engine.status(app)?;
        let id = status["instances"][0]["id"].as_str().context("no instance")?.to_owned();
        hold(&engine, app, &id)?;
        let mut destroy = engine.command(&["destroy", app, "--yes"]);
        going.push((app, id, destroy.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?));
    }
    for (app, id, mut client) in going {
        let ended = eventually("its end", DESTROYED_WITHIN, || client.try_wait().ok()?);
        let ended = ended.with_context(|| format!("{app}: {}", engine.log_tail()))?;
        ensure!(ended.success(), "{app}: {ended}");
        ensure!(!leftovers::instances(&engine.id()?).contains(&id), "{app} has groups");
        ensure!(!leftovers::connected(&engine.id()?).contains(&id), "{app} has an interface");
    }
    Ok(())
}

type Hold = fn(&Engine, &str, &str) -> Result<()>;

/// By each freezer that there is.
fn frozen(engine: &Engine, _: &str, id: &str) -> Result<()> {
    let mut freezers = 0;
    for group in leftovers::groups_of(&engine.id()?, id) {
        for (file, value) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
            let freezer: PathBuf = group.join(file);
            if freezer.exists() {
                fs::write(freezer, value)?;
                freezers += 1;
            }
        }
    }
    ensure!(freezers > 0, "no freezer");
    Ok(())
}

/// Its process 1 as well.
fn stopped(engine: &Engine, _: &str, id: &str) -> Result<()> {
    for part in ["app", "init"] {
        for pid in processes(engine, id, part)? {
            run("kill", &["-STOP", &pid.to_string()])?;
        }
    }
    Ok(())
}

fn thrashing(engine: &Engine, app: &str, _: &str) -> Result<()> {
    busy_with(engine, app, THRASH)
}

fn waiting(engine: &Engine, app: &str, _: &str) -> Result<()> {
    busy_with(engine, app, WAIT_FOR_DISK)
}

fn busy_with(engine: &Engine, app: &str, code: &str) -> Result<()> {
    engine.python(app, code)?;
    let log = || engine.ace(&["logs", app]).ok()?.stdout.contains("ready").then_some(());
    eventually("its work", DESTROYED_WITHIN, log)
}
