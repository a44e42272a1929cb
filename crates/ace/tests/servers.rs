//! App servers: the same app answers the same under each, and none loses a request.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, eventually};
use anyhow::{Context, Result, ensure};

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

/// Answers with what a WSGI app sees of a request, whatever the server; streams below `/stream`.
const MIRROR: &str = r#"
import flask

application = flask.Flask(__name__)


@application.route("/stream")
def stream():
    return flask.Response((str(number) * 1000 for number in range(10)), mimetype="text/plain")


@application.route("/<path:path>", methods=["GET", "POST", "PUT"])
def mirror(path):
    request = flask.request
    seen = request.environ
    return flask.jsonify(
        method=request.method,
        path=path,
        query=request.query_string.decode(),
        body=request.get_data(as_text=True),
        host=request.host,
        scheme=request.scheme,
        client=seen["REMOTE_ADDR"],
        script=seen["SCRIPT_NAME"],
        cookies=request.cookies,
        header=request.headers.get("X-Own"),
        spoofed=request.headers.get("X_Own"),
    )
"#;

#[test]
fn an_app_answers_the_same_under_every_server() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::new(MIRROR)?;
    app.write("requirements.txt", "flask==3.0.3\n")?;
    let mut answers = Vec::new();
    for (server, processes) in [
        ("uwsgi", 1),
        ("gunicorn", 2),
        ("uvicorn", 1),
        ("uvicorn", 2),
        ("granian", 1),
        ("granian", 2),
    ] {
        app.write("app.yaml", &format!("server: {server}\nprocesses: {processes}\n"))?;
        engine.deploy(app.path(), "mirror")?.ok()?;
        answers.push((server, seen(&engine)?));
    }
    let (_, expected) = &answers[0];
    assert!(expected[0].contains("\"client\":\"127.0.0.1\""), "{}", expected[0]);
    assert!(expected[0].contains("\"path\":\"a b/\\u00fc\""), "{}", expected[0]);
    assert_eq!(expected[3].len(), 10_000);
    for (server, answer) in &answers {
        assert_eq!(answer, expected, "under {server}");
    }
    Ok(())
}

/// What `mirror` answers to requests of all kinds.
fn seen(engine: &Engine) -> Result<Vec<String>> {
    let headers = [("X-Own", "a"), ("X_Own", "b"), ("Cookie", "c=1; d=2"), ("Accept", "*/*")];
    let long = "x".repeat(300_000);
    let mut answers = Vec::new();
    for (method, path, body) in [
        ("GET", "/a%20b/%C3%BC?q=%20", ""),
        ("PUT", "/put", "small"),
        ("POST", "/post", long.as_str()),
        ("GET", "/stream", ""),
        ("GET", "/again", ""),
    ] {
        let answer = engine.request("mirror", method, path, &headers, body.as_bytes())?;
        ensure!(answer.status == 200, "{method} {path}: {}: {}", answer.status, answer.text());
        answers.push(answer.text());
    }
    let head = engine.request("mirror", "HEAD", "/head", &headers, b"")?;
    ensure!(head.status == 200 && head.body.is_empty());
    answers.push(over_http_2(engine, "/second")?);
    Ok(answers)
}

