//! What somebody changes outside, while an engine runs and while none does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use ace_testkit::{AppFolder, Engine, eventually, leftovers};
use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use serde_json::Value;

use crate::rounds::settled;
use crate::{SETTLED_WITHIN, engine, instance, processes, restarted, run};

#[test]
fn what_somebody_changes_outside_is_set_right() -> Result<()> {
    let engine = engine()?;
    engine.deploy(AppFolder::saying("here")?.path(), "shop")?.ok()?;
    let id = instance(&engine, "shop")?["id"].as_str().context("an id")?.to_owned();
    let interface = format!("va{}{id}", engine.id()?);
    let table = format!("ace_{}", engine.id()?);
    let rules = || run("nft", &["--stateless", "--terse", "list", "table", "inet", &table]);
    let routes = || run("ip", &["route", "show", "dev", &interface]);
    let (rules_before, routes_before) = (rules()?, routes()?);
    let as_before = || {
        let same = rules().ok()? == rules_before && routes().ok()? == routes_before;
        same.then_some(())
    };

    run("nft", &["flush", "table", "inet", &table])?;
    run("ip", &["route", "flush", "dev", &interface])?;
    eventually("rules and route", SETTLED_WITHIN, as_before)?;
    run("nft", &["delete", "table", "inet", &table])?;
    run("ip", &["link", "set", &interface, "down"])?;
    eventually("table and link", SETTLED_WITHIN, as_before)?;
    assert_eq!(instance(&engine, "shop")?["restarts"], 0);

    run("ip", &["link", "delete", &interface])?;
    restarted(&engine, "shop", 1, "damaged")?;
    fs::remove_file(engine.data().join("run").join(&id).join("socket"))?;
    restarted(&engine, "shop", 2, "damaged")?;
    let shown = engine.ace(&["status", "shop"])?.ok()?.stdout;
    assert!(shown.contains("its socket was removed from outside"), "{shown}");
    Ok(())
}

/// What is removed while the engine runs, and nothing of an app has to be made anew for.
#[test]
fn what_is_removed_beside_the_apps_is_there_again() -> Result<()> {
    let engine = engine()?;
    engine.deploy(AppFolder::workbench()?.path(), "shop")?.ok()?;
    let id = instance(&engine, "shop")?["id"].as_str().context("an id")?.to_owned();
    let folder = engine.data().join("run").join(&id);
    let identity = fs::read(engine.data().join("engine.json"))?;

    fs::remove_file(engine.socket())?;
    let answers = || engine.ace(&["apps"]).ok().filter(|listed| listed.status == 0);
    eventually("the API's socket", SETTLED_WITHIN, answers)?;

    for file in [engine.data().join("engine.json"), folder.join("instance.json")] {
        fs::remove_file(&file)?;
        let is_there = || file.exists().then_some(());
        eventually(&file.display().to_string(), SETTLED_WITHIN, is_there)?;
    }
    assert_eq!(fs::read(engine.data().join("engine.json"))?, identity);

    let claim = forget_claim(&engine.id()?)?;
    let is_claimed = || (claims().ok()?["engines"][engine.id().ok()?] == claim).then_some(());
    eventually("the claim", SETTLED_WITHIN, is_claimed)?;

    fs::remove_file(folder.join("log/current"))?;
    engine
        .python("shop", "import sys; answer = print('found again', file=sys.stderr, flush=True)")?;
    let logged = || {
        let shown = engine.ace(&["logs", "shop"]).ok()?.stdout;
        shown.contains("found again").then_some(())
    };
    eventually("the line in the log", SETTLED_WITHIN, logged)?;
    fs::remove_file(engine.data().join("logs/access.log"))?;
    let logged = || {
        engine.get("shop", "/found").ok()?;
        let lines = fs::read_to_string(engine.data().join("logs/access.log")).ok()?;
        lines.contains("/found").then_some(())
    };
    eventually("the access log", SETTLED_WITHIN, logged)?;
    assert_eq!(instance(&engine, "shop")?["restarts"], 0);
    Ok(())
}

const REGISTER: &str = "/run/ace/claims.json";

fn claims() -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(REGISTER)?)?)
}

/// Takes the engine `id` out of the register, which others use, too. Returns what stood there.
fn forget_claim(id: &str) -> Result<Value> {
    let lock = File::open("/run/ace/lock")?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    let mut claims = claims()?;
    let engines = claims["engines"].as_object_mut().context("no engines")?;
    let claim = engines.remove(id).context("no claim")?;
    fs::write("/run/ace/claims.json.test", serde_json::to_vec(&claims)?)?;
    fs::rename("/run/ace/claims.json.test", REGISTER)?;
    Ok(claim)
}

