//! What an operator sees of an app that runs into its limits: status, log, metrics, access log.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Runs into the limit that its path names.
const APP: &str = r#"
import os
import threading
import time

os.environ["PYTHONUNBUFFERED"] = "1"


def use_memory():
    hoard = []
    while True:
        hoard.append(bytearray(1 << 20))


def use_processor():
    end = time.process_time() + 1
    while time.process_time() < end:
        pass


def print_much():
    for number in range(40000):
        print("x" * 80, flush=False)


def use_processes():
    try:
        for number in range(100):
            threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    except RuntimeError:
        pass


DEEDS = {"/memory": use_memory, "/cpu": use_processor, "/log": print_much, "/pids": use_processes}


def application(environ, start_response):
    DEEDS.get(environ["PATH_INFO"], lambda: None)()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"#;
const SETTINGS: &str = "limits: {memory: 64M, cpu: 0.1, pids: 30}\n";
const SOON: Duration = Duration::from_secs(60);

fn engine() -> Result<Engine> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let folder = AppFolder::new(APP)?;
    folder.write("app.yaml", SETTINGS)?;
    engine.deploy(folder.path(), "shop")?.ok()?;
    Ok(engine)
}

/// What `GET /metrics` says of `series`.
fn metric(engine: &Engine, series: &str) -> Result<f64> {
    let mut stream = UnixStream::connect(engine.socket())?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ace\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("application/openmetrics-text"), "{answer}");
    let line = answer.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {series}: {answer}"))?.trim().parse()?)
}

/// Waits until `told` of the status of the app's one instance.
fn until(engine: &Engine, what: &str, told: impl Fn(&Value) -> bool) -> Result<()> {
    eventually(what, SOON, || {
        let status = engine.status("shop").ok()?;
        told(&status["instances"][0]).then_some(())
    })
}

#[test]
fn an_app_that_meets_its_limits_is_told_everywhere() -> Result<()> {
    let engine = engine()?;
    for path in ["/", "/log", "/pids", "/cpu"] {
        ensure!(engine.get("shop", path)?.status == 200, "{path}");
    }
    ensure!(engine.get("shop", "/memory")?.status == 502);
    until(&engine, "all that it met", |instance| {
        let usage = &instance["usage"];
        let counts = ["memory_kills", "pids_refused", "log_lines_dropped", "throttled_usec"];
        counts.iter().all(|name| usage[name].as_u64() > Some(0)) && usage["pids_limit"] == 30
    })?;
    for count in [
        "ace_app_memory_kills_total{app=\"shop\"}",
        "ace_app_pids_refused_total{app=\"shop\"}",
        "ace_app_log_lines_dropped_total{app=\"shop\"}",
        "ace_app_cpu_throttled_seconds_total{app=\"shop\"}",
        "ace_app_requests_total{app=\"shop\",status=\"5xx\"}",
    ] {
        ensure!(metric(&engine, count)? > 0.0, "{count}");
    }
    let log = || Ok::<_, anyhow::Error>(engine.ace(&["logs", "shop", "--tail", "10000"])?.stdout);
    for told in ["for lack of memory", "the limit is 30 (pids)", "dropped: the log's limit"] {
        eventually(told, SOON, || log().ok()?.contains(told).then_some(()))?;
    }
    let shown = engine.ace(&["status", "shop"])?.ok()?.stdout;
    ensure!(shown.contains("for lack of memory"), "{shown}");
    ensure!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    Ok(())
}

#[test]
fn every_request_has_a_line_in_the_access_log() -> Result<()> {
    let engine = engine()?;
    engine.get("shop", "/x%0ay?secret")?;
    engine.get("nobody", "/")?;
    let file = engine.data().join("logs/access.log");
    let lines = eventually("two lines", SOON, || {
        let text = fs::read_to_string(&file).ok()?;
        (text.lines().count() >= 2).then_some(text)
    })?;
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines[0]["app"] == "shop" && lines[0]["path"] == "/x%0ay", "{lines:?}");
    ensure!(lines[0]["status"] == 200 && lines[0]["instance"].is_string(), "{lines:?}");
    ensure!(lines[1]["app"].is_null() && lines[1]["status"] == 404, "{lines:?}");
    Ok(())
}