/// What `mirror` answers to a GET over HTTP/2.
#[tokio::main(flavor = "current_thread")]
async fn over_http_2(engine: &Engine, path: &str) -> Result<String> {
    let stream = tokio::net::TcpStream::connect(engine.address()?).await?;
    let (client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://mirror.localhost{path}")).body(())?;
    let (answer, _) = client.ready().await?.send_request(request, true)?;
    let mut answer = answer.await?;
    ensure!(answer.status() == 200, "{path} over HTTP/2: {}", answer.status());
    let mut body = Vec::new();
    while let Some(part) = answer.body_mut().data().await {
        body.extend_from_slice(&part?);
    }
    Ok(String::from_utf8(body)?)
}

#[test]
fn the_fastapi_example_has_a_page_a_stream_and_a_room() -> Result<()> {
    let engine = engine()?;
    let example = AppFolder::empty()?;
    for file in ["index.py", "requirements.txt"] {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/fastapi"));
        example.write(file, &std::fs::read_to_string(folder.join(file))?)?;
    }
    // Without a word on it, uvicorn serves it.
    for settings in ["", "server: granian\n"] {
        example.write("app.yaml", settings)?;
        let said = engine.deploy(example.path(), "room")?.ok()?;
        assert!(said.stdout.contains("live at"), "{said:?}");
        meet_in_the_room(&engine)?;
    }
    // A new release waits for the rooms of the old one no longer than its deadline.
    engine.deploy(example.path(), "room")?.ok()?;
    assert_eq!(engine.get("room", "/visitors")?.text(), "{\"here\":0}");
    Ok(())
}

fn meet_in_the_room(engine: &Engine) -> Result<()> {
    assert!(engine.get("room", "/")?.text().contains("A room to talk in"));
    assert_eq!(engine.get("room", "/ticks?count=3")?.text(), "tick 0\ntick 1\ntick 2\n");
    let mut visitors = [WebSocket::open(engine)?, WebSocket::open(engine)?];
    eventually("both visitors", Duration::from_secs(10), || {
        let here = engine.get("room", "/visitors").ok()?.text();
        (here == "{\"here\":2}").then_some(())
    })?;
    visitors[0].say("hello")?;
    for visitor in &mut visitors {
        assert_eq!(visitor.hear()?, "hello");
    }
    Ok(())
}

/// A client of the room, as far as these tests need one: texts of up to 125 bytes.
struct WebSocket {
    stream: TcpStream,
}

impl WebSocket {
    fn open(engine: &Engine) -> Result<Self> {
        let (stream, head) = engine.upgrade("room", "/room")?;
        let head = head.to_lowercase();
        ensure!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        // The example of RFC 6455.
        ensure!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        Ok(Self { stream })
    }

    /// Sends a text, masked with zeros. Its first bytes look like no HTTP.
    fn say(&mut self, text: &str) -> Result<()> {
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len())?, 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        Ok(self.stream.write_all(&frame)?)
    }

    fn hear(&mut self) -> Result<String> {
        let mut header = [0; 2];
        self.stream.read_exact(&mut header)?;
        ensure!(header[0] == 0x81, "no text: {header:?}");
        let mut text = vec![0; usize::from(header[1])];
        self.stream.read_exact(&mut text)?;
        Ok(String::from_utf8(text)?)
    }
}

/// Answers with the versions of what serves it.
const VERSIONS: &str = r#"
import asyncio
import uvicorn


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        return await send({"type": "lifespan.startup.complete"})
    loop = type(asyncio.get_running_loop()).__module__
    said = "%s %s %s" % (uvicorn.__version__, loop, scope["client"][0])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said.encode()})


def wsgi(environ, start_response):
    import gunicorn

    start_response("200 OK", [])
    return [("%s %s" % (gunicorn.__version__, environ["REMOTE_ADDR"])).encode()]
"#;

#[test]
fn an_app_may_bring_a_server_and_an_event_loop_of_its_own() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::new(VERSIONS)?;
    app.write("requirements.txt", "uvicorn[standard]==0.54.0\ngunicorn==27.0.1\n")?;
    for (server, expected) in [
        ("uvicorn", "0.54.0 uvloop 127.0.0.1"),
        ("uvicorn\nprocesses: 2", "0.54.0 uvloop 127.0.0.1"),
        ("gunicorn\nentry: index:wsgi", "27.0.1 127.0.0.1"),
    ] {
        app.write("app.yaml", &format!("python: 3.13\nserver: {server}\n"))?;
        engine.deploy(app.path(), "own")?.ok()?;
        assert_eq!(engine.get("own", "/")?.text(), expected);
    }
    Ok(())
}

/// Answers in each of the ways that WSGI allows.
const WAYS: &str = r#"
import os, signal


def application(environ, start_response):
    way = environ["PATH_INFO"]
    if way == "/generator":
        return generator(start_response)
    write = start_response("200 OK", [("X-Name", "f\u00c3\u00bcr"), ("X-Two", "a"), ("X-Two", "b")])
    if way == "/write":
        write(b"written, ")
    if way == "/end":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "/processes":
        return [str(len([name for name in os.listdir("/proc") if name.isdigit()])).encode()]
    return [b"returned"]


