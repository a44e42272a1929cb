//! Requests that the rules of an app lead elsewhere.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use ace_api::{Backend, InstanceSocket, Route};
use ace_types::{Protocol, RewriteRule, TryRule};
use common::{AppRequest, Bench, FakeApp, rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Answers with what it has been asked for.
async fn echo(request: AppRequest) {
    let seen =
        ["PATH_INFO", "QUERY_STRING", "REQUEST_URI"].map(|name| request.get(name).to_owned());
    request.ok(&seen.join(" | ")).await;
}

fn rules(rules: &[(&str, &str)]) -> Vec<RewriteRule> {
    rules.iter().map(|(url, script)| RewriteRule::new(url, script).unwrap()).collect()
}

/// A gateway with some files and an app that echoes, whose route `change` completes.
fn bench(change: impl FnOnce(&mut Route)) -> (Bench, FakeApp) {
    let bench = Bench::start();
    bench.write("static/site.css", "body{}");
    bench.write("static/index.html", "<p>one page</p>");
    bench.write("static/docs/index.html", "<p>docs</p>");
    let app = bench.app("x", echo);
    let mut route = bench.route(&[&app]);
    route.statics = vec![rule("/static/", "static/"), rule("/index.html", "static/index.html")];
    change(&mut route);
    bench.set_route(route);
    (bench, app)
}

#[tokio::test]
async fn an_app_sees_where_rules_have_led() {
    let (bench, _app) = bench(|route| {
        route.rewrites = rules(&[("^/show/(.+)\\.html$", "/show?page=$1 last")]);
    });
    let seen = |path: &'static str| async { bench.get(path).await.text().to_owned() };
    let led = "/show | page=a%20b/c&d=e | /show/a%20b/c.html?d=e";
    assert_eq!(seen("/show/a%20b/c.html?d=e").await, led);
    assert_eq!(seen("/other//x?d=e").await, "/other//x | d=e | /other//x?d=e");
}

#[tokio::test]
async fn an_app_that_speaks_http_sees_them_too() {
    let bench = Bench::start();
    let socket = bench.folder.path().join("http");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let count = stream.read(&mut head).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&head[..count]).lines().next().unwrap().to_owned()
    });
    let mut route = bench.route(&[]);
    let protocol = Protocol::Http;
    let id = common::instance_id("h");
    route.backend = Backend::Instances(vec![InstanceSocket { id, socket, protocol }]);
    route.rewrites = rules(&[("^/old(.*)$", "/n\u{e9}w$1 break")]);
    bench.set_route(route);
    assert_eq!(bench.get("/old/a%20b%3Fc?d=e").await.status, 200);
    assert_eq!(app.await.unwrap(), "GET /n%C3%A9w/a%20b%3Fc?d=e HTTP/1.1");
}

#[tokio::test]
async fn rules_lead_to_files_and_away() {
    let (bench, app) = bench(|route| {
        route.rewrites = rules(&[
            ("^/old/(.*)$", "/new/$1 permanent"),
            ("^/moved$", "https://example.com/x?y=z redirect"),
            ("^/style$", "/static/site.css last"),
        ]);
    });
    let answer = bench.get("/old/a%0dB:%20c?d").await;
    let location = answer.header("location");
    assert_eq!((answer.status, location), (301, "/new/a%0DB:%20c?d"));
    let answer = bench.get("/moved?a=b").await;
    let location = answer.header("location");
    assert_eq!((answer.status, location), (302, "https://example.com/x?y=z&a=b"));
    assert_eq!(bench.get("/style").await.text(), "body{}");
    assert_eq!(app.taken(), 0);
}

#[tokio::test]
async fn rules_that_lead_in_a_circle_end() {
    let (bench, app) = bench(|route| {
        route.rewrites = rules(&[("^/a$", "/b last"), ("^/b$", "/a last")]);
    });
    let answer = bench.get("/a").await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("`break` ends one"), "{}", answer.text());
    assert_eq!(bench.get("/c").await.status, 200);
    assert_eq!(app.taken(), 1);
}

#[tokio::test]
async fn what_is_no_file_goes_to_the_script() {
    let (bench, _app) = bench(|route| {
        route.tries = vec![
            TryRule::new("/static/docs/", "/show?page=$uri").unwrap(),
            TryRule::new("/", "/index.html").unwrap(),
        ];
    });
    for (path, text) in [
        ("/static/site.css", "body{}"),
        ("/static/docs/", "<p>docs</p>"),
        ("/static/docs/a?b=c", "/show | page=/static/docs/a&b=c | /static/docs/a?b=c"),
        ("/static/missing", "<p>one page</p>"),
        ("/a/b/c?d", "<p>one page</p>"),
    ] {
        assert_eq!(bench.get(path).await.text(), text, "{path}");
    }
}
