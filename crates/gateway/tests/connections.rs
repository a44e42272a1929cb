//! What clients may and may not do with a connection.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use ace_api::Gateway;
use ace_gateway::{GatewayConfig, GatewayServer, StartError};
use common::{Bench, config, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";

#[tokio::test]
async fn a_refusal_comes_after_the_answers_before_it() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        sleep(Duration::from_millis(100)).await;
        request.ok("hello").await;
    });
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    client.send(format!("{GET}{GET}{}{GET}", GET.replace("\r\nHost", "\nHost"))).await;
    assert_eq!(client.receive(false).await.text(), "hello");
    assert_eq!(client.receive(false).await.text(), "hello");
    let refusal = client.receive(false).await;
    assert_eq!((refusal.status, refusal.header("connection")), (400, "close"));
    assert!(refusal.text().contains("a line ends in LF without CR"), "{}", refusal.text());
    assert!(refusal.text().contains(refusal.header("x-request-id")));
    assert!(client.is_closed().await);
    assert_eq!(app.taken(), 2);
}

#[tokio::test]
async fn an_absolute_target_that_agrees_is_fine() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        let target = request.get("REQUEST_URI").to_owned();
        request.ok(&target).await;
    });
    bench.set_route(bench.route(&[&app]));
    let request = "GET http://shop.localhost/a?b HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";
    assert_eq!(bench.ask(request).await.text(), "/a?b");
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let bench = Bench::impatient();
    let app = bench.app("x", |request| request.ok("hello"));
    bench.set_route(bench.route(&[&app]));
    let begin = Instant::now();
    let (mut silent, mut slow, mut idle) =
        (bench.client().await, bench.client().await, bench.client().await);
    idle.send(GET).await;
    assert_eq!(idle.receive(false).await.status, 200);
    slow.send("GET / HTTP/1.1\r\n").await;
    let dribble = async {
        while slow.stream.write_all(b"a: b\r\n").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
        begin.elapsed()
    };
    let (silent, slow, idle) =
        tokio::join!(async { silent.is_closed().await.then(|| begin.elapsed()) }, dribble, async {
            idle.is_closed().await.then(|| begin.elapsed())
        },);
    let within = |time: Duration, least, most| {
        let time = time.as_millis();
        assert!((least..most).contains(&time), "{time} ms, not {least} to {most}");
    };
    within(silent.unwrap(), 450, 1400);
    within(slow, 450, 1400);
    within(idle.unwrap(), 1450, 4000);
}