def generator(start_response):
    yield b""
    start_response("201 Created", [])
    yield b"late "
    yield b"start"
"#;

#[test]
fn granian_serves_wsgi_in_all_its_ways() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::new(WAYS)?;
    app.write("app.yaml", "server: granian\nprocesses: 2\n")?;
    engine.deploy(app.path(), "ways")?.ok()?;
    let late = engine.get("ways", "/generator")?;
    assert_eq!((late.status, late.text().as_str()), (201, "late start"));
    assert_eq!(engine.get("ways", "/write")?.text(), "written, returned");
    let plain = engine.get("ways", "/")?;
    assert_eq!((plain.status, plain.text().as_str()), (200, "returned"));
    assert_eq!(plain.header("x-name").map(str::as_bytes), Some("für".as_bytes()));

    // A worker that is killed has a successor.
    let processes = || Some(engine.get("ways", "/processes").ok()?.text());
    assert_eq!(processes().as_deref(), Some("3"), "two workers and who starts them");
    engine.get("ways", "/end")?;
    eventually("the worker's successor", Duration::from_secs(20), || {
        processes().filter(|count| count == "3").map(drop)
    })
}

#[test]
fn old_pythons_have_servers_that_still_run_on_them() -> Result<()> {
    let engine = engine()?;
    let known = engine.ace(&["python", "list", "--json"])?.ok()?.stdout;
    let app = AppFolder::saying("old")?;
    for (python, server) in [
        ("2.7", "gunicorn"),
        ("3.6", "gunicorn"),
        ("3.7", "uvicorn"),
        ("3.8", "uvicorn"),
        ("3.9", "granian"),
    ] {
        if !known.contains(&format!("\"{python}.")) {
            eprintln!("skipped: this machine has no Python {python}");
            continue;
        }
        app.write("app.yaml", &format!("python: \"{python}\"\nserver: {server}\n"))?;
        engine.deploy(app.path(), "old")?.ok()?;
        assert_eq!(engine.get("old", "/")?.text(), "old", "{server} on {python}");
    }
    if known.contains("\"2.7.") {
        app.write("app.yaml", "python: \"2.7\"\nserver: uvicorn\n")?;
        let failed = engine.deploy(app.path(), "old")?;
        assert_eq!(failed.status, 1);
        assert!(failed.stderr.contains("uvicorn does not run on Python 2.7"), "{}", failed.stderr);
    }
    if known.contains("\"3.8.") {
        app.write("app.yaml", "python: \"3.8\"\nserver: granian\n")?;
        let failed = engine.deploy(app.path(), "old")?;
        assert!(failed.stderr.contains("granian does not run on Python 3.8"), "{}", failed.stderr);
    }
    Ok(())
}

/// An ASGI application whose kind can't be seen in its source.
const HIDDEN: &str = r#"
async def greet(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})

application = (lambda app: app)(greet)
"#;

#[test]
fn what_a_server_cant_serve_is_refused_with_the_way_out() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::new(HIDDEN)?;
    for server in ["uwsgi", "gunicorn"] {
        app.write("app.yaml", &format!("server: {server}\n"))?;
        let failed = engine.deploy(app.path(), "hidden")?;
        assert_eq!(failed.status, 1, "{failed:?}");
        let words = format!("is an ASGI application, which {server} can't serve");
        assert!(failed.stderr.contains(&words), "{}", failed.stderr);
    }
    app.write("app.yaml", "server: uvicorn\n")?;
    engine.deploy(app.path(), "hidden")?.ok()?;
    assert_eq!(engine.get("hidden", "/")?.text(), "hello");

    for (server, processes) in
        [("gunicorn", 1), ("uvicorn", 1), ("uvicorn", 2), ("granian", 1), ("granian", 2)]
    {
        app.write("app.yaml", &format!("server: {server}\nprocesses: {processes}\n"))?;
        app.write("index.py", "import no_such_module_at_all\n\napplication = None\n")?;
        let failed = engine.deploy(app.path(), "hidden")?;
        assert_eq!(failed.status, 1, "{failed:?}");
        assert!(failed.stderr.contains("index.py\", line 1"), "{}", failed.stderr);
        assert!(failed.stderr.contains("no_such_module_at_all"), "{}", failed.stderr);
        assert!(
            failed.stderr.contains("\"no_such_module_at_all\" is missing"),
            "{}",
            failed.stderr
        );
    }
    assert_eq!(engine.get("hidden", "/")?.text(), "hello");
    Ok(())
}

