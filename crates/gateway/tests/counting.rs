//! What the gateway counts and logs of requests.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ace_api::{Gateway, Traffic};
use ace_gateway::{AccessLogConfig, GatewayConfig};
use common::{AppRequest, Bench, config};
use serde_json::Value;

async fn hello(request: AppRequest) {
    request.ok("hello").await;
}

/// What `wanted` says of the traffic, once it says something.
async fn eventually<T>(bench: &Bench, wanted: impl Fn(&Traffic) -> Option<T>) -> T {
    for _ in 0..2000 {
        if let Some(found) = wanted(&bench.gateway.traffic()) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", bench.gateway.traffic());
}

#[tokio::test]
async fn requests_are_counted_for_their_app_and_instance() {
    let bench = Bench::start();
    let app = bench.app("a", hello);
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    for _ in 0..3 {
        client.send("GET /x HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
        assert_eq!(client.receive(false).await.status, 200);
    }
    client.send("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 4\r\n\r\nbody").await;
    assert_eq!(client.receive(false).await.status, 200);
    let shop = eventually(&bench, |traffic| {
        traffic.apps.values().find(|shop| shop.ended.successful == 4).cloned()
    })
    .await;
    assert_eq!((shop.received_bytes, shop.sent_bytes, shop.under_way), (4, 20, 0));
    assert_eq!((shop.durations.count, shop.recent.requests), (4, 4));
    let traffic = bench.gateway.traffic();
    assert_eq!(traffic.instances[&app.socket.id].recent.requests, 4);
    assert_eq!(traffic.connections, 1);

    client.send("GET / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n").await;
    assert_eq!(client.receive(false).await.status, 404);
    eventually(&bench, |traffic| (traffic.unrouted == 1).then_some(())).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_was_not_answered() {
    let bench = Bench::start();
    let app = bench.app("a", hello);
    bench.set_route(bench.route(&[&app]));
    for framing in ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"]
    {
        let mut client = bench.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: shop.localhost\r\n{framing}")).await;
    }
    let shop = eventually(&bench, |traffic| {
        traffic.apps.values().find(|shop| shop.ended.unanswered == 2).cloned()
    })
    .await;
    assert_eq!((shop.ended.client_errors, shop.under_way, app.taken()), (0, 0, 0));
}

#[tokio::test]
async fn what_a_limit_turns_away_is_counted() {
    let bench = Bench::start();
    let app = bench.app("a", hello);
    let mut route = bench.route(&[&app]);
    route.limits.body = Some(ace_types::Bytes(3));
    bench.set_route(route);
    let mut client = bench.client().await;
    client.send("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 4\r\n\r\nbody").await;
    assert_eq!(client.receive(false).await.status, 413);
    let shop = eventually(&bench, |traffic| {
        traffic.apps.values().find(|shop| shop.ended.client_errors == 1).cloned()
    })
    .await;
    assert_eq!(shop.refused.body, 1);
}

#[tokio::test]
async fn each_request_has_a_line_that_no_client_can_forge() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let bench = Bench::with(GatewayConfig {
        access_log: Some(AccessLogConfig::new(file.clone())),
        ..config()
    });
    let app = bench.app("a", hello);
    bench.set_route(bench.route(&[&app]));
    let mut client = bench.client().await;
    let head = "GET /a%0a{\"status\":200}?secret=1 HTTP/1.1\r\nHost: shop.localhost\r\n\
                User-Agent: \t\"x\\\u{9b}\r\n\r\n";
    client.send(head).await;
    let answer = client.receive(false).await;
    assert_eq!(answer.status, 200);
    drop(client);
    bench.gateway.stop(Duration::from_secs(5)).await;

    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 1 && text.is_ascii() && !text.contains("secret"), "{text}");
    let line: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(line["path"], "/a%0a{\"status\":200}");
    assert_eq!(line["user_agent"], "\"x\\\u{9b}");
    assert_eq!((&line["status"], &line["sent_bytes"]), (&Value::from(200), &Value::from(5)));
    assert_eq!((&line["app"], &line["release"]), (&Value::from("shop"), &Value::from(1)));
    assert_eq!(line["instance"], app.socket.id.as_str());
    assert_eq!(line["request"], answer.header("x-request-id"));
    assert!(line["first_byte_ms"].as_f64().unwrap() <= line["duration_ms"].as_f64().unwrap());
}

#[tokio::test]
async fn a_head_that_was_refused_has_a_line_that_claims_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let bench = Bench::with(GatewayConfig {
        access_log: Some(AccessLogConfig::new(file.clone())),
        ..config()
    });
    let mut client = bench.client().await;
    client.send("GET /a HTTP/1.1\r\nHost : shop.localhost\r\n\r\n").await;
    assert_eq!(client.receive(false).await.status, 400);
    drop(client);
    bench.gateway.stop(Duration::from_secs(5)).await;

    let line: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(line["status"], 400);
    for unknown in ["method", "path", "protocol", "host", "app"] {
        assert!(line[unknown].is_null(), "{line}");
    }
}
