//! What the API says to those who ask wrongly, and to those who watch.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::OpenOptions;
use std::io::Write;

use ace_api::http::{
    AppState, AppView, BuildResult, BuildView, BuildsView, DoctorReport, DomainsView, Done,
    LogLine, PythonView,
};
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
    assert_eq!(add("/nowhere").refusal(), refused(409, "unfit_python"));
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
        (&None, "release 1 serves: deployed (by root)")
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

#[test]
fn domains_lead_to_their_app_and_go_with_it() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    deploy(&life.socket, "blog", "run");
    let change = |app: &str, body: &str| {
        send(&life.socket, "PATCH", &format!("/v1/apps/{app}/domains"), body)
    };
    let view: DomainsView =
        change("shop", r#"{"add": ["WWW.Example.com", "*.example.com"]}"#).json();
    let names: Vec<String> = view.domains.iter().map(|domain| domain.name.to_string()).collect();
    assert_eq!(names, ["*.example.com", "www.example.com"]);
    let routed = |app: &str| -> Vec<String> {
        let routes = life.gateway.routes().routes;
        let route = routes.into_iter().find(|route| route.app.as_str() == app).unwrap();
        let wildcards = route.wildcards.iter().map(|name| format!("*.{name}"));
        route.hosts.iter().map(|host| host.to_string()).chain(wildcards).collect()
    };
    assert_eq!(routed("shop"), ["shop.localhost", "www.example.com", "*.example.com"]);
    assert_eq!(routed("blog"), ["blog.localhost"]);

    let both = r#"{"add": ["a.com", "www.example.com"]}"#;
    assert_eq!(change("blog", both).refusal(), refused(409, "domain_taken"));
    let own = r#"{"add": ["x.localhost"]}"#;
    assert_eq!(change("blog", own).refusal(), refused(409, "domain_reserved"));
    let unknown = r#"{"remove": ["a.com"]}"#;
    assert_eq!(change("blog", unknown).refusal(), refused(404, "no_such_domain"));
    for bad in [r#"{"add": ["http://a.com"]}"#, r#"{"add": "a.com"}"#, r#"{"set": []}"#, "x"] {
        assert_eq!(change("blog", bad).refusal(), refused(400, "bad_request"), "{bad}");
    }
    assert_eq!(change("none", "{}").refusal(), refused(404, "no_such_app"));
    assert_eq!(routed("blog"), ["blog.localhost"]);

    send(&life.socket, "DELETE", "/v1/apps/shop", "");
    assert_eq!(machine.rows("domains/"), 0);
    change("blog", both).json::<DomainsView>();
    assert_eq!(routed("blog"), ["blog.localhost", "a.com", "www.example.com"]);
}

#[test]
fn a_build_is_shown_with_what_it_said() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    deploy(&life.socket, "shop", "reject");
    deploy(&life.socket, "shop", "fail");
    send(&life.socket, "PATCH", "/v1/apps/shop/config", r#"{"set": {"A": "1"}, "unset": []}"#);
    let view: BuildsView = get(&life.socket, "/v1/apps/shop/builds").json();
    let results: Vec<_> = view.builds.iter().map(|build| (build.release.0, build.state)).collect();
    assert_eq!(
        results,
        [(3, BuildResult::Unfit), (2, BuildResult::Failed), (1, BuildResult::Built)]
    );
    assert!(view.builds[1].error.is_some() && view.builds[1].ended_at.is_some());
    let of_config: BuildView = get(&life.socket, "/v1/apps/shop/builds/4").json();
    assert_eq!(of_config, view.builds[2], "a release of new configuration is of the same build");

    let log = machine.path("logs/builds").join(format!("{}.log", view.builds[2].id));
    std::fs::write(log, "one\ntwo\x1b\n").unwrap();
    let said = |path: &str| {
        let answer = get(&life.socket, &format!("/v1/apps/shop/builds/1/{path}"));
        String::from_utf8_lossy(&answer.body).into_owned()
    };
    assert_eq!(said("log"), "{\"line\":\"one\"}\n{\"line\":\"two\\u001b\"}\n");
    let events = "data: {\"line\":\"one\"}\n\ndata: {\"line\":\"two\\u001b\"}\n\n";
    assert_eq!(said("log?follow=true"), events);
    let ask = |path: &str| get(&life.socket, path).refusal();
    assert_eq!(ask("/v1/apps/shop/builds/9"), refused(404, "no_such_build"));
    assert_eq!(ask("/v1/apps/shop/builds/9/log"), refused(404, "no_such_build"));
    assert_eq!(ask("/v1/apps/shop/builds/x"), refused(400, "bad_request"));
    assert_eq!(ask("/v1/apps/none/builds"), refused(404, "no_such_app"));
    assert_eq!(ask("/v1/apps/none/builds/1/log"), refused(404, "no_such_app"));
}

#[test]
fn a_build_s_log_is_followed_to_the_end_of_the_build() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let deploy = runtime.block_on(begin(&life.socket, "POST", "/v1/apps/shop/deploys", "slow"));
    eventually("a second build's log", || machine.entries("logs/builds") == 2);
    let view: BuildsView = get(&life.socket, "/v1/apps/shop/builds").json();
    let log = machine.path("logs/builds").join(format!("{}.log", view.builds[0].id));
    let mut file = OpenOptions::new().append(true).open(log).unwrap();
    runtime.block_on(async {
        file.write_all(b"one\n").unwrap();
        let path = "/v1/apps/shop/builds/2/log?follow=true";
        let mut followed = begin(&life.socket, "GET", path, "").await;
        read_until(&mut followed, "one").await;
        file.write_all(b"two\n").unwrap();
        read_until(&mut followed, "two").await;
        drop(deploy);
        followed.into_body().collect().await.unwrap();
    });
}

#[test]
fn logs_are_asked_for_by_time_release_and_instance() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let (id, status) = machine.node.only();
    std::fs::create_dir_all(&status.log).unwrap();
    let text = "2026-11-23T05:00:01Z out one\n2026-11-23T05:00:02Z out two\n";
    std::fs::write(status.log.join("current"), text).unwrap();
    let read = |query: &str| {
        let answer = get(&life.socket, &format!("/v1/apps/shop/logs?{query}"));
        let lines = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = lines.lines().map(|line| serde_json::from_str::<LogLine>(line).unwrap());
        lines.filter(|line| line.stream == "out").map(|line| line.text).collect::<Vec<_>>()
    };
    assert_eq!(read(""), ["one", "two"]);
    assert_eq!(read("since=2026-11-23T05:00:02Z"), ["two"]);
    assert_eq!(read("release=1&tail=1"), ["two"]);
    assert_eq!(read("release=2"), [""; 0]);
    assert_eq!(read(&format!("instance={id}")), ["one", "two"]);
    let ask = |query: &str| get(&life.socket, &format!("/v1/apps/shop/logs?{query}")).refusal();
    assert_eq!(ask("instance=aaaaaaaa"), refused(404, "no_such_instance"));
    for bad in ["instance=..", "since=now", "release=x", "release=-1"] {
        assert_eq!(ask(bad), refused(400, "bad_request"), "{bad}");
    }
}
