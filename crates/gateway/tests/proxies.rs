//! Gateways behind proxies: whose word on a client counts, and what an app sees of it.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ace_api::Gateway;
use ace_gateway::GatewayConfig;
use common::{AppRequest, Bench, FakeApp, config, eventually, impatient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

const SEEN: [&str; 9] = [
    "REMOTE_ADDR",
    "REQUEST_SCHEME",
    "SERVER_PORT",
    "HTTP_HOST",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_FORWARDED",
    "HTTP_X_REQUEST_ID",
];

/// Answers with what it has been told of the client.
async fn tell(request: AppRequest) {
    let seen = SEEN.map(|name| request.get(name).to_owned());
    request.ok(&seen.join(" ")).await;
}

fn bench(trusted: &str, proxy_protocol: bool) -> (Bench, FakeApp) {
    let trusted_proxies = vec![trusted.parse().unwrap()];
    let bench = Bench::with(GatewayConfig { trusted_proxies, proxy_protocol, ..impatient() });
    let app = bench.app("x", tell);
    bench.set_route(bench.route(&[&app]));
    (bench, app)
}

const FORWARDED: &str = "GET / HTTP/1.1\r\nHost: 10.0.0.9\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.localhost\r\nX-Request-Id: from-the-proxy\r\n\r\n";

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let (bench, _app) = bench("127.0.0.0/8", false);
    let answer = bench.ask(FORWARDED).await;
    assert_eq!(
        answer.text(),
        "192.0.2.1 https 443 shop.localhost 192.0.2.1 https 443 \
         for=192.0.2.1;host=\"shop.localhost\";proto=https from-the-proxy"
    );
    assert_eq!(answer.header("x-request-id"), "from-the-proxy");
    let direct = bench.get("/").await;
    assert!(direct.text().starts_with("127.0.0.1 http "), "{}", direct.text());
}

#[tokio::test]
async fn nobody_else_does() {
    let (bench, _app) = bench("10.0.0.0/8", true);
    assert_eq!(bench.ask(FORWARDED).await.status, 404);
    let request = FORWARDED.replace("10.0.0.9", "shop.localhost");
    let text = bench.ask(&request).await.text().to_owned();
    assert!(text.starts_with("127.0.0.1 http "), "{text}");
    assert!(!text.contains("192.0.2.1") && !text.contains("from-the-proxy"), "{text}");
}

#[tokio::test]
async fn a_proxys_header_comes_before_http() {
    let (bench, _app) = bench("127.0.0.1/32", true);
    let get = "GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";
    let mut client = bench.client().await;
    client.send(format!("PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n{get}{get}")).await;
    for _ in 0..2 {
        let answer = client.receive(false).await;
        assert!(answer.text().starts_with("2001:db8::1 http "), "{}", answer.text());
    }
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend([192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80]);
    let mut client = bench.client().await;
    // In pieces, as a network may deliver it.
    for part in [&binary[..5], &binary[5..20], &binary[20..], get.as_bytes()] {
        client.send(part).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let answer = client.receive(false).await;
    assert!(answer.text().starts_with("192.0.2.7 http "), "{}", answer.text());
}

#[tokio::test]
async fn a_trusted_proxy_without_its_header_gets_no_answer() {
    let (bench, app) = bench("127.0.0.1/32", true);
    for bad in ["GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n", "PROXY TCP4 a b c d\r\n", "PROXY"]
    {
        let mut client = bench.client().await;
        client.stream.write_all(bad.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        _ = client.stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{bad}");
    }
    assert_eq!(app.taken(), 0);
}

#[tokio::test]
async fn one_address_leaves_an_app_to_others() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let bench = Bench::with(GatewayConfig { trusted_proxies, ..config() });
    let app = bench.app("x", |request| async move {
        if request.get("PATH_INFO") == "/wait" {
            sleep(Duration::from_secs(60)).await;
        }
        request.ok("hello").await;
    });
    let mut route = bench.route(&[&app]);
    route.limits.timeout = Duration::from_secs(60);
    route.limits.connections = 32;
    bench.set_route(route);
    let ask = |path: &str, client: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\nX-Forwarded-For: {client}\r\n\r\n")
    };
    let mut held = Vec::new();
    for _ in 0..24 {
        let mut client = bench.client().await;
        client.send(ask("/wait", "192.0.2.1")).await;
        held.push(client);
    }
    eventually(|| app.taken() == 24).await;
    let refused = bench.ask(&ask("/", "192.0.2.1")).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "5"));
    assert_eq!(bench.ask(&ask("/", "192.0.2.2")).await.text(), "hello");
    assert_eq!(bench.get("/").await.text(), "hello", "the proxy itself is not counted");
    held.clear();
    eventually(|| working(&bench) == 0).await;
    assert_eq!(bench.ask(&ask("/", "192.0.2.1")).await.text(), "hello");
}

fn working(bench: &Bench) -> u64 {
    bench.gateway.traffic().apps.values().map(|app| app.working).sum()
}
