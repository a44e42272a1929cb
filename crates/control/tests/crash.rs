//! An engine that dies at any commit leaves nothing that the next one does not put right.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ace_api::http::AppState;
use common::mortal::{Death, Mortal};
use common::{Life, Machine, SOON, assert_sound, block_on, client, eventually};

/// Time enough for an engine to come to its first commit, where it has one to make.
const RECOVERY: Duration = Duration::from_millis(50);

/// Runs `act` on an engine that dies at its first commit, its second and so on until `act` is through
/// before it dies. The next engine dies as well, while it recovers. The third must put everything
/// right, and `check` hold of what `act` was told.
///
/// Returns how many deaths there were.
fn die_everywhere<T: Send + 'static>(
    prepare: fn(&Life),
    act: impl AsyncFn(&std::path::Path) -> T,
    check: fn(&Life, Option<T>),
) -> usize {
    die_everywhere_until(prepare, act, |_| {}, check)
}

/// The same, where the third engine goes on by itself until `settled` returns.
fn die_everywhere_until<T: Send + 'static>(
    prepare: fn(&Life),
    act: impl AsyncFn(&std::path::Path) -> T,
    settled: fn(&Life),
    check: fn(&Life, Option<T>),
) -> usize {
    let mut deaths = 0;
    for death in [Death::Before, Death::After] {
        for commits in 0.. {
            let machine = Machine::new();
            let life = machine.live();
            prepare(&life);
            assert_sound(&machine, &life);
            life.stop();
            let store = Mortal::new(machine.store.clone(), commits, death);
            let life = machine.live_on(store.clone());
            let mut dead = store.dead.subscribe();
            let told = block_on(async {
                tokio::select! {
                    told = act(&life.socket) => Some(told),
                    _ = dead.wait_for(|dead| *dead) => None,
                    () = tokio::time::sleep(SOON) => panic!("neither dead nor done"),
                }
            });
            let survived = told.is_some() && !*store.dead.borrow();
            if survived {
                // What goes on after the answer may still come to a commit.
                assert_sound(&machine, &life);
            }
            let survived = survived && !*store.dead.borrow();
            life.kill();
            die_again(&machine, death);
            let life = machine.live();
            settled(&life);
            assert_sound(&machine, &life);
            check(&life, told);
            if survived {
                break;
            }
            deaths += 1;
            assert!(deaths < 100, "it never gets through");
        }
    }
    deaths
}

/// An engine that dies at the first commit by which it would put something right.
fn die_again(machine: &Machine, death: Death) {
    let store = Mortal::new(machine.store.clone(), 0, death);
    let life = machine.live_on(store.clone());
    let mut dead = store.dead.subscribe();
    block_on(async {
        let _ = tokio::time::timeout(RECOVERY, dead.wait_for(|dead| *dead)).await;
    });
    life.kill();
}

fn one_app(life: &Life) {
    assert_eq!(client::done(&client::deploy(&life.socket, "shop", "run")), 1);
}

#[test]
fn a_first_deploy_is_there_or_not() {
    let deaths = die_everywhere(
        |_| {},
        async |socket| client::try_deploy(socket, "shop", "run").await,
        |life, told| {
            let release = life.apps().first().and_then(|app| app.release);
            assert!(release.is_none_or(|release| release.0 == 1));
            assert!(told.flatten().is_none() || release.is_some());
        },
    );
    assert!(deaths >= 8, "{deaths}");
}

#[test]
fn a_further_deploy_has_switched_or_not() {
    let deaths = die_everywhere(
        one_app,
        async |socket| client::try_deploy(socket, "shop", "run").await,
        |life, told| {
            let serving = life.apps()[0].release.unwrap().0;
            assert!(serving == 1 || serving == 2, "{serving}");
            assert!(told.flatten().is_none() || serving == 2);
        },
    );
    assert!(deaths >= 8, "{deaths}");
}

#[test]
fn a_deploy_that_fails_leaves_the_old_release() {
    let deaths = die_everywhere(
        one_app,
        async |socket| client::try_deploy(socket, "shop", "fail").await,
        |life, told| {
            assert_eq!(told.flatten(), None);
            assert_eq!(life.apps()[0].release.unwrap().0, 1);
        },
    );
    assert!(deaths >= 6, "{deaths}");
}

#[test]
fn a_first_deploy_that_fails_leaves_a_new_app_at_most() {
    let deaths = die_everywhere(
        |_| {},
        async |socket| client::try_deploy(socket, "shop", "fail").await,
        |life, _| assert!(life.apps().iter().all(|app| app.state == AppState::New)),
    );
    assert!(deaths >= 6, "{deaths}");
}

#[test]
fn an_app_is_there_whole_or_gone() {
    let deaths = die_everywhere(
        one_app,
        async |socket| client::begin(socket, "DELETE", "/v1/apps/shop", "").await.status(),
        |life, told| assert!(told.is_none() || life.apps().is_empty()),
    );
    assert!(deaths >= 4, "{deaths}");
}

