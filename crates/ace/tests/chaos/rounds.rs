//! Rounds of one kind: something is asked for, a blow falls meanwhile, and then all has to be in order again. What
//! was acknowledged is there, what was not is there whole or not at all, nothing is left over, and apps that had
//! nothing to do with it have gone on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually, leftovers};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::{SETTLED_WITHIN, kill, members, names};

/// A blow falls within this time after what it interrupts has begun: a deploy takes longer than the rest.
const LATEST_BLOW_OF_DEPLOYS_MS: u64 = 2500;
const LATEST_BLOW_MS: u64 = 800;
/// How long an engine stands still.
const STANDSTILL: Duration = Duration::from_secs(2);

/// The app that is there through all rounds.
const STEADY: &str = "steady";
/// One that nobody asks for anything: when its server started.
const WITNESS: &str = "witness";
const STARTED: &str = "import os; answer = open(f'/proc/{os.getppid()}/stat').read().split()[21]";
/// What stands for the answer of an app that is stopped.
const STOPPED: &str = "(stopped)";

/// What a blow interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    FirstDeploy,
    Redeploy,
    FailingDeploy,
    Rollback,
    Scale,
    Configure,
    Domains,
    Restart,
    Stop,
    Destroy,
    Down,
    /// Of the engine.
    Start,
}

/// What falls upon it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    EngineKilled,
    EngineStopped,
    ClientKilled,
    /// All processes of containers that the act has begun: launcher, init and the tenant's.
    ContainersKilled,
    PowerCut,
}

/// An engine, and what it should serve.
pub struct Rounds {
    engine: Engine,
    serving: BTreeMap<String, String>,
    /// What [`STEADY`] said with the release before.
    before: String,
}

/// What each app may answer; `None`: it may be gone.
type Expected = BTreeMap<String, Vec<Option<String>>>;

impl Act {
    /// Whether it changes what its app answers.
    fn changes_answer(self) -> bool {
        use Act::{Destroy, FirstDeploy, Redeploy, Rollback, Stop};
        matches!(self, FirstDeploy | Redeploy | Rollback | Stop | Destroy)
    }

    fn latest_blow_ms(self) -> u64 {
        match self {
            Self::FirstDeploy | Self::Redeploy | Self::FailingDeploy => LATEST_BLOW_OF_DEPLOYS_MS,
            _ => LATEST_BLOW_MS,
        }
    }
}

impl Rounds {
    pub fn begin(engine: Engine) -> Result<Self> {
        engine.deploy(AppFolder::workbench()?.path(), WITNESS)?.ok()?;
        for text in ["old", STEADY] {
            engine.deploy(AppFolder::saying(text)?.path(), STEADY)?.ok()?;
        }
        let serving = BTreeMap::from([(STEADY.to_owned(), STEADY.to_owned())]);
        Ok(Self { engine, serving, before: "old".to_owned() })
    }

    /// The round `number`: `act` is interrupted by `blow`.
    pub fn round(&mut self, number: u64, act: Act, blow: Blow) -> Result<()> {
        // Spread over the whole time, and the same at each run.
        let delay = Duration::from_millis(number * 7919 % act.latest_blow_ms());
        let context = || format!("round {number}: {act:?} and {blow:?} after {delay:?}");
        self.play(number, act, blow, delay).with_context(context)
    }

    fn play(&mut self, number: u64, act: Act, blow: Blow, delay: Duration) -> Result<()> {
        let started = self.engine.python(WITNESS, STARTED)?;
        if act == Act::Destroy && self.serving.len() == 1 {
            // The steady one is to stay.
            let spare = format!("d{number}");
            self.engine.deploy(AppFolder::saying(&spare)?.path(), &spare)?.ok()?;
            self.serving.insert(spare.clone(), spare);
        }
        let (expected, acknowledged) = match act {
            Act::Start => {
                self.engine.kill()?;
                kill_while_starting(&self.engine, delay / 4)?;
                kill_while_starting(&self.engine, delay / 7)?;
                self.engine.start_server()?;
                (as_before(&self.serving), false)
            }
            _ => self.interrupt(number, act, blow, delay)?,
        };
        self.serving = settled(&self.engine, &expected)?;
        if acknowledged && blow != Blow::ContainersKilled {
            kept(&self.engine, act, number)?;
        }
        if act != Act::Down && blow != Blow::PowerCut {
            let still = self.engine.python(WITNESS, STARTED)?;
            ensure!(still == started, "an app was started anew");
        }
        if blow == Blow::PowerCut {
            // Its pauses double with each cut: a new instance has seen none.
            self.engine.ace(&["restart", WITNESS])?.ok()?;
        }
        self.make_steady(number)
    }

