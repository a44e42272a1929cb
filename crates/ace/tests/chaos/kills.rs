//! Processes that are killed: the engine's, the client's, containers' of any kind.
//!
//! `ACE_CHAOS_ROUNDS=200` makes the rounds as many.

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::rounds::{Act, Blow, Rounds};
use crate::{SETTLED_WITHIN, engine, instance, kill, processes, restarted};

const ENGINE_ROUNDS: u64 = 12;
const OTHER_ROUNDS: u64 = 9;

#[test]
fn an_engine_killed_at_any_moment_takes_up_where_it_was() -> Result<()> {
    use Act::*;
    const ACTS: [Act; 12] = [
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
        Start,
    ];
    let mut rounds = Rounds::begin(engine()?)?;
    (0..number_of_rounds(ENGINE_ROUNDS)?)
        .zip(ACTS.into_iter().cycle())
        .try_for_each(|(number, act)| rounds.round(number, act, Blow::EngineKilled))
}

#[test]
fn whatever_else_is_killed_or_stands_still_spoils_nothing() -> Result<()> {
    use Act::*;
    const ACTS: [Act; 11] = [
        Redeploy,
        Rollback,
        FirstDeploy,
        Scale,
        FailingDeploy,
        Restart,
        Configure,
        Destroy,
        Stop,
        Domains,
        Down,
    ];
    const BLOWS: [Blow; 3] = [Blow::ContainersKilled, Blow::ClientKilled, Blow::EngineStopped];
    let mut rounds = Rounds::begin(engine()?)?;
    // Their numbers have no divisor in common: each meets each.
    let pairs = ACTS.into_iter().cycle().zip(BLOWS.into_iter().cycle());
    (0..number_of_rounds(OTHER_ROUNDS)?)
        .zip(pairs)
        .try_for_each(|(number, (act, blow))| rounds.round(number, act, blow))
}

fn number_of_rounds(usual: u64) -> Result<u64> {
    Ok(std::env::var("ACE_CHAOS_ROUNDS").ok().map_or(Ok(usual), |number| number.parse())?)
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
fn an_engine_that_comes_back_while_an_instance_waits_counts_no_further_crash() -> Result<()> {
    let mut engine = engine()?;
    engine.deploy(AppFolder::saying("here")?.path(), "shop")?.ok()?;
    crash(&engine)?;
    engine.kill()?;
    engine.start_server()?;
    restarted(&engine, "shop", 1, "signalled")?;
    let pause = crash(&engine)?;
    assert_eq!(pause.as_secs(), 2, "the pause after the second crash");
    Ok(())
}

/// Kills the server of the app, and returns how long it's going to wait.
fn crash(engine: &Engine) -> Result<jiff::SignedDuration> {
    let id = instance(engine, "shop")?["id"].as_str().context("an id")?.to_owned();
    kill(processes(engine, &id, "app")?.first().copied().context("no server")?)?;
    let crashed = eventually("the crash", SETTLED_WITHIN, || {
        instance(engine, "shop").ok().filter(|shown| shown["state"]["name"] == "crashed")
    })?;
    let time = |shown: &serde_json::Value| -> Result<Timestamp> {
        Ok(shown.as_str().context("no time")?.parse()?)
    };
    Ok(time(&crashed["state"]["retry_at"])?.duration_since(time(&crashed["since"])?))
}
