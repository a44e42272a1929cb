//! Clients that speak HTTP/2.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // All of it is for tests.

mod common;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use ace_api::{Backend, Gateway, InstanceSocket};
use ace_gateway::GatewayConfig;
use ace_types::Protocol;
use bytes::Bytes;
use common::{Bench, eventually, rule};
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::ext::Protocol as Extended;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the gateway.
struct Client {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn connect(bench: &Bench) -> Self {
        Self::with(bench, &mut h2::client::Builder::new()).await
    }

    async fn with(bench: &Bench, builder: &mut h2::client::Builder) -> Self {
        let stream = TcpStream::connect(bench.gateway.address()).await.unwrap();
        let (send, connection): (_, Connection<TcpStream>) =
            builder.handshake(stream).await.unwrap();
        Self { send: send.ready().await.unwrap(), connection: tokio::spawn(connection) }
    }

    /// Sends a request; its body, if it has one, is to be sent along the stream.
    async fn send(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = self.send.clone().ready().await.unwrap();
        ready.send_request(request, ends).unwrap()
    }

    async fn ask(&mut self, request: Request<()>) -> Response<RecvStream> {
        let (response, _) = self.send(request, true).await;
        timeout(PATIENCE, response).await.expect("an answer in time").unwrap()
    }

    async fn get(&mut self, path: &str) -> (u16, String) {
        let response = self.ask(get(path)).await;
        (response.status().as_u16(), text(response).await)
    }

    /// Waits for the gateway to end the connection.
    async fn ended(self) {
        drop(self.send);
        _ = timeout(PATIENCE, self.connection).await.expect("an end in time");
    }
}

