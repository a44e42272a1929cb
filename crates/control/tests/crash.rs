//! An engine that dies at any commit leaves nothing that the next one does not put right.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::mortal::{Death, Mortal};
use common::{Life, Machine, SOON, assert_sound, block_on, client};

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
            let apps = life.apps();
            assert!(apps.is_empty() || apps[0].release.unwrap().0 == 1);
            assert!(told.flatten().is_none() || apps.len() == 1);
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
fn a_first_deploy_that_fails_leaves_nothing() {
    let deaths = die_everywhere(
        |_| {},
        async |socket| client::try_deploy(socket, "shop", "fail").await,
        |life, _| assert_eq!(life.apps(), []),
    );
    assert!(deaths >= 8, "{deaths}");
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
