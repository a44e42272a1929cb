//! Tables that change while requests come.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ace_api::{Backend, Gateway, Route, RouteTable};
use ace_gateway::GatewayConfig;
use common::{Bench, Client, config, rule};
use tokio::sync::Notify;
use tokio::time::sleep;

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";

#[tokio::test]
async fn before_the_first_table_no_name_is_unknown() {
    let bench = Bench::start();
    let app = bench.app("x", |request| request.ok("hello"));
    let nobody = "GET / HTTP/1.1\r\nHost: nobody\r\n\r\n";
    let (known, unknown, ()) = tokio::join!(bench.get("/"), bench.ask(nobody), async {
        sleep(Duration::from_millis(100)).await;
        bench.set_route(bench.route(&[&app]));
    });
    assert_eq!((known.text(), unknown.status), ("hello", 404));
}

#[tokio::test]
async fn the_first_table_is_waited_for_within_bounds() {
    let bench = Bench::with(GatewayConfig {
        hold_timeout: Duration::from_millis(300),
        held_max: 1,
        ..config()
    });
    let (first, (second, at)) = tokio::join!(bench.get("/"), async {
        sleep(Duration::from_millis(50)).await;
        let begin = Instant::now();
        (bench.get("/").await, begin.elapsed())
    });
    assert_eq!((first.status, second.status), (503, 503));
    assert_eq!((first.header("retry-after"), second.header("retry-after")), ("5", "5"));
    assert!(first.text().contains("has not finished starting"), "{}", first.text());
    assert!(at < Duration::from_millis(200), "the second one waited {at:?}");
}

