//! The page that teaches the API: what it shows is so.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/API.md");

/// A command of the page, and fields that the last line of its answer has.
struct Example {
    command: String,
    answer: Value,
}

/// Each block of `sh` with the block of `json` behind it.
fn examples() -> Result<Vec<Example>> {
    let mut all = Vec::new();
    let mut command = None;
    for block in PAGE.split("\n```").skip(1).step_by(2) {
        match block.split_once('\n').context("a block")? {
            ("sh", text) => command = Some(text.to_owned()),
            ("json", text) => {
                let command = command.take().context("an answer without a command")?;
                all.push(Example { command, answer: serde_json::from_str(text)? });
            }
            (kind, _) => anyhow::bail!("a block of {kind:?}"),
        }
    }
    ensure!(command.is_none(), "the last command has no answer");
    Ok(all)
}

#[test]
fn the_examples_of_the_page_do_what_it_says() -> Result<()> {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: there is no curl to run the examples of docs/API.md with");
        return Ok(());
    }
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let token = engine.ace(&["token", "create", "--name", "examples"])?.ok()?.stdout;
    let folder = tempfile::tempdir()?;
    let examples = examples()?;
    ensure!(examples.len() > 5, "{}", examples.len());
    for Example { command, answer } in examples {
        let output = Command::new("sh")
            .args(["-euc", &command])
            .current_dir(&folder)
            .env("API", format!("http://{}", engine.api()?))
            .env("TOKEN", token.trim())
            .output()?;
        ensure!(output.status.success(), "{command}\n{output:?}");
        let said = String::from_utf8(output.stdout)?;
        let last = said.trim_end().lines().last().with_context(|| command.clone())?;
        let last: Value = serde_json::from_str(last).with_context(|| said.clone())?;
        for (name, value) in answer.as_object().context("an object")? {
            ensure!(last.get(name) == Some(value), "{command}\n{name} is not {value}: {last}");
        }
    }
    Ok(())
}

/// The next event of a follower.
fn next(lines: &Receiver<String>) -> Result<Value> {
    let line = lines.recv_timeout(Duration::from_secs(60)).context("no event came")?;
    Ok(serde_json::from_str(&line)?)
}

#[test]
fn events_are_followed_over_a_kill_of_the_engine() -> Result<()> {
    let mut engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let files = AppFolder::empty()?;
    files.write("index.html", "hello")?;
    engine.deploy(files.path(), "shop")?.ok()?;
    let mut follower = engine
        .command(&["events", "-f", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = follower.stdout.take().context("no output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let mut told = vec![next(&lines)?];
    engine.kill()?;
    engine.start_server()?;
    engine.ace(&["domains", "shop", "add", "shop.example"])?.ok()?;
    while told.last().is_none_or(|event| event["event"] != "domains_changed") {
        told.push(next(&lines)?);
    }
    follower.kill()?;
    follower.wait()?;
    let ids: Vec<u64> = told.iter().filter_map(|event| event["id"].as_u64()).collect();
    ensure!(ids == (1..=4).collect::<Vec<_>>(), "none twice and none missing: {told:?}");
    ensure!(told[2]["event"] == "switched" && told[2]["by"]["kind"] == "root", "{told:?}");
    engine.down()
}
