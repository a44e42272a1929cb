//! Whatever is killed, taken away or full: it comes right by itself, or says what is wrong.
//!
//! `rounds` interrupts everything that can be asked for, by what `kills` and `power` do; `drift` is what somebody
//! changes outside, `disk` what the disk refuses, `stuck` what does not end when it should; `churn` makes many instances.

#![forbid(unsafe_code)]

mod churn;
mod disk;
mod drift;
mod kills;
mod power;
mod rounds;
mod stuck;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ace_testkit::{Engine, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How long an engine may take to be as it should be again.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// The first start after a crash waits a second, the one after it two, and so on.
const RESTARTED_WITHIN: Duration = Duration::from_secs(60);

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// The one instance of `app`.
fn instance(engine: &Engine, app: &str) -> Result<Value> {
    Ok(engine.status(app)?["instances"][0].clone())
}

/// Waits until the one instance of `app` runs, and was restarted `restarts` times because of `kind`.
fn restarted(engine: &Engine, app: &str, restarts: u64, kind: &str) -> Result<()> {
    let mut last = Value::Null;
    let asked = eventually("the restart", RESTARTED_WITHIN, || {
        last = instance(engine, app).ok()?;
        let has_come = last["restarts"] == restarts && last["state"]["name"] == "running";
        (has_come && last["last_end"]["kind"] == kind).then_some(())
    });
    asked.with_context(|| last.to_string())?;
    let answers = || engine.get(app, "/").ok().filter(|answer| answer.status == 200);
    eventually("an answer", SETTLED_WITHIN, answers).map(drop)
}

/// The host's ids of the processes in the `part`, "init" or "app", of the instance `id`.
fn processes(engine: &Engine, id: &str, part: &str) -> Result<Vec<u32>> {
    // ace-ENGINE/NAME, or ace-ENGINE.NAME where processors are shared out.
    let part = format!("{id}/{part}\n");
    let in_part = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&part))
    };
    Ok(members(engine)?.into_iter().map(|(pid, _)| pid).filter(in_part).collect())
}

/// The host's ids of the engine's processes in containers, and the names of those.
fn members(engine: &Engine) -> Result<Vec<(u32, String)>> {
    let group = format!("ace-{}", engine.id()?);
    let name = |groups: String| {
        let below = groups.split_once(&group)?.1.lines().next()?;
        // Where processors are shared out: ace-ENGINE.NAME.
        below.trim_start_matches(['/', '.']).split('/').next().map(str::to_owned)
    };
    let members = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, name(fs::read_to_string(entry.path().join("cgroup")).ok()?)?))
    });
    let mut members: Vec<_> = members.collect();
    members.sort_unstable();
    Ok(members)
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {complaint}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn kill(pid: u32) -> Result<()> {
    run("kill", &["-KILL", &pid.to_string()]).map(drop)
}
