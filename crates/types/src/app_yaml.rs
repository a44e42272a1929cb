//! `app.yaml`: what a tenant may say about an app, and its parser.
//!
//! Parsing runs where the tenant's bytes are handled: inside a container, unprivileged, and in the
//! CLI. Its result crosses to the engine as JSON and is checked again there by its types.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Bytes, Limits, Server};

mod parser;
mod values;

pub use parser::{AppYamlError, Mistake, parse};

/// What `app.yaml` says, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppYaml {
    /// Paths that the gateway answers from files, the longest path first.
    pub statics: Vec<StaticRule>,
    /// The WSGI or ASGI callable.
    pub entry: Entry,
    /// The wanted Python, such as `3.13`; `None` is the newest known at the first deploy.
    pub python: Option<String>,
    /// What serves the app; `None` is what suits its callable.
    #[serde(default)]
    pub server: Option<Server>,
    /// Worker processes of the server in each instance.
    pub processes: u16,
    /// Threads of each worker.
    pub threads: u16,
    pub limits: Limits,
    /// The disk that outlives instances, at `/ace/data`.
    pub volume: Option<Bytes>,
    /// The path that must answer 2xx or 3xx before a new instance counts as ready.
    pub health: Option<String>,
    /// How long a new instance may take to its first answer.
    pub startup: Duration,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
}

/// Requests below `path` are answered from `files` in the release, by the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRule {
    /// Begins with `/`. Ending in `/` it is a prefix, else one path exactly.
    pub path: String,
    /// Relative to the release's code, without `.` and `..`, no leading `/`; ends in `/` as `path` does.
    pub files: String,
    /// How long a client may keep the answer; `None` sends no `Cache-Control`.
    pub expire: Option<Duration>,
}

/// `module:callable`, as in `index:application`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// A dotted Python module.
    pub module: String,
    /// An attribute of it.
    pub callable: String,
}

impl Default for Entry {
    fn default() -> Self {
        Self { module: "index".to_owned(), callable: "application".to_owned() }
    }
}

impl Default for AppYaml {
    /// What an app without an `app.yaml` gets.
    fn default() -> Self {
        Self {
            statics: Vec::new(),
            entry: Entry::default(),
            python: None,
            server: None,
            processes: 1,
            threads: 4,
            limits: Limits::for_app(),
            volume: None,
            health: None,
            startup: Duration::from_secs(60),
            env: BTreeMap::new(),
        }
    }
}
