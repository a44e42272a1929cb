//! Disks that are full, or can only be read.

use std::fs::{self, File};
use std::path::Path;

use ace_testkit::{AppFolder, Engine, app, eventually};
use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;

use crate::SETTLED_WITHIN;

#[test]
fn a_full_disk_stops_deploys_and_nothing_else() -> Result<()> {
    let mut engine = Engine::start_on_small_disk(env!("CARGO_BIN_EXE_ace"), 3 << 10)?;
    let shop = AppFolder::saying("one")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    engine.deploy(AppFolder::saying("spare")?.path(), "spare")?.ok()?;
    let filler = engine.data().join("filler");
    shop.write("index.py", &app::saying("two"))?;
    for (spare, why) in [(100 << 20, "disk is almost full"), (0, "its disk is full")] {
        fill(&filler, spare)?;
        let failed = engine.deploy(shop.path(), "shop")?;
        assert_eq!(failed.status, 1);
        assert!(failed.stderr.contains(why), "{}", failed.stderr);
    }
    assert_eq!(engine.get("shop", "/")?.text(), "one");

    engine.kill()?;
    engine.start_server()?;
    let answers = || engine.get("shop", "/").ok().filter(|answer| answer.text() == "one");
    eventually("the app, with a new engine", SETTLED_WITHIN, answers)?;
    engine.ace(&["destroy", "spare", "--yes"])?.ok()?;
    assert_eq!(engine.get("spare", "/")?.status, 404);

    fs::remove_file(&filler)?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    assert_eq!(engine.get("shop", "/")?.text(), "two");

    fill(&filler, 0)?;
    engine.down()?;
    assert_eq!(engine.leftovers()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_disk_that_can_only_be_read_stops_the_engine_and_no_app() -> Result<()> {
    let mut engine = Engine::start_on_small_disk(env!("CARGO_BIN_EXE_ace"), 3 << 10)?;
    let shop = AppFolder::saying("one")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    engine.sync()?;
    engine.forbid_writing()?;
    shop.write("index.py", &app::saying("two"))?;
    let commands: [&[&str]; 3] = [
        &["deploy", shop.path().to_str().context("no text")?, "--app", "shop"],
        &["config", "shop", "A=1"],
        &["scale", "shop", "2"],
    ];
    for command in commands {
        let failed = engine.ace(command)?;
        ensure!(failed.status == 1, "{command:?}: {failed:?}");
        ensure!(failed.stderr.contains("its disk can only be read"), "{}", failed.stderr);
    }
    assert_eq!(engine.get("shop", "/")?.text(), "one");
    assert_eq!(engine.status("shop")?["scale"], 1);

    engine.kill()?;
    let refused = engine.refuses_to_start()?;
    ensure!(refused.contains("can only be read; nothing was changed"), "{refused}");
    engine.restart_machine()?;
    engine.start_server()?;
    let answers = || engine.get("shop", "/").ok().filter(|answer| answer.text() == "one");
    eventually("the app, on a disk that was mended", SETTLED_WITHIN, answers)?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    assert_eq!(engine.get("shop", "/")?.text(), "two");
    Ok(())
}

/// Makes a file of all the room that is left but about `spare` bytes.
fn fill(path: &Path, spare: u64) -> Result<()> {
    let file = File::create(path)?;
    let mut end = 0;
    for step in [16 << 20, 1 << 20, 4096] {
        let free = || rustix::fs::fstatvfs(&file).map(|disk| disk.f_bavail * disk.f_frsize);
        let grow = |end| rustix::fs::fallocate(&file, FallocateFlags::empty(), end, step);
        while free()? >= spare + step && grow(end).is_ok() {
            end += step;
        }
    }
    Ok(())
}