#[tokio::test]
async fn a_request_that_takes_long_is_not_idle() {
    let bench = Bench::impatient();
    let app = bench.app("x", |request| async move {
        sleep(Duration::from_millis(1200)).await;
        request.ok("late").await;
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = Duration::from_secs(5);
    bench.set_route(route);
    assert_eq!(bench.get("/").await.text(), "late");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_not_waited_for() {
    let bench = Bench::impatient();
    let app = bench.app("x", |mut request| async move {
        request.body().await;
        request.ok("").await;
    });
    bench.set_route(bench.route(&[&app]));
    let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\n";
    for framing in ["Content-Length: 9\r\n\r\na", "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"] {
        assert_eq!(bench.ask(&format!("{head}{framing}")).await.status, 408, "{framing:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_left() {
    let bench = Bench::impatient();
    let app = bench.app("x", |mut request| async move {
        request.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while request.stream.write_all(&[0; 65536]).await.is_ok() {}
    });
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    client.send(GET).await;
    sleep(Duration::from_millis(100)).await;
    bench.set_route(bench.route(&[]));
    assert!(bench.gateway.drained(&app.socket.id, Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        sleep(Duration::from_secs(60)).await;
        request.ok("").await;
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = Duration::from_secs(60);
    bench.set_route(route);
    let mut client = bench.client().await;
    client.send(GET).await;
    sleep(Duration::from_millis(100)).await;
    drop(client);
    bench.set_route(bench.route(&[]));
    assert!(bench.gateway.drained(&app.socket.id, Duration::from_secs(5)).await);
}

#[tokio::test]
async fn no_more_connections_are_served_than_there_may_be() {
    let bench = Bench::with(GatewayConfig { connections_max: 6, threads: 1, ..config() });
    let app = bench.app("x", |request| async move {
        sleep(Duration::from_secs(60)).await;
        request.ok("").await;
    });
    let mut routes = Vec::new();
    for name in ["a", "b"] {
        let mut route = bench.route(&[&app]);
        route.app = name.parse().unwrap();
        route.hosts = vec![format!("{name}.localhost").parse().unwrap()];
        route.limits.timeout = Duration::from_secs(60);
        routes.push(route);
    }
    bench.gateway.set_routes(ace_api::RouteTable { routes });
    let mut open = Vec::new();
    for name in ["a", "a", "a", "b", "b", "b"] {
        let mut client = bench.client().await;
        client.send(GET.replace("shop", name)).await;
        open.push(client);
    }
    eventually(|| app.taken() == 6).await;
    let mut waiting = bench.client().await;
    waiting.send("GET / HTTP/1.1\r\nHost: other\r\n\r\n").await;
    let early = timeout(Duration::from_millis(100), waiting.try_receive(false)).await;
    assert!(early.is_err(), "served beyond the bound");
    open.pop();
    assert_eq!(waiting.receive(false).await.status, 404);
}

#[tokio::test]
async fn one_app_has_no_more_than_half_of_the_gateway() {
    let bench = Bench::with(GatewayConfig { connections_max: 4, threads: 1, ..config() });
    let app = bench.app("x", |request| async move {
        sleep(Duration::from_secs(60)).await;
        request.ok("").await;
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = Duration::from_secs(60);
    bench.set_route(route);
    let (mut first, mut second) = (bench.client().await, bench.client().await);
    first.send(GET).await;
    second.send(GET).await;
    eventually(|| app.taken() == 2).await;
    assert_eq!(bench.get("/").await.status, 503);
}

#[tokio::test]
async fn bodies_that_come_slowly_leave_places_to_others() {
    let long = Duration::from_secs(60);
    let few = GatewayConfig { connections_max: 16, body_timeout: long, ..config() };
    let bench = Bench::with(GatewayConfig { body_grace: long * 4, ..few });
    let app = bench.app("x", |request| async move { request.ok("hello").await });
    bench.set_route(bench.route(&[&app]));
    let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 9\r\n\r\n";
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = bench.client().await;
        client.send(head).await;
        slow.push(client);
    }
    let under_way =
        || bench.gateway.traffic().apps.values().map(|shop| shop.under_way).sum::<u64>();
    eventually(|| under_way() == 4).await;
    assert_eq!(bench.ask(&format!("{head}too much!")).await.status, 503);
    assert_eq!(bench.get("/").await.text(), "hello");
    slow[0].send("and last!").await;
    assert_eq!(slow[0].receive(false).await.text(), "hello");
    assert_eq!(bench.ask(&format!("{head}room now!")).await.text(), "hello");
}

/// Far more connections than there are places, none of which asks for anything whole.
#[tokio::test]
async fn clients_without_a_request_keep_nobody_out() {
    let bench = Bench::with(GatewayConfig {
        connections_max: 32,
        threads: 1, // With two, connections made before ours may be accepted long after it, and push it out.
        head_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        ..config()
    });
    let app = bench.app("x", |request| request.ok("hello"));
    let mut route = bench.route(&[&app]);
    route.limits.timeout = Duration::from_secs(60);
    bench.set_route(route);
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut client = bench.client().await;
        // Few of them whole, lest they be too many for the app at once.
        let parts = ["", "GET / HT", "GET / HTTP/1.1\r\nA: b\r\n"];
        let beginning = if number % 12 == 11 { GET } else { parts[number % 3] };
        client.send(beginning).await;
        slow.push(client);
        if number % 50 == 49 {
            assert_eq!(bench.get("/").await.text(), "hello");
        }
    }
}

#[tokio::test]
async fn a_body_that_trickles_has_its_time_and_no_more() {
    let long = Duration::from_secs(60);
    let grace = Duration::from_millis(200);
    let bench = Bench::with(GatewayConfig { body_timeout: long, body_grace: grace, ..config() });
    let app = bench.app("x", |request| async move { request.ok("hello").await });
    bench.set_route(bench.route(&[&app]));
    let (mut reading, mut writing) = bench.client().await.stream.into_split();
    let trickle = async move {
        let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 100000\r\n\r\n";
        writing.write_all(head.as_bytes()).await.unwrap();
        while writing.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = [0; 12];
    let answered = async { tokio::join!(reading.read_exact(&mut answer), trickle).0 };
    timeout(Duration::from_secs(20), answered).await.expect("an answer, and an end").unwrap();
    assert_eq!((&answer, app.taken()), (b"HTTP/1.1 408", 0));
}

#[tokio::test]
async fn a_slow_reader_does_not_hold_the_app() {
    // The client reads once the app is free, however long that takes here.
    let bench = Bench::with(GatewayConfig { body_timeout: Duration::from_secs(20), ..config() });
    let (free, mut freed) = tokio::sync::mpsc::channel(1);
    let body: Vec<u8> = (0..20_000_000_u32).map(|number| (number / 7) as u8).collect();
    let sent = body.clone();
    let app = bench.app("x", move |request| {
        let (free, sent) = (free.clone(), sent.clone());
        async move {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len());
            request.say([head.as_bytes(), &sent].concat()).await;
            free.send(()).await.unwrap();
        }
    });
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    client.send(GET).await;
    timeout(Duration::from_secs(20), freed.recv()).await.expect("the app waits for the client");
    assert!(client.receive(false).await.body == body);
}

#[tokio::test]
async fn without_room_the_app_waits_for_the_client() {
    // A busy machine may take its time.
    let patience = Duration::from_secs(60);
    let config = GatewayConfig { spool_bytes_max: 1 << 20, body_timeout: patience, ..config() };
    let bench = Bench::with(config);
    let app = bench.app("x", |request| async move {
        request.say([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![7; 20_000_000]].concat()).await;
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = patience;
    bench.set_route(route);
    assert_eq!(bench.get("/").await.body.len(), 20_000_000);
}

#[tokio::test]
async fn stopping_lets_requests_end_and_then_nothing_listens() {
    let bench = Bench::impatient();
    let app = bench.app("x", |request| async move {
        sleep(Duration::from_millis(200)).await;
        request.ok("whole").await;
    });
    bench.set_route(bench.route(&[&app]));
    let mut idle = bench.client().await;
    let (answer, elapsed) = tokio::join!(bench.get("/"), async {
        sleep(Duration::from_millis(50)).await;
        let begin = Instant::now();
        bench.gateway.stop(Duration::from_secs(5)).await;
        begin.elapsed()
    });
    assert_eq!(answer.text(), "whole");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    assert!(idle.is_closed().await);
    assert!(tokio::net::TcpStream::connect(bench.gateway.address()).await.is_err());
}

#[tokio::test]
async fn stopping_ends_what_does_not_end_in_time() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move {
        sleep(Duration::from_secs(60)).await;
        request.ok("").await;
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = Duration::from_secs(60);
    bench.set_route(route);
    let mut client = bench.client().await;
    client.send(GET).await;
    sleep(Duration::from_millis(50)).await;
    bench.gateway.stop(Duration::from_millis(100)).await;
    let mut rest = Vec::new();
    _ = client.stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn an_address_in_use_is_an_error_even_if_by_a_gateway() {
    let bench = Bench::start();
    let second = GatewayServer::start(GatewayConfig::new(bench.gateway.address()));
    assert!(matches!(second, Err(StartError::Listen { .. })), "{second:?}");
}