#[test]
fn a_rebuild_is_taken_up_again_until_it_is_done() {
    let deaths = die_everywhere_until(
        |_| {},
        async |socket| {
            client::try_deploy(socket, "shop", "outdated").await?;
            let app = || client::begin(socket, "GET", "/v1/apps/shop", "");
            loop {
                let view = client::read_until(&mut app().await, "}").await;
                // What comes to no further commit.
                if view.contains("3.13.2") && !view.contains(r#""ended_at":null"#) {
                    return Some(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        },
        |life| {
            eventually("the rebuild", || {
                life.apps().iter().all(|app| app.python.as_deref() != Some("3.13.1"))
            });
        },
        |life, told| {
            let is_there = life.apps().first().is_some_and(|app| app.release.is_some());
            assert!(is_there || told.flatten().is_none());
        },
    );
    assert!(deaths >= 16, "{deaths}");
}

/// Two releases, of which the second serves, and a configuration.
fn two_releases(life: &Life) {
    one_app(life);
    let change = r#"{"set": {"COLOUR": "red"}}"#;
    client::done(&client::ask(&life.socket, "PATCH", "/v1/apps/shop/config", change));
}

fn release(life: &Life) -> u32 {
    life.apps()[0].release.unwrap().0
}

/// What was asked for is there or not, and it is where it was told.
fn check_release(life: &Life, told: Option<Option<u32>>, before: u32, after: u32) {
    let serving = release(life);
    assert!(serving == before || serving == after, "{serving}");
    assert!(told.flatten().is_none() || serving == after, "{serving}");
}

#[test]
fn a_rollback_has_switched_or_not() {
    let deaths = die_everywhere(
        two_releases,
        async |socket| client::try_ask(socket, "POST", "/v1/apps/shop/rollback", "").await,
        |life, told| {
            check_release(life, told, 2, 1);
            let config: ace_api::http::ConfigView =
                client::get(&life.socket, "/v1/apps/shop/config").json();
            assert_eq!(config.variables.is_empty(), release(life) == 1, "it goes with its release");
        },
    );
    assert!(deaths >= 6, "{deaths}");
}

#[test]
fn a_change_of_configuration_is_there_whole_or_not() {
    let change = r#"{"set": {"COLOUR": "red"}}"#;
    let deaths = die_everywhere(
        one_app,
        async |socket| client::try_ask(socket, "PATCH", "/v1/apps/shop/config", change).await,
        |life, told| {
            check_release(life, told, 1, 2);
            let config: ace_api::http::ConfigView =
                client::get(&life.socket, "/v1/apps/shop/config").json();
            assert_eq!(config.variables.len(), if release(life) == 2 { 1 } else { 0 });
        },
    );
    assert!(deaths >= 6, "{deaths}");
}

#[test]
fn a_restart_leaves_one_set_of_instances() {
    let deaths = die_everywhere(
        one_app,
        async |socket| client::try_ask(socket, "POST", "/v1/apps/shop/restart", "").await,
        |life, told| check_release(life, told, 1, 1),
    );
    assert!(deaths >= 6, "{deaths}");
}

#[test]
fn an_app_is_stopped_or_not() {
    let deaths = die_everywhere(
        one_app,
        async |socket| client::try_ask(socket, "POST", "/v1/apps/shop/stop", "").await,
        |life, told| {
            let state = life.apps()[0].state;
            assert!(told.flatten().is_none() || state == AppState::Stopped, "{state:?}");
        },
    );
    assert!(deaths >= 4, "{deaths}");
}

#[test]
fn an_app_is_started_or_not() {
    let deaths = die_everywhere(
        |life| {
            one_app(life);
            client::done(&client::ask(&life.socket, "POST", "/v1/apps/shop/stop", ""));
        },
        async |socket| client::try_ask(socket, "POST", "/v1/apps/shop/start", "").await,
        |life, told| {
            let state = life.apps()[0].state;
            assert!(told.flatten().is_none() || state == AppState::Running, "{state:?}");
        },
    );
    assert!(deaths >= 6, "{deaths}");
}

#[test]
fn a_scale_is_the_old_or_the_new() {
    for (before, after) in [("1", 3), ("3", 1)] {
        let prepare: fn(&Life) = match before {
            "1" => one_app,
            _ => |life| {
                one_app(life);
                let three = r#"{"instances": 3}"#;
                client::done(&client::ask(&life.socket, "PUT", "/v1/apps/shop/scale", three));
            },
        };
        let wanted = format!("{{\"instances\": {after}}}");
        let deaths = die_everywhere(
            prepare,
            async |socket| client::try_ask(socket, "PUT", "/v1/apps/shop/scale", &wanted).await,
            |life, _| assert!([1, 3].contains(&life.apps()[0].scale)),
        );
        assert!(deaths >= 4, "{deaths}");
    }
}
