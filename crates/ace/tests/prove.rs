//! `ace prove` on the real kernel: every wall, and that nothing is left of it.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Fewer would be a table with holes.
const PROBES_LEAST: usize = 150;

#[test]
fn every_wall_holds_and_nothing_is_left_of_the_attack() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    engine.deploy(AppFolder::saying("hello")?.path(), "shop")?.ok()?;
    let output = engine.ace(&["prove", "--json", "--seconds", "1", "--attack", "cpu"])?;
    let document = output.json()?;
    let probes = document["probes"].as_array().with_context(|| output.stdout.clone())?;
    let failed: Vec<&Value> = probes.iter().filter(|probe| probe["ok"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for probe in probes.iter().filter(|probe| probe["skipped"] == true) {
        eprintln!("SKIPPED: {}: {}", probe["name"], probe["observed"]);
    }
    let names: BTreeSet<&str> = probes.iter().filter_map(|probe| probe["name"].as_str()).collect();
    assert_eq!(names.len(), probes.len(), "two probes have one name");
    assert!(names.len() >= PROBES_LEAST, "{} probes", names.len());
    for kind in
        ["files", "kernel", "limits", "network", "privilege", "processes", "build", "outside"]
    {
        assert!(names.iter().any(|name| name.starts_with(kind)), "no probe of {kind}");
    }
    // How well it went is for a quiet machine to say.
    let neighbour = document["neighbour"].as_array().context("no figures")?;
    let attacks: Vec<_> = neighbour.iter().map(|figures| figures["attack"].clone()).collect();
    assert_eq!(attacks, [json!("none"), json!("cpu")]);
    assert!(neighbour.iter().all(|it| it["p99_ms"].as_f64() > Some(0.0)), "{neighbour:#?}");
    assert_eq!(names_of_apps(&engine)?, ["shop"]);
    assert_eq!(engine.get("shop", "/")?.text(), "hello");
    Ok(())
}

#[test]
fn a_proof_that_is_given_up_or_killed_leaves_nothing() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let baits = AppFolder::empty()?;
    let bait = || -> Result<usize> {
        let names = std::fs::read_dir(baits.path())?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with("ace-prove.")).count())
    };
    let begin = || -> Result<_> {
        let mut prove = engine.command(&["prove", "--skip-neighbour"]);
        prove.env("TMPDIR", baits.path());
        let child =
            prove.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let deployed = || (names_of_apps(&engine).ok()?.len() == 2).then_some(());
        eventually("the attacker", Duration::from_secs(120), deployed)?;
        Ok(child)
    };
    let mut killed = begin()?;
    let second = engine.ace(&["prove", "--skip-neighbour"])?;
    ensure!(second.status == 1 && second.stderr.contains("already"), "{second:?}");
    assert_eq!(bait()?, 1);
    killed.kill()?;
    killed.wait()?;
    let is_gone = || bait().is_ok_and(|count| count == 0).then_some(());
    eventually("the end of the bait", Duration::from_secs(60), is_gone)?;
    assert_eq!(names_of_apps(&engine)?.len(), 2, "a kill leaves its apps to the next one");

    let mut given_up = begin()?;
    let pid = i32::try_from(given_up.id())?;
    let pid = rustix::process::Pid::from_raw(pid).context("no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    assert_eq!(given_up.wait()?.code(), Some(1));
    assert_eq!(names_of_apps(&engine)?, [] as [String; 0]);
    Ok(())
}

#[test]
fn an_app_of_somebody_else_is_never_taken_for_a_leftover() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    engine.deploy(AppFolder::saying("mine")?.path(), "ace-prove-attacker")?.ok()?;
    let refused = engine.ace(&["prove", "--skip-neighbour"])?;
    ensure!(refused.status == 1 && refused.stderr.contains("ace-prove-attacker"), "{refused:?}");
    assert_eq!(engine.get("ace-prove-attacker", "/")?.text(), "mine");
    Ok(())
}

fn names_of_apps(engine: &Engine) -> Result<Vec<String>> {
    let apps = engine.ace(&["apps", "--json"])?.ok()?.json()?;
    let apps = apps.as_array().context("no list")?;
    Ok(apps.iter().filter_map(|app| app["name"].as_str().map(str::to_owned)).collect())
}
