//! What apps answer, right and wrong, and what a client gets to see of it.
//!
//! Whatever an app says, a client gets one whole answer, or an answer that is seen to break off, and
//! the next request on the connection gets its own.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use ace_api::{Backend, InstanceSocket};
use ace_types::Protocol;
use common::{Bench, instance_id};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

/// What comes of an answer: its status and body, or that it breaks off after that much.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole(u16, String),
    BreaksOff,
}

fn whole(status: u16, body: &str) -> Outcome {
    Outcome::Whole(status, body.to_owned())
}

/// Serves each of `answers` at the path that is its number, in either protocol.
fn serve(bench: &Bench, protocol: Protocol, answers: Vec<String>) {
    let socket = bench.folder.path().join("app");
    let listener = UnixListener::bind(&socket).unwrap();
    let answers: HashMap<_, _> = answers.into_iter().enumerate().collect();
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let mut head = vec![0; 8192];
                let count = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                let number = head.split("/case/").nth(1).unwrap_or_default();
                let number: String = number.chars().take_while(char::is_ascii_digit).collect();
                let answer = number.parse().ok().and_then(|number: usize| answers.get(&number));
                let next = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext".to_owned();
                _ = stream.write_all(answer.unwrap_or(&next).as_bytes()).await;
            });
        }
    });
    let mut route = bench.route(&[]);
    route.backend =
        Backend::Instances(vec![InstanceSocket { id: instance_id("x"), socket, protocol }]);
    bench.set_route(route);
}

async fn check(protocol: Protocol, cases: Vec<(&str, Outcome)>) {
    let bench = Bench::start();
    serve(&bench, protocol, cases.iter().map(|(answer, _)| (*answer).to_owned()).collect());
    for (number, (sent, expected)) in cases.iter().enumerate() {
        let mut client = bench.client().await;
        client.send(format!("GET /case/{number} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")).await;
        let found = match client.try_receive(false).await {
            None => Outcome::BreaksOff,
            Some(answer) if answer.status == 502 => whole(502, ""),
            Some(answer) => {
                for gone in ["connection", "keep-alive", "upgrade", "trailer", "te"] {
                    let value = answer.header(gone);
                    assert!(["", "close"].contains(&value), "{sent:?}: {gone}: {value}");
                }
                assert_eq!(answer.header("server"), "ace", "{sent:?}");
                whole(answer.status, answer.text())
            }
        };
        assert_eq!(found, *expected, "{sent:?} over {protocol:?}");
        if found != Outcome::BreaksOff {
            client.send("GET /next HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
            assert_eq!(client.receive(false).await.text(), "next", "after {sent:?}");
        }
    }
}

/// What is right or wrong whatever an app's server speaks.
fn in_both() -> Vec<(&'static str, Outcome)> {
    vec![
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", whole(200, "hi")),
        ("HTTP/1.0 200 OK\r\n\r\nto the end", whole(200, "to the end")),
        ("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", whole(200, "hi")),
        ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", whole(200, "hi")),
        ("HTTP/1.1 299 Gr\u{fc}\u{df}e\r\nContent-Length: 2\r\n\r\nhi", whole(299, "hi")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more", whole(200, "hi")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nless", Outcome::BreaksOff),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", whole(200, "hi")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nhi", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhi", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhi", whole(502, "")),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
            whole(502, ""),
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi", whole(502, "")),
        ("HTTP/1.1 204 No Content\r\n\r\nbody", whole(204, "")),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody", whole(204, "")),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody", whole(304, "")),
        (
            "HTTP/1.1 102 Processing\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            whole(200, "hi"),
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", whole(502, "")),
        (
            "HTTP/1.1 200 OK\r\nConnection: close, X-Own\r\nX-Own: a\r\nKeep-Alive: a\r\nTE: a\r\n\
             Trailer: a\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi",
            whole(200, "hi"),
        ),
        ("HTTP/1.1 200 OK\r\nA: b\nSet-Cookie: c\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: c\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 200 O\rK\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 2000 OK\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 20 OK\r\n\r\n", whole(502, "")),
        ("HTTP/1.1 abc OK\r\n\r\n", whole(502, "")),
        ("HTTP/3.0 200 OK\r\n\r\n", whole(502, "")),
        ("Status: 200 OK\r\n\r\nhi", whole(502, "")),
        ("hello", whole(502, "")),
        ("HTTP/1.1 200 OK\r\nA: b\r\n", whole(502, "")),
        ("", whole(502, "")),
    ]
}

#[tokio::test]
async fn answers_over_uwsgis_protocol() {
    let mut cases = in_both();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    cases.push((chunked, whole(502, "")));
    check(Protocol::Uwsgi, cases).await;
}

#[tokio::test]
async fn answers_over_http() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bodies = [
        ("2\r\nhi\r\n0\r\n\r\n", whole(200, "hi")),
        ("2;a=b\r\nhi\r\n0\r\nA: b\r\nContent-Length: 9\r\n\r\n", whole(200, "hi")),
        ("2\r\nhi\r\n", Outcome::BreaksOff),
        ("2\r\nhi\r\n0\r\n", Outcome::BreaksOff),
        ("2\nhi\r\n0\r\n\r\n", Outcome::BreaksOff),
        ("2\r\nhi0\r\n\r\n", Outcome::BreaksOff),
        ("-2\r\nhi\r\n0\r\n\r\n", Outcome::BreaksOff),
        ("ffffffffffffffff0\r\nhi\r\n0\r\n\r\n", Outcome::BreaksOff),
    ];
    let bodies = bodies.map(|(body, outcome)| (format!("{chunked}{body}"), outcome));
    let mut cases = in_both();
    cases.extend(bodies.iter().map(|(answer, outcome)| {
        let outcome = match outcome {
            Outcome::Whole(status, body) => whole(*status, body),
            Outcome::BreaksOff => Outcome::BreaksOff,
        };
        (answer.as_str(), outcome)
    }));
    check(Protocol::Http, cases).await;
}
