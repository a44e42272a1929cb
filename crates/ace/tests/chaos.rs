//! Whatever is killed, taken away or full: it comes right by itself, or says what is wrong.
//!
//! `ACE_CHAOS_ROUNDS=200` makes the rounds of kills as many.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, app, eventually, leftovers};
use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;
use serde_json::Value;

/// How long an engine may take to be as it should be again.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// The first start after a crash waits a second, the one after it two, and so on.
const RESTARTED_WITHIN: Duration = Duration::from_secs(30);
const ROUNDS: u64 = 12;
/// Kills come within this time after what they interrupt has begun.
const LATEST_KILL_MS: u64 = 700;

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

/// What a kill interrupts.
#[derive(Debug, Clone, Copy)]
enum Act {
    FirstDeploy,
    Redeploy,
    FailingDeploy,
    Rollback,
    Scale,
    Configure,
    Restart,
    Destroy,
    Down,
    Start,
}

const ACTS: [Act; 10] = [
    Act::FirstDeploy,
    Act::Redeploy,
    Act::FailingDeploy,
    Act::Rollback,
    Act::Scale,
    Act::Configure,
    Act::Restart,
    Act::Destroy,
    Act::Down,
    Act::Start,
];

/// The app that is there through all rounds.
const STEADY: &str = "steady";
/// One that nobody asks for anything: when its server started.
const WITNESS: &str = "witness";
const STARTED: &str = "import os; answer = open(f'/proc/{os.getppid()}/stat').read().split()[21]";

/// What each app may answer; `None`: it may be gone.
type Expected = BTreeMap<String, Vec<Option<String>>>;

#[test]
fn an_engine_killed_at_any_moment_takes_up_where_it_was() -> Result<()> {
    let rounds = match std::env::var("ACE_CHAOS_ROUNDS") {
        Ok(number) => number.parse()?,
        Err(_) => ROUNDS,
    };
    let mut engine = engine()?;
    engine.deploy(AppFolder::workbench()?.path(), WITNESS)?.ok()?;
    let mut serving = BTreeMap::new();
    for text in ["old", "steady"] {
        engine.deploy(AppFolder::saying(text)?.path(), STEADY)?.ok()?;
    }
    serving.insert(STEADY.to_owned(), "steady".to_owned());
    let mut before = "old".to_owned();
    for round in 0..rounds {
        let act = ACTS[usize::try_from(round)? % ACTS.len()];
        // Spread over the whole time, and the same at each run.
        let delay = Duration::from_millis(round * 7919 % LATEST_KILL_MS);
        let started = engine.python(WITNESS, STARTED)?;
        if matches!(act, Act::Destroy) && serving.len() == 1 {
            // The steady one is to stay.
            let spare = format!("d{round}");
            engine.deploy(AppFolder::saying(&spare)?.path(), &spare)?.ok()?;
            serving.insert(spare.clone(), spare);
        }
        let asked = Round { number: round, act, delay, before: &before };
        let (expected, acknowledged) = interrupt(&mut engine, asked, &serving)?;
        engine.start_server()?;
        let context = || format!("round {round}: {act:?} killed after {delay:?}");
        serving = settled(&engine, &expected).with_context(context)?;
        if acknowledged {
            kept(&engine, act, round).with_context(context)?;
        }
        if !matches!(act, Act::Down) {
            let still = engine.python(WITNESS, STARTED)?;
            ensure!(still == started, "{}: an app was started anew", context());
        }
        engine.ace(&["scale", STEADY, "1"])?.ok()?;
        let text = format!("steady {round}");
        engine.deploy(AppFolder::saying(&text)?.path(), STEADY)?.ok()?;
        before = serving.insert(STEADY.to_owned(), text).context("nothing served before")?;
    }
    Ok(())
}

/// One kill.
struct Round<'a> {
    number: u64,
    act: Act,
    delay: Duration,
    /// What [`STEADY`] said with the release before.
    before: &'a str,
}