    /// Begins `act`, lets `blow` fall after `delay`, and returns what may be after that, and whether the act was
    /// acknowledged.
    fn interrupt(
        &mut self,
        number: u64,
        act: Act,
        blow: Blow,
        delay: Duration,
    ) -> Result<(Expected, bool)> {
        let text = format!("r{number}");
        let newest = self.serving.keys().next().context("an app")?.clone();
        let folder = match act {
            Act::FailingDeploy => {
                AppFolder::new("import time\ntime.sleep(0.2)\nraise SystemError\n")?
            }
            _ => AppFolder::saying(&text)?,
        };
        let path = folder.path().to_str().context("the folder's name is no text")?;
        let (setting, domain) = (format!("ROUND={number}"), domain(number));
        let (target, new, arguments): (&str, Option<&str>, Vec<&str>) = match act {
            Act::FirstDeploy => (&text, Some(&text), vec!["deploy", path, "--app", &text]),
            Act::Redeploy => (&newest, Some(&text), vec!["deploy", path, "--app", &newest]),
            Act::FailingDeploy => (&newest, None, vec!["deploy", path, "--app", &newest]),
            Act::Rollback => (STEADY, Some(&self.before), vec!["rollback", STEADY]),
            Act::Scale => (STEADY, None, vec!["scale", STEADY, "2"]),
            Act::Configure => (STEADY, None, vec!["config", STEADY, &setting]),
            Act::Domains => (STEADY, None, vec!["domains", STEADY, "add", &domain]),
            Act::Restart => (STEADY, None, vec!["restart", STEADY]),
            Act::Stop => (STEADY, Some(STOPPED), vec!["stop", STEADY]),
            Act::Destroy => (&newest, None, vec!["destroy", &newest, "--yes"]),
            Act::Down | Act::Start => (&newest, None, vec!["down"]),
        };
        let (target, new) = (target.to_owned(), new.map(str::to_owned));
        let known = leftovers::instances(&self.engine.id()?);
        let mut command = self.engine.command(&arguments);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = quiet.spawn()?;
        thread::sleep(delay);
        let acknowledged = self.strike(blow, act, &mut client, &known)?;

        let mut expected = as_before(&self.serving);
        let old = expected.remove(&target).unwrap_or_else(|| vec![None]);
        let new = if act.changes_answer() { vec![new] } else { old.clone() };
        // A release whose instances are killed in its first minute may be taken back.
        let may_be_taken_back = blow == Blow::ContainersKilled && target == STEADY;
        let before = may_be_taken_back.then(|| Some(self.before.clone()));
        let is_sure = acknowledged && blow != Blow::ContainersKilled;
        let allowed = if is_sure { new } else { [old, new].concat() };
        expected.insert(target, allowed.into_iter().chain(before).collect());
        Ok((expected, acknowledged))
    }

    /// Lets `blow` fall, and has an engine that runs after it. Returns whether `client` was told that all went well.
    fn strike(
        &mut self,
        blow: Blow,
        act: Act,
        client: &mut Child,
        known: &BTreeSet<String>,
    ) -> Result<bool> {
        match blow {
            Blow::EngineKilled => self.engine.kill()?,
            Blow::PowerCut => ensure!(self.engine.cut_power()?, "it could be cut before"),
            Blow::EngineStopped => {
                self.engine.signal(Signal::STOP)?;
                thread::sleep(STANDSTILL);
                self.engine.signal(Signal::CONT)?;
            }
            Blow::ClientKilled => client.kill()?,
            Blow::ContainersKilled => {
                let members = members(&self.engine)?;
                let begun = members.iter().filter(|(_, name)| !known.contains(name));
                begun.for_each(|(pid, _)| drop(kill(*pid))); // Some may have ended since.
            }
        }
        let acknowledged = client.wait()?.success();
        let is_gone = matches!(blow, Blow::EngineKilled | Blow::PowerCut);
        if act == Act::Down && !is_gone {
            self.engine.kill()?;
        }
        if act == Act::Down || is_gone {
            self.engine.start_server()?;
        }
        Ok(acknowledged)
    }

