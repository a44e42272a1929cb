//! Requests that an app answers.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ace_api::{Backend, Gateway, InstanceSocket};
use ace_gateway::GatewayConfig;
use ace_types::{Bytes, Limits, Protocol};
use common::{AppRequest, Bench, config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

/// Answers with the named variable.
async fn tell(request: AppRequest, name: &'static str) {
    let value = request.get(name).to_owned();
    request.ok(&value).await;
}

/// Answers with the request's body.
async fn echo(mut request: AppRequest) {
    let body = request.body().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    request.say([head.as_bytes(), &body].concat()).await;
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for part in body.chunks(30_000) {
        text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        text.extend_from_slice(part);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

#[tokio::test]
async fn a_request_reaches_the_app_as_cgi_variables() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        let names = ["REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "SERVER_NAME"];
        let text: Vec<_> = names.iter().map(|name| request.get(name)).collect();
        let text = text.join(" ");
        request.ok(&text).await;
    });
    bench.set_route(bench.route(&[&app]));
    let answer = bench.get("/a%20b?c=%20").await;
    assert_eq!(answer.text(), "GET /a b c=%20 /a%20b?c=%20 shop.localhost");
    assert_eq!((answer.status, answer.header("server")), (200, "ace"));
    assert!(!answer.header("date").is_empty());
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let bench = Bench::start();
    let app = bench.app("x", |request| tell(request, "PATH_INFO"));
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    for path in ["/a", "/b", "/c"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")).await;
        assert_eq!(client.receive(false).await.text(), path);
    }
    let two = "GET /d HTTP/1.1\r\nHost: shop.localhost\r\n\r\n".repeat(2);
    client.send(two).await;
    assert_eq!(client.receive(false).await.text(), "/d");
    assert_eq!(client.receive(false).await.text(), "/d");
}

#[tokio::test]
async fn a_head_is_answered_without_a_body() {
    let bench = Bench::start();
    let app = bench.app("x", |request| request.ok("hello"));
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
        let answer = client.receive(true).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, "5"));
    }
}

#[tokio::test]
async fn statuses_without_a_body_have_none() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        let status = request.get("PATH_INFO").trim_start_matches('/').to_owned();
        request.say(format!("HTTP/1.1 {status} Fine\r\nETag: \"a\"\r\n\r\nno body")).await;
    });
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    for status in [204, 304] {
        client.send(format!("GET /{status} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")).await;
        let answer = client.receive(false).await;
        assert_eq!((answer.status, answer.reason.as_str()), (status, "Fine"));
        assert_eq!(answer.header("transfer-encoding"), "");
    }
}

