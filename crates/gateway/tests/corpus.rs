//! Raw requests, good and bad, and what each must come to.
//!
//! Each is followed on the same connection by [`LAST`], whose own answer is 299. So `200 299` is an
//! answer after which the connection goes on, and `400` a refusal after which nothing more is
//! read: neither is anything smuggled past the refusal, nor is anything taken for a part of the
//! request before it. Every one is sent in one piece and in pieces of seven bytes.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ace_api::Gateway;
use ace_gateway::GatewayConfig;
use common::{AppRequest, Bench, config, rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LAST: &str = "GET /last HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n";

/// Answers 200 to a request whose body is one of those sent here, and 299 to [`LAST`].
async fn judge(mut request: AppRequest) {
    let body = request.body().await;
    let status = match (request.get("PATH_INFO"), body.as_slice()) {
        ("/last", b"") => 299,
        (_, b"" | b"hello") => 200,
        _ => 599,
    };
    let length = if request.get("REQUEST_METHOD") == "HEAD" { 5 } else { 0 };
    request.say(format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n")).await;
}

/// Sends `text` in pieces of `size`; returns the statuses of all answers, to the connection's end.
async fn statuses(bench: &Bench, text: &str, size: usize) -> String {
    let stream = TcpStream::connect(bench.gateway.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut from, mut to) = stream.into_split();
    let (mut answers, bytes) = (Vec::new(), text.as_bytes());
    let send = async {
        for piece in bytes.chunks(size) {
            if to.write_all(piece).await.is_err() {
                break; // The gateway need not read on after a refusal.
            }
        }
    };
    let (received, ()) = tokio::join!(from.read_to_end(&mut answers), send);
    received.unwrap_or_else(|error| panic!("{text:.200?}: {error}"));
    let answers = String::from_utf8(answers).unwrap();
    let signed = answers.matches("\r\nserver: ace\r\n").count();
    // A page may speak of HTTP/1.1 too, but no status follows there.
    let statuses = answers.split("HTTP/1.").filter_map(|answer| answer.get(2..5));
    let statuses: Vec<_> = statuses.filter(|status| status.parse::<u16>().is_ok()).collect();
    let finals = statuses.iter().filter(|status| **status != "100").count();
    assert_eq!(signed, finals, "{text:.200?}: an answer without our headers:\n{answers}");
    statuses.join(" ")
}

/// Checks what each request comes to; in them, `HOST` is a right `Host` line, and `POST` the
/// beginning of a right request with one.
async fn check(cases: &[(&str, &str)]) {
    // Nothing here is about time, which pieces of seven bytes take.
    let long = Duration::from_secs(20);
    let bench = Bench::with(GatewayConfig { head_timeout: long, body_timeout: long, ..config() });
    let app = bench.app("x", judge);
    let mut route = bench.route(&[&app]);
    route.limits.timeout = long;
    route.statics = vec![rule("/static/", "static/")];
    bench.write("static/a.txt", "hello");
    bench.set_route(route);
    for (request, expected) in cases {
        let request = request
            .replace("POST\r\n", "POST / HTTP/1.1\r\nHOST\r\n")
            .replace("GET\r\n", "GET / HTTP/1.1\r\nHOST\r\n")
            .replace("HOST\r\n", "Host: shop.localhost\r\n");
        for size in [usize::MAX, 7] {
            let found = statuses(&bench, &format!("{request}{LAST}"), size).await;
            assert_eq!(found, *expected, "{request:.200?} in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn targets_and_hosts() {
    check(&[
        ("GET\r\n\r\n", "200 299"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHOST\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHOST\r\nHost: other\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost, other\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a@shop.localhost\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost/a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost:a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost:65536\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: SHOP.localhost.:81\r\n\r\n", "200 299"),
        ("GET / HTTP/1.1\r\nHost: other\r\n\r\n", "404 299"),
        ("GET http://shop.localhost/a HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("GET http://other/a HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET http://shop.localhost:81/ HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET http://a@shop.localhost/ HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET https://shop.localhost/ HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET ftp://shop.localhost/ HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET shop.localhost HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET a HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET ?a HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /#a HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /\u{e9} HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /a\0b HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /%00 HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /%2e%2e/ HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /%0d%0aA:b HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("GET /%zz HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("GET * HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("REFUSED * HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        ("OPTIONS * HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("OPTIONS / HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("POST * HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET http://shop.localhost HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("GET http://shop.localhost/ HTTP/1.1\r\n\r\n", "400"),
        ("GET http://shop.localhost/ HTTP/1.1\r\nHost: other\r\n\r\n", "400"),
        ("GET http://shop.localhost?a HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("GET http:// HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET http:///a HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET //other/a HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("GET shop.localhost:80 HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /a\\b HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("GET /../a HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost:\r\n\r\n", "200 299"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost:80:80\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost:-1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost?a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost#a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop .localhost\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: http://shop.localhost\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost\0\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost : shop.localhost\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "400"),
    ])
    .await;
}

#[tokio::test]
async fn first_lines() {
    check(&[
        ("\r\n\r\nGET\r\n\r\n", "200 299"),
        ("GET\r\n\r\n\r\n\r\n", "200 299"),
        ("\nGET\r\n\r\n", "400"),
        (" GET / HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET  / HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /a b HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET\t/\tHTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/1.1 \r\nHOST\r\n\r\n", "400"),
        ("GET / http/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /\r\n\r\n", "400"),
        ("GET / HTTP/0.9\r\nHOST\r\n\r\n", "505"),
        ("GET / HTTP/2.0\r\nHOST\r\n\r\n", "505"),
        ("GET / HTTP/1.2\r\nHOST\r\n\r\n", "200 299"),
        ("GET / HTTP/1.9\r\nHOST\r\n\r\n", "200 299"),
        ("POST / HTTP/1.3\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "200 299"),
        ("GET / HTTP/1.10\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/11\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/1.1.1\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/1.\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/1\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/01.01\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/ 1.1\r\nHOST\r\n\r\n", "400"),
        ("GET / HTTP/9.9\r\nHOST\r\n\r\n", "505"),
        (&format!("{} / HTTP/1.1\r\nHOST\r\n\r\n", "A".repeat(65)), "400"),
        (&format!("{} / HTTP/1.1\r\nHOST\r\n\r\n", "A".repeat(70_000)), "400"),
        ("GET / HTTP\r\nHOST\r\n\r\n", "400"),
        ("GET / FTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET  HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /  HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET /\u{b}HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("GET\r\r\nHOST\r\n\r\n", "400"),
        ("\rGET / HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("\0GET / HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("G\0T / HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("G\u{e9}T / HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("PROPFIND / HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("M-SEARCH / HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("PRI * HTTP/2.0\r\nHOST\r\n\r\n", "505"),
        ("GE(T / HTTP/1.1\r\nHOST\r\n\r\n", "400"),
        ("get / HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("TRACE / HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("PURGE / HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("CONNECT shop.localhost:80 HTTP/1.1\r\nHOST\r\n\r\n", "405"),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\n", "400"),
    ])
    .await;
}

#[tokio::test]
async fn headers() {
    check(&[
        ("GET / HTTP/1.1\nHOST\r\n\r\n", "400"),
        ("GET\r\nA: b\nC: d\r\n\r\n", "400"),
        ("GET\r\n\n", "400"),
        ("GET\r\nA: b\rC: d\r\n\r\n", "400"),
        ("GET\r\nA: b\r\r\n\r\n", "400"),
        ("GET\r\nA: b\0c\r\n\r\n", "400"),
        ("GET\r\nA: b\u{1}c\r\n\r\n", "400"),
        ("GET\r\nA: b\u{7f}c\r\n\r\n", "400"),
        ("GET\r\nA: b\tc\r\n\r\n", "200 299"),
        ("GET\r\nA: \u{e9}\r\n\r\n", "200 299"),
        ("GET\r\nA:\r\n\r\n", "200 299"),
        ("GET\r\nA\0: b\r\n\r\n", "400"),
        ("GET\r\nA : b\r\n\r\n", "400"),
        ("GET\r\nA\t: b\r\n\r\n", "400"),
        ("GET\r\nA(: b\r\n\r\n", "400"),
        ("GET\r\n: b\r\n\r\n", "400"),
        ("GET\r\nA\r\n\r\n", "400"),
        ("GET\r\nA: b\r\n c\r\n\r\n", "400"),
        ("GET\r\nA: b\r\n\tc\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n HOST\r\n\r\n", "400"),
        ("GET\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", "200 299"),
        ("GET\r\nConnection: close\r\n\r\n", "200"),
        ("GET / HTTP/1.0\r\nHOST\r\n\r\n", "200"),
        (&format!("GET\r\n{}\r\n", "A: b\r\n".repeat(99)), "200 299"),
        (&format!("GET\r\n{}\r\n", "A: b\r\n".repeat(100)), "431"),
        (&format!("GET\r\nA: {}\r\n\r\n", "b".repeat(20_000)), "200 299"),
        (&format!("GET\r\nA: {}\r\n\r\n", "b".repeat(70_000)), "431"),
        (&format!("GET /{} HTTP/1.1\r\nHOST\r\n\r\n", "a".repeat(70_000)), "414"),
        (&format!("GET\r\n{}", "A: b\r\n".repeat(50_000)), "431"),
    ])
    .await;
}

#[tokio::test]
async fn lengths() {
    check(&[
        ("POST\r\nContent-Length: 5\r\n\r\nhello", "200 299"),
        ("POST\r\nContent-Length:\t5\t\r\n\r\nhello", "200 299"),
        ("POST\r\nContent-Length: 005\r\n\r\nhello", "200 299"),
        ("GET\r\nContent-Length: 5\r\n\r\nhello", "200 299"),
        ("POST\r\nContent-Length: 0\r\n\r\n", "200 299"),
        ("POST\r\n\r\n", "200 299"),
        ("POST\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 5, 5\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: +5\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: -5\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 0x5\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 5 5\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length:\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: \u{b}5\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length : 5\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 18446744073709551614\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 18446744073709551615\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 99999999999999999999\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", "200 299"),
        ("POST\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", "200 299"),
        ("POST\r\nExpect: 100-CONTINUE\r\nContent-Length: 5\r\n\r\nhello", "100 200 299"),
        ("POST\r\nExpect: tea\r\nContent-Length: 5\r\n\r\nhello", "417"),
        ("POST\r\nExpect: 100-continue, tea\r\nContent-Length: 5\r\n\r\nhello", "417"),
        ("POST / HTTP/1.0\r\nHOST\r\nExpect: tea\r\nContent-Length: 5\r\n\r\nhello", "200"),
        ("POST\r\nContent-Length: 5\r\n content-length: 6\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 5;a=b\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 5.0\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 1e1\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: \u{665}\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: \"5\"\r\n\r\nhello", "400"),
        ("POST\r\nContent-Length: 5\0\r\n\r\nhello", "400"),
        ("POST\r\nContent_Length: 50\r\nContent-Length: 5\r\n\r\nhello", "200 299"),
        ("POST\r\nContent-Length\0: 50\r\nContent-Length: 5\r\n\r\nhello", "400"),
        ("POST\r\nX: a\rContent-Length: 50\r\nContent-Length: 5\r\n\r\nhello", "400"),
        ("POST\r\nConnection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", "200 299"),
    ])
    .await;
}

#[tokio::test]
async fn transfer_codings() {
    check(&[
        ("POST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200 299"),
        ("GET\r\nTransfer-Encoding:\tChunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200 299"),
        (
            "POST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("POST\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: identity\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nX: a\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: chun\u{212a}ed\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n", "400"),
        ("POST\r\nTransfer-Encoding:\u{a0}chunked\r\n\r\n0\r\n\r\n", "400"),
        (
            "POST\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n",
            "400",
        ),
        (
            "POST\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "200 299",
        ),
        ("POST / HTTP/1.0\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    ])
    .await;
}

#[tokio::test]
async fn chunks() {
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000));
    let trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(5000));
    let cases = [
        ("5;a=b\r\nhello\r\n0;c\r\n\r\n", "200 299"),
        ("5 ;a\r\nhello\r\n0\r\n\r\n", "200 299"),
        ("0005\r\nhello\r\n000\r\n\r\n", "200 299"),
        ("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "200 299"),
        ("5\r\nhello\r\n0\r\nA: b\r\nContent-Length: 5\r\n\r\n", "200 299"),
        ("5\r\nhello\r\n0\r\nHost: other\r\nTransfer-Encoding: chunked\r\n\r\n", "200 299"),
        ("5\nhello\r\n0\r\n\r\n", "400"),
        ("5 \r\nhello\r\n0\r\n\r\n", "400"),
        ("5\t\r\nhello\r\n0\r\n\r\n", "400"),
        ("5;\0\r\nhello\r\n0\r\n\r\n", "400"),
        ("5;a=\"b\\\";\"; c = d\r\nhello\r\n0\r\n\r\n", "200 299"),
        ("5;\r\nhello\r\n0\r\n\r\n", "400"),
        ("5;a[=b\r\nhello\r\n0\r\n\r\n", "400"),
        ("5;a=\r\nhello\r\n0\r\n\r\n", "400"),
        ("5;a=\"b\r\nhello\r\n0\r\n\r\n", "400"),
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", "400"),
        ("0\r\n A: b\r\n\r\n", "400"),
        ("0\r\nA: b\r\n c\r\n\r\n", "400"),
        ("5,5\r\nhello\r\n0\r\n\r\n", "400"),
        ("5_0\r\nhello\r\n0\r\n\r\n", "400"),
        ("5g\r\nhello\r\n0\r\n\r\n", "400"),
        ("5\r\nhello\r\r\n0\r\n\r\n", "400"),
        ("5\r\nhello0\r\n\r\n", "400"),
        ("6\r\nhello\r\n0\r\n\r\n", "400"),
        ("4\r\nhello\r\n0\r\n\r\n", "400"),
        ("0\r\nA : b\r\n\r\n", "400"),
        ("0\r\nA: b\0\r\n\r\n", "400"),
        ("5;a\nhello\r\n0\r\n\r\n", "400"),
        ("5;a=\"\n\"\r\nhello\r\n0\r\n\r\n", "400"),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", "400"),
        ("5\r\nhello\n0\r\n\r\n", "400"),
        ("5\r\nhelloab0\r\n\r\n", "400"),
        ("0x5\r\nhello\r\n0\r\n\r\n", "400"),
        ("+5\r\nhello\r\n0\r\n\r\n", "400"),
        ("-5\r\nhello\r\n0\r\n\r\n", "400"),
        (" 5\r\nhello\r\n0\r\n\r\n", "400"),
        ("\r\nhello\r\n0\r\n\r\n", "400"),
        (";a\r\nhello\r\n0\r\n\r\n", "400"),
        ("FFFFFFFFFFFFFFFE\r\nhello\r\n0\r\n\r\n", "400"),
        ("10000000000000005\r\nhello\r\n0\r\n\r\n", "400"),
        ("5\r\nhello\r\n0\r\nA: b\n\r\n", "400"),
        ("5\r\nhello\r\n0\r\n\n", "400"),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", "400"),
        (&long, "400"),
        (&trailers, "400"),
    ];
    let whole: Vec<_> = cases
        .iter()
        .map(|(body, status)| {
            (format!("POST\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), *status)
        })
        .collect();
    let whole: Vec<_> = whole.iter().map(|(text, status)| (text.as_str(), *status)).collect();
    check(&whole).await;
}

#[tokio::test]
async fn answers_without_bodies_and_bodies_without_readers() {
    check(&[
        ("HEAD / HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("HEAD /static/a.txt HTTP/1.1\r\nHOST\r\n\r\n", "200 299"),
        ("HEAD /static/none HTTP/1.1\r\nHOST\r\n\r\n", "404 299"),
        ("HEAD / HTTP/1.1\r\nHost: other\r\n\r\n", "404 299"),
        ("GET /static/a.txt HTTP/1.1\r\nHOST\r\nContent-Length: 5\r\n\r\nhello", "200 299"),
        ("POST /static/a.txt HTTP/1.1\r\nHOST\r\nContent-Length: 5\r\n\r\nhello", "405 299"),
        ("POST / HTTP/1.1\r\nHost: other\r\nContent-Length: 5\r\n\r\nhello", "404 299"),
        ("GET\r\n\r\nGET\r\n\r\nGET\r\nA : b\r\n\r\n", "200 200 400"),
        ("POST\r\nContent-Length: 5\r\n\r\nhelloGET\r\nA : b\r\n\r\n", "200 400"),
    ])
    .await;
}
