//! Commands beside the instances: those of a deploy, and those of people.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use ace_api::CommandEnd;
use ace_api::http::{AppView, DeployEvent, DeployPhase};
use ace_api::run::{ClientFrame, EngineFrame, INPUT_WINDOW, PAYLOAD_MAX, RunOutcome};
use common::client::{begin, deploy, done, failure, get, read_until, run, send};
use common::{Life, Machine, assert_sound, block_on, eventually};

fn commands(life: &Life) -> usize {
    let apps: Vec<AppView> = life.apps();
    apps.iter().map(|app| app.commands.len()).sum()
}

#[test]
fn predeploy_runs_after_the_build_and_before_an_instance_starts() {
    let machine = Machine::new();
    let life = machine.live();
    let events = deploy(&life.socket, "shop", "predeploy migrate");
    assert_eq!(done(&events), 1);
    let log = |line: &str| DeployEvent::Log { line: line.to_owned() };
    let at = |event: &DeployEvent| events.iter().position(|other| other == event).unwrap();
    let preparing = at(&DeployEvent::Phase { phase: DeployPhase::Preparing });
    let said = at(&log("sh -c exec 2>&1; migrate"));
    let starting = at(&DeployEvent::Phase { phase: DeployPhase::Starting });
    assert!(at(&log("building shop")) < preparing && preparing < said && said < starting);
    assert_sound(&machine, &life);
    let log = std::fs::read_dir(machine.path("logs/builds")).unwrap().next().unwrap().unwrap();
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(log, "building shop\nsh -c exec 2>&1; migrate\n");
}

#[test]
fn a_predeploy_that_fails_leaves_the_old_release_serving() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let events = deploy(&life.socket, "shop", "predeploy fail");
    let error = failure(&events);
    assert_eq!(error.code, "predeploy_failed");
    assert_eq!(
        error.message,
        "the predeploy command failed: it ended with status 3; release 1 still serves"
    );
    assert_eq!(error.detail.as_deref(), Some("sh -c exec 2>&1; fail"));
    assert_eq!(life.routed("shop"), Some((1, 1)));
    assert_sound(&machine, &life);
}

#[test]
fn files_alone_have_nothing_to_run_predeploy_in() {
    let machine = Machine::new();
    let life = machine.live();
    let events = deploy(&life.socket, "page", "predeploy files");
    let error = failure(&events);
    assert!(error.message.contains("predeploy has no Python to run in"), "{error}");
}

#[test]
fn whoever_leaves_during_predeploy_ends_it() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    block_on(async {
        let mut response =
            begin(&life.socket, "POST", "/v1/apps/shop/deploys", "predeploy hang").await;
        read_until(&mut response, "hang").await;
        let listed: AppView = shown(&life).await;
        assert_eq!(listed.commands[0].name, "predeploy");
    });
    eventually("it is ended", || commands(&life) == 0);
    assert_sound(&machine, &life);
}

async fn shown(life: &Life) -> AppView {
    let socket = life.socket.clone();
    tokio::task::spawn_blocking(move || get(&socket, "/v1/apps/shop").json()).await.unwrap()
}

#[test]
fn a_deploy_that_died_in_predeploy_says_so() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    block_on(async {
        let mut response =
            begin(&life.socket, "POST", "/v1/apps/shop/deploys", "predeploy hang").await;
        read_until(&mut response, "hang").await;
        tokio::task::spawn_blocking(move || life.kill()).await.unwrap();
    });
    let life = machine.live();
    let app: AppView = get(&life.socket, "/v1/apps/shop").json();
    assert_eq!(
        app.last_deploy.unwrap().error.unwrap(),
        "the engine stopped while the predeploy command ran, which may have been cut short; the app \
         still serves release 1"
    );
    assert_sound(&machine, &life);
}