/// Fails at the call, after `start_response`, and at the first part of its answer; or tells of a failure.
const FAILING: &str = r#"
import sys


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/call":
        raise ValueError("at the call")
    if path == "/told":
        try:
            raise ValueError("told")
        except ValueError:
            start_response("500 Told", [("Content-Length", "4")], sys.exc_info())
            return [b"told"]
    if path == "/seek":
        body = environ["wsgi.input"]
        if hasattr(body, "tell"):
            if body.read(3) != b"a b":
                raise ValueError("not its begin")
            body.seek(0, 2)
            body.seek(body.tell() - 4)
            if body.read() != b"body":
                raise ValueError("not what is there")
            body.seek(0)
        start_response("200 OK", [])
        return [body.read()]
    start_response("200 OK", [])
    if path == "/started":
        raise ValueError("after the start")
    return parts() if path == "/parts" else []


def parts():
    raise ValueError("at the first part")
    yield b"never"
"#;

#[test]
fn a_request_that_fails_gets_an_answer_and_leaves_its_traceback() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::new(FAILING)?;
    for settings in
        ["server: uwsgi", "server: uwsgi\npython: 2.7", "server: gunicorn", "server: granian"]
    {
        app.write("app.yaml", settings)?;
        let name = format!("failing{}", settings.len());
        engine.deploy(app.path(), &name)?.ok()?;
        let failures = [
            ("/call", "at the call"),
            ("/started", "after the start"),
            ("/parts", "at the first part"),
        ];
        for (path, words) in failures {
            let answer = engine.get(&name, path)?;
            ensure!(answer.status == 500, "{settings} {path}: {answer:?}");
            let trace = format!("ValueError: {words}");
            let logged =
                || engine.ace(&["logs", &name]).ok()?.stdout.contains(&trace).then_some(());
            eventually(&trace, Duration::from_secs(10), logged)?;
        }
        let told = engine.get(&name, "/told")?;
        ensure!(told.status == 500 && told.text() == "told", "{settings}: {told:?}");
        let sought = engine.request(&name, "PUT", "/seek", &[], b"a body")?;
        ensure!(sought.text() == "a body", "{settings}: {sought:?}");
    }
    Ok(())
}

#[test]
fn a_new_release_takes_over_without_losing_a_request_over_http() -> Result<()> {
    let engine = engine()?;
    let app = AppFolder::saying("0")?;
    app.write("app.yaml", "server: gunicorn\n")?;
    engine.deploy(app.path(), "shop")?.ok()?;
    let done = AtomicBool::new(false);
    thread::scope(|threads| -> Result<()> {
        let clients: Vec<_> = (0..4).map(|_| threads.spawn(|| ask_until(&done, &engine))).collect();
        let deploys: Result<()> =
            ["gunicorn", "uvicorn", "granian", "uwsgi", "granian"].iter().try_for_each(|server| {
                app.write("app.yaml", &format!("server: {server}\n"))?;
                engine.deploy(app.path(), "shop")?.ok().map(drop)
            });
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let count = client.join().ok().context("a client panicked")??;
            ensure!(count > 0, "nothing was asked");
        }
        deploys
    })
}

/// Asks again and again; every answer must be a whole 200.
fn ask_until(done: &AtomicBool, engine: &Engine) -> Result<usize> {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let body: &[u8] = if count % 2 == 0 { b"" } else { b"some" };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let answer = engine.request("shop", method, "/", &[], body)?;
        ensure!(answer.status == 200, "status {}: {}", answer.status, answer.text());
        count += 1;
    }
    Ok(count)
}
