//! What passes for an app is held to its bandwidth, and comes whole.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use ace_api::Gateway;
use ace_types::{BitRate, Limits};
use common::{Bench, rule};

/// More than passes at once; at a million bits a second, three quarters of one.
const LENGTH: usize = 96 * 1024;

/// The deadlines of this gateway are shorter than the waits.
#[tokio::test]
async fn large_bodies_wait_for_their_turn_and_for_no_deadline() {
    let bench = Bench::impatient();
    let app = bench.app("x", |mut request| async move {
        match request.get("REQUEST_METHOD") {
            "POST" => {
                let length = request.body().await.len();
                request.ok(&length.to_string()).await;
            }
            _ => request.ok(&"a".repeat(LENGTH)).await,
        }
    });
    bench.write("pub/large.txt", "f".repeat(LENGTH));
    let mut route = bench.route(&[&app]);
    route.statics = vec![rule("/static/", "pub/")];
    route.limits = Limits { bandwidth: BitRate::mega(1), ..route.limits };
    bench.set_route(route);

    let upload = format!(
        "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: {LENGTH}\r\n\r\n{}",
        "u".repeat(LENGTH)
    );
    let (first, second, third, uploaded) = tokio::join!(
        bench.get("/static/large.txt"),
        bench.get("/static/large.txt"),
        bench.get("/"),
        bench.ask(&upload),
    );
    let all = |letter: char, body: &[u8]| {
        body.len() == LENGTH && body.iter().all(|byte| *byte == letter as u8)
    };
    for (answer, letter) in [(&first, 'f'), (&second, 'f'), (&third, 'a')] {
        assert!(all(letter, &answer.body), "{letter}: {}", answer.status);
    }
    assert_eq!(uploaded.text(), LENGTH.to_string());

    let traffic = bench.gateway.traffic();
    let of_app = &traffic.apps[&"shop".parse().unwrap()];
    assert!(of_app.bandwidth.held_back_usec > 0);
    assert_eq!(of_app.bandwidth.held_back_usec, of_app.bandwidth.held_back_last_minute_usec);
}

#[tokio::test]
async fn what_is_small_passes_at_once() {
    let bench = Bench::start();
    let app = bench.app("x", |request| async move { request.ok(&"a".repeat(10_000)).await });
    let mut route = bench.route(&[&app]);
    route.limits = Limits { bandwidth: BitRate::mega(1), ..route.limits };
    bench.set_route(route);
    for _ in 0..10 {
        assert_eq!(bench.get("/").await.body.len(), 10_000);
    }
    let traffic = bench.gateway.traffic();
    assert_eq!(traffic.apps[&"shop".parse().unwrap()].bandwidth.held_back_usec, 0);
}
