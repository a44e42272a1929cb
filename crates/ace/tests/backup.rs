//! All of an engine in one file, and back: while apps serve, and through kills.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Context, Result, ensure};

const ACE: &str = env!("CARGO_BIN_EXE_ace");
const DEADLINE: Duration = Duration::from_secs(60);
/// Kills in each test.
const ROUNDS: u64 = 5;

const WRITE: &str = "open('/ace/data/note', 'a').write('kept\\n'); answer = True";
const READ: &str = "answer = open('/ace/data/note').read()";
const COLOUR: &str = "import os; answer = os.environ.get('COLOUR')";

/// An engine with `shop`: two releases, a configuration and something on its volume.
fn engine() -> Result<Engine> {
    let engine = Engine::start(ACE)?;
    let shop = AppFolder::workbench()?;
    shop.write("app.yaml", "volume: 64M\n")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    engine.python("shop", WRITE)?;
    engine.ace(&["config", "shop", "COLOUR=red"])?.ok()?;
    Ok(engine)
}

fn file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("backup.tar.gz")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is no text")
}

fn restore(file: &Path, data: &Path) -> Result<Output> {
    Ok(Command::new(ACE).arg("restore").arg(file).arg("--data").arg(data).output()?)
}

/// Waits until `code` says `wanted` in `shop`.
fn says(engine: &Engine, code: &str, wanted: serde_json::Value) -> Result<()> {
    let mut last = None;
    eventually("the app's answer", DEADLINE, || {
        last = Some(engine.python("shop", code));
        last.as_ref()?.as_ref().ok().filter(|answer| **answer == wanted).map(drop)
    })
    .with_context(|| format!("last: {last:?}"))
}

#[test]
fn a_restored_engine_runs_its_apps_as_they_were() -> Result<()> {
    let (mut engine, folder) = (engine()?, tempfile::tempdir()?);
    let file = file(&folder);
    let made = engine.ace(&["backup", text(&file)?, "--json"])?.ok()?.json()?;
    assert_eq!((&made["apps"], &made["releases"]), (&1.into(), &2.into()), "{made}");
    assert_eq!(made["volumes"][0]["app"], "shop", "{made}");
    assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path())?.count(), 1);
    // What comes later is not in it.
    engine.python("shop", WRITE)?;
    engine.ace(&["config", "shop", "COLOUR=blue"])?.ok()?;

    let taken = restore(&file, &engine.data())?;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(said.contains("is running already"), "{said}");
    engine.down()?;
    let taken = restore(&file, &engine.data())?;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(said.contains("is not empty"), "{said}");

    let restored = Engine::restore(ACE, &file)?;
    says(&restored, READ, "kept\n".into())?;
    says(&restored, COLOUR, "red".into())?;
    restored.ace(&["rollback", "shop"])?.ok()?;
    says(&restored, COLOUR, serde_json::Value::Null)?;
    says(&restored, READ, "kept\n".into())?;
    restored.ace(&["destroy", "shop", "--yes"])?.ok()?;
    Ok(())
}

#[test]
fn a_backup_that_is_killed_leaves_no_file_and_no_app_standing_still() -> Result<()> {
    let (mut engine, folder) = (engine()?, tempfile::tempdir()?);
    let file = file(&folder);
    for round in 0..ROUNDS {
        let mut backup = engine
            .command(&["backup", text(&file)?])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        thread::sleep(Duration::from_millis(round * 67 % 300));
        match round % 2 {
            0 => engine.kill()?,
            _ => backup.kill()?,
        }
        let done = backup.wait()?.success();
        if round % 2 == 0 {
            engine.start_server()?;
        }
        assert_eq!(file.exists(), done, "round {round}");
        let _ = fs::remove_file(&file);
        says(&engine, WRITE, true.into()).with_context(|| format!("round {round}"))?;
    }
    eventually("a whole backup", DEADLINE, || {
        engine.ace(&["backup", text(&file).ok()?]).ok()?.ok().ok()
    })?;
    assert_eq!(fs::read_dir(folder.path())?.count(), 1);
    let scratch = engine.data().join("backups");
    assert!(!scratch.exists(), "copies of volumes are left");
    Ok(())
}

#[test]
fn a_backup_that_fails_says_why() -> Result<()> {
    let (engine, folder) = (engine()?, tempfile::tempdir()?);
    let file = file(&folder);
    // Where the copy of a volume would be.
    let scratch = engine.data().join("backups");
    fs::write(&scratch, "in the way")?;
    let failed = engine.ace(&["backup", text(&file)?])?;
    ensure!(failed.status == 1, "{failed:?}");
    ensure!(failed.stderr.contains("no backup was made: Not a directory"), "{}", failed.stderr);
    ensure!(fs::read_dir(folder.path())?.count() == 0, "something is left");
    fs::remove_file(&scratch)?;
    engine.ace(&["backup", text(&file)?])?.ok().map(drop)
}

#[test]
fn a_restore_that_is_killed_is_no_engine_until_it_is_done_again() -> Result<()> {
    let (mut engine, folder) = (engine()?, tempfile::tempdir()?);
    let file = file(&folder);
    engine.ace(&["backup", text(&file)?])?.ok()?;
    engine.down()?;
    let data = folder.path().join("data");
    for round in 0..ROUNDS {
        let mut child = Command::new(ACE)
            .arg("restore")
            .arg(&file)
            .arg("--data")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        thread::sleep(Duration::from_millis(5 + round * 31));
        child.kill()?;
        if child.wait()?.success() {
            break;
        }
        if data.join("restoring").exists() {
            let refused = Command::new(ACE)
                .args(["server", "--http", "127.0.0.1:0", "--data"])
                .arg(&data)
                .output()?;
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            ensure!(said.contains("was cut short"), "round {round}: {said}");
        }
    }
    fs::remove_dir_all(&data)?;
    let cut = folder.path().join("cut");
    let bytes = fs::read(&file)?;
    fs::write(&cut, &bytes[..bytes.len() - 100])?;
    let refused = restore(&cut, &data)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("cut short"), "{said}");
    // The same folder, once more.
    let done = restore(&file, &data)?;
    assert!(done.status.success(), "{done:?}");
    assert!(!data.join("restoring").exists() && data.join("engine.json").exists());
    Ok(())
}
