//! Whatever is done to an app, those who use it meanwhile lose no request.
//!
//! `ACE_DEPLOYS=100` makes as many deploys instead of a few.

#![forbid(unsafe_code)]

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, Load, eventually, load};
use anyhow::{Context, Result, ensure};

/// Deploys in the short form.
const DEPLOYS: u32 = 8;
const DEADLINE: Duration = Duration::from_secs(60);

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

/// An engine with release 1 of `shop`.
fn with_shop() -> Result<(Engine, AppFolder)> {
    let (engine, shop) = (engine()?, AppFolder::new(load::APP)?);
    engine.deploy(shop.path(), "shop")?.ok()?;
    Ok((engine, shop))
}

#[test]
fn deploys_lose_no_request() -> Result<()> {
    let (engine, shop) = with_shop()?;
    let deploys = std::env::var("ACE_DEPLOYS").ok().and_then(|n| n.parse().ok()).unwrap_or(DEPLOYS);
    let load = Load::start(engine.address()?, "shop", 1);
    for release in 2..=deploys + 1 {
        load.moves(release - 1, release);
        shop.write("index.py", &format!("{}# {release}\n", load::APP))?;
        engine.deploy(shop.path(), "shop")?.ok()?;
        load.moved(release);
    }
    let tally = load.end()?.ok()?;
    eventually("the end of what no release needs", DEADLINE, || {
        let code = std::fs::read_dir(engine.data().join("releases/shop")).ok()?;
        (code.count() == usize::try_from(deploys + 1).ok()?.min(10)).then_some(())
    })?;
    println!("{deploys} deploys, {} requests, none failed", tally.answered);
    Ok(())
}

#[test]
fn nothing_else_that_is_done_to_an_app_loses_a_request() -> Result<()> {
    let (engine, shop) = with_shop()?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    let load = Load::start(engine.address()?, "shop", 2);
    let change = |from: u32, to: u32, arguments: &[&str]| -> Result<()> {
        load.moves(from, to);
        engine.ace(arguments)?.ok().with_context(|| arguments.join(" "))?;
        load.moved(to);
        Ok(())
    };
    change(2, 1, &["rollback", "shop"])?;
    change(1, 1, &["restart", "shop"])?;
    change(1, 1, &["scale", "shop", "3"])?;
    change(1, 1, &["restart", "shop"])?;
    change(1, 3, &["config", "shop", "COLOUR=red"])?;
    change(3, 4, &["limits", "shop", "memory=300M"])?;
    change(4, 4, &["scale", "shop", "1"])?;
    change(4, 4, &["domains", "shop", "add", "www.example.com"])?;
    change(4, 2, &["rollback", "shop", "2"])?;
    load.end()?.ok()?;
    Ok(())
}

#[test]
fn an_app_that_is_stopped_and_started_says_so_and_breaks_nothing_off() -> Result<()> {
    let (engine, _shop) = with_shop()?;
    let load = Load::start(engine.address()?, "shop", 1);
    for _ in 0..3 {
        load.may_be_stopped(true);
        engine.ace(&["stop", "shop"])?.ok()?;
        engine.ace(&["start", "shop"])?.ok()?;
        load.may_be_stopped(false);
        let answered = engine.get("shop", "/")?;
        ensure!(answered.status == 200, "after its start: {}", answered.status);
    }
    let tally = load.end()?.ok()?;
    ensure!(tally.stopped > 0, "nobody was told that it was stopped");
    Ok(())
}

#[test]
fn a_killed_engine_costs_what_was_under_way_and_nothing_after() -> Result<()> {
    let (mut engine, shop) = with_shop()?;
    let before = Load::start(engine.address()?, "shop", 1);
    shop.write("index.py", &format!("import time\ntime.sleep(5)\n{}", load::APP))?;
    let mut deploy = begin_deploy(&engine, &shop)?;
    wait_for(&mut deploy, "starting")?;
    engine.kill()?;
    deploy.wait()?;
    // Every connection was the engine's: what is under way then, and what comes before the next engine
    // listens, can't be had. But nobody may get a wrong answer.
    for failure in before.end()?.failures {
        ensure!(!failure.contains("wrong answer") && !failure.contains("answered,"), "{failure}");
    }
    engine.start_server()?;
    // From its first word on, an engine lets requests wait rather than refuse them.
    let after = Load::start(engine.address()?, "shop", 1);
    shop.write("index.py", load::APP)?;
    after.moves(1, 3);
    engine.deploy(shop.path(), "shop")?.ok()?;
    after.moved(3);
    after.end()?.ok()?;
    Ok(())
}

#[test]
fn an_engine_that_is_replaced_loses_no_request() -> Result<()> {
    let (mut engine, _shop) = with_shop()?;
    let address = engine.address()?;
    let load = Load::start(address, "shop", 1);
    for is_awaited in [true, false, false] {
        match is_awaited {
            true => engine.terminate().and_then(|()| engine.start_server())?,
            false => engine.replace()?,
        }
        ensure!(engine.address()? == address, "it listens elsewhere: {}", engine.address()?);
        ensure!(engine.get("shop", "/")?.status == 200);
    }
    load.end()?.ok()?;
    Ok(())
}