fn get(path: &str) -> Request<()> {
    request(Method::GET, path)
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://shop.localhost{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

async fn text(response: Response<RecvStream>) -> String {
    String::from_utf8(body(response.into_body()).await.unwrap()).unwrap()
}

async fn body(mut stream: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(part) = timeout(PATIENCE, stream.data()).await.expect("bytes in time") {
        let part = part?;
        body.extend_from_slice(&part);
        stream.flow_control().release_capacity(part.len())?;
    }
    Ok(body)
}

/// An app that answers with some of its variables and with the length of its body.
fn mirror(bench: &Bench) -> common::FakeApp {
    bench.app("mirror", |mut request| async move {
        let body = request.body().await;
        let seen = ["REQUEST_METHOD", "REQUEST_URI", "HTTP_HOST", "HTTP_COOKIE", "SERVER_PROTOCOL"]
            .map(|name| request.get(name).to_owned());
        request.ok(&format!("{} {}", seen.join(" "), body.len())).await;
    })
}

#[tokio::test]
async fn an_app_and_a_file_answer() {
    let bench = Bench::start();
    let app = mirror(&bench);
    bench.write("static/a.txt", "a file");
    let mut route = bench.route(&[&app]);
    route.statics = vec![rule("/static/", "static/")];
    bench.set_route(route);
    let mut client = Client::connect(&bench).await;
    assert_eq!(client.get("/static/a.txt").await, (200, "a file".to_owned()));
    let mut asked = get("/a%20b?c");
    for cookie in ["a=1", "b=2"] {
        asked.headers_mut().append("cookie", cookie.parse().unwrap());
    }
    let response = client.ask(asked).await;
    assert_eq!(response.headers()["server"], "ace");
    let seen = text(response).await;
    assert_eq!(seen, "GET /a%20b?c shop.localhost a=1; b=2 HTTP/2.0 0");
    let response = client.ask(request(Method::HEAD, "/static/a.txt")).await;
    assert_eq!(response.headers()["content-length"], "6");
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn an_error_page_has_no_body_for_head() {
    let bench = Bench::start();
    bench.set_route(bench.route(&[]));
    let mut client = Client::connect(&bench).await;
    let uri = "http://nobody.localhost/";
    let head = Request::builder().method(Method::HEAD).uri(uri).body(()).unwrap();
    let response = client.ask(head).await;
    assert_eq!(response.status(), 404);
    assert!(response.headers()["content-length"] != "0");
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn a_body_goes_to_the_app_as_a_whole() {
    let bench = Bench::start();
    let app = mirror(&bench);
    bench.set_route(bench.route(&[&app]));
    let mut client = Client::connect(&bench).await;
    let (response, mut stream) = client.send(request(Method::POST, "/"), false).await;
    for _ in 0..20 {
        stream.send_data(Bytes::from(vec![b'x'; 50_000]), false).unwrap();
    }
    stream.send_trailers(http::HeaderMap::new()).unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(text(response).await, "POST / shop.localhost  HTTP/2.0 1000000");
}

#[tokio::test]
async fn a_requests_trailers_end_at_the_gateway() {
    let bench = Bench::start();
    let app = mirror(&bench);
    bench.set_route(bench.route(&[&app]));
    let mut client = Client::connect(&bench).await;
    let (response, mut send) = client.send(request(Method::POST, "/"), false).await;
    send.send_data(Bytes::from_static(b"hello"), false).unwrap();
    send.send_trailers(http::HeaderMap::from_iter([(
        http::header::COOKIE,
        "a=b".parse().unwrap(),
    )]))
    .unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(text(response).await, "POST / shop.localhost  HTTP/2.0 5");
}

#[tokio::test]
async fn requests_that_mean_two_things_are_refused() {
    let bench = Bench::start();
    let app = mirror(&bench);
    bench.set_route(bench.route(&[&app]));
    let mut client = Client::connect(&bench).await;
    let with = |name: &'static str, value: &str| {
        let mut request = get("/");
        request.headers_mut().append(name, value.parse().unwrap());
        request
    };
    for (request, status) in [
        (with("host", "other.localhost"), 400),
        (with("host", "shop.localhost, other"), 400),
        (with("a", " b"), 400),
        (with("a", "b\t"), 400),
        (request(Method::from_bytes(&[b'A'; 65]).unwrap(), "/"), 400),
        (with("expect", "tea"), 417),
        (get(&format!("/{}", "a".repeat(17_000))), 414),
        (with("a", &"b".repeat(62_000)), 431),
        (request(Method::CONNECT, ""), 405),
    ] {
        let said = format!("{request:?}");
        let said = said.get(..200).unwrap_or(&said).to_owned();
        assert_eq!(client.ask(request).await.status().as_u16(), status, "{said}");
    }
    let mut twice = with("host", "shop.localhost");
    twice.headers_mut().append("host", "shop.localhost".parse().unwrap());
    assert_eq!(client.ask(twice).await.status(), 400);
    let mut many = get("/");
    (0..101).for_each(|_| _ = many.headers_mut().append("a", "b".parse().unwrap()));
    assert_eq!(client.ask(many).await.status(), 431);
    assert_eq!(client.ask(with("host", "SHOP.localhost")).await.status(), 200);
    assert_eq!(app.taken(), 1);
}

#[tokio::test]
async fn requests_share_a_connection_and_do_not_wait_for_each_other() {
    let bench = Bench::start();
    let app = bench.app("slow", |request| async move {
        if request.get("PATH_INFO") == "/slow" {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        request.ok("done").await;
    });
    bench.set_route(bench.route(&[&app]));
    let mut client = Client::connect(&bench).await;
    let (slow, _) = client.send(get("/slow"), true).await;
    assert_eq!(client.get("/quick").await, (200, "done".to_owned()));
    assert_eq!(text(slow.await.unwrap()).await, "done");
}

#[tokio::test]
async fn who_reads_one_answer_slowly_gets_the_others() {
    let bench = Bench::start();
    let app = bench.app("big", |request| async move {
        let length = if request.get("PATH_INFO") == "/big" { 1_000_000 } else { 4 };
        request.ok(&"x".repeat(length)).await;
    });
    bench.set_route(bench.route(&[&app]));
    let mut builder = h2::client::Builder::new();
    let builder = builder.initial_window_size(1000).initial_connection_window_size(2_000_000);
    let mut client = Client::with(&bench, builder).await;
    let (big, _) = client.send(get("/big"), true).await;
    let big = big.await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.get("/small").await, (200, "xxxx".to_owned()));
    }
    assert_eq!(text(big).await.len(), 1_000_000);
}

#[tokio::test]
async fn who_takes_nothing_has_to_go() {
    let bench = Bench::impatient();
    let app = bench.app("big", |request| async move { request.ok(&"x".repeat(100_000)).await });
    bench.set_route(bench.route(&[&app]));
    let mut builder = h2::client::Builder::new();
    let mut client = Client::with(&bench, builder.initial_window_size(0)).await;
    let answer = client.ask(get("/")).await;
    client.ended().await;
    assert!(body(answer.into_body()).await.is_err());
}

#[tokio::test]
async fn who_asks_for_nothing_has_to_go() {
    let bench = Bench::impatient();
    bench.set_route(bench.route(&[]));
    Client::connect(&bench).await.ended().await;
    let mut client = Client::connect(&bench).await;
    assert_eq!(client.ask(get("/")).await.status(), 503);
    client.ended().await;
}

#[tokio::test]
async fn a_request_taken_back_ends_at_the_app_too() {
    let bench = Bench::start();
    let (gone, mut left) = tokio::sync::mpsc::channel(1);
    let app = bench.app("waits", move |mut request| {
        let gone = gone.clone();
        async move {
            request.stream.read_to_end(&mut Vec::new()).await.unwrap();
            gone.send(()).await.unwrap();
        }
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = PATIENCE;
    bench.set_route(route);
    let mut client = Client::connect(&bench).await;
    let (_response, mut stream) = client.send(get("/"), true).await;
    while app.taken() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.send_reset(Reason::CANCEL);
    timeout(PATIENCE, left.recv()).await.expect("the app hears of it").unwrap();
}

#[tokio::test]
async fn who_takes_back_what_it_asks_for_has_to_go() {
    let bench = Bench::start();
    let app = bench.app("never", |mut request| async move {
        _ = request.stream.read_to_end(&mut Vec::new()).await;
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = PATIENCE;
    bench.set_route(route);
    let client = Client::connect(&bench).await;
    for _ in 0..5_000 {
        let Ok(mut ready) = client.send.clone().ready().await else { break };
        let Ok((_response, mut stream)) = ready.send_request(get("/"), true) else { break };
        tokio::task::yield_now().await;
        stream.send_reset(Reason::CANCEL);
    }
    client.ended().await;
    assert!(app.taken() < 5_000);
}

#[tokio::test]
async fn who_sends_frames_without_end_has_to_go() {
    let bench = Bench::start();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    // A head that begins and never ends.
    let (headers, continuation) = ([0, 0, 0, 1, 0, 0, 0, 0, 1], [0, 0, 0, 9, 0, 0, 0, 0, 1]);
    let none = &b""[..];
    for (first, frame) in [(none, &settings[..]), (none, &ping), (&headers, &continuation)] {
        let mut stream = TcpStream::connect(bench.gateway.address()).await.unwrap();
        stream.write_all(preface).await.unwrap();
        stream.write_all(&settings).await.unwrap();
        stream.write_all(first).await.unwrap();
        let (mut read, mut write) = stream.split();
        let flood = async {
            let frames = frame.repeat(1000);
            for _ in 0..1000 {
                if write.write_all(&frames).await.is_err() {
                    return true;
                }
            }
            false
        };
        let mut rest = Vec::new();
        let (was_ended, _) =
            timeout(PATIENCE, async { tokio::join!(flood, read.read_to_end(&mut rest)) })
                .await
                .expect("an end in time");
        assert!(was_ended);
    }
}

#[tokio::test]
async fn a_gateway_that_stops_lets_answers_end() {
    let bench = Bench::start();
    let app = bench.app("slow", |request| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        request.ok("done").await;
    });
    bench.set_route(bench.route(&[&app]));
    let mut client = Client::connect(&bench).await;
    let (answer, _) = client.send(get("/"), true).await;
    while app.taken() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (answer, ()) =
        tokio::join!(async { text(answer.await.unwrap()).await }, bench.gateway.stop(PATIENCE));
    assert_eq!(answer, "done");
    client.ended().await;
}

/// Starts an app that agrees to an upgrade to WebSocket, sends back what comes, and refuses at `/no`.
fn echo(bench: &Bench) {
    let socket = bench.code().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_echo(stream));
        }
    });
    let mut route = bench.route(&[]);
    let id = common::instance_id("x");
    let instance = InstanceSocket { id, socket, protocol: Protocol::Http };
    route.backend = Backend::Instances(vec![instance]);
    bench.set_route(route);
}

