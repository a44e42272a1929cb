//! Rows and statuses for the unit tests.
#![allow(clippy::unwrap_used)]

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use ace_api::{Built, InstanceState, InstanceStatus, Interpreter, Program, Runtime, Serving};
use ace_store::{Change, Op, Revision};
use ace_types::{
    AppName, AppYaml, BuildId, Bytes, IdRange, InstanceId, ReleaseNumber, Server, TenantName,
};
use jiff::Timestamp;

use crate::changes::{self, Begin};
use crate::config::ControlConfig;
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
        restarts: 0,
        last_end: None,
        memory_kills: 0,
    };
    (instance_id(n), status)
}

/// Brings `app` through a deploy whose instance is number `n`.
pub fn deploy(state: &mut Rows, app: &str, n: u32) {
    state.begin(app, n);
    let proposed = changes::propose(state, &name(app), &built(app, n), &instance_id(n), at(0));
    state.commit(proposed.unwrap());
    state.commit(changes::switch(state, &name(app), at(0)).unwrap());
    state.commit(changes::settle(state, &name(app), "", at(0)));
}

/// A state without a store: operations apply to it at once.
#[derive(Debug, Default)]
pub struct Rows(State);

impl Rows {
    /// Does `ops`, whose preconditions the store's own tests check.
    pub fn commit(&mut self, ops: Vec<Op>) {
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
        let begin = Begin {
            app: name(app),
            tenant: TenantName::default(),
            build: build_id(n),
            now: at(0),
            ranges: 8,
            first_range: 0,
        };
        self.commit(changes::begin_deploy(&self.0, &begin).unwrap().0);
    }

    pub fn is_empty(&self) -> bool {
        let state = &self.0;
        state.apps().count() == 0
            && state.releases().count() == 0
            && state.deploys().count() == 0
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