#[test]
fn a_command_gets_its_input_and_gives_its_output_and_end() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let mut running = run(&life.socket, "shop", &["cat", "fail"]).unwrap();
    running.say(&ClientFrame::Input(b"one ".to_vec()));
    running.say(&ClientFrame::Input(b"two".to_vec()));
    running.say(&ClientFrame::InputEnd);
    let (printed, outcome) = running.finish();
    assert_eq!(printed, "cat fail\none two");
    assert_eq!(outcome, Some(RunOutcome::Ended(CommandEnd::Exited { status: 3 })));
    assert_eq!(commands(&life), 0);
}

#[test]
fn input_that_was_taken_is_told() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let mut running = run(&life.socket, "shop", &["cat"]).unwrap();
    let mut taken = 0;
    for _ in 0..INPUT_WINDOW / PAYLOAD_MAX * 2 {
        running.say(&ClientFrame::Input(vec![b'x'; PAYLOAD_MAX]));
        let before = taken;
        while taken == before {
            if let Some(EngineFrame::Taken(count)) = running.hear() {
                taken += count as usize;
            }
        }
    }
    assert!(taken > INPUT_WINDOW);
}

#[test]
fn a_client_that_sends_more_than_it_may_is_cut_off() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let mut running = run(&life.socket, "shop", &["hang"]).unwrap();
    // One piece more than the window, and than what is on its way to a command that takes nothing.
    for _ in 0..INPUT_WINDOW / PAYLOAD_MAX + 3 {
        if running.try_say(&ClientFrame::Input(vec![b'x'; PAYLOAD_MAX])).is_err() {
            break; // The engine has not waited for the last of them.
        }
    }
    eventually("the command is ended", || commands(&life) == 0);
}

#[test]
fn a_client_that_leaves_ends_its_command() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let running = run(&life.socket, "shop", &["/bin/hang", "secret"]).unwrap();
    let app: AppView = get(&life.socket, "/v1/apps/shop").json();
    assert_eq!(app.commands[0].name, "hang");
    drop(running);
    eventually("the command is ended", || commands(&life) == 0);
}

#[test]
fn an_app_has_room_for_so_many_commands() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let running: Vec<_> = (0..4).map(|_| run(&life.socket, "shop", &["hang"]).unwrap()).collect();
    let refused = run(&life.socket, "shop", &["hang"]).map(drop).unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    // A deploy has a place nevertheless.
    assert_eq!(done(&deploy(&life.socket, "shop", "predeploy migrate")), 2);
    drop(running);
    eventually("they are ended", || run(&life.socket, "shop", &["hang"]).is_ok());
}

#[test]
fn what_can_not_be_run_is_refused_before_the_upgrade() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    deploy(&life.socket, "page", "files");
    for (app, argv, status) in [
        ("nope", ["x"].as_slice(), "404"),
        ("page", &["x"], "409"),
        ("shop", &[], "400"),
        ("shop", &[""], "400"),
        ("shop", &["a\0b"], "400"),
    ] {
        let refused = run(&life.socket, app, argv).map(drop).unwrap_err();
        assert!(refused.starts_with(&format!("HTTP/1.1 {status} ")), "{app} {argv:?}: {refused}");
    }
    let plain = send(&life.socket, "POST", "/v1/apps/shop/run", r#"{"command": "shell"}"#);
    assert_eq!(plain.refusal(), (426, "upgrade_required".to_owned()));
    let none = send(&life.socket, "POST", "/v1/apps/shop/run", r#"{"command": {"program": []}}"#);
    assert_eq!(none.refusal().0, 400, "that no command is asked for is told before");
}

#[test]
fn a_command_ends_with_its_app() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let running = run(&life.socket, "shop", &["hang"]).unwrap();
    assert_eq!(send(&life.socket, "DELETE", "/v1/apps/shop", "").status, 200);
    match running.finish() {
        (_, Some(RunOutcome::Failed(error))) => assert_eq!(error.code, "command_stopped"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_ends_with_the_engine() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let running = run(&life.socket, "shop", &["hang"]).unwrap();
    life.stop();
    match running.finish() {
        (_, Some(RunOutcome::Failed(error))) => {
            assert_eq!(error.message, "the engine stopped, and the command with it");
        }
        other => panic!("{other:?}"),
    }
}