#[tokio::test]
async fn a_body_without_length_is_passed_on_in_chunks_or_to_the_end() {
    let bench = Bench::start();
    let app = bench.app("x", |mut request| async move {
        request.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nfirst ").await.unwrap();
        sleep(Duration::from_millis(20)).await;
        request.say("second").await;
    });
    bench.set_route(bench.route(&[&app]));
    let answer = bench.get("/").await;
    assert_eq!((answer.header("transfer-encoding"), answer.text()), ("chunked", "first second"));
    let answer = bench.ask("GET / HTTP/1.0\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!((answer.header("transfer-encoding"), answer.text()), ("", "first second"));
}

#[tokio::test]
async fn an_answer_cut_short_is_not_passed_off_as_whole() {
    let bench = Bench::start();
    let app =
        bench.app("x", |request| request.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"));
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert!(client.try_receive(false).await.is_none());
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    // A busy machine may take its time.
    let bench = Bench::with(GatewayConfig { body_timeout: Duration::from_secs(60), ..config() });
    let app = bench.app("x", echo);
    bench.set_route(bench.route(&[&app]));
    let body: Vec<u8> = (0..5_000_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    let mut client = bench.client().await;
    for framing in [format!("Content-Length: {}", body.len()), "Transfer-Encoding: chunked".into()]
    {
        let on_wire = if framing.starts_with('T') { chunked(&body) } else { body.clone() };
        client.send(format!("POST / HTTP/1.1\r\nHost: shop.localhost\r\n{framing}\r\n\r\n")).await;
        client.send(on_wire).await;
        let answer = client.receive(false).await;
        assert!(answer.body == body, "{framing}: {} bytes came back", answer.body.len());
    }
}

#[tokio::test]
async fn an_app_may_answer_while_it_reads() {
    let bench = Bench::start();
    let app = bench.app("x", |mut request| async move {
        request.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut part = [0; 65536];
        let mut left = 2_000_000;
        while left > 0 {
            let count = request.stream.read(&mut part).await.unwrap();
            request.stream.write_all(&part[..count]).await.unwrap();
            left -= count;
        }
    });
    bench.set_route(bench.route(&[&app]));
    let client = bench.client().await;
    let (mut from, mut to) = client.stream.into_split();
    let writer = tokio::spawn(async move {
        let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n";
        to.write_all(format!("{head}Content-Length: 2000000\r\n\r\n").as_bytes()).await.unwrap();
        to.write_all(&vec![b'a'; 2_000_000]).await.unwrap();
        to
    });
    let mut all = Vec::new();
    from.read_to_end(&mut all).await.unwrap();
    writer.await.unwrap();
    assert!(all.iter().filter(|byte| **byte == b'a').count() >= 2_000_000);
}

#[tokio::test]
async fn an_app_need_not_read_what_it_is_sent() {
    let bench = Bench::start();
    let app = bench.app("x", |request| request.say("HTTP/1.1 403 Forbidden\r\n\r\nno"));
    bench.set_route(bench.route(&[&app]));
    let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 3000000\r\n\r\n";
    let body = "a".repeat(3_000_000);
    let mut client = bench.client().await;
    client.send(head).await;
    _ = client.stream.write_all(body.as_bytes()).await; // May end early.
    let answer = client.receive(false).await;
    assert_eq!((answer.status, answer.text()), (403, "no"));
}

#[tokio::test]
async fn a_client_is_told_to_go_on_when_its_body_is_wanted() {
    let bench = Bench::start();
    let app = bench.app("x", echo);
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nExpect: 100-continue\r\n";
    client.send(format!("{head}Content-Length: 2\r\n\r\n")).await;
    assert_eq!(client.receive(true).await.status, 100);
    client.send("ab").await;
    assert_eq!(client.receive(false).await.text(), "ab");
}

#[tokio::test]
async fn headers_that_are_the_gateways_own_do_not_cross() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        let names = [
            "HTTP_X_FORWARDED_FOR",
            "HTTP_X_FORWARDED_PROTO",
            "HTTP_X_FORWARDED_HOST",
            "HTTP_PROXY",
            "HTTP_CONNECTION",
            "HTTP_X_PRIVATE",
            "HTTP_A_B",
            "HTTP_TE",
            "REMOTE_ADDR",
        ];
        let text: Vec<_> = names.iter().map(|name| request.get(name)).collect();
        let body = text.join("|") + "|" + request.get("HTTP_X_REQUEST_ID");
        let head = "HTTP/1.1 200 OK\r\nServer: mine\r\nX-Request-Id: mine\r\nKeep-Alive: 1\r\n";
        request.say(format!("{head}Connection: close\r\n\r\n{body}")).await;
    });
    bench.set_route(bench.route(&[&app]));
    let answer = bench
        .ask(concat!(
            "GET / HTTP/1.1\r\nHost: shop.localhost\r\nX-Forwarded-For: 10.0.0.1\r\n",
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: other\r\nProxy: evil\r\n",
            "Connection: x-private\r\nX-Private: 1\r\nA_B: 1\r\nTE: trailers\r\n",
            "X-Request-Id: mine\r\n\r\n",
        ))
        .await;
    let id = answer.header("x-request-id");
    assert_eq!(id.len(), 32);
    assert_eq!(answer.text(), format!("127.0.0.1|http|shop.localhost||||||127.0.0.1|{id}"));
    assert_eq!((answer.header("server"), answer.header("connection")), ("ace", ""));
    assert_eq!(answer.header("keep-alive"), "");
}

