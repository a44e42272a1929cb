//! What moves what serves an app besides a deploy, as a client sees it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use ace_api::Backend;
use ace_api::http::{
    AppState, AppView, ConfigView, DeployEvent, LimitOrigin, LimitsView, LogLine, ReleaseCause,
    ReleasesView,
};
use ace_types::Bytes;
use common::client::{ask, begin, deploy, done, failure, get, noted, read_until, send};
use common::{Life, Machine, assert_sound, block_on, eventually};

fn shop(life: &Life) -> AppView {
    get(&life.socket, "/v1/apps/shop").json()
}

fn roll_back(socket: &Path, to: &str) -> Vec<DeployEvent> {
    ask(socket, "POST", "/v1/apps/shop/rollback", to)
}

fn post(socket: &Path, what: &str) -> Vec<DeployEvent> {
    ask(socket, "POST", &format!("/v1/apps/shop/{what}"), "")
}

fn configure(socket: &Path, change: &str) -> Vec<DeployEvent> {
    ask(socket, "PATCH", "/v1/apps/shop/config", change)
}

fn log(life: &Life) -> String {
    let answer = get(&life.socket, "/v1/apps/shop/logs?tail=100");
    let lines = serde_json::Deserializer::from_slice(&answer.body).into_iter::<LogLine>();
    lines.map(|line| line.unwrap().text + "\n").collect()
}

