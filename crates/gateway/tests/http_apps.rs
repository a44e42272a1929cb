//! Apps whose server speaks HTTP: connections that are kept, and WebSockets.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // All of it is for tests.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ace_api::{Backend, Gateway, InstanceSocket};
use ace_types::Protocol;
use common::Bench;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

/// Starts an app that gives each connection to `serve`, with its number, and sets the route to it.
fn start<F>(
    bench: &Bench,
    serve: impl Fn(usize, UnixStream) -> F + Send + 'static,
) -> Arc<AtomicUsize>
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = bench.code().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let connections: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(count.fetch_add(1, Ordering::SeqCst), stream));
        }
    });
    let id = common::instance_id("x");
    let mut route = bench.route(&[]);
    let instance = InstanceSocket { id, socket, protocol: Protocol::Http };
    route.backend = Backend::Instances(vec![instance]);
    bench.set_route(route);
    connections
}

/// Receives a request's head; `None` where the connection ends first.
async fn head(stream: &mut UnixStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Answers requests without a body by their own heads.
async fn mirror(_: usize, mut stream: UnixStream) {
    while let Some(head) = head(&mut stream).await {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn one_thread() -> Bench {
    Bench::with(ace_gateway::GatewayConfig { threads: 1, ..common::config() })
}

#[tokio::test]
async fn an_app_sees_the_request_as_http() {
    let bench = one_thread();
    start(&bench, mirror);
    let request = "GET /a%20b?c HTTP/1.1\r\nHost: shop.localhost\r\nX-Forwarded-For: 1.2.3.4\r\n\
                   Keep-Alive: 5\r\nx_y: z\r\nA: b\r\n\r\n";
    let seen = bench.ask(request).await.text().to_owned();
    assert!(seen.starts_with("GET /a%20b?c HTTP/1.1\r\nhost: shop.localhost\r\n"), "{seen}");
    assert!(seen.contains("\r\na: b\r\n") && seen.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"));
    assert!(!seen.contains("keep-alive") && !seen.contains("x_y"), "{seen}");
}

#[tokio::test]
async fn safe_requests_share_connections_and_others_have_their_own() {
    let bench = one_thread();
    let connections = start(&bench, mirror);
    for _ in 0..3 {
        assert_eq!(bench.get("/").await.status, 200);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    for number in 2..4 {
        let post = "DELETE / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";
        let answer = bench.ask(post).await;
        assert!(answer.text().contains("\r\nconnection: close\r\n"), "{}", answer.text());
        assert_eq!(connections.load(Ordering::SeqCst), number);
    }
}

/// An app may send a body where there can be none, and do so late.
#[tokio::test]
async fn what_follows_an_answer_without_a_body_is_no_answer() {
    let bench = one_thread();
    let connections = start(&bench, async |_, mut stream: UnixStream| {
        for answer in ["204 No Content", "200 OK"] {
            let Some(head) = head(&mut stream).await else { return };
            let begin = if head.starts_with("HEAD") { "200 OK" } else { answer };
            let answer = format!("HTTP/1.1 {begin}\r\nContent-Length: 4\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    for (number, method) in ["HEAD", "GET", "HEAD"].into_iter().enumerate() {
        let request = format!("{method} / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n");
        let mut client = bench.client().await;
        client.send(request).await;
        assert!([200, 204].contains(&client.receive(true).await.status));
        assert_eq!(connections.load(Ordering::SeqCst), number + 1);
    }
}

#[tokio::test]
async fn a_connection_that_ended_in_between_is_replaced() {
    let bench = one_thread();
    // Each connection has one whole exchange, and ends at the second request without a byte.
    let connections = start(&bench, async |_, mut stream: UnixStream| {
        head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        head(&mut stream).await;
    });
    for number in 1..4 {
        assert_eq!(bench.get("/").await.text(), "ok");
        assert_eq!(connections.load(Ordering::SeqCst), number);
    }
}

#[tokio::test]
async fn an_app_that_never_answers_is_not_asked_for_ever() {
    let bench = one_thread();
    let connections = start(&bench, async |_, mut stream: UnixStream| {
        head(&mut stream).await;
    });
    assert_eq!(bench.get("/").await.status, 502);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn chunks_are_passed_on_and_their_lack_is_an_error() {
    let bench = one_thread();
    start(&bench, async |_, mut stream: UnixStream| {
        let end = if head(&mut stream).await.unwrap().starts_with("GET /whole ") {
            "0\r\n\r\n"
        } else {
            ""
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n{end}"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let answer = bench.get("/whole").await;
    assert_eq!((answer.header("transfer-encoding"), answer.text()), ("chunked", "abc"));
    let mut client = bench.client().await;
    client.send("GET /cut HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert!(client.try_receive(false).await.is_none());
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: upgrade\r\n\
                       Upgrade: websocket\r\n\r\n";

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// Agrees to an upgrade, greets, and sends back what it gets.
async fn echo(_: usize, mut stream: UnixStream) {
    let head = head(&mut stream).await.unwrap();
    assert!(head.ends_with("\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"), "{head}");
    stream.write_all(&[SWITCH, b"hello\n"].concat()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await.unwrap();
}

/// A client that has sent `request`, and the head that it got.
async fn upgraded(bench: &Bench, request: &str) -> (tokio::net::TcpStream, String) {
    use ace_api::Gateway;
    let mut stream = tokio::net::TcpStream::connect(bench.gateway.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

#[tokio::test]
async fn a_websocket_passes_bytes_both_ways_for_as_long_as_it_likes() {
    let bench = one_thread();
    start(&bench, echo);
    let (mut stream, head) = upgraded(&bench, UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    // Bare line feeds, which no request may have; and longer than any deadline of the bench.
    for pause in [0, 700] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        stream.write_all(b"a\nb\n\n\n").await.unwrap();
    }
    let mut got = [0; 18];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello\na\nb\n\n\na\nb\n\n\n");
}

#[tokio::test]
async fn a_websocket_counts_until_it_ends() {
    use ace_api::{Gateway, RouteTable};
    let bench = one_thread();
    start(&bench, echo);
    let (stream, _) = upgraded(&bench, UPGRADE).await;
    bench.gateway.set_routes(RouteTable::default());
    let id = common::instance_id("x");
    assert!(!bench.gateway.drained(&id, Duration::from_millis(100)).await);
    drop(stream);
    assert!(bench.gateway.drained(&id, Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_websocket_ends_with_its_app_and_with_the_gateway() {
    let bench = one_thread();
    start(&bench, async |number, mut stream: UnixStream| {
        head(&mut stream).await.unwrap();
        stream.write_all(SWITCH).await.unwrap();
        if number > 0 {
            std::future::pending::<()>().await;
        }
    });
    let (mut of_the_app, _) = upgraded(&bench, UPGRADE).await;
    assert_eq!(of_the_app.read(&mut [0]).await.unwrap(), 0);
    let (mut of_the_gateway, _) = upgraded(&bench, UPGRADE).await;
    tokio::time::timeout(Duration::from_secs(5), bench.gateway.stop(Duration::from_secs(60)))
        .await
        .unwrap();
    assert_eq!(of_the_gateway.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn only_what_was_asked_for_and_agreed_to_is_an_upgrade() {
    let bench = one_thread();
    start(&bench, async |_, mut stream: UnixStream| {
        let head = head(&mut stream).await.unwrap();
        let answer = match head.contains("/other") {
            true => &b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"[..],
            false if head.contains("/refused") => b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n",
            false => SWITCH,
        };
        stream.write_all(answer).await.unwrap();
    });
    assert_eq!(bench.get("/").await.status, 502);
    assert_eq!(bench.ask(&UPGRADE.replace("websocket", "h2c")).await.status, 502);
    assert_eq!(bench.ask(&UPGRADE.replace("GET /", "GET /other")).await.status, 502);
    assert_eq!(bench.ask(&UPGRADE.replace("GET /", "GET /refused")).await.status, 403);
}

/// Answers `size` bytes in one chunk, and after them a status as gRPC has it.
async fn with_trailers(mut stream: UnixStream, size: usize) {
    while head(&mut stream).await.is_some() {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status\r\n\r\n\
             {size:x}\r\n{}\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 7\r\nSet-Cookie: a=b\r\n\r\n",
            "x".repeat(size)
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn trailers_reach_those_who_take_them() {
    // What fits into memory takes another way than what doesn't.
    for size in [1, 300_000] {
        let bench = one_thread();
        start(&bench, move |_, stream| with_trailers(stream, size));
        let asked = |te: &str| {
            format!("GET / HTTP/1.1\r\nHost: shop.localhost\r\n{te}Connection: close\r\n\r\n")
        };
        let mut text = String::new();
        let mut client = bench.client().await.stream;
        client.write_all(asked("TE: trailers\r\n").as_bytes()).await.unwrap();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("\r\ntrailer: Grpc-Status\r\n"), "{text:.400}");
        assert!(
            text.ends_with("\r\n0\r\ngrpc-status: 0\r\n\r\n"),
            "{:?}",
            &text[text.len() - 80..]
        );
        let (mut text, mut client) = (String::new(), bench.client().await.stream);
        client.write_all(asked("").as_bytes()).await.unwrap();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("x\r\n0\r\n\r\n"), "{:?}", &text[text.len() - 80..]);
    }
}

#[tokio::test]
async fn trailers_end_a_stream_of_http_2() {
    let bench = one_thread();
    start(&bench, |_, stream| with_trailers(stream, 300_000));
    let stream = TcpStream::connect(bench.gateway.address()).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://shop.localhost/").body(()).unwrap();
    let (response, _) = send.ready().await.unwrap().send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut received = 0;
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        received += part.len();
        body.flow_control().release_capacity(part.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(
        (received, trailers.len(), &trailers["grpc-status"]),
        (300_000, 1, &"0".parse().unwrap())
    );
}

/// An app that says what it will answer, and answers once `go` lets it.
fn hinting(bench: &Bench) -> Arc<Notify> {
    let go = Arc::new(Notify::new());
    let gone = Arc::clone(&go);
    start(bench, move |_, mut stream| {
        let go = Arc::clone(&gone);
        async move {
            while let Some(head) = head(&mut stream).await {
                let path = head.split(' ').nth(1).unwrap();
                let hint = format!(
                    "HTTP/1.1 103 Early Hints\r\nLink: <{path}>\r\nContent-Length: 9\r\n\r\n\
                     HTTP/1.1 102 Processing\r\n\r\n"
                );
                stream.write_all(hint.as_bytes()).await.unwrap();
                go.notified().await;
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    go
}

#[tokio::test]
async fn hints_reach_a_client_before_their_answer() {
    let bench = one_thread();
    let go = hinting(&bench);
    let mut client = bench.client().await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n");
    client.send([ask("/a"), ask("/b")].concat()).await;
    for link in ["</a>", "</b>"] {
        let hint = client.receive(false).await;
        assert_eq!((hint.status, hint.header("link")), (103, link));
        assert_eq!((hint.headers.len(), hint.reason.as_str()), (1, "Early Hints"));
        go.notify_one();
        let answer = client.receive(false).await;
        assert_eq!((answer.status, answer.text()), (200, "ok"));
    }
}

#[tokio::test]
async fn a_client_of_an_older_version_gets_no_hints() {
    let bench = one_thread();
    let go = hinting(&bench);
    go.notify_one();
    let answer = bench.ask("GET / HTTP/1.0\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!((answer.status, answer.text()), (200, "ok"));
}
