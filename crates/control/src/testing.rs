//! Rows and statuses for the unit tests.
#![allow(clippy::unwrap_used)]

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use ace_api::http::Author;
use ace_api::{Built, InstanceState, InstanceStatus, Interpreter, Program, Runtime, Serving};
use ace_store::{Change, Op, Revision};
use ace_types::{
    AppName, AppYaml, BuildId, Bytes, Ceilings, IdRange, InstanceId, ReleaseNumber, Server,
};
use jiff::Timestamp;

use crate::changes::{self, Asked, Begun, Ending, SCALE_MAX, Wish};
use crate::config::ControlConfig;
use crate::events;
use crate::state::State;

pub fn name(text: &str) -> AppName {
    text.parse().unwrap()
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::constant(1_800_000_000 + second, 0)
}

pub fn instance_id(n: u32) -> InstanceId {
    format!("{n:08}").parse().unwrap()
}

pub fn build_id(n: u32) -> BuildId {
    format!("{n:08}").parse().unwrap()
}

pub fn config() -> ControlConfig {
    ControlConfig {
        data: PathBuf::from("/data"),
        domain: "localhost".parse().unwrap(),
        public_port: 8080,
        id_ranges: (0..8).filter_map(IdRange::new).collect(),
        stop_grace: Duration::from_secs(10),
        builds_max: 2,
        ceilings: Ceilings::default(),
        python_check: Duration::from_secs(60),
    }
}

/// What build `n` of `app` made.
pub fn built(app: &str, n: u32) -> Built {
    Built {
        code: format!("/data/releases/{app}/{n:08}/code").into(),
        serving: Serving::Program(Runtime {
            python: Interpreter {
                version: format!("3.13.{n}"),
                program: "/usr/bin/python3.13".into(),
                prefix: "/usr".into(),
                build: 1,
            },
            environment: format!("/data/environments/{app}/none").into(),
            environment_size: Bytes(1),
            program: Program::Server {
                kind: Server::Uwsgi,
                packages: "/data/servers/uwsgi".into(),
                entry: Default::default(),
            },
        }),
        app_yaml: AppYaml::default(),
        code_size: Bytes(1),
    }
}

/// What build `n` of `app` made of files alone.
pub fn built_files(app: &str, n: u32) -> Built {
    Built { serving: Serving::Files, ..built(app, n) }
}

/// The status of instance `n` of `app`, in `state` since second 0.
pub fn status(app: &str, n: u32, state: InstanceState) -> (InstanceId, InstanceStatus) {
    let status = InstanceStatus {
        app: name(app),
        release: ReleaseNumber(n),
        state,
        since: at(0),
        socket: format!("/data/run/{n:08}/socket").into(),
        log: format!("/data/run/{n:08}/log").into(),
        first_answer: None,
        restarts: 0,
        last_end: None,
        memory_kills: 0,
    };
    (instance_id(n), status)
}

/// Ids for what begins with number `n`: it comes first.
pub fn fresh(n: u32) -> Vec<InstanceId> {
    (0..u32::from(SCALE_MAX)).map(|i| instance_id(n + i * 1000)).collect()
}

pub fn asked(app: &str, n: u32) -> Asked {
    let by = Author::Root;
    Asked {
        app: name(app),
        tenant: None,
        by,
        now: at(0),
        fresh: fresh(n),
        ceilings: Ceilings::default(),
        ranges: 8,
        first_range: 0,
    }
}

/// Brings `app` through a deploy whose first instance is number `n`.
pub fn deploy(state: &mut Rows, app: &str, n: u32) {
    state.begin(app, n);
    state.propose(app, n);
    state.arrive(app, 0);
}

/// A state without a store: operations apply to it at once.
#[derive(Debug, Default)]
pub struct Rows(State);

impl Rows {
    /// Does `ops`, whose preconditions the store's own tests check.
    pub fn commit(&mut self, ops: Vec<Op>) {
        let ops = events::with_events(&self.0, ops, None, at(0));
        let revision = Revision(self.0.revision.0 + 1);
        for op in ops {
            let (key, value) = match op {
                Op::Put { key, value, .. } => (key, Some(value)),
                Op::Delete { key, .. } => (key, None),
            };
            self.0.apply(&Change { key, value, revision }).unwrap();
        }
        self.0.revision = revision;
    }

    /// Begins build number `n`, of `app`.
    pub fn begin(&mut self, app: &str, n: u32) {
        let begun = changes::begin_deploy(&self.0, &asked(app, n), &build_id(n));
        self.commit(begun.unwrap().0);
    }

    /// Ends that build well.
    pub fn propose(&mut self, app: &str, n: u32) {
        let proposed = changes::propose(&self.0, &name(app), &built(app, n), &fresh(n), at(0));
        self.commit(proposed.unwrap().0);
    }

    /// Switches at `second`, and lets go of what served before.
    pub fn arrive(&mut self, app: &str, second: i64) {
        self.commit(changes::switch(&self.0, &name(app), at(second)).unwrap());
        self.settle(app, second);
    }

    /// Ends what is under way.
    pub fn settle(&mut self, app: &str, second: i64) {
        let failed = Ending::Failed { code: "exited", error: "it broke" };
        let ops = changes::settle(&self.0, &name(app), failed, at(second));
        self.commit(ops);
    }

    /// Begins `wish`, whose first new instance is number `n`.
    pub fn wish(&mut self, app: &str, n: u32, wish: &Wish) -> Begun {
        let (ops, begun) = changes::begin(&self.0, &asked(app, n), wish, None).unwrap();
        self.commit(ops);
        begun
    }

    pub fn is_empty(&self) -> bool {
        let state = &self.0;
        state.apps().count() == 0
            && state.releases().count() == 0
            && state.builds().count() == 0
            && state.domains().count() == 0
            && state.instances().count() == 0
            && state.ids().count() == 0
    }
}

impl Deref for Rows {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}