    /// Brings [`STEADY`] to where every round begins.
    fn make_steady(&mut self, number: u64) -> Result<()> {
        let engine = &self.engine;
        if self.serving.get(STEADY).is_some_and(|text| text == STOPPED) {
            engine.ace(&["start", STEADY])?.ok()?;
        }
        if has_domain(engine, number)? {
            engine.ace(&["domains", STEADY, "remove", &domain(number)])?.ok()?;
        }
        engine.ace(&["scale", STEADY, "1"])?.ok()?;
        let serving = engine.get(STEADY, "/")?.text();
        let text = format!("steady {number}");
        engine.deploy(AppFolder::saying(&text)?.path(), STEADY)?.ok()?;
        self.serving.insert(STEADY.to_owned(), text);
        self.before = serving;
        Ok(())
    }
}

fn domain(number: u64) -> String {
    format!("r{number}.example.org")
}

fn has_domain(engine: &Engine, number: u64) -> Result<bool> {
    let status = engine.status(STEADY)?;
    let domains = status["domains"].as_array().context("no domains")?;
    Ok(domains.iter().any(|found| *found == domain(number).as_str()))
}

/// Whether what was acknowledged is there, as far as the apps themselves don't tell.
fn kept(engine: &Engine, act: Act, number: u64) -> Result<()> {
    let shown = match act {
        Act::Scale => engine.status(STEADY)?["scale"] == 2,
        Act::Domains => has_domain(engine, number)?,
        Act::Configure => {
            let shown = engine.ace(&["config", STEADY, "--reveal", "--json"])?.ok()?.json()?;
            let variables = shown["variables"].as_array().context("no variables")?;
            let value = number.to_string();
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
    thread::sleep(delay);
    server.kill()?;
    server.wait()?;
    Ok(())
}

/// Waits until all is as `expected`, and nothing is there besides; returns what serves.
pub fn settled(engine: &Engine, expected: &Expected) -> Result<BTreeMap<String, String>> {
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
    let mut serving = BTreeMap::new();
    let mut instances = BTreeSet::new();
    // One whose first deploy was cut short has nothing yet.
    for app in listed.iter().filter(|app| app["state"] != "new") {
        let (name, is_stopped) =
            (app["name"].as_str().context("no name")?, app["state"] == "stopped");
        instances.extend(instances_of(engine, name, is_stopped)?);
        if name == WITNESS {
            continue;
        }
        let text = if is_stopped { STOPPED.to_owned() } else { engine.get(name, "/")?.text() };
        serving.insert(name.to_owned(), text);
    }
    for (app, allowed) in expected {
        let found = serving.get(app).cloned();
        ensure!(allowed.contains(&found), "{app} says {found:?}, not one of {allowed:?}");
    }
    let unknown = serving.keys().find(|app| !expected.contains_key(*app));
    ensure!(unknown.is_none(), "{unknown:?} should not be there");
    nothing_else(engine, &serving, &instances)?;
    Ok(serving)
}

/// The ids of the instances of `app`, if it has as many as it should.
fn instances_of(engine: &Engine, app: &str, is_stopped: bool) -> Result<Vec<String>> {
    let status = engine.status(app)?;
    let found = status["instances"].as_array().context("no instances")?;
    let scale = if is_stopped { 0 } else { status["scale"].as_u64().context("no scale")? };
    ensure!(found.len() as u64 == scale, "{app} has {} instances of {scale}", found.len());
    let id = |one: &Value| one["id"].as_str().map(str::to_owned);
    Ok(found.iter().filter_map(id).collect())
}

/// Whether the kernel and the data folder have of the engine what these `instances` and apps need, and no more.
fn nothing_else(
    engine: &Engine,
    serving: &BTreeMap<String, String>,
    instances: &BTreeSet<String>,
) -> Result<()> {
    let id = engine.id()?;
    let have = |what, found: BTreeSet<String>| {
        ensure!(found == *instances, "{what} of {found:?}, and there are {instances:?}");
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
    for code in serving.keys().map(|app| engine.data().join("releases").join(app)) {
        for release in names(&code)? {
            let index = code.join(&release).join("code/index.py");
            ensure!(fs::metadata(&index)?.len() > 0, "{} is empty", index.display());
        }
    }
    Ok(())
}