#[test]
fn deploys_at_once_come_one_after_the_other_and_a_queued_one_can_be_given_up() -> Result<()> {
    let (engine, shop) = with_shop()?;
    let load = Load::start(engine.address()?, "shop", 1);
    load.moves(1, 2);
    let slow = format!("import time\ntime.sleep(3)\n{}", load::APP);
    shop.write("index.py", &slow)?;
    let mut first = begin_deploy(&engine, &shop)?;
    wait_for(&mut first, "building")?;
    let [mut second, mut third] = [begin_deploy(&engine, &shop)?, begin_deploy(&engine, &shop)?];
    wait_for(&mut second, "waiting for its turn")?;
    wait_for(&mut third, "waiting for its turn")?;
    interrupt(&second)?;
    let mut said = String::new();
    second.stderr.take().context("no output")?.read_to_string(&mut said)?;
    assert_eq!(second.wait()?.code(), Some(1), "{said}");
    assert!(said.contains("the deploy was given up; what served before still serves"), "{said}");

    ensure!(first.wait()?.success());
    load.moves(2, 3);
    ensure!(third.wait()?.success());
    load.moved(3);
    load.end()?.ok()?;
    let releases = engine.ace(&["releases", "shop", "--json"])?.ok()?.json()?;
    let numbers: Vec<_> = releases["releases"]
        .as_array()
        .context("no list")?
        .iter()
        .map(|release| release["number"].as_u64())
        .collect();
    assert_eq!(numbers, [Some(3), Some(2), Some(1)], "what was given up has no number");
    Ok(())
}

#[test]
fn ctrl_c_while_a_release_starts_leaves_the_old_one_and_says_so() -> Result<()> {
    let (engine, shop) = with_shop()?;
    let load = Load::start(engine.address()?, "shop", 1);
    shop.write("index.py", &format!("import time\ntime.sleep(30)\n{}", load::APP))?;
    let mut deploy = begin_deploy(&engine, &shop)?;
    wait_for(&mut deploy, "starting")?;
    interrupt(&deploy)?;
    let mut said = String::new();
    deploy.stderr.take().context("no output")?.read_to_string(&mut said)?;
    assert_eq!(deploy.wait()?.code(), Some(1), "{said}");
    assert!(said.contains("the deploy was given up; what served before still serves"), "{said}");
    let app = engine.status("shop")?;
    assert_eq!(app["release"], 1);
    let error = app["last_deploy"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("given up"), "{app}");
    load.end()?.ok()?;
    Ok(())
}

/// Begins to deploy `folder` as `shop`; what it says can be read.
fn begin_deploy(engine: &Engine, folder: &AppFolder) -> Result<Child> {
    let path = folder.path().to_str().context("no text")?;
    let mut command = engine.command(&["deploy", path, "--app", "shop"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

/// Reads what `command` says up to a line that is `wanted`.
fn wait_for(command: &mut Child, wanted: &str) -> Result<()> {
    let mut said = command.stderr.take().context("no output")?;
    // A byte at a time: what comes after stays there.
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line != wanted.as_bytes() {
        ensure!(said.read(&mut byte)? > 0, "it ended before {wanted}");
        match byte[0] {
            b'\n' => line.clear(),
            byte => line.push(byte),
        }
    }
    command.stderr = Some(said);
    Ok(())
}

fn interrupt(command: &Child) -> Result<()> {
    let id = rustix::process::Pid::from_raw(i32::try_from(command.id())?).context("no process")?;
    Ok(rustix::process::kill_process(id, rustix::process::Signal::INT)?)
}

/// An app that says back what it hears, and which release it is.
const ROOM: &str = r#"
import os


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": os.environ["ACE_RELEASE"].encode()})
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": os.environ["ACE_RELEASE"] + event["text"]})
"#;

#[test]
fn a_websocket_outlives_the_switch() -> Result<()> {
    let engine = engine()?;
    let room = AppFolder::empty()?;
    room.write("app.py", ROOM)?;
    engine.deploy(room.path(), "room")?.ok()?;
    let mut socket = WebSocket::open(&engine)?;
    assert_eq!(socket.ask("a")?, "1a");
    room.write("app.py", &format!("{ROOM}# 2\n"))?;
    engine.deploy(room.path(), "room")?.ok()?;
    assert_eq!(engine.get("room", "/")?.text(), "2");
    assert_eq!(socket.ask("b")?, "1b", "the old release has it still");
    assert_eq!(WebSocket::open(&engine)?.ask("c")?, "2c");
    drop(socket);
    eventually("the old instance's end", DEADLINE, || {
        let app = engine.status("room").ok()?;
        (app["instances"].as_array()?.len() == 1).then_some(())
    })
}

/// As much of a WebSocket as this test needs: texts of up to 125 bytes, masked with zeros.
struct WebSocket(BufReader<TcpStream>);

impl WebSocket {
    fn open(engine: &Engine) -> Result<Self> {
        let (stream, _) = engine.upgrade("room", "/room")?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn ask(&mut self, text: &str) -> Result<String> {
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len())?, 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.0.get_mut().write_all(&frame)?;
        let mut header = [0; 2];
        self.0.read_exact(&mut header)?;
        ensure!(header[0] == 0x81, "no text: {header:?}");
        let mut text = vec![0; usize::from(header[1])];
        self.0.read_exact(&mut text)?;
        Ok(String::from_utf8(text)?)
    }
}
