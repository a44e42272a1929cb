//! Bodies larger than memory pass both ways, and the engine's memory does not grow with them.
//!
//! `ACE_BODY_MIB=4096` sends as much instead of a little.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine};
use anyhow::{Context, Result, ensure};

/// How much is sent in the short form.
const MIB: u64 = 192;
/// How much the engine may grow meanwhile. It keeps 64 KiB of a body in memory, and what the kernel takes at once.
const GROWTH_MAX_KIB: u64 = 32 * 1024;
const PART: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts what it gets; sends as much as its query says.
const APP: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'application/octet-stream')])
    if environ['REQUEST_METHOD'] == 'POST':
        return [b'%d' % count(environ['wsgi.input'])]
    return (b'x' * (1 << 20) for _ in range(int(environ['QUERY_STRING'])))


def count(body):
    total = 0
    while part := body.read(1 << 20):
        total += len(part)
    return total
";

#[test]
fn what_is_larger_than_memory_passes_both_ways() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let app = AppFolder::new(APP)?;
    app.write("app.yaml", "limits: {body: none, timeout: 5m}\n")?;
    engine.deploy(app.path(), "large")?.ok()?;
    let mib = std::env::var("ACE_BODY_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(MIB);
    ensure!((upload(&engine, 1)?, download(&engine, 1)?) == (PART as u64, PART as u64));
    let before = peak_kib(&engine)?;
    let (sent, received) = (upload(&engine, mib)?, download(&engine, mib)?);
    let after = peak_kib(&engine)?;
    println!("{mib} MiB each way: the engine's peak went from {before} to {after} KiB");
    ensure!(sent == mib << 20, "the app got {sent} bytes");
    ensure!(received == mib << 20, "the client got {received} bytes");
    ensure!(after < before + GROWTH_MAX_KIB, "it took {} KiB more", after - before);
    Ok(())
}

// All of HTTP/1.0, so that bodies come as they are.

/// Sends so much to the app; returns how many bytes of it the app has seen.
fn upload(engine: &Engine, mib: u64) -> Result<u64> {
    let mut stream = connect(engine)?;
    write!(
        stream,
        "POST / HTTP/1.0\r\nHost: large.localhost\r\nContent-Length: {}\r\n\r\n",
        mib << 20
    )?;
    let part = vec![b'x'; PART];
    for _ in 0..mib {
        stream.write_all(&part)?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let count = answer.rsplit("\r\n").find_map(|line| line.parse().ok());
    count.with_context(|| format!("no count in {answer:?}"))
}

/// Has the app send so much; returns how many bytes come.
fn download(engine: &Engine, mib: u64) -> Result<u64> {
    let mut stream = connect(engine)?;
    write!(stream, "GET /?{mib} HTTP/1.0\r\nHost: large.localhost\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the answer broke off in its head");
    }
    Ok(std::io::copy(&mut reader, &mut std::io::sink())?)
}

fn connect(engine: &Engine) -> Result<TcpStream> {
    let stream = TcpStream::connect(engine.address()?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The most memory that the engine has ever had.
fn peak_kib(engine: &Engine) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmHWM")?;
    Ok(kib.parse()?)
}