async fn serve_echo(mut stream: UnixStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
    if head.starts_with("GET /no ") || !head.contains("\r\nupgrade: websocket\r\n") {
        _ = stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await;
        return;
    }
    assert_eq!(key.map(str::len), Some(24));
    let answer = "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello";
    stream.write_all(answer.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    _ = tokio::io::copy(&mut read, &mut write).await;
}

fn websocket(path: &str) -> Request<()> {
    let mut request = request(Method::CONNECT, path);
    request.extensions_mut().insert(Extended::from_static("websocket"));
    request
}

#[tokio::test]
async fn a_websocket_passes() {
    let bench = Bench::with(GatewayConfig { threads: 1, ..common::config() });
    echo(&bench);
    let mut client = Client::connect(&bench).await;
    // The gateway says that it knows the method with its settings.
    while !client.send.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = client.ask(websocket("/no")).await;
    assert_eq!(refused.status(), 403);
    let (response, mut send) = client.send(websocket("/"), false).await;
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut receive = response.into_body();
    send.send_data(Bytes::from_static(b"ping"), false).unwrap();
    let mut echoed = Vec::new();
    while echoed.len() < 9 {
        let part = timeout(PATIENCE, receive.data()).await.unwrap().unwrap().unwrap();
        echoed.extend_from_slice(&part);
    }
    assert_eq!(echoed, b"helloping");
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(body(receive).await.unwrap(), b"");
}

/// An app that speaks HTTP and says `hints` before each answer, for which it needs one of the permits returned.
fn hinting(bench: &Bench, hints: String) -> Arc<Semaphore> {
    let socket = bench.code().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let go = Arc::new(Semaphore::new(0));
    let let_go = Arc::clone(&go);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (hints, go) = (hints.clone(), Arc::clone(&let_go));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                _ = stream.write_all(hints.as_bytes()).await;
                go.acquire().await.unwrap().forget();
                _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            });
        }
    });
    let mut route = bench.route(&[]);
    let id = common::instance_id("x");
    let instance = InstanceSocket { id, socket, protocol: Protocol::Http };
    route.backend = Backend::Instances(vec![instance]);
    bench.set_route(route);
    go
}

