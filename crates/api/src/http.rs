//! What crosses the API's socket between `cli` and `control`: JSON over HTTP/1.1, below `/v1`.
//!
//! | method and path | body in | body out |
//! |---|---|---|
//! | `POST /v1/apps/{app}/deploys?tenant=` | a `.tar.gz` | [`DeployEvent`]s, one JSON document a line, until the end |
//! | `GET /v1/apps` | | [`AppView`]s |
//! | `GET /v1/apps/{app}` | | [`AppView`] |
//! | `DELETE /v1/apps/{app}` | | [`Done`], when all of it is gone |
//! | `GET /v1/apps/{app}/logs?follow=&tail=` | | [`LogLine`]s, one JSON document a line |
//! | `POST /v1/apps/{app}/run` | [`RunRequest`](crate::run::RunRequest) | frames both ways: see [`crate::run`] |
//! | `GET /v1/doctor` | | [`DoctorReport`] |
//! | `GET /v1/pythons` | | [`PythonView`]s, the newest first |
//! | `POST /v1/pythons` | [`AddPython`] | [`PythonView`] |
//! | `POST /v1/down` | | [`Done`], and then the engine ends |
//!
//! Anything else that goes wrong is an [`ApiError`] with a status of 400 and above.

use std::path::PathBuf;

use ace_types::{AppName, Bytes, InstanceId, ReleaseNumber, Server, TenantName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{EndReason, InstanceState};

/// A step of a deploy. The last one is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum DeployEvent {
    /// A new phase began.
    Phase { phase: DeployPhase },
    /// A line of the build's log.
    Log { line: String },
    /// A line that the app printed while it was starting.
    AppLog { line: String },
    /// The route has moved.
    Done { app: AppName, release: ReleaseNumber, url: String, seconds: f64 },
    /// Nothing has changed for those who use the app.
    Failed { error: ApiError },
}

/// What a deploy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployPhase {
    /// Waiting for another deploy of the same app, or for room.
    Queued,
    Building,
    /// Running the app's `predeploy`.
    Preparing,
    Starting,
    Switching,
}

/// One app, as `ace apps` and `ace status` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppView {
    pub name: AppName,
    pub tenant: TenantName,
    pub url: String,
    pub state: AppState,
    /// The release that the route leads to; `None` before the first deploy has succeeded.
    pub release: Option<ReleaseNumber>,
    pub deployed_at: Option<Timestamp>,
    /// What answers its requests.
    pub served_by: Option<ServedBy>,
    /// Without one where files are served alone; so are the next two.
    pub python: Option<String>,
    pub memory_limit: Option<Bytes>,
    pub volume: Option<Bytes>,
    pub instances: Vec<InstanceView>,
    /// Commands that run in containers of their own, the oldest first.
    pub commands: Vec<CommandView>,
    /// How the newest deploy ended.
    pub last_deploy: Option<DeployView>,
}

/// What answers an app's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ServedBy {
    /// The gateway, from the release's files; nothing of the app runs.
    Files,
    /// One of the engine's servers.
    Server { name: Server },
    /// A command of the app's own.
    Command { line: String, port: u16 },
}

/// An app in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppState {
    /// Never deployed with success.
    New,
    Running,
    /// Should run and does not, yet.
    Starting,
    /// Should run and keeps ending.
    Crashing,
    Destroying,
}

/// One instance, as `ace status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    pub id: InstanceId,
    pub release: ReleaseNumber,
    pub state: InstanceState,
    pub since: Timestamp,
    pub restarts: u32,
    pub last_end: Option<EndReason>,
    /// How many of its processes the kernel has ended for going past the memory limit.
    pub memory_kills: u64,
}

/// A command beside the instances, as `ace status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandView {
    pub id: InstanceId,
    pub release: ReleaseNumber,
    /// The program's name, `shell` or `predeploy`; never arguments, which may be secret.
    pub name: String,
    pub since: Timestamp,
}

/// The newest deploy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeployView {
    pub release: ReleaseNumber,
    pub started_at: Timestamp,
    /// `None` while it runs.
    pub ended_at: Option<Timestamp>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// One line that an app printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Timestamp,
    pub instance: InstanceId,
    /// `out`, `err`, or `ace` for what the engine says about the instance.
    pub stream: String,
    /// Without its line end; bytes that are not UTF-8 replaced. May hold control characters.
    pub text: String,
}

/// A Python that apps can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonView {
    /// `3.13.1`.
    pub name: String,
    /// The program on the engine's machine, links resolved.
    pub program: PathBuf,
    /// App servers that run on it, with their versions: `uwsgi-2.0.30`.
    pub servers: Vec<String>,
}

/// A further Python for apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddPython {
    /// An absolute path on the engine's machine.
    pub program: PathBuf,
}

/// What this kernel can enforce, and by which means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoctorReport {
    pub checks: Vec<DoctorCheck>,
}

/// One thing that the engine needs of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoctorCheck {
    /// Such as `memory limit`.
    pub name: String,
    pub verdict: Verdict,
    /// By what means it is enforced, or what is wrong.
    pub detail: String,
    /// What to do about it, where something is to be done.
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// Works, with less than the full promise.
    Warn,
    /// Apps can't run like this.
    Fail,
}

/// It has been done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub message: String,
}

/// What went wrong, fit for any tenant's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Stable, for programs: `no_such_app`, `build_failed`…
    pub code: String,
    /// One sentence for a person, with the way out.
    pub message: String,
    /// More of it, such as the app's own traceback. May hold control characters.
    pub detail: Option<String>,
}
