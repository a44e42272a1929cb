//! What Prometheus gets of an engine's life.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use ace_api::traffic::StatusCounts;
use ace_api::{AppTraffic, AppUsage, EndReason, InstanceState, InstanceUsage};
use common::client::{deploy, get};
use common::{Life, Machine, eventually};

/// The value of `series` in what the engine tells.
fn value(life: &Life, series: &str) -> Option<f64> {
    let answer = get(&life.socket, "/metrics");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

#[test]
fn an_app_s_requests_and_instances_have_series_of_its_name() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let (id, status) = machine.node.only();
    let traffic = AppTraffic {
        ended: StatusCounts { server_errors: 3, ..StatusCounts::default() },
        ..AppTraffic::default()
    };
    life.gateway.traffic.lock().unwrap().apps.insert(status.app.clone(), traffic);
    let used = InstanceUsage { memory_bytes: 5 << 20, ..InstanceUsage::default() };
    machine.node.usage.lock().unwrap().instances.insert(id, used);
    let sum = AppUsage { throttled_usec: 2_500_000, ..AppUsage::default() };
    machine.node.usage.lock().unwrap().apps.insert(status.app, sum);

    let of = |series: &str| value(&life, series);
    assert_eq!(of("ace_app_requests_total{app=\"shop\",status=\"5xx\"}"), Some(3.0));
    assert_eq!(of("ace_app_instances{app=\"shop\",state=\"running\"}"), Some(1.0));
    assert_eq!(of("ace_app_memory_bytes{app=\"shop\"}"), Some(5_242_880.0));
    assert_eq!(of("ace_app_cpu_throttled_seconds_total{app=\"shop\"}"), Some(2.5));
    assert_eq!(of("ace_apps"), Some(1.0));
}

#[test]
fn deploys_builds_commits_and_requests_are_counted() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    deploy(&life.socket, "shop", "fail");
    get(&life.socket, "/v1/apps/none");
    let of = |series: &str| value(&life, series);
    assert_eq!(of("ace_operations_total{kind=\"deploy\",result=\"done\"}"), Some(1.0));
    assert_eq!(of("ace_operations_total{kind=\"deploy\",result=\"failed\"}"), Some(1.0));
    assert_eq!(of("ace_operation_duration_seconds_count{kind=\"deploy\"}"), Some(1.0));
    assert_eq!(of("ace_build_duration_seconds_count"), Some(2.0));
    assert!(of("ace_store_commit_duration_seconds_count").unwrap() >= 2.0);
    assert_eq!(of("ace_api_requests_total{status=\"4xx\"}"), Some(1.0));
    assert!(of("process_resident_memory_bytes").unwrap() > 0.0);
}

#[test]
fn an_app_s_log_says_what_befell_its_instances() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let (id, _) = machine.node.only();
    let used =
        InstanceUsage { memory_kills: 2, memory_limit_bytes: 64 << 20, ..InstanceUsage::default() };
    machine.node.usage.lock().unwrap().instances.insert(id.clone(), used);
    machine.node.all_become(InstanceState::Running);
    let log = || {
        let answer = get(&life.socket, "/v1/apps/shop/logs");
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    let lost =
        format!("instance {id} lost 2 processes for lack of memory: the limit is 64M (memory)");
    eventually("the log tells of lost processes", || log().contains(&lost));
    machine.node.crash(1);
    let ended = format!("instance {id} ended: {}", EndReason::Exited { status: 1 });
    eventually("the log tells of the end", || log().contains(&ended));
}