#[tokio::test]
async fn the_limit_of_a_body_counts_announced_or_not() {
    let bench = Bench::start();
    let app = bench.app("x", echo);
    let mut route = bench.route(&[&app]);
    route.limits.body = Some(Bytes(100));
    bench.set_route(route);
    let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\n";
    let announced = format!("{head}Content-Length: 101\r\n\r\n");
    assert_eq!(bench.ask(&announced).await.status, 413);
    let in_chunks =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n", "a".repeat(101));
    assert_eq!(bench.ask(&in_chunks).await.status, 413);
    let fits = format!("{head}Content-Length: 100\r\n\r\n{}", "a".repeat(100));
    assert_eq!(bench.ask(&fits).await.body.len(), 100);
    assert_eq!(app.taken(), 1);
}

#[tokio::test]
async fn spooled_bodies_have_so_much_room_and_leave_nothing() {
    let spool = tempfile::tempdir().unwrap();
    let bench = Bench::with(ace_gateway::GatewayConfig {
        spool: spool.path().to_owned(),
        spool_bytes_max: 800_000, // Of which one app has a quarter.
        ..config()
    });
    let app = bench.app("x", echo);
    bench.set_route(bench.route(&[&app]));
    let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\n";
    for (size, in_chunks) in [(150_000, 200), (400_000, 503), (150_000, 200)] {
        let body: Vec<u8> = (0..size).map(|index: u32| index.to_le_bytes()[1]).collect();
        let mut client = bench.client().await;
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
        _ = client.stream.write_all(&chunked(&body)).await;
        assert_eq!(client.receive(false).await.status, in_chunks, "{size}");
        // One of known length needs no room.
        let mut client = bench.client().await;
        client.send(format!("{head}Content-Length: {size}\r\n\r\n")).await;
        client.send(&body).await;
        assert!(client.receive(false).await.body == body, "{size}");
    }
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_body_of_known_length_needs_no_disk() {
    let bench =
        Bench::with(ace_gateway::GatewayConfig { spool: "/nonexistent".into(), ..config() });
    let app = bench.app("x", echo);
    bench.set_route(bench.route(&[&app]));
    let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 300000\r\n\r\n";
    let answer = bench.ask(&format!("{head}{}", "a".repeat(300_000))).await;
    assert_eq!((answer.status, answer.body.len()), (200, 300_000));
}

#[tokio::test]
async fn an_app_does_not_wait_for_a_slow_client() {
    let bench = Bench::start();
    let app = bench.app("x", echo);
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\n";
    client.send(format!("{head}Content-Length: 100000\r\n\r\n")).await;
    for _ in 0..9 {
        client.send("a".repeat(10_000)).await;
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(app.taken(), 0);
    client.send("a".repeat(10_000)).await;
    assert_eq!(client.receive(false).await.body.len(), 100_000);
    assert_eq!(app.taken(), 1);
}

#[tokio::test]
async fn answers_that_are_not_http_are_bad() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        let answer = match request.get("PATH_INFO") {
            "/nonsense" => "nonsense\r\n\r\n",
            "/line-feeds" => "HTTP/1.1 200 OK\nA: b\n\n",
            "/framed" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "/upgrade" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "/half" => "HTTP/1.1 200 O",
            _ => "",
        };
        request.say(answer).await;
    });
    bench.set_route(bench.route(&[&app]));
    for path in ["/nonsense", "/line-feeds", "/framed", "/upgrade", "/half", "/nothing"] {
        assert_eq!(bench.get(path).await.status, 502, "{path}");
    }
}

#[tokio::test]
async fn a_request_that_the_app_has_seen_is_not_sent_again() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move { drop(request) });
    bench.set_route(bench.route(&[&app]));
    let answer = bench.get("/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("without an answer; its log says why"), "{}", answer.text());
    assert_eq!(app.taken(), 1);
    // Here the app leaves with the body unread, which looks as if it had read nothing.
    let post = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 1\r\n\r\na";
    assert_eq!(bench.ask(post).await.status, 502);
    assert_eq!(app.taken(), 2);
}

/// Two instances, of which the first ends with the request in its backlog.
#[tokio::test]
async fn a_request_that_no_app_has_seen_is_sent_once_more() {
    let bench = Bench::start();
    let next = bench.app("y", |request| tell(request, "REQUEST_METHOD"));
    for method in ["GET", "DELETE", "POST"] {
        let socket = bench.folder.path().join(method);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let ending =
            InstanceSocket { id: common::instance_id("x"), socket, protocol: Protocol::Uwsgi };
        let mut route = bench.route(&[]);
        route.backend = Backend::Instances(vec![ending]);
        bench.set_route(route);
        let request = format!("{method} / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n");
        let (answer, ()) = tokio::join!(bench.ask(&request), async {
            sleep(Duration::from_millis(50)).await;
            bench.set_route(bench.route(&[&next]));
            drop(listener);
        });
        assert_eq!((answer.status, answer.text()), (200, method));
    }
    assert_eq!(next.taken(), 3);
}