/// The next thing that is said before an answer; `None` where the answer is next.
async fn interim(answer: &mut ResponseFuture) -> Option<Response<()>> {
    timeout(PATIENCE, poll_fn(|cx| answer.poll_informational(cx)))
        .await
        .unwrap()
        .transpose()
        .unwrap()
}

#[tokio::test]
async fn hints_come_before_their_answer() {
    let bench = Bench::start();
    let hint = |link: &str| {
        format!("HTTP/1.1 103 Early Hints\r\nLink: <{link}>\r\nContent-Length: 9\r\n\r\n")
    };
    let processing = "HTTP/1.1 102 Processing\r\n\r\n";
    let go = hinting(&bench, [&hint("/a.css"), processing, &hint("/b.css")].concat());
    let mut client = Client::connect(&bench).await;
    for _ in 0..2 {
        let (mut answer, _) = client.send(get("/"), true).await;
        for link in ["</a.css>", "</b.css>"] {
            let hint = interim(&mut answer).await.unwrap();
            assert_eq!(
                (hint.status().as_u16(), &hint.headers()["link"]),
                (103, &link.parse().unwrap())
            );
            assert_eq!(hint.headers().len(), 1);
        }
        go.add_permits(1);
        let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(text(answer).await, "ok");
    }
}

#[tokio::test]
async fn hints_have_a_bound() {
    let bench = Bench::start();
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", "a".repeat(5_000));
    let go = hinting(&bench, hint.repeat(8));
    go.add_permits(1);
    let mut client = Client::connect(&bench).await;
    let (mut answer, _) = client.send(get("/"), true).await;
    let mut hints = 0;
    while let Some(hint) = interim(&mut answer).await {
        assert_eq!(hint.status(), 103);
        hints += 1;
    }
    assert_eq!(hints, 3); // As many as fit into 16 KiB.
    assert_eq!(text(answer.await.unwrap()).await, "ok");
}

