//! Apps without a server of ours: files alone, and commands that listen by themselves.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, app, eventually};
use anyhow::{Context, Result, ensure};

const DEADLINE: Duration = Duration::from_secs(60);

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

#[test]
fn files_alone_need_no_server() -> Result<()> {
    let mut engine = engine()?;
    let site = AppFolder::empty()?;
    site.write("index.html", "hello")?;
    site.write("notes/index.html", "notes")?;
    site.write(".env", "secret")?;
    let said = engine.deploy(site.path(), "site")?.ok()?;
    assert!(said.stderr.contains("files alone"), "{said:?}");
    assert_eq!(engine.get("site", "/")?.text(), "hello");
    assert_eq!(engine.get("site", "/notes/")?.text(), "notes");
    for path in ["/missing", "/.env"] {
        assert_eq!(engine.get("site", path)?.status, 404, "{path}");
    }
    let status = engine.status("site")?;
    assert_eq!(
        (&status["state"], &status["served_by"]["kind"]),
        (&"running".into(), &"files".into())
    );
    assert_eq!(status["instances"].as_array().map(Vec::len), Some(0));
    assert!(engine.ace(&["status", "site"])?.ok()?.stdout.contains("files alone"));
    assert!(engine.ace(&["logs", "site"])?.ok()?.stderr.contains("site is files alone"));

    engine.kill()?;
    engine.start_server()?;
    let answer = || engine.get("site", "/").ok().filter(|answer| answer.status == 200);
    assert_eq!(eventually("the site", DEADLINE, answer)?.text(), "hello");
    Ok(())
}

#[test]
fn files_and_programs_follow_each_other_without_a_failed_request() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::empty()?;
    app.write("index.html", "hello")?;
    engine.deploy(app.path(), "shop")?.ok()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let asking = scope.spawn(|| -> Result<usize> {
            let mut answers = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = engine.get("shop", "/")?;
                ensure!(answer.status == 200 && answer.text() == "hello", "{}", answer.text());
                answers += 1;
            }
            Ok(answers)
        });
        let deploys = || -> Result<()> {
            app.write("index.py", &app::saying("hello"))?;
            engine.deploy(app.path(), "shop")?.ok()?;
            assert_eq!(engine.status("shop")?["served_by"]["kind"], "server");
            std::fs::remove_file(app.path().join("index.py"))?;
            engine.deploy(app.path(), "shop")?.ok()?;
            Ok(())
        };
        let deployed = deploys();
        over.store(true, Ordering::Relaxed);
        let answers = asking.join().map_err(|_| anyhow::anyhow!("asking panicked"))?;
        deployed?;
        assert!(answers? > 0);
        Ok(())
    })?;
    let gone = || engine.status("shop").ok().filter(|now| now["instances"][0].is_null());
    eventually("the last instance's end", DEADLINE, gone)?;
    Ok(())
}

