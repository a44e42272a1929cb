//! Pythons that change under apps.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering::SeqCst;

use ace_api::http::{
    AppState, AppView, DeployKind, PythonTrouble, PythonView, ReleaseCause, ReleaseView,
    ReleasesView,
};
use ace_types::ReleaseNumber;
use common::client::{ask, deploy, done, failure, get, noted};
use common::{Life, Machine, assert_sound, eventually};

fn shop(life: &Life) -> AppView {
    get(&life.socket, "/v1/apps/shop").json()
}

fn post(life: &Life, what: &str, body: &str) -> Vec<ace_api::http::DeployEvent> {
    ask(&life.socket, "POST", &format!("/v1/apps/shop/{what}"), body)
}

/// The newest release.
fn newest(life: &Life) -> ReleaseView {
    let view: ReleasesView = get(&life.socket, "/v1/apps/shop/releases").json();
    view.releases[0].clone()
}

fn runs_on(life: &Life, version: &str) -> bool {
    shop(life).python.as_deref() == Some(version)
}

#[test]
fn an_upgraded_python_has_its_apps_rebuilt() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    deploy(&life.socket, "pages", "files");
    let before = machine.node.only().0;
    machine.builder.upgrade("3.13.2");
    eventually("the rebuild", || runs_on(&life, "3.13.2"));
    assert_sound(&machine, &life);
    let python = "3.13.2".to_owned();
    assert_eq!(newest(&life).cause, ReleaseCause::Rebuilt { of: ReleaseNumber(1), python });
    assert_eq!(
        (shop(&life).release, shop(&life).state),
        (Some(ReleaseNumber(2)), AppState::Running)
    );
    assert_ne!(before, machine.node.only().0);
    assert!(machine.node.specs(2)[0].runtime.environment.ends_with("3.13.2"));
    let pages: AppView = get(&life.socket, "/v1/apps/pages").json();
    assert_eq!(pages.release, Some(ReleaseNumber(1)), "files have no Python");
    assert_eq!(failure(&post(&life, "rollback", "")).code, "no_earlier_release");
    assert_eq!(done(&deploy(&life.socket, "shop", "run")), 3);
    assert_sound(&machine, &life);
    assert!(runs_on(&life, "3.13.2"));
}

#[test]
fn an_upgrade_while_no_engine_ran_is_noticed_by_the_next_and_so_is_a_stopped_app() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    post(&life, "stop", "");
    assert_sound(&machine, &life);
    life.stop();
    machine.builder.upgrade("3.13.2");
    let life = machine.live();
    eventually("the rebuild", || runs_on(&life, "3.13.2"));
    assert_sound(&machine, &life);
    assert_eq!((machine.node.running(), shop(&life).state), (0, AppState::Stopped));
    assert_eq!(done(&post(&life, "start", "")), 2);
    assert_sound(&machine, &life);
    assert!(noted(&post(&life, "start", "")).contains("not stopped"));
}

