//! What the API says to those who ask wrongly, and to those who watch.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::OpenOptions;
use std::io::Write;

use ace_api::http::{AppState, AppView, DoctorReport, Done, LogLine, PythonView};
use ace_control::Outcome;
use common::client::{begin, deploy, get, read_until, send};
use common::{Machine, block_on, eventually};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

fn refused(code: u16, name: &str) -> (u16, String) {
    (code, name.to_owned())
}

#[test]
fn an_app_is_shown_alone_and_in_the_list() {
    let machine = Machine::new();
    let life = machine.live();
    assert_eq!(life.apps(), []);
    deploy(&life.socket, "shop", "run");
    let app: AppView = get(&life.socket, "/v1/apps/shop").json();
    assert_eq!((app.state, app.release.unwrap().0), (AppState::Running, 1));
    assert_eq!(app.python.as_deref(), Some("3.13.1"));
    assert_eq!(life.apps().len(), 1);
}

#[test]
fn what_is_not_there_is_404_and_what_is_wrong_is_400() {
    let machine = Machine::new();
    let life = machine.live();
    let ask =
        |method: &str, path: &str, body: &str| send(&life.socket, method, path, body).refusal();
    assert_eq!(ask("GET", "/v1/apps/none", ""), refused(404, "no_such_app"));
    assert_eq!(ask("GET", "/v1/apps/none/logs", ""), refused(404, "no_such_app"));
    assert_eq!(ask("DELETE", "/v1/apps/none", ""), refused(404, "no_such_app"));
    assert_eq!(ask("GET", "/v2", ""), refused(404, "no_such_path"));
    assert_eq!(ask("PUT", "/v1/apps", ""), refused(405, "no_such_method"));
    assert_eq!(ask("GET", "/v1/apps/Shop", ""), refused(400, "bad_name"));
    assert_eq!(ask("POST", "/v1/apps/a_b/deploys", "run"), refused(400, "bad_name"));
    assert_eq!(ask("POST", "/v1/apps/a/deploys?tenant=..", "run"), refused(400, "bad_name"));
    assert_eq!(ask("POST", "/v1/apps/a/deploys", ""), refused(400, "bad_request"));
    assert_eq!(ask("GET", "/v1/apps/a/logs?tail=many", ""), refused(400, "bad_request"));
    assert_eq!(ask("GET", "/v1/apps/a/logs?tail=10001", ""), refused(400, "bad_request"));
    assert_eq!(machine.entries("archives"), 0);
}

#[test]
fn pythons_are_listed_and_added() {
    let machine = Machine::new();
    let life = machine.live();
    let listed: Vec<PythonView> = get(&life.socket, "/v1/pythons").json();
    assert_eq!(listed[0].servers, ["uwsgi-2.0.30"]);
    let add = |path: &str| {
        let document = format!("{{\"program\": \"{path}\"}}");
        send(&life.socket, "POST", "/v1/pythons", &document)
    };
    let added: PythonView = add("/opt/python/bin/python3").json();
    assert_eq!(added.program.to_str(), Some("/opt/python/bin/python3"));
    assert_eq!(add("/nowhere").refusal(), refused(400, "bad_request"));
    assert_eq!(add("python3").refusal(), refused(400, "bad_request"));
    let nonsense = send(&life.socket, "POST", "/v1/pythons", "[]");
    assert_eq!(nonsense.refusal(), refused(400, "bad_request"));
}

#[test]
fn another_tenants_name_is_not_free() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let answer = send(&life.socket, "POST", "/v1/apps/shop/deploys?tenant=other", "run");
    assert!(String::from_utf8_lossy(&answer.body).contains("name_taken"), "{:?}", answer.body);
}

/// Writes a request head by hand, and returns what comes back.
fn raw(machine: &Machine, head: &str) -> String {
    block_on(async {
        let mut stream = UnixStream::connect(machine.path("ace.sock")).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    })
}

