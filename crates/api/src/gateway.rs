//! Where requests go.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ace_types::{
    AppName, ErrorPage, HostName, InstanceId, Limits, Protocol, ReleaseNumber, RewriteRule,
    StaticRule, TryRule,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Traffic;

/// Ends connections, serves files, forwards along routes. It serves from its last known routes and
/// calls nobody on a request's path.
#[async_trait]
pub trait Gateway: Send + Sync {
    /// Replaces every route. Requests that arrive after the return follow the new table.
    fn set_routes(&self, routes: RouteTable);

    /// Waits until no request is under way to `instance`, which no route names any more.
    /// Returns whether that came before `deadline` had passed.
    async fn drained(&self, instance: &InstanceId, deadline: Duration) -> bool;

    /// What it has counted of requests. Takes a lock that no request takes.
    fn traffic(&self) -> Traffic;

    /// Where it listens.
    fn address(&self) -> SocketAddr;
}

/// All routes there are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteTable {
    pub routes: Vec<Route>,
}

/// The way to one app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Names that lead here; no other route has one of them.
    pub hosts: Vec<HostName>,
    /// Names below which every one that no route has, with one label more, leads here. No other route has
    /// one of them.
    #[serde(default)]
    pub wildcards: Vec<HostName>,
    pub app: AppName,
    pub release: ReleaseNumber,
    /// The release's code, under which `statics` find their files.
    pub code: PathBuf,
    /// The longest path first.
    pub statics: Vec<StaticRule>,
    /// Followed before anything else, in this order.
    #[serde(default)]
    pub rewrites: Vec<RewriteRule>,
    /// For what `statics` have no file for; the longest path first.
    #[serde(default)]
    pub tries: Vec<TryRule>,
    /// What stands for the gateway's own error pages.
    #[serde(default)]
    pub errors: Vec<ErrorPage>,
    /// What answers where none of `statics` does.
    pub backend: Backend,
    /// Of these the gateway keeps `connections`, `body` and `timeout`.
    pub limits: Limits,
}

/// What is behind the files of an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Nothing: the release is files alone, and what none of its rules covers is not found.
    Files,
    /// Its ready instances. Without any, requests wait, bounded, for the next table.
    Instances(Vec<InstanceSocket>),
    /// The app was asked not to run: every request is told so, those for its files too, and none waits.
    Stopped,
}

impl Backend {
    /// Its ready instances.
    pub fn instances(&self) -> &[InstanceSocket] {
        match self {
            Self::Files | Self::Stopped => &[],
            Self::Instances(instances) => instances,
        }
    }
}

/// Where one instance takes requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSocket {
    pub id: InstanceId,
    /// A Unix socket that the engine bound.
    pub socket: PathBuf,
    /// What is spoken on it.
    pub protocol: Protocol,
}