/// Begins what `round` says, kills the engine meanwhile, and returns what may be after that, and
/// whether it was acknowledged.
fn interrupt(
    engine: &mut Engine,
    round: Round<'_>,
    serving: &BTreeMap<String, String>,
) -> Result<(Expected, bool)> {
    let Round { number, act, delay, before } = round;
    let text = format!("r{number}");
    let mut folder = AppFolder::saying(&text)?;
    let newest = serving.keys().next().context("an app")?.clone();
    let (arguments, target, result) = match act {
        Act::FirstDeploy => ("deploy", text.clone(), Some(text.as_str())),
        Act::Redeploy => ("deploy", newest, Some(text.as_str())),
        Act::Rollback => ("rollback", STEADY.to_owned(), Some(before)),
        Act::Scale => ("scale", STEADY.to_owned(), None),
        Act::Configure => ("config", STEADY.to_owned(), None),
        Act::Restart => ("restart", STEADY.to_owned(), None),
        Act::FailingDeploy => {
            folder = AppFolder::new("import time\ntime.sleep(0.2)\nraise SystemError\n")?;
            ("deploy", newest, None)
        }
        Act::Destroy => ("destroy", newest, None),
        Act::Down => ("down", newest, None),
        Act::Start => {
            engine.kill()?;
            kill_while_starting(engine, delay)?;
            return Ok((as_before(serving), false));
        }
    };
    let path = folder.path().to_str().context("the folder's name is no text")?;
    let setting = format!("ROUND={number}");
    let command = match arguments {
        "deploy" => vec!["deploy", path, "--app", &target],
        "destroy" => vec!["destroy", &target, "--yes"],
        "down" => vec!["down"],
        "scale" => vec!["scale", &target, "2"],
        "config" => vec!["config", &target, &setting],
        other => vec![other, &target],
    };
    let mut child = engine
        .command(&command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    thread::sleep(delay);
    engine.kill()?;
    let acknowledged = child.wait()?.success();

    let mut expected = as_before(serving);
    let old = expected.remove(&target).unwrap_or_else(|| vec![None]);
    let new = match act {
        Act::FailingDeploy
        | Act::Scale
        | Act::Configure
        | Act::Restart
        | Act::Down
        | Act::Start => old.clone(),
        Act::FirstDeploy | Act::Redeploy | Act::Rollback | Act::Destroy => {
            vec![result.map(str::to_owned)]
        }
    };
    let either = if acknowledged { new } else { [old, new].concat() };
    expected.insert(target, either);
    Ok((expected, acknowledged))
}

/// Whether what was acknowledged is there, as far as the apps themselves don't tell.
fn kept(engine: &Engine, act: Act, round: u64) -> Result<()> {
    let shown = match act {
        Act::Scale => engine.status(STEADY)?["scale"] == 2,
        Act::Configure => {
            let shown = engine.ace(&["config", STEADY, "--reveal", "--json"])?.ok()?.json()?;
            let variables = shown["variables"].as_array().context("no variables")?;
            let value = round.to_string();
            variables.iter().any(|one| one["value"] == value.as_str())
        }
        _ => true,
    };
    ensure!(shown, "it was acknowledged, and is not there");
    Ok(())
}

fn as_before(serving: &BTreeMap<String, String>) -> Expected {
    serving.iter().map(|(app, text)| (app.clone(), vec![Some(text.clone())])).collect()
}

fn kill_while_starting(engine: &Engine, delay: Duration) -> Result<()> {
    let mut server = Command::new(env!("CARGO_BIN_EXE_ace"))
        .args(["server", "--http", "127.0.0.1:0", "--data"])
        .arg(engine.data())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    thread::sleep(delay / 4);
    server.kill()?;
    server.wait()?;
    Ok(())
}

/// Waits until all is as `expected`, and nothing is there besides; returns what serves.
fn settled(engine: &Engine, expected: &Expected) -> Result<BTreeMap<String, String>> {
    let mut last = None;
    eventually("order", SETTLED_WITHIN, || {
        last = Some(look(engine, expected));
        last.as_ref()?.as_ref().ok().cloned()
    })
    .or_else(|late| last.take().unwrap_or(Err(late)))
}

fn look(engine: &Engine, expected: &Expected) -> Result<BTreeMap<String, String>> {
    let listed = engine.ace(&["apps", "--json"])?.ok()?.json()?;
    let listed = listed.as_array().context("no list")?;
    // One whose first deploy was cut short has nothing yet.
    let name = |app: &Value| {
        (app["state"] != "new").then(|| app["name"].as_str()).flatten().map(str::to_owned)
    };
    let mut serving = BTreeMap::new();
    let mut instances = BTreeSet::new();
    for app in listed.iter().filter_map(name) {
        let status = engine.status(&app)?;
        let ids = status["instances"].as_array().context("no instances")?;
        let scale = status["scale"].as_u64().context("no scale")?;
        ensure!(ids.len() as u64 == scale, "{app} has {} instances of {scale}", ids.len());
        instances.extend(ids.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)));
        if app == WITNESS {
            continue;
        }
        serving.insert(app.clone(), engine.get(&app, "/")?.text());
    }
    for (app, allowed) in expected {
        let found = serving.get(app).cloned();
        ensure!(allowed.contains(&found), "{app} says {found:?}, not one of {allowed:?}");
    }
    let unknown = serving.keys().find(|app| !expected.contains_key(*app));
    ensure!(unknown.is_none(), "{unknown:?} should not be there");

    let id = engine.id()?;
    let have = |what, found: BTreeSet<String>| {
        ensure!(found == instances, "{what} of {found:?}, and there are {instances:?}");
        Ok(())
    };
    have("groups", leftovers::instances(&id))?;
    have("interfaces", leftovers::connected(&id))?;
    have("folders", names(&engine.data().join("run"))?)?;
    for (folder, allowed) in [("builds", false), ("archives", false), ("releases", true)] {
        let mut found = names(&engine.data().join(folder))?;
        found.retain(|name| !(allowed && (serving.contains_key(name) || name == WITNESS)));
        ensure!(found.is_empty(), "{folder} has {found:?}");
    }
    Ok(serving)
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
    let group = format!("ace-{}", engine.id()?);
    let ours = |text: &str| text.contains(&group) && text.contains(&format!("/{id}/{part}\n"));
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let groups = fs::read_to_string(entry.path().join("cgroup")).ok()?;
        ours(&groups).then_some(pid)
    });
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_unstable();
    Ok(pids)
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

#[test]
fn a_killed_process_comes_back_and_status_says_why_it_ended() -> Result<()> {
    let mut engine = engine()?;
    engine.deploy(AppFolder::saying("here")?.path(), "shop")?.ok()?;
    let id = instance(&engine, "shop")?["id"].as_str().context("an id")?.to_owned();
    let server = |engine: &Engine| -> Result<u32> {
        processes(engine, &id, "app")?.first().copied().context("no server")
    };
    let init = |engine: &Engine| -> Result<u32> {
        processes(engine, &id, "init")?.first().copied().context("no init")
    };

    kill(server(&engine)?)?;
    restarted(&engine, "shop", 1, "signalled")?;
    kill(init(&engine)?)?;
    restarted(&engine, "shop", 2, "signalled")?;

    engine.kill()?;
    kill(init(&engine)?)?;
    engine.start_server()?;
    restarted(&engine, "shop", 3, "lost")?;
    let shown = engine.ace(&["status", "shop"])?.ok()?.stdout;
    assert!(shown.contains("ended while the engine was not running"), "{shown}");
    Ok(())
}

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
