//! What answers the requests to a release.

use std::path::PathBuf;

use ace_types::app_yaml::Entry;
use ace_types::{Bytes, Protocol, Server};
use serde::{Deserialize, Serialize};

use crate::Interpreter;

/// What answers requests that no static rule of the release covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serving {
    /// Nothing: the release is files, which the gateway serves. It has no instances.
    Files,
    /// A program, in each of its instances.
    Program(Runtime),
}

/// A program and what it runs on. Its folders belong to root and are read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    pub python: Interpreter,
    /// The virtual environment, made to stand at `/ace/user/virtualenv`.
    pub environment: PathBuf,
    /// What `environment` takes on disk.
    pub environment_size: Bytes,
    pub program: Program,
}

/// What listens in an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// One of the engine's servers, which takes connections from the instance's socket itself.
    Server {
        kind: Server,
        /// Its own packages, the last on `sys.path`: `/ace/server`. Shared between apps.
        packages: PathBuf,
        /// What it calls: the one in `app.yaml`, or the one that was found.
        entry: Entry,
    },
    /// A command of the app's own, which listens on a port of its container. Connections from the
    /// instance's socket are passed on to it.
    Command {
        /// As a shell takes it; one line.
        line: String,
        /// Where it is to listen: its `$PORT`.
        port: u16,
    },
}

impl Serving {
    /// The program, unless the release is files alone.
    pub fn runtime(&self) -> Option<&Runtime> {
        match self {
            Self::Files => None,
            Self::Program(runtime) => Some(runtime),
        }
    }
}

impl Program {
    /// What is spoken on the instance's socket.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Server { kind, .. } => kind.protocol(),
            Self::Command { .. } => Protocol::Http,
        }
    }
}