/// Sleeps, and then echoes: the body of a POST, and after an upgrade all that comes.
const ECHO: &str = r#"
import base64, hashlib, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/end":
            os._exit(7)
        if self.headers.get("Upgrade") == "websocket":
            return self.upgrade()
        self.answer(repr([self.headers["Host"], self.headers["X-Forwarded-For"], sys.prefix]).encode())

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def upgrade(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        while data := self.connection.recv(65536):
            self.connection.sendall(data)
        self.close_connection = True


time.sleep(float(sys.argv[2]))
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"#;

fn echo(procfile: &str) -> Result<AppFolder> {
    let folder = AppFolder::empty()?;
    folder.write("echo.py", ECHO)?;
    folder.write("Procfile", procfile)?;
    Ok(folder)
}

#[test]
fn a_command_that_listens_late_serves_bodies_and_upgrades() -> Result<()> {
    let engine = engine()?;
    let folder = echo("worker: none\nweb: python echo.py $PORT 5\n")?;
    engine.deploy(folder.path(), "echo")?.ok()?;
    let seen = engine.get("echo", "/")?.text();
    assert_eq!(seen, "['echo.localhost', '127.0.0.1', '/ace/user/virtualenv']");
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let echoed = engine.request("echo", "POST", "/", &[], &body)?;
    assert!(echoed.status == 200 && echoed.body == body);
    upgrade_echoes(&engine)?;
    let status = engine.status("echo")?;
    assert_eq!(status["served_by"]["line"], "python echo.py $PORT 5");

    // It ends as any app does, and is started again.
    assert_eq!(engine.get("echo", "/end")?.status, 502);
    let ended = || {
        let last_end = engine.status("echo").ok()?["instances"][0]["last_end"].clone();
        (!last_end.is_null()).then_some(last_end)
    };
    let last_end = eventually("the end", DEADLINE, ended)?;
    assert_eq!((&last_end["kind"], &last_end["status"]), (&"exited".into(), &7.into()));
    let again = || engine.get("echo", "/").ok().filter(|answer| answer.status == 200);
    eventually("the app again", DEADLINE, again)?;
    Ok(())
}

fn upgrade_echoes(engine: &Engine) -> Result<()> {
    let (mut stream, _) = engine.upgrade("echo", "/room")?;
    for said in [&b"\x81\x05hello"[..], &[0xff; 100_000]] {
        let mut heard = vec![0; said.len()];
        stream.write_all(said)?;
        stream.read_exact(&mut heard)?;
        ensure!(heard == said);
    }
    Ok(())
}

#[test]
fn a_command_that_does_not_listen_says_so() -> Result<()> {
    let engine = engine()?;
    let folder = echo("web: sleep 600\n")?;
    folder.write("app.yaml", "startup: 2s\n")?;
    let said = engine.deploy(folder.path(), "mute")?.stderr;
    assert!(said.contains("nothing listens on port 8000 ($PORT) after 2 s"), "{said}");
    folder.write("Procfile", "web: python echo.py 5000 0\n")?;
    let said = engine.deploy(folder.path(), "mute")?.stderr;
    let elsewhere =
        "nothing listens on port 8000 ($PORT) after 2 s (startup), but on 127.0.0.1:5000";
    assert!(said.contains(elsewhere), "{said}");

    folder.write("app.yaml", "startup: 20s\nenv: {PORT: \"5000\"}\n")?;
    engine.deploy(folder.path(), "mute")?.ok()?;
    assert_eq!(engine.get("mute", "/")?.status, 200);
    engine.ace(&["config", "mute", "PORT=9"])?.ok()?;
    assert_eq!(engine.get("mute", "/").context("with another PORT")?.status, 200);
    folder.write("Procfile", "web: nosuch --port $PORT\nrelease: echo made ready\n")?;
    let failed = engine.deploy(folder.path(), "mute")?;
    assert!(failed.stderr.contains("    made ready\n"), "{}", failed.stderr);
    assert!(failed.stderr.contains("nosuch: not found"), "{}", failed.stderr);
    assert_eq!(engine.get("mute", "/").context("the old release")?.status, 200);
    Ok(())
}

/// On Python 2.7, whose own server reads no chunks.
const OLD: &str = r#"
import os, sys
from BaseHTTPServer import BaseHTTPRequestHandler, HTTPServer


class Say(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write("%s.%s %s" % (sys.version_info[:2] + (os.environ["PORT"],)))


HTTPServer(("0.0.0.0", int(os.environ["PORT"])), Say).serve_forever()
"#;

#[test]
fn a_command_may_be_of_an_old_python() -> Result<()> {
    let engine = engine()?;
    if !engine.ace(&["python", "list", "--json"])?.ok()?.stdout.contains("\"2.7.") {
        eprintln!("skipped: this machine has no Python 2.7");
        return Ok(());
    }
    let folder = AppFolder::empty()?;
    folder.write("serve.py", OLD)?;
    folder.write("Procfile", "web: python serve.py\n")?;
    folder.write("app.yaml", "python: \"2.7\"\nserver: none\n")?;
    engine.deploy(folder.path(), "old")?.ok()?;
    assert_eq!(engine.get("old", "/")?.text(), "2.7 8000");
    Ok(())
}