#[test]
fn a_rollback_to_a_release_of_an_older_python_is_rebuilt_first() {
    let machine = Machine::new();
    let life = machine.live();
    ask(&life.socket, "PATCH", "/v1/apps/shop/config", r#"{"set": {"COLOUR": "red"}}"#);
    deploy(&life.socket, "shop", "run");
    ask(&life.socket, "PATCH", "/v1/apps/shop/config", r#"{"unset": ["COLOUR"]}"#);
    machine.builder.upgrade("3.13.2");
    eventually("the rebuild", || runs_on(&life, "3.13.2"));
    assert_sound(&machine, &life);
    assert_eq!(done(&post(&life, "rollback", "")), 4);
    assert_sound(&machine, &life);
    assert_eq!(machine.node.specs(4)[0].env["COLOUR"], "red");
    let python = "3.13.2".to_owned();
    assert_eq!(newest(&life).cause, ReleaseCause::Rebuilt { of: ReleaseNumber(1), python });
    assert_eq!(done(&post(&life, "rollback", r#"{"release": 3}"#)), 3, "it's as it should be");

    machine.builder.rejects_rebuilds.store(true, SeqCst);
    let failed = post(&life, "rollback", r#"{"release": 1}"#);
    let message = &failure(&failed).message;
    assert!(message.contains("release 1 for Python 3.13.2: the index is away"), "{message}");
    assert_sound(&machine, &life);
    assert_eq!(shop(&life).release, Some(ReleaseNumber(3)));
}

#[test]
fn a_rebuild_that_fails_leaves_the_old_release_and_is_told() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    machine.builder.rejects_rebuilds.store(true, SeqCst);
    machine.builder.upgrade("3.13.2");
    eventually("it's told", || shop(&life).python_trouble.is_some());
    let Some(PythonTrouble::NotRebuilt { version, error, .. }) = shop(&life).python_trouble else {
        panic!("{:?}", shop(&life).python_trouble)
    };
    assert_eq!(version, "3.13.2");
    assert!(error.contains("the index is away"), "{error}");
    assert_sound(&machine, &life);
    assert_eq!(
        (shop(&life).release, shop(&life).state),
        (Some(ReleaseNumber(1)), AppState::Running)
    );

    machine.builder.rejects_rebuilds.store(false, SeqCst);
    machine.builder.upgrade("3.13.3");
    eventually("the next upgrade is tried at once", || runs_on(&life, "3.13.3"));
    assert_sound(&machine, &life);
    assert_eq!(shop(&life).python_trouble, None);
}

#[test]
fn a_python_that_is_gone_is_told_and_nothing_starts_on_it() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    machine.builder.is_gone.store(true, SeqCst);
    let message = "Python 3.13.1 is gone: install it again".to_owned();
    let gone = PythonTrouble::Gone { message: message.clone() };
    eventually("it's told", || shop(&life).python_trouble == Some(gone.clone()));
    let pythons: Vec<PythonView> = get(&life.socket, "/v1/pythons").json();
    let told: Vec<_> = pythons.iter().map(|view| (view.apps.len(), view.gone.clone())).collect();
    assert_eq!(told, [(0, None), (1, Some(message.clone()))]);
    let refused = post(&life, "restart", "");
    assert_eq!(failure(&refused).code, "python_gone");
    assert_eq!(failure(&refused).message, format!("release 1 can't start: {message}"));
    assert_sound(&machine, &life);
    assert_eq!(shop(&life).state, AppState::Running, "what runs goes on");
    assert_eq!(done(&post(&life, "stop", "")), 1);
    assert_sound(&machine, &life);

    machine.builder.is_gone.store(false, SeqCst);
    eventually("it's back", || shop(&life).python_trouble.is_none());
    assert_eq!(done(&post(&life, "start", "")), 1);
    assert_sound(&machine, &life);
    let pythons: Vec<PythonView> = get(&life.socket, "/v1/pythons").json();
    assert_eq!(pythons[0].apps, ["shop".parse().unwrap()]);
}

#[test]
fn a_rebuilt_release_that_dies_gives_way_to_the_one_before_with_what_it_had() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let before = machine.node.specs(1)[0].runtime.environment.clone();
    machine.builder.upgrade("3.13.2");
    eventually("the rebuild", || runs_on(&life, "3.13.2"));
    assert_sound(&machine, &life);
    machine.node.crash(2);
    eventually("the way back", || shop(&life).release == Some(ReleaseNumber(1)));
    assert_sound(&machine, &life);
    assert_eq!(machine.node.specs(1)[0].runtime.environment, before);
    let withdrawn = shop(&life).withdrawn.unwrap();
    assert_eq!((withdrawn.release, withdrawn.to), (ReleaseNumber(2), ReleaseNumber(1)));
    eventually("it's told", || shop(&life).python_trouble.is_some());
    let Some(PythonTrouble::NotRebuilt { version, error, .. }) = shop(&life).python_trouble else {
        panic!("{:?}", shop(&life).python_trouble)
    };
    assert_eq!(version, "3.13.2");
    assert!(error.starts_with("release 2, built for it, died after 0 s"), "{error}");

    machine.builder.upgrade("3.13.3");
    eventually("the next upgrade is tried at once", || runs_on(&life, "3.13.3"));
    assert_sound(&machine, &life);
    assert_eq!(shop(&life).python_trouble, None);
}

#[test]
fn a_release_whose_python_is_gone_is_built_once_for_the_one_in_its_place() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    machine.builder.replace("/usr/local/bin/python3");
    eventually("the rebuild", || shop(&life).release == Some(ReleaseNumber(2)));
    assert_sound(&machine, &life);
    machine.node.crash(2);
    eventually("it's told that there is no way back", || {
        let last = shop(&life).last_deploy.unwrap();
        matches!(last.kind, DeployKind::Retreat { .. })
            && last
                .error
                .is_some_and(|error| error.contains("gone from /usr/bin/python3, and release 2"))
    });
    assert_eq!(shop(&life).release, Some(ReleaseNumber(2)));
}