#[test]
fn what_a_container_can_t_do_without_is_made_anew_with_it() -> Result<()> {
    let engine = engine()?;
    engine.deploy(AppFolder::saying("here")?.path(), "shop")?.ok()?;
    let id = instance(&engine, "shop")?["id"].as_str().context("an id")?.to_owned();
    let init = processes(&engine, &id, "init")?.first().context("no init")?.to_string();
    run("nsenter", &["--target", &init, "--mount", "--pid", "umount", "--lazy", "/dev/shm"])?;
    restarted(&engine, "shop", 1, "damaged")?;
    let shown = engine.ace(&["status", "shop"])?.ok()?.stdout;
    assert!(shown.contains("one of its mounts was removed from outside"), "{shown}");

    leave_a_group(&engine, &id)?;
    restarted(&engine, "shop", 2, "damaged")?;
    let shown = engine.ace(&["status", "shop"])?.ok()?.stdout;
    assert!(shown.contains("its control group was removed from outside"), "{shown}");
    Ok(())
}

/// Moves all processes of the instance `id` out of its groups in one tree, and removes those.
fn leave_a_group(engine: &Engine, id: &str) -> Result<()> {
    let groups = leftovers::groups_of(&engine.id()?, id);
    let group = groups.first().context("no group")?;
    let is_group = |folder: &&Path| folder.join("cgroup.procs").exists();
    let root = group.ancestors().take_while(is_group).last().context("no root")?;
    for part in ["app", "init"] {
        for pid in fs::read_to_string(group.join(part).join("cgroup.procs"))?.lines() {
            fs::write(root.join("cgroup.procs"), pid)?;
        }
        fs::remove_dir(group.join(part))?;
    }
    Ok(fs::remove_dir(group)?)
}

#[test]
fn a_release_whose_files_were_removed_is_told() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::saying("here")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    fs::remove_dir_all(engine.data().join("releases/shop"))?;
    let shown = engine.ace(&["status", "shop"])?.ok()?.stdout;
    assert!(shown.contains("the release's code was removed from the engine's disk"), "{shown}");
    assert_eq!(engine.get("shop", "/")?.text(), "here", "what runs goes on");
    let logged = || {
        let shown = engine.ace(&["logs", "shop"]).ok()?.stdout;
        shown.contains("the release's code was removed").then_some(())
    };
    eventually("the line in the log", SETTLED_WITHIN, logged)?;

    engine.deploy(shop.path(), "shop")?.ok()?;
    let shown = engine.ace(&["status", "shop"])?.ok()?.stdout;
    assert!(!shown.contains("was removed"), "{shown}");
    Ok(())
}

#[test]
fn an_engine_without_its_identity_does_not_become_another() -> Result<()> {
    let mut engine = engine()?;
    engine.deploy(AppFolder::saying("here")?.path(), "shop")?.ok()?;
    let (file, aside) = (engine.data().join("engine.json"), engine.data().join("aside"));
    engine.kill()?;
    fs::rename(&file, &aside)?;
    let refused = engine.refuses_to_start()?;
    assert!(refused.contains("engine.json is gone"), "{refused}");
    fs::rename(&aside, &file)?;
    engine.start_server()?;
    let answers = || engine.get("shop", "/").ok().filter(|answer| answer.text() == "here");
    eventually("the app", SETTLED_WITHIN, answers).map(drop)
}

#[test]
fn what_somebody_removes_while_no_engine_runs_is_made_again() -> Result<()> {
    let mut engine = engine()?;
    engine.deploy(AppFolder::saying("here")?.path(), "shop")?.ok()?;
    let expected = BTreeMap::from([("shop".to_owned(), vec![Some("here".to_owned())])]);
    let removals = [
        "run/ID",
        "run/ID/instance.json",
        "run/ID/socket",
        "run/ID/exit",
        "run",
        "ace.sock",
        "lock",
        "ace.db-shm",
        "reserve",
        "logs",
        "builds",
        "archives",
        "spool",
        "tools",
    ];
    for what in removals {
        let id = instance(&engine, "shop")?["id"].as_str().context("an id")?.to_owned();
        engine.kill()?;
        let path = engine.data().join(what.replace("ID", &id));
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&path)?,
            _ => fs::remove_file(&path).with_context(|| what)?,
        }
        engine.start_server().with_context(|| what)?;
        settled(&engine, &expected).with_context(|| format!("without {what}"))?;
    }
    Ok(())
}