#[tokio::test]
async fn who_takes_a_request_back_after_its_hints_gets_the_next_answer() {
    let bench = Bench::start();
    let go = hinting(&bench, "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n".to_owned());
    let mut client = Client::connect(&bench).await;
    for _ in 0..20 {
        let (mut answer, mut stream) = client.send(get("/"), true).await;
        assert!(interim(&mut answer).await.is_some());
        stream.send_reset(Reason::CANCEL);
    }
    let (mut answer, _) = client.send(get("/"), true).await;
    assert!(interim(&mut answer).await.is_some());
    go.add_permits(21); // Their app may not know yet.
    assert_eq!(text(timeout(PATIENCE, answer).await.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn who_waits_to_send_a_body_is_told_to() {
    let bench = Bench::start();
    let app = mirror(&bench);
    let mut route = bench.route(&[&app]);
    route.limits.body = Some(ace_types::Bytes(10));
    bench.set_route(route);
    let mut client = Client::connect(&bench).await;
    let waiting = |length: &str| {
        let mut request = request(Method::POST, "/");
        request.headers_mut().insert("expect", "100-continue".parse().unwrap());
        request.headers_mut().insert("content-length", length.parse().unwrap());
        request
    };
    let (mut answer, mut stream) = client.send(waiting("5"), false).await;
    assert_eq!(interim(&mut answer).await.unwrap().status(), 100);
    stream.send_data(Bytes::from_static(b"hello"), true).unwrap();
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
    assert_eq!(text(answer).await, "POST / shop.localhost  HTTP/2.0 5");
    let (mut answer, _stream) = client.send(waiting("11"), false).await;
    assert!(interim(&mut answer).await.is_none());
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 413);
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_ended_and_no_other() {
    let bench = Bench::impatient();
    let app = bench.app("x", |request| async move {
        match request.get("PATH_INFO") {
            // As long as the client is there, so that the connection as a whole waits for the app.
            "/wait" => tokio::time::sleep(PATIENCE).await,
            _ => request.ok("hello").await,
        }
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = PATIENCE;
    bench.set_route(route);
    // A window of two bytes, which nobody opens.
    let mut client = Client::with(&bench, h2::client::Builder::new().initial_window_size(2)).await;
    let (_waiting, _) = client.send(get("/wait"), true).await;
    let mut untaken = client.ask(get("/")).await.into_body();
    let first = timeout(PATIENCE, untaken.data()).await.expect("two bytes").unwrap();
    assert_eq!(first.unwrap(), "he");
    let error = timeout(PATIENCE, untaken.data()).await.expect("an end").unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    let under_way = || bench.gateway.traffic().apps.values().map(|app| app.under_way).sum::<u64>();
    eventually(|| under_way() == 1).await;
    assert_eq!(client.ask(get("/")).await.status(), 200, "the connection goes on");
}
