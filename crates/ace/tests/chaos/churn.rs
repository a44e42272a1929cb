//! Instances that come and go, some killed while they are made: of none is anything left.
//!
//! `ACE_CHURN_INSTANCES=200` makes them as many.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually, leftovers};
use anyhow::{Context, Result, ensure};

use crate::{SETTLED_WITHIN, engine, kill, members, names, run};

const INSTANCES: u64 = 8;
/// How many instances each round makes besides the one that stays.
const ROUND: u64 = 4;
/// A round in so many makes and destroys an app of its own, too.
const GUEST_EVERY: u64 = 2;
/// When processes are killed is spread over the time that a container takes to be made.
const LATEST_BLOW_MS: u64 = 600;
/// How many ranges of ids the engine's rows say are taken.
const RANGES: &str = "
import sqlite3, sys
rows = sqlite3.connect('file:%s?mode=ro' % sys.argv[1], uri=True)
keys = rows.execute('SELECT key FROM entries WHERE value IS NOT NULL')
print(sum(str(key).startswith('ids/') for key, in keys))
";
/// Descriptors that an engine may have open for a moment, as for a connection that it keeps for the next request.
const PASSING: usize = 8;

#[test]
fn of_instances_that_come_and_go_nothing_is_left() -> Result<()> {
    let wanted = std::env::var("ACE_CHURN_INSTANCES").ok().map_or(Ok(INSTANCES), |n| n.parse())?;
    let mut engine = engine()?;
    let shop = AppFolder::saying("hello")?;
    shop.write("app.yaml", "volume: 16M\n")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    guest(&engine, 0)?;
    let before = held(&engine)?;
    let mut made = 0;
    for round in 1.. {
        if made >= wanted {
            break;
        }
        made += come_and_go(&engine, round)?;
        if round % GUEST_EVERY == 0 {
            guest(&engine, round)?;
            made += 1;
        }
    }
    let mut after = before.clone();
    eventually("what there was before", SETTLED_WITHIN, || {
        after = held(&engine).ok()?;
        is_as_before(&before, &after).then_some(())
    })
    .with_context(|| format!("before: {before:?}, after {made} instances: {after:?}"))?;
    println!("before: {before:?}\nafter {made} instances: {after:?}");
    ensure!(engine.get("shop", "/")?.text() == "hello");
    engine.down()?;
    assert_eq!(engine.leftovers()?, Vec::<String>::new());
    Ok(())
}

/// Has further instances of the app made, in every other round kills what makes them, and has them go.
fn come_and_go(engine: &Engine, round: u64) -> Result<u64> {
    let known = leftovers::instances(&engine.id()?);
    let mut scale = engine.command(&["scale", "shop", &(ROUND + 1).to_string()]);
    let mut client =
        scale.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    if round % 2 == 1 {
        // The same at each run.
        thread::sleep(Duration::from_millis(round * 7919 % LATEST_BLOW_MS));
        let begun = members(engine)?.into_iter().filter(|(_, name)| !known.contains(name));
        begun.for_each(|(pid, _)| drop(kill(pid))); // Some may have ended since.
    }
    client.wait()?;
    engine.ace(&["scale", "shop", "1"])?.ok()?;
    Ok(ROUND)
}

/// Deploys an app and destroys it.
fn guest(engine: &Engine, round: u64) -> Result<()> {
    let guest = AppFolder::saying(&format!("guest {round}"))?;
    guest.write("app.yaml", "volume: 16M\n")?;
    engine.deploy(guest.path(), "guest")?.ok()?;
    engine.ace(&["destroy", "guest", "--yes"])?.ok()?;
    Ok(())
}

/// How much of each kind the engine has in the kernel and in its folder.
fn held(engine: &Engine) -> Result<BTreeMap<&'static str, usize>> {
    let (id, pid) = (engine.id()?, engine.pid()?);
    let lines = |path: String| Ok::<_, anyhow::Error>(fs::read_to_string(path)?.lines().count());
    let table =
        Command::new("nft").args(["list", "table", "inet", &format!("ace_{id}")]).output()?;
    let devices = leftovers::find(&id, &engine.data());
    let files = ["run", "builds", "archives", "releases", "volumes", "caches"];
    let files: Result<usize> =
        files.iter().map(|folder| names_if_there(&engine.data().join(folder))).sum();
    Ok(BTreeMap::from([
        ("groups", leftovers::instances(&id).len()),
        ("interfaces", leftovers::connected(&id).len()),
        ("mounts", lines(format!("/proc/{pid}/mountinfo"))?),
        ("loop devices", devices.iter().filter(|it| it.starts_with("loop device")).count()),
        ("lines of rules", table.stdout.iter().filter(|byte| **byte == b'\n').count()),
        ("descriptors", names(Path::new(&format!("/proc/{pid}/fd")))?.len()),
        ("files", files?),
        (
            "ranges of ids",
            run("python3", &["-c", RANGES, &engine.data().join("ace.db").display().to_string()])?
                .trim()
                .parse()?,
        ),
    ]))
}

fn names_if_there(folder: &Path) -> Result<usize> {
    if folder.exists() { Ok(names(folder)?.len()) } else { Ok(0) }
}

fn is_as_before(before: &BTreeMap<&str, usize>, after: &BTreeMap<&str, usize>) -> bool {
    let passing = |what: &str| if what == "descriptors" { PASSING } else { 0 };
    after.iter().all(|(what, count)| *count <= before[what] + passing(what))
}