#[test]
fn an_archive_that_says_it_is_too_large_is_not_read() {
    let machine = Machine::new();
    let _life = machine.live();
    let answer = raw(
        &machine,
        "POST /v1/apps/shop/deploys HTTP/1.1\r\nhost: ace\r\ncontent-length: 209715201\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("too_large"), "{answer}");
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let machine = Machine::new();
    let life = machine.live();
    block_on(async {
        let mut stream = UnixStream::connect(&life.socket).await.unwrap();
        let head =
            "POST /v1/apps/shop/deploys HTTP/1.1\r\nhost: ace\r\ncontent-length: 99\r\n\r\nx";
        stream.write_all(head.as_bytes()).await.unwrap();
        while machine.entries("archives") == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    eventually("the archive is gone", || machine.entries("archives") == 0);
    assert_eq!(life.apps(), []);
}

#[test]
fn the_doctor_answers() {
    let machine = Machine::new();
    let life = machine.live();
    let report: DoctorReport = get(&life.socket, "/v1/doctor").json();
    assert_eq!(report.checks, []);
}

#[test]
fn logs_are_read_and_followed_across_a_deploy() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let log = machine.node.only().1.log.join("current");
    let mut log = OpenOptions::new().append(true).open(log).unwrap();
    writeln!(log, "2026-11-23T05:00:00.5Z err oh no").unwrap();
    let answer = get(&life.socket, "/v1/apps/shop/logs?tail=5");
    let lines: Vec<LogLine> = serde_json::Deserializer::from_slice(&answer.body)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().any(|line| line.stream == "err" && line.text == "oh no"));
    let of_engine = lines.iter().find(|line| line.stream == "ace").unwrap();
    assert_eq!(
        (&of_engine.instance, of_engine.text.as_str()),
        (&None, "release 1 serves: deployed")
    );

    block_on(async {
        let mut follow =
            begin(&life.socket, "GET", "/v1/apps/shop/logs?follow=true&tail=0", "").await;
        writeln!(log, "2026-11-23T05:00:01Z out while you watch").unwrap();
        let read = read_until(&mut follow, "while you watch").await;
        assert!(!read.contains("oh no"), "{read}");
        let mut events = begin(&life.socket, "POST", "/v1/apps/shop/deploys", "run").await;
        read_until(&mut events, r#""event":"done""#).await;
        read_until(&mut follow, "hello").await;
        // The stream ends with the app.
        assert_eq!(begin(&life.socket, "DELETE", "/v1/apps/shop", "").await.status(), 200);
        follow.into_body().collect().await.unwrap();
    });
}

#[test]
fn down_stops_everything_and_then_the_engine() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let _: Done = send(&life.socket, "POST", "/v1/down", "").json();
    assert_eq!(life.wait(), Outcome::Down);
    assert_eq!(machine.node.running(), 0);
    let life = machine.live();
    common::assert_sound(&machine, &life);
    assert_eq!(life.apps().len(), 1, "what was wanted is wanted again");
}

#[test]
fn a_down_that_could_not_remove_everything_says_what_and_can_be_repeated() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    machine.node.stuck.lock().unwrap().push("cgroup ace-abcd is busy".to_owned());
    let answer = send(&life.socket, "POST", "/v1/down", "");
    assert_eq!(answer.refusal(), refused(500, "down_incomplete"));
    assert!(String::from_utf8_lossy(&answer.body).contains("cgroup ace-abcd is busy"));
    let deploying = send(&life.socket, "POST", "/v1/apps/shop/deploys", "run");
    assert_eq!(deploying.refusal(), refused(503, "stopping"));
    assert_eq!(send(&life.socket, "POST", "/v1/down", "").status, 200);
    assert_eq!(life.wait(), Outcome::Down);
}

#[test]
fn a_follower_does_not_hold_up_the_end() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let (socket, started) = (life.socket.clone(), std::time::Instant::now());
    let following = std::thread::spawn(move || {
        block_on(async {
            let mut follow = begin(&socket, "GET", "/v1/apps/shop/logs?follow=true", "").await;
            read_until(&mut follow, "hello").await;
            follow.into_body().collect().await.map(|_| ())
        })
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(life.stop(), Outcome::Stopped);
    following.join().unwrap().unwrap();
    assert!(started.elapsed().as_secs() < 4);
}