#[test]
fn a_rollback_serves_the_release_before_and_back_again() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    assert_eq!(failure(&roll_back(&life.socket, "")).code, "no_earlier_release");
    deploy(&life.socket, "shop", "run");
    for wanted in [1, 2, 1] {
        assert_eq!(done(&roll_back(&life.socket, "")), wanted);
        assert_sound(&machine, &life);
        assert_eq!(shop(&life).release.unwrap().0, wanted);
    }
    assert_eq!(
        noted(&roll_back(&life.socket, r#"{"release": 1}"#)),
        "shop serves release 1 already"
    );
    let gone = roll_back(&life.socket, r#"{"release": 9}"#);
    assert_eq!(failure(&gone).message, "shop has no release 9; there are 1, 2");
    assert_eq!(done(&deploy(&life.socket, "shop", "run")), 3);
    assert_sound(&machine, &life);
    assert_eq!(*machine.builder.building.borrow(), 0);
}

#[test]
fn a_rollback_brings_back_configuration_and_limits() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    assert_eq!(done(&configure(&life.socket, r#"{"set": {"COLOUR": "red"}}"#)), 2);
    let limits = r#"{"set": {"memory": "1G"}}"#;
    assert_eq!(done(&ask(&life.socket, "PATCH", "/v1/apps/shop/limits", limits)), 3);
    assert_sound(&machine, &life);
    let spec = &machine.node.specs(3)[0];
    assert_eq!((spec.env["COLOUR"].as_str(), spec.limits.memory), ("red", Bytes::gib(1)));
    assert_eq!(shop(&life).memory_limit, Some(Bytes::gib(1)));

    assert_eq!(done(&roll_back(&life.socket, r#"{"release": 1}"#)), 1);
    let spec = &machine.node.specs(1)[0];
    assert!(!spec.env.contains_key("COLOUR"));
    assert_eq!(spec.limits.memory, Bytes::mib(512));
    let config: ConfigView = get(&life.socket, "/v1/apps/shop/config").json();
    assert_eq!(config.variables, []);
    assert_eq!(done(&deploy(&life.socket, "shop", "run")), 4);
    assert_eq!(machine.node.specs(4)[0].limits.memory, Bytes::mib(512));
    assert_sound(&machine, &life);
}

#[test]
fn releases_say_why_there_are_and_count_what_they_share_once() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    configure(&life.socket, r#"{"set": {"B": "1", "A": "2"}}"#);
    deploy(&life.socket, "shop", "run");
    let view: ReleasesView = get(&life.socket, "/v1/apps/shop/releases").json();
    let told = view.releases.iter().map(|row| (row.number.0, row.serves, row.size.0));
    // Code and environment have a byte each, and both builds share the environment.
    assert_eq!(told.collect::<Vec<_>>(), [(3, true, 1), (2, false, 0), (1, false, 2)]);
    assert_eq!(view.size, Bytes(3));
    let names = vec!["A".to_owned(), "B".to_owned()];
    assert_eq!(view.releases[1].cause, ReleaseCause::Configured { names });
}

#[test]
fn values_of_a_configuration_are_told_only_when_asked_for() {
    let machine = Machine::new();
    let life = machine.live();
    let kept = configure(&life.socket, r#"{"set": {"KEY": "s3cret"}}"#);
    assert!(noted(&kept).contains("ace deploy DIR --app shop"));
    assert_eq!(shop(&life).state, AppState::New);
    deploy(&life.socket, "shop", "run");
    assert_eq!(machine.node.specs(1)[0].env["KEY"], "s3cret");
    let hidden = get(&life.socket, "/v1/apps/shop/config");
    assert!(!String::from_utf8_lossy(&hidden.body).contains("s3cret"));
    let shown: ConfigView = get(&life.socket, "/v1/apps/shop/config?reveal=true").json();
    assert_eq!(shown.variables[0].value.as_deref(), Some("s3cret"));

    let malformed =
        send(&life.socket, "PATCH", "/v1/apps/shop/config", r#"{"set": {"KEY": "s3cret""#);
    assert_eq!(malformed.status, 400);
    assert!(!String::from_utf8_lossy(&malformed.body).contains("s3cret"));
    let refused = configure(&life.socket, r#"{"set": {"ACE_KEY": "s3cret"}}"#);
    assert!(!failure(&refused).message.contains("s3cret"));
    assert!(noted(&configure(&life.socket, r#"{"unset": ["NONE"]}"#)).contains("so already"));
    assert_eq!(done(&configure(&life.socket, r#"{"unset": ["KEY"]}"#)), 2);
    assert_sound(&machine, &life);
    assert!(!log(&life).contains("s3cret"));
}

#[test]
fn a_configuration_that_does_not_start_changes_nothing() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let events = configure(&life.socket, r#"{"set": {"BEHAVIOUR": "fail"}}"#);
    assert_eq!(failure(&events).code, "exited");
    assert_sound(&machine, &life);
    assert_eq!(shop(&life).release.unwrap().0, 1);
    let config: ConfigView = get(&life.socket, "/v1/apps/shop/config").json();
    assert_eq!(config.variables, []);
    assert_eq!(machine.rows("releases/"), 1);
}

#[test]
fn limits_say_who_set_them() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let change = |change: &str| ask(&life.socket, "PATCH", "/v1/apps/shop/limits", change);
    done(&change(r#"{"set": {"cpu": "0.5"}}"#));
    let limits = || get(&life.socket, "/v1/apps/shop/limits").json::<LimitsView>().limits;
    assert_eq!((limits()[0].value.as_str(), limits()[0].origin), ("0.5", LimitOrigin::Set));
    assert_eq!(limits()[1].origin, LimitOrigin::Default);
    done(&change(r#"{"reset": ["cpu"]}"#));
    assert_eq!((limits()[0].value.as_str(), limits()[0].origin), ("1", LimitOrigin::Default));
    assert!(failure(&change(r#"{"set": {"memory": "1"}}"#)).message.contains("out of bounds"));
}

#[test]
fn a_restart_has_new_instances_whether_the_old_ones_run_or_not() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let before = machine.node.only().0;
    assert_eq!(done(&post(&life.socket, "restart")), 1);
    assert_sound(&machine, &life);
    let between = machine.node.only().0;
    assert_ne!(before, between);
    machine.node.crash(1);
    assert_eq!(done(&post(&life.socket, "restart")), 1);
    assert_sound(&machine, &life);
    assert_ne!(between, machine.node.only().0);
}

#[test]
fn a_stopped_app_stays_so_until_it_is_started_or_deployed() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    assert_eq!(done(&post(&life.socket, "stop")), 1);
    assert_sound(&machine, &life);
    assert_eq!((machine.node.running(), shop(&life).state), (0, AppState::Stopped));
    assert_eq!(life.gateway.routes().routes[0].backend, Backend::Stopped);
    assert!(noted(&post(&life.socket, "stop")).contains("already"));
    assert_eq!(failure(&post(&life.socket, "restart")).code, "stopped");
    assert_eq!(done(&configure(&life.socket, r#"{"set": {"A": "1"}}"#)), 2);
    assert_eq!((machine.node.running(), shop(&life).state), (0, AppState::Stopped));

    life.kill();
    let life = machine.live();
    assert_sound(&machine, &life);
    assert_eq!(shop(&life).state, AppState::Stopped);
    assert_eq!(done(&post(&life.socket, "start")), 2);
    assert_sound(&machine, &life);
    assert_eq!(machine.node.specs(2)[0].env["A"], "1");
    assert!(noted(&post(&life.socket, "start")).contains("not stopped"));
    post(&life.socket, "stop");
    assert_eq!(done(&deploy(&life.socket, "shop", "run")), 3);
    assert_eq!(shop(&life).state, AppState::Running);
    post(&life.socket, "stop");
    assert_eq!(done(&roll_back(&life.socket, "")), 2);
    assert_eq!(shop(&life).state, AppState::Running);
    assert_sound(&machine, &life);
}

#[test]
fn an_app_has_as_many_instances_as_it_is_set_to() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let first = machine.node.only().0;
    let scale = |instances: u16| {
        let document = format!("{{\"instances\": {instances}}}");
        ask(&life.socket, "PUT", "/v1/apps/shop/scale", &document)
    };
    done(&scale(3));
    assert_sound(&machine, &life);
    assert!(shop(&life).instances.iter().any(|instance| instance.id == first), "it stays");
    assert_eq!(life.routed("shop"), Some((1, 3)));
    done(&deploy(&life.socket, "shop", "run"));
    assert_sound(&machine, &life);
    done(&scale(2));
    assert_sound(&machine, &life);
    done(&post(&life.socket, "restart"));
    done(&roll_back(&life.socket, ""));
    assert_sound(&machine, &life);
    assert_eq!(life.routed("shop"), Some((1, 2)));
    assert!(noted(&scale(2)).contains("already"));
    assert_eq!(failure(&scale(0)).code, "bad_request");
    post(&life.socket, "stop");
    assert!(noted(&scale(1)).contains("when it starts"));
    done(&post(&life.socket, "start"));
    assert_sound(&machine, &life);
    assert_eq!(machine.node.running(), 1);
}

#[test]
fn a_new_release_that_dies_is_taken_back_once() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    deploy(&life.socket, "shop", "run");
    done(&deploy(&life.socket, "shop", "run"));
    machine.node.crash(3);
    eventually("the rollback", || shop(&life).release.is_some_and(|release| release.0 == 2));
    assert_sound(&machine, &life);
    let withdrawn = shop(&life).withdrawn.unwrap();
    assert_eq!((withdrawn.release.0, withdrawn.to.0), (3, 2));
    assert_eq!(withdrawn.reason, "after 0 s: the app server ended with status 1");
    let view: ReleasesView = get(&life.socket, "/v1/apps/shop/releases").json();
    assert_eq!(view.releases[0].withdrawn, Some(withdrawn));
    eventually("the log says so", || log(&life).contains("release 3 died, after 0 s"));

    machine.node.crash(2);
    eventually("it crashes", || shop(&life).state == AppState::Crashing);
    assert_eq!(shop(&life).release.unwrap().0, 2);
    machine.node.all_become(ace_api::InstanceState::Running);
    assert_eq!(done(&roll_back(&life.socket, "")), 1, "never to the one that died");
    assert_sound(&machine, &life);
}

#[test]
fn a_first_release_and_an_old_one_that_die_are_left_to_crash() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    machine.node.crash(1);
    eventually("it crashes", || shop(&life).state == AppState::Crashing);
    deploy(&life.socket, "shop", "run");
    done(&roll_back(&life.socket, ""));
    assert_sound(&machine, &life);
    machine.node.crash(1);
    eventually("it crashes", || shop(&life).state == AppState::Crashing);
    assert_eq!(shop(&life).release.unwrap().0, 1);
}

#[test]
fn a_release_that_died_while_no_engine_ran_is_taken_back_by_the_next() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    deploy(&life.socket, "shop", "run");
    assert_sound(&machine, &life);
    life.kill();
    machine.node.crash(2);
    let life = machine.live();
    eventually("the rollback", || shop(&life).release.is_some_and(|release| release.0 == 1));
    assert_sound(&machine, &life);
}

#[test]
fn operations_of_one_app_take_turns_and_whoever_leaves_gives_up() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    block_on(async {
        let mut first = begin(&life.socket, "POST", "/v1/apps/shop/deploys", "hang").await;
        read_until(&mut first, "starting").await;
        let mut second = begin(&life.socket, "POST", "/v1/apps/shop/restart", "").await;
        read_until(&mut second, "queued").await;
        drop(first);
        read_until(&mut second, r#""event":"done""#).await;
    });
    assert_sound(&machine, &life);
    assert_eq!(shop(&life).release.unwrap().0, 1);
}

#[test]
fn a_destroyed_app_takes_its_configuration_with_it() {
    let machine = Machine::new();
    let life = machine.live();
    configure(&life.socket, r#"{"set": {"KEY": "s3cret"}}"#);
    deploy(&life.socket, "shop", "run");
    assert_eq!(send(&life.socket, "DELETE", "/v1/apps/shop", "").status, 200);
    assert_eq!(machine.rows("") - machine.rows("events/"), 0);
    assert!(!machine.path("logs/journal/shop").exists());
    deploy(&life.socket, "shop", "run");
    assert!(!machine.node.specs(1)[0].env.contains_key("KEY"));
}
