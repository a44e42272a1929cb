//! Deploys as a client sees them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ace_api::InstanceState;
use ace_api::http::{AppState, DeployEvent, DeployPhase, ServedBy};
use common::client::{begin, deploy, done, failure, get, read_until, send};
use common::{Machine, assert_sound, block_on, eventually};

fn phases(events: &[DeployEvent]) -> Vec<DeployPhase> {
    let phase = |event: &DeployEvent| match event {
        DeployEvent::Phase { phase } => Some(*phase),
        _ => None,
    };
    events.iter().filter_map(phase).collect()
}

#[test]
fn a_deploy_tells_its_phases_its_log_and_its_url() {
    let machine = Machine::new();
    let life = machine.live();
    let events = deploy(&life.socket, "shop", "run");
    let all = [DeployPhase::Building, DeployPhase::Starting, DeployPhase::Switching];
    assert_eq!(phases(&events), all);
    assert!(events.contains(&DeployEvent::Log { line: "building shop".to_owned() }));
    assert!(events.contains(&DeployEvent::AppLog { line: "hello".to_owned() }));
    match events.last().unwrap() {
        DeployEvent::Done { url, note, .. } => {
            assert_eq!((url.as_str(), note), ("http://shop.localhost:8080", &None));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(life.routed("shop"), Some((1, 1)));
    assert_sound(&machine, &life);
    let log = std::fs::read_dir(machine.path("logs/builds")).unwrap().next().unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "building shop\n");
}

#[test]
fn an_app_that_refuses_its_own_host_is_live_with_a_note() {
    let machine = Machine::new();
    let life = machine.live();
    match deploy(&life.socket, "shop", "choosy").last().unwrap() {
        DeployEvent::Done { note: Some(note), .. } => {
            assert!(note.starts_with("shop answers GET / with 400 Bad Request; if"), "{note}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_old_instance_goes_when_it_is_drained() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let (old, _) = machine.node.only();
    assert_eq!(done(&deploy(&life.socket, "shop", "run")), 2);
    assert_sound(&machine, &life);
    assert_eq!(*life.gateway.drained.lock().unwrap(), std::slice::from_ref(&old));
    assert_ne!(machine.node.only().0, old);
}

#[test]
fn an_app_that_does_not_start_shows_its_own_words_and_the_old_release_stays() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let events = deploy(&life.socket, "shop", "fail");
    let error = failure(&events);
    assert_eq!(error.code, "exited");
    assert_eq!(
        error.message,
        "release 2 did not start: the app server ended with status 1; release 1 still serves"
    );
    assert_eq!(error.detail.as_deref(), Some("ImportError: no module named shop"));
    assert_eq!(life.routed("shop"), Some((1, 1)));
    assert_sound(&machine, &life);
    let app = &life.apps()[0];
    let last = app.last_deploy.as_ref().unwrap();
    assert_eq!((last.release.0, last.error.as_deref()), (2, Some(error.message.as_str())));
    assert_eq!(done(&deploy(&life.socket, "shop", "run")), 3);
}

#[test]
fn files_alone_are_served_without_an_instance() {
    let machine = Machine::new();
    let life = machine.live();
    let events = deploy(&life.socket, "shop", "files");
    assert_eq!(done(&events), 1);
    assert_eq!(phases(&events), [DeployPhase::Building, DeployPhase::Switching]);
    assert_eq!(life.routed("shop"), Some((1, 0)));
    assert_sound(&machine, &life);
    let app = &life.apps()[0];
    assert_eq!((app.served_by.clone(), app.python.clone()), (Some(ServedBy::Files), None));
    for (archive, release) in [("run", 2), ("files", 3)] {
        assert_eq!(done(&deploy(&life.socket, "shop", archive)), release);
        assert_sound(&machine, &life);
    }
    assert_eq!(machine.node.running(), 0);
}

#[test]
fn an_app_whose_first_deploy_fails_stays_new_and_can_be_deployed_and_destroyed() {
    let machine = Machine::new();
    let life = machine.live();
    for archive in ["fail", "reject", "panic"] {
        failure(&deploy(&life.socket, "shop", archive));
        assert_eq!(life.apps()[0].state, AppState::New, "{archive}");
        assert!(life.apps()[0].last_deploy.as_ref().unwrap().error.is_some());
        assert_sound(&machine, &life);
    }
    assert_eq!(done(&deploy(&life.socket, "shop", "run")), 4);
    assert_sound(&machine, &life);
    failure(&deploy(&life.socket, "blog", "fail"));
    assert_eq!(send(&life.socket, "DELETE", "/v1/apps/blog", "").status, 200);
    assert_sound(&machine, &life);
    assert_eq!(life.apps().len(), 1);
}

#[test]
fn a_rejected_build_says_why() {
    let machine = Machine::new();
    let life = machine.live();
    let events = deploy(&life.socket, "shop", "reject");
    let error = failure(&events);
    assert_eq!(error.code, "build_failed");
    assert_eq!(error.message, "the build failed: there is no index.py");
}

#[test]
fn whoever_leaves_before_the_switch_gives_the_deploy_up() {
    let machine = Machine::new();
    let life = machine.live();
    for (archive, phase) in [("slow", "building"), ("hang", "starting")] {
        block_on(async {
            let mut events = begin(&life.socket, "POST", "/v1/apps/shop/deploys", archive).await;
            read_until(&mut events, phase).await;
        });
        eventually("the build has ended", || *machine.builder.building.borrow() == 0);
        assert_sound(&machine, &life);
        assert_eq!(life.apps()[0].state, AppState::New);
    }
}

#[test]
fn deploys_of_one_app_take_turns() {
    let machine = Machine::new();
    let life = machine.live();
    block_on(async {
        let mut first = begin(&life.socket, "POST", "/v1/apps/shop/deploys", "slow").await;
        read_until(&mut first, "building").await;
        let mut second = begin(&life.socket, "POST", "/v1/apps/shop/deploys", "run").await;
        read_until(&mut second, "queued").await;
        drop(first);
        read_until(&mut second, r#""event":"done""#).await;
    });
    assert_sound(&machine, &life);
}

#[test]
fn a_tenant_builds_one_thing_at_a_time_and_two_build_at_once() {
    let machine = Machine::new();
    let life = machine.live();
    block_on(async {
        let mut slow = Vec::new();
        for tenant in ["one", "two"] {
            let path = format!("/v1/apps/of-{tenant}/deploys?tenant={tenant}");
            slow.push(begin(&life.socket, "POST", &path, "slow").await);
            read_until(slow.last_mut().unwrap(), "building").await;
        }
        let mut third = begin(&life.socket, "POST", "/v1/apps/c/deploys?tenant=one", "run").await;
        read_until(&mut third, "waiting for 2 builds").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(*machine.builder.building.borrow(), 2);
        drop(slow);
        read_until(&mut third, r#""event":"done""#).await;
    });
}

#[test]
fn the_tenth_deploy_of_an_app_is_turned_away() {
    let machine = Machine::new();
    let life = machine.live();
    block_on(async {
        let mut first = begin(&life.socket, "POST", "/v1/apps/shop/deploys", "slow").await;
        read_until(&mut first, "building").await;
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let mut events = begin(&life.socket, "POST", "/v1/apps/shop/deploys", "slow").await;
            read_until(&mut events, "queued").await;
            waiting.push(events);
        }
        let refused = begin(&life.socket, "POST", "/v1/apps/shop/deploys", "run").await;
        assert_eq!(refused.status(), 429);
    });
}

#[test]
fn a_destroyed_app_leaves_nothing_and_its_deploy_ends() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    block_on(async {
        let mut events = begin(&life.socket, "POST", "/v1/apps/shop/deploys", "slow").await;
        read_until(&mut events, "building").await;
        let destroyed = begin(&life.socket, "DELETE", "/v1/apps/shop", "").await;
        assert_eq!(destroyed.status(), 200);
        read_until(&mut events, "being_destroyed").await;
    });
    assert_eq!(life.apps(), []);
    assert_eq!(life.routed("shop"), None);
    assert_eq!(*machine.node.removed_volumes.lock().unwrap(), [machine.path("volumes/shop.img")]);
    assert_sound(&machine, &life);
    assert_eq!(machine.rows("") - machine.rows("events/"), 0);
    assert_eq!(send(&life.socket, "DELETE", "/v1/apps/shop", "").refusal().0, 404);
}

#[test]
fn stopping_gives_up_a_deploy_and_leaves_apps_running() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let socket = life.socket.clone();
    let deploying = std::thread::spawn(move || deploy(&socket, "shop", "slow"));
    eventually("it builds", || *machine.builder.building.borrow() == 1);
    assert_eq!(life.stop(), ace_control::Outcome::Stopped);
    assert_eq!(failure(&deploying.join().unwrap()).code, "stopping");
    assert_eq!(machine.node.running(), 1);
    let life = machine.live();
    assert_sound(&machine, &life);
    assert_eq!(life.apps()[0].release.unwrap().0, 1);
}

#[test]
fn a_serving_instance_that_can_not_start_any_more_gets_a_successor() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let (failed, _) = machine.node.only();
    machine.node.all_become(InstanceState::Failed);
    eventually("another runs", || {
        let (id, status) = machine.node.only();
        id != failed && status.state == InstanceState::Running
    });
    assert_sound(&machine, &life);
}

#[test]
fn only_running_instances_get_requests() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    machine.node.all_become(InstanceState::Crashed { retry_at: jiff::Timestamp::now() });
    eventually("nobody is asked", || life.routed("shop") == Some((1, 0)));
    machine.node.all_become(InstanceState::Running);
    eventually("it is asked again", || life.routed("shop") == Some((1, 1)));
}

#[test]
fn only_the_last_ten_releases_are_kept() {
    let machine = Machine::new();
    let life = machine.live();
    for n in 1..=12 {
        assert_eq!(done(&deploy(&life.socket, "shop", "run")), n);
    }
    assert_sound(&machine, &life);
    eventually("old code is removed", || machine.entries("releases/shop") == 10);
    assert_eq!(machine.rows("releases/shop/"), 10);
    assert_eq!(get(&life.socket, "/v1/apps/shop").status, 200);
}

#[test]
fn a_library_that_the_server_lacks_is_named_with_its_package() {
    let machine = Machine::new();
    let life = machine.live();
    let failed = deploy(&life.socket, "shop", "library");
    let error = failure(&failed);
    assert_eq!(error.code, "import_failed");
    let told = "this server has no libGL.so.1, which comes with: apt-get install libgl1;";
    assert!(error.message.contains(told), "{}", error.message);
}