#[tokio::test]
async fn an_unknown_name_is_not_found() {
    let bench = Bench::start();
    bench.gateway.set_routes(RouteTable::default());
    let answer = bench.ask("GET / HTTP/1.1\r\nHost: Nobody:80\r\nAccept: text/html\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("content-type")), (404, "text/html; charset=utf-8"));
    assert!(answer.text().contains("No app is named \u{201c}nobody\u{201d} here."));
}

#[tokio::test]
async fn a_request_waits_until_an_instance_is_there() {
    let bench = Bench::start();
    let app = bench.app("x", |request| request.ok("hello"));
    bench.set_route(bench.route(&[]));
    let (answer, ()) = tokio::join!(bench.get("/"), async {
        sleep(Duration::from_millis(100)).await;
        bench.set_route(bench.route(&[&app]));
    });
    assert_eq!(answer.text(), "hello");
}

#[tokio::test]
async fn an_app_of_files_alone_answers_at_once() {
    let bench = Bench::start();
    bench.write("index.html", "hello");
    bench.set_route(files_alone(&bench));
    assert_eq!(bench.get("/").await.text(), "hello");
    let missing = bench.get("/missing").await;
    assert_eq!((missing.status, missing.header("retry-after")), (404, ""));
    let mut no_rules = files_alone(&bench);
    no_rules.statics.clear();
    bench.set_route(no_rules);
    assert_eq!(bench.get("/").await.status, 404);
}

#[tokio::test]
async fn a_request_that_waits_for_an_app_gets_the_file_that_takes_its_place() {
    let bench = Bench::start();
    bench.write("index.html", "hello");
    bench.set_route(bench.route(&[]));
    let post = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 2\r\n\r\nhi";
    let (file, missing, refused, ()) =
        tokio::join!(bench.get("/"), bench.get("/missing"), bench.ask(post), async {
            sleep(Duration::from_millis(100)).await;
            bench.set_route(files_alone(&bench));
        });
    assert_eq!((file.status, file.text()), (200, "hello"));
    assert_eq!((missing.status, refused.status), (404, 405));
}

fn files_alone(bench: &Bench) -> Route {
    Route { statics: vec![rule("/", "")], backend: Backend::Files, ..bench.route(&[]) }
}

#[tokio::test]
async fn a_request_waits_for_an_instance_that_takes_no_connection_yet() {
    let bench = Bench::start();
    let app = bench.app("x", |request| request.ok("old"));
    let route = bench.route(&[&app]);
    let path = app.socket.socket.clone();
    std::fs::remove_file(&path).unwrap();
    bench.set_route(route);
    let (answer, _app) = tokio::join!(bench.get("/"), async {
        sleep(Duration::from_millis(100)).await;
        common::FakeApp::start(&path, "x", |request| request.ok("new"))
    });
    assert_eq!(answer.text(), "new");
}

#[tokio::test]
async fn an_instance_that_is_gone_is_passed_over() {
    let bench = Bench::start();
    let gone = bench.app("x", |request| request.ok("gone"));
    let here = bench.app("y", |request| request.ok("here"));
    std::fs::remove_file(&gone.socket.socket).unwrap();
    bench.set_route(bench.route(&[&gone, &here]));
    let post = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 1\r\n\r\na";
    assert_eq!(bench.ask(post).await.text(), "here");
}

#[tokio::test]
async fn waiting_is_bounded_in_time_and_number() {
    let bench = Bench::with(GatewayConfig {
        hold_timeout: Duration::from_secs(3),
        held_max: 1,
        ..config()
    });
    bench.set_route(bench.route(&[]));
    let refused_while_one_waits = async {
        while bench.gateway.traffic().apps.values().all(|app| app.waiting == 0) {
            sleep(Duration::from_millis(5)).await;
        }
        let answer = bench.get("/").await;
        (answer, bench.gateway.traffic().apps.values().any(|app| app.waiting == 1))
    };
    let (first, (second, first_waits)) = tokio::join!(bench.get("/"), refused_while_one_waits);
    assert_eq!((first.status, second.status), (503, 503));
    assert!(first_waits, "the second one waited");
    assert_eq!((first.header("retry-after"), second.header("retry-after")), ("5", "5"));
    assert!(first.text().contains("not running"));
}

#[tokio::test]
async fn an_app_that_is_destroyed_lets_no_request_wait() {
    let bench = Bench::start();
    bench.set_route(bench.route(&[]));
    let (answer, ()) = tokio::join!(bench.get("/"), async {
        sleep(Duration::from_millis(50)).await;
        bench.gateway.set_routes(RouteTable::default());
    });
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn the_least_busy_instance_is_asked() {
    let bench = Bench::start();
    let slow = bench.app("x", |request| async move {
        sleep(Duration::from_millis(300)).await;
        request.ok("slow").await;
    });
    let fast = bench.app("y", |request| request.ok("fast"));
    bench.set_route(bench.route(&[&slow, &fast]));
    let (first, rest) = tokio::join!(bench.get("/"), async {
        sleep(Duration::from_millis(50)).await;
        let mut rest = Vec::new();
        for _ in 0..3 {
            rest.push(bench.get("/").await.text().to_owned());
        }
        rest
    });
    assert_eq!((first.text(), rest), ("slow", vec!["fast".to_owned(); 3]));
}

#[tokio::test]
async fn an_instance_is_drained_when_its_last_answer_has_ended() {
    let bench = Bench::start();
    let may_answer = Arc::new(Notify::new());
    let answers = Arc::clone(&may_answer);
    let old = bench.app("x", move |request| {
        let answers = Arc::clone(&answers);
        async move {
            answers.notified().await;
            request.ok("old").await;
        }
    });
    let new = bench.app("y", |request| request.ok("new"));
    let mut route = bench.route(&[&old]);
    route.limits.timeout = Duration::from_secs(20);
    bench.set_route(route);
    let (answer, ()) = tokio::join!(bench.get("/"), async {
        while old.taken() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        bench.set_route(bench.route(&[&new]));
        let (gateway, id) = (&bench.gateway, &old.socket.id);
        assert!(!gateway.drained(id, Duration::from_millis(20)).await);
        assert_eq!(bench.get("/").await.text(), "new");
        may_answer.notify_one();
        assert!(gateway.drained(id, Duration::from_secs(5)).await);
    });
    assert_eq!(answer.text(), "old");
}

#[tokio::test]
async fn an_instance_need_not_wait_for_a_slow_reader() {
    let bench = Bench::start();
    let old = bench.app("x", |request| async move { request.ok(&"x".repeat(8 << 20)).await });
    bench.set_route(bench.route(&[&old]));
    let mut client = bench.client().await;
    client.send(GET).await;
    while old.taken() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    bench.set_route(bench.route(&[]));
    assert!(bench.gateway.drained(&old.socket.id, Duration::from_secs(5)).await);
    drop(old);
    assert_eq!(client.receive(false).await.body.len(), 8 << 20);
}

/// What a deploy does, fifty times, with clients that never stop asking: switch, drain, and take
/// the old instance away. No request may fail, and none may reach an instance after it drained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_deploys_under_load_fail_no_request() {
    // However long a busy machine keeps an app or a client from its turn.
    let patience = Duration::from_secs(60);
    let bench = Bench::with(GatewayConfig {
        head_timeout: patience,
        idle_timeout: patience,
        body_timeout: patience,
        ..config()
    });
    let route = |app: &common::FakeApp| {
        let mut route = bench.route(&[app]);
        route.limits.timeout = patience;
        route
    };
    let mut current = bench.app("i0", |request| request.ok("hello"));
    bench.set_route(route(&current));
    let stop = Arc::new(AtomicBool::new(false));
    let answered: Arc<AtomicUsize> = Arc::default();
    let address = bench.gateway.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    client.send(GET).await;
                    let answer = client.receive(false).await;
                    assert_eq!((answer.status, answer.text()), (200, "hello"));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for number in 1..=50 {
        let next = bench.app(&format!("i{number}"), |request| request.ok("hello"));
        bench.set_route(route(&next));
        assert!(bench.gateway.drained(&current.socket.id, patience).await);
        let taken = current.taken();
        sleep(Duration::from_millis(5)).await;
        assert_eq!(current.taken(), taken, "a request came after the drain");
        current = next; // The old one ends here.
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 100);
}

#[tokio::test]
async fn a_stopped_app_says_so_at_once_for_its_files_too() {
    let bench = Bench::start();
    bench.write("s/a.txt", "a file");
    let running = Route { statics: vec![rule("/s/", "s/")], ..bench.route(&[]) };
    bench.set_route(running.clone());
    let stopped = Route { backend: Backend::Stopped, ..running };
    let (held, ()) = tokio::join!(bench.get("/"), async {
        sleep(Duration::from_millis(100)).await;
        bench.set_route(stopped);
    });
    let (page, file) = (bench.get("/").await, bench.get("/s/a.txt").await);
    for answer in [held, page, file] {
        assert_eq!(answer.status, 503);
        assert!(answer.text().contains("has been stopped"), "{}", answer.text());
        assert!(answer.headers.iter().all(|(name, _)| name != "retry-after"));
    }
}

#[tokio::test]
async fn an_answer_without_a_look_at_the_body_leaves_the_connection_or_says_that_it_goes() {
    let bench = Bench::start();
    bench.set_route(Route { backend: Backend::Stopped, ..bench.route(&[]) });
    let post = |length: usize, more: &str| {
        format!("POST / HTTP/1.1\r\nHost: shop.localhost\r\n{more}Content-Length: {length}\r\n\r\n")
    };
    let mut client = bench.client().await;
    for _ in 0..3 {
        client.send(post(100_000, "") + &"x".repeat(100_000)).await;
        let answer = client.receive(false).await;
        assert_eq!((answer.status, answer.header("connection")), (503, ""));
    }
    client.send(post(5, "Expect: 100-continue\r\n")).await;
    let answer = client.receive(false).await;
    assert_eq!((answer.status, answer.header("connection")), (503, "close"));

    let mut client = bench.client().await;
    client.send(post(2_000_000, "") + &"x".repeat(1_500_000)).await;
    let answer = client.receive(false).await;
    assert_eq!((answer.status, answer.header("connection")), (503, "close"));
}