#[tokio::test]
async fn silence_is_a_timeout_before_the_answer_and_an_end_within_it() {
    let bench = Bench::impatient();
    let app = bench.app("x", |mut request| async move {
        if request.get("PATH_INFO") == "/half" {
            request.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
        }
        sleep(Duration::from_secs(10)).await;
    });
    bench.set_route(bench.route(&[&app]));
    let answer = bench.get("/").await;
    assert_eq!(answer.status, 504);
    assert!(answer.text().contains(answer.header("x-request-id")));
    let mut client = bench.client().await;
    client.send("GET /half HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert!(client.try_receive(false).await.is_none());
}

#[tokio::test]
async fn an_answer_may_take_longer_than_the_timeout_if_it_goes_on() {
    let bench = Bench::impatient();
    let app = bench.app("x", |mut request| async move {
        request.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        for _ in 0..8 {
            sleep(Duration::from_millis(100)).await;
            request.stream.write_all(b".").await.unwrap();
        }
    });
    bench.set_route(bench.route(&[&app]));
    assert_eq!(bench.get("/").await.text(), "........");
}

#[tokio::test]
async fn an_app_has_no_more_requests_at_once_than_its_limit() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        sleep(Duration::from_millis(200)).await;
        request.ok("late").await;
    });
    let mut route = bench.route(&[&app]);
    route.limits = Limits { connections: 2, ..route.limits };
    bench.set_route(route);
    let (one, two, three) = tokio::join!(bench.get("/"), bench.get("/"), async {
        sleep(Duration::from_millis(50)).await;
        bench.get("/").await
    });
    assert_eq!((one.status, two.status, three.status), (200, 200, 503));
    assert_eq!(three.header("retry-after"), "5");
    assert_eq!(bench.get("/").await.status, 200);
}

#[tokio::test]
async fn who_sends_or_reads_slowly_takes_no_place_of_the_apps() {
    let bench = Bench::with(GatewayConfig { body_timeout: Duration::from_secs(60), ..config() });
    let app = bench.app("x", |request| async move {
        let length = if request.get("PATH_INFO") == "/big" { 20_000_000 } else { 4 };
        request.ok(&"x".repeat(length)).await;
    });
    let mut route = bench.route(&[&app]);
    route.limits = Limits { connections: 1, timeout: Duration::from_secs(60), ..route.limits };
    bench.set_route(route);
    let (mut sending, mut reading) = (bench.client().await, bench.client().await);
    sending.send("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 9\r\n\r\nhalf").await;
    reading.send("GET /big HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    loop {
        let apps = bench.gateway.traffic().apps;
        let shop = apps.values().next().cloned().unwrap_or_default();
        if (shop.under_way, shop.working, app.taken()) == (2, 0, 1) {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.get("/").await.text(), "xxxx");
    sending.send("other").await;
    assert_eq!(sending.receive(false).await.text(), "xxxx");
    assert_eq!(reading.receive(false).await.body.len(), 20_000_000);
}

#[tokio::test]
async fn a_head_too_large_for_a_packet_is_refused() {
    let bench = Bench::start();
    let app = bench.app("x", |request| request.ok(""));
    bench.set_route(bench.route(&[&app]));
    assert_eq!(bench.get(&format!("/{}", "a".repeat(17_000))).await.status, 414);
    assert_eq!(bench.get(&format!("/{}", "a".repeat(16_000))).await.status, 200);
    let with = |length| {
        let (path, header) = ("a".repeat(16_000), "b".repeat(length));
        format!("GET /{path} HTTP/1.1\r\nHost: shop.localhost\r\nA: {header}\r\n\r\n")
    };
    assert_eq!(bench.ask(&with(40_000)).await.status, 431);
    assert_eq!(bench.ask(&with(20_000)).await.status, 200);
}
