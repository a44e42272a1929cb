//! What crosses the API between `cli` and `control`: JSON over HTTP/1.1, below `/v1`.
//!
//! | method and path | body in | body out |
//! |---|---|---|
//! | `GET /v1/apps?tenant=&limit=&after=` | | [`AppsView`] |
//! | `GET /v1/apps/{app}` | | [`AppView`] |
//! | `DELETE /v1/apps/{app}` | | [`Done`], when all of it is gone |
//! | `POST /v1/apps/{app}/deploys?tenant=` | a `.tar.gz` | events |
//! | `POST /v1/apps/{app}/rollback` | [`Rollback`] | events |
//! | `POST /v1/apps/{app}/restart` | | events |
//! | `POST /v1/apps/{app}/stop` | | events |
//! | `POST /v1/apps/{app}/start` | | events |
//! | `PUT /v1/apps/{app}/scale` | [`Scale`] | events |
//! | `GET /v1/apps/{app}/config?reveal=` | | [`ConfigView`] |
//! | `PATCH /v1/apps/{app}/config` | [`ConfigChange`](ace_types::ConfigChange) | events |
//! | `GET /v1/apps/{app}/limits` | | [`LimitsView`] |
//! | `PATCH /v1/apps/{app}/limits` | [`LimitChange`](ace_types::LimitChange) | events |
//! | `GET /v1/apps/{app}/domains?limit=&after=` | | [`DomainsView`] |
//! | `PATCH /v1/apps/{app}/domains` | [`DomainChange`] | [`DomainsView`], when requests follow it |
//! | `GET /v1/apps/{app}/releases?limit=&after=` | | [`ReleasesView`] |
//! | `GET /v1/apps/{app}/builds?limit=&after=` | | [`BuildsView`] |
//! | `GET /v1/apps/{app}/builds/{release}` | | [`BuildView`] |
//! | `GET /v1/apps/{app}/builds/{release}/log?follow=` | | [`BuildLine`]s, one JSON document a line |
//! | `GET /v1/apps/{app}/logs?follow=&tail=&since=&release=&instance=` | | [`LogLine`]s, one JSON document a line |
//! | `POST /v1/apps/{app}/run` | [`RunRequest`](crate::run::RunRequest) | frames both ways: see [`crate::run`] |
//! | `GET /v1/doctor` | | [`DoctorReport`] |
//! | `GET /v1/pythons` | | [`PythonView`]s, the newest first, then those that are gone |
//! | `POST /v1/pythons` | [`AddPython`] | [`PythonView`] |
//! | `GET /v1/tokens?limit=&after=` | | [`TokensView`] |
//! | `POST /v1/tokens` | [`NewToken`] | [`CreatedToken`] |
//! | `DELETE /v1/tokens/{token}` | | [`Done`] |
//! | `GET /v1/events?app=&after=&since=&limit=&follow=` | | [`Event`](crate::event::Event)s, one JSON document a line |
//! | `POST /v1/backup` | | a backup (see the crate `backup`), whole only where its end says so |
//! | `POST /v1/down` | | [`Done`], and then the engine ends |
//! | `GET /metrics` | | the OpenMetrics text format: see docs/METRICS.md |
//!
//! What is followed comes as server-sent events instead of lines, unless lines are what the client accepts.
//!
//! Events are [`DeployEvent`]s, one JSON document a line, until the end. Whoever closes the connection
//! before the switch gives up what was asked for. What is asked of one app is done one after the
//! other, in the order of asking.
//!
//! Over TCP every request has `Authorization: Bearer TOKEN`; a token says whose apps there are for it.
//! Whoever can open the Unix socket needs none.
//!
//! Anything else that goes wrong is an [`ApiError`] with a status of 400 and above.

use std::fmt;
use std::path::PathBuf;

use ace_types::whole;
use ace_types::{
    AppName, BuildId, Bytes, Domain, InstanceId, Label, ReleaseNumber, Server, TenantName, TokenId,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppTraffic, EndReason, InstanceState, InstanceTraffic, InstanceUsage};

/// A step of a deploy, or of anything else that changes what serves an app. The last one is `Done`,
/// `Noted` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum DeployEvent {
    /// A new phase began.
    Phase { phase: DeployPhase },
    /// A line of the build's log.
    Log { line: String },
    /// A line that the app printed while it was starting.
    AppLog { line: String },
    /// The route has moved.
    Done {
        app: AppName,
        release: ReleaseNumber,
        url: String,
        seconds: f64,
        /// That the app runs, but answers as one that isn't set up right: a line with the way out.
        note: Option<String>,
    },
    /// Nothing had to move; `message` says why, and is one line.
    Noted { app: AppName, message: String },
    /// Nothing has changed for those who use the app.
    Failed { error: ApiError },
}

/// What a deploy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// A part of the apps, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppsView {
    pub apps: Vec<AppView>,
    /// What the next part begins behind; `None` where this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<AppName>,
}

/// The trailer of a backup that broke off: why, in words. Sent to whoever says `TE: trailers`.
pub const BACKUP_FAILURE: &str = "ace-backup-failure";

/// One app, as `ace apps` and `ace status` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppView {
    pub name: AppName,
    pub tenant: TenantName,
    pub url: String,
    /// Names besides that of `url` at which it answers, too.
    pub domains: Vec<Domain>,
    pub state: AppState,
    /// The release that the route leads to; `None` before the first deploy has succeeded.
    pub release: Option<ReleaseNumber>,
    /// Since when that release serves.
    pub deployed_at: Option<Timestamp>,
    /// A newer release that died soon after its switch; this one took its place by itself.
    pub withdrawn: Option<WithdrawnView>,
    /// How many instances the app has when it runs.
    pub scale: u16,
    /// What answers its requests.
    pub served_by: Option<ServedBy>,
    /// Without one where files are served alone; so are the next two.
    pub python: Option<String>,
    /// What is wrong with that Python on the engine's machine.
    pub python_trouble: Option<PythonTrouble>,
    /// What of the release somebody has removed from the engine's disk. No instance can start without it.
    pub missing: Vec<ReleasePart>,
    pub memory_limit: Option<Bytes>,
    pub volume: Option<Bytes>,
    pub instances: Vec<InstanceView>,
    /// What came to it of requests; `None` where none can reach it.
    pub traffic: Option<AppTraffic>,
    /// Commands that run in containers of their own, the oldest first.
    pub commands: Vec<CommandView>,
    /// How the newest deploy ended.
    pub last_deploy: Option<DeployView>,
}

/// What a release has on the engine's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleasePart {
    Code,
    Environment,
    /// The packages of the server that the app runs under.
    Server,
}

/// What is wrong with the Python that an app's environment was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum PythonTrouble {
    /// There is none of its minor version any more: a sentence with the way out.
    Gone { message: String },
    /// It has become `version`, for which the environment could not be rebuilt because of `error`.
    NotRebuilt { version: String, error: String, retry_at: Timestamp },
}

impl fmt::Display for ReleasePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Environment => "environment",
            Self::Server => "app server",
        })
    }
}

/// What answers an app's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AppState {
    /// Never deployed with success.
    New,
    Running,
    /// Should run and does not, yet.
    Starting,
    /// Should run and keeps ending.
    Crashing,
    /// Was asked not to run.
    Stopped,
    Destroying,
}

/// One instance, as `ace status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceView {
    pub id: InstanceId,
    pub release: ReleaseNumber,
    pub state: InstanceState,
    pub since: Timestamp,
    pub restarts: u32,
    pub last_end: Option<EndReason>,
    /// How many of its processes the kernel has ended for going past the memory limit.
    pub memory_kills: u64,
    /// `None` where it has no container.
    pub usage: Option<InstanceUsage>,
    /// `None` where no request can reach it.
    pub traffic: Option<InstanceTraffic>,
}

/// A command beside the instances, as `ace status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandView {
    pub id: InstanceId,
    pub release: ReleaseNumber,
    /// The program's name, `shell` or `predeploy`; never arguments, which may be secret.
    pub name: String,
    pub since: Timestamp,
}

/// The newest deploy, or other change of what serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployView {
    pub kind: DeployKind,
    pub by: Author,
    pub release: ReleaseNumber,
    pub started_at: Timestamp,
    /// `None` while it runs.
    pub ended_at: Option<Timestamp>,
    /// Why it failed, if it did, for programs: the `code` of its [`ApiError`], or `interrupted`.
    pub code: Option<String>,
    /// The same in words.
    pub error: Option<String>,
}

/// What brought a change of what serves about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum DeployKind {
    Deploy,
    Rollback,
    /// The engine's own rollback, from a release that died soon after its switch because of `reason`.
    Retreat {
        from: ReleaseNumber,
        reason: String,
    },
    Configure,
    Limit,
    /// The engine's own: the environment made anew, since its Python was upgraded.
    Rebuild,
    Restart,
    Start,
    Stop,
    Scale {
        instances: u16,
    },
}

impl DeployKind {
    /// In one word that stays, for programs; as `name` in its JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
            Self::Retreat { .. } => "retreat",
            Self::Configure => "configure",
            Self::Limit => "limit",
            Self::Rebuild => "rebuild",
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Scale { .. } => "scale",
        }
    }
}

impl std::fmt::Display for DeployKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
            Self::Retreat { .. } => "automatic rollback",
            Self::Configure => "change of configuration",
            Self::Limit => "change of limits",
            Self::Rebuild => "rebuild",
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Scale { .. } => "change of scale",
        })
    }
}

/// A release that is asked for again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// `None`: the one that served before the one that does.
    #[serde(default)]
    pub release: Option<ReleaseNumber>,
}

/// How many instances an app is to have when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    #[serde(deserialize_with = "whole::number")]
    #[schemars(range(min = 1, max = 16))]
    pub instances: u16,
}

/// The variables that are set beside an app's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigView {
    pub app: AppName,
    pub tenant: TenantName,
    /// By name.
    pub variables: Vec<VariableView>,
}

/// One variable.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VariableView {
    pub name: String,
    /// `None` unless it was asked to be revealed.
    pub value: Option<String>,
}

impl std::fmt::Debug for VariableView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VariableView").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What an app's instances may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitsView {
    pub app: AppName,
    pub tenant: TenantName,
    pub limits: Vec<LimitView>,
}

/// One limit, in the words of `app.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitView {
    pub name: String,
    pub value: String,
    pub origin: LimitOrigin,
    /// What the app uses of it, in the same words; the instance that uses most. `None` where nobody
    /// measures it.
    pub used: Option<String>,
    /// How often it was met since the engine started; `None` where nobody counts it.
    pub met: Option<LimitMet>,
}

/// How often a limit was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitMet {
    pub count: u64,
    /// What is counted: `processes ended`.
    pub what: String,
}

/// Who says what a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitOrigin {
    /// Nobody, or `app.yaml` in the same words.
    Default,
    AppYaml,
    /// It was set for the app.
    Set,
}

/// Names besides its own at which an app answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainsView {
    pub app: AppName,
    pub tenant: TenantName,
    /// By name.
    pub domains: Vec<DomainView>,
    /// What the next part begins behind; `None` where this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Domain>,
}

/// One such name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainView {
    pub name: Domain,
    pub added_at: Timestamp,
}

/// Names that an app gets and loses, in one step or not at all. What it has already, it keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainChange {
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub add: Vec<Domain>,
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub remove: Vec<Domain>,
}

/// An app's builds whose logs are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildsView {
    pub app: AppName,
    pub tenant: TenantName,
    /// The newest first.
    pub builds: Vec<BuildView>,
    /// What the next part begins behind; `None` where this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ReleaseNumber>,
}

/// One run of source to release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildView {
    /// The release that it was for. That of a build that failed is never used again.
    pub release: ReleaseNumber,
    pub id: BuildId,
    pub state: BuildResult,
    pub started_at: Timestamp,
    /// `None` while it runs.
    pub ended_at: Option<Timestamp>,
    /// Why there is no release of it, where it failed.
    pub error: Option<String>,
}

/// What came of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BuildResult {
    Building,
    Built,
    Failed,
    /// It was built, and then did not start.
    Unfit,
}

/// One line of a build's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildLine {
    /// May hold control characters.
    pub line: String,
}

/// An app's releases that can serve again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleasesView {
    pub app: AppName,
    pub tenant: TenantName,
    /// The newest first.
    pub releases: Vec<ReleaseView>,
    /// What they take on disk together, those of other parts included.
    pub size: Bytes,
    /// What the next part begins behind; `None` where this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ReleaseNumber>,
}

/// One release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseView {
    pub number: ReleaseNumber,
    pub cause: ReleaseCause,
    /// Who asked for it.
    pub by: Author,
    pub created_at: Timestamp,
    /// Whether the app's route leads to it.
    pub serves: bool,
    pub python: Option<String>,
    /// What it takes on disk besides what it shares with an older one.
    pub size: Bytes,
    pub withdrawn: Option<WithdrawnView>,
}

/// Why there is a release. Names what is different from the one before, never to what it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ReleaseCause {
    Deployed {
        /// What is different besides the code: `app.yaml`, `packages`, `Python 3.13.1`.
        changed: Vec<String>,
    },
    Configured {
        names: Vec<String>,
    },
    Limited {
        names: Vec<String>,
    },
    /// It's release `of` with its environment made anew, for a Python that has become `python`.
    Rebuilt {
        of: ReleaseNumber,
        python: String,
    },
}

impl std::fmt::Display for ReleaseCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Deployed { changed } if changed.is_empty() => write!(f, "deployed"),
            Self::Deployed { changed } => write!(f, "deployed: {}", changed.join(", ")),
            Self::Configured { names } => write!(f, "config: {}", names.join(", ")),
            Self::Limited { names } => write!(f, "limits: {}", names.join(", ")),
            Self::Rebuilt { of, python } => write!(f, "{of} rebuilt: Python {python}"),
        }
    }
}

/// Who asked for a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Author {
    /// Nobody: the engine turned back from a release that died, or met a changed Python.
    Engine,
    /// Somebody on the engine's own machine.
    Root,
    /// Whoever has this token.
    Token { id: TokenId, label: Option<Label> },
}

impl std::fmt::Display for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine => write!(f, "the engine"),
            Self::Root => write!(f, "root"),
            Self::Token { label: Some(label), .. } => write!(f, "{label}"),
            Self::Token { id, label: None } => write!(f, "token {id}"),
        }
    }
}

/// A release that died soon after its switch, so that the one before it took its place again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WithdrawnView {
    pub release: ReleaseNumber,
    /// What took its place.
    pub to: ReleaseNumber,
    pub at: Timestamp,
    /// How it ended.
    pub reason: String,
}

/// One line that an app printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    pub at: Timestamp,
    /// `None`: the engine says it of the app as a whole.
    pub instance: Option<InstanceId>,
    /// What the instance was of, as far as that is known.
    pub release: Option<ReleaseNumber>,
    /// `out`, `err`, or `ace` for what the engine says.
    pub stream: String,
    /// Without its line end; bytes that are not UTF-8 replaced. May hold control characters.
    pub text: String,
}

/// A Python that apps can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PythonView {
    /// `3.13.1`.
    pub name: String,
    /// The program on the engine's machine, links resolved.
    pub program: PathBuf,
    /// App servers that run on it, with their versions: `uwsgi-2.0.30`.
    pub servers: Vec<String>,
    /// Apps whose serving release runs on it, by name.
    pub apps: Vec<AppName>,
    /// Only apps know it still: it's no longer on the machine. A sentence with the way out.
    pub gone: Option<String>,
}

/// A further Python for apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPython {
    /// An absolute path on the engine's machine.
    #[schemars(regex(pattern = "^/[^\\u0000]*$"), example = "/usr/bin/python3.13")]
    pub program: PathBuf,
}

/// What may be done with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// All that root on the engine's machine may, of every tenant and of the engine itself.
    Admin,
    /// Whatever there is to do with one tenant's apps.
    Deploy,
    /// To look at one tenant's apps and their logs, not at the values of their configuration.
    Read,
    /// To read the engine's metrics, and nothing else.
    Metrics,
}

/// A token that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = whose)]
pub struct NewToken {
    pub role: TokenRole,
    /// Whose apps it's for; of one for `admin` or `metrics`, none.
    #[serde(default)]
    pub tenant: Option<TenantName>,
    /// What to know it by.
    #[serde(default)]
    pub label: Option<Label>,
    /// How long it's good for, up to ten years; `None`: until it's revoked.
    #[serde(default, deserialize_with = "whole::optional")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub expires_in_seconds: Option<u32>,
}

/// Says in the schema of [`NewToken`] which roles are nobody's.
fn whose(schema: &mut schemars::Schema) {
    let role = serde_json::json!({ "properties": { "role": { "enum": ["admin", "metrics"] } } });
    let none = serde_json::json!({ "properties": { "tenant": { "type": "null" } } });
    schema.insert("if".to_owned(), role);
    schema.insert("then".to_owned(), none);
}

/// A part of the tokens, by their ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokensView {
    pub tokens: Vec<TokenView>,
    /// What the next part begins behind; `None` where this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<TokenId>,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    pub id: TokenId,
    pub label: Option<Label>,
    pub role: TokenRole,
    /// `None`: every tenant.
    pub tenant: Option<TenantName>,
    pub created_at: Timestamp,
    /// To within five minutes.
    pub last_used_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
}

/// A token that has just been made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedToken {
    pub token: TokenView,
    /// What to send. It's told here and never again: the engine does not keep it.
    pub secret: String,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken").field("token", &self.token).finish_non_exhaustive()
    }
}

impl std::fmt::Display for TokenRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Deploy => "deploy",
            Self::Read => "read",
            Self::Metrics => "metrics",
        })
    }
}

/// What this kernel can enforce, and by which means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorReport {
    pub checks: Vec<DoctorCheck>,
}

/// One thing that the engine needs of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorCheck {
    /// Such as `memory limit`.
    pub name: String,
    pub verdict: Verdict,
    /// By what means it is enforced, or what is wrong.
    pub detail: String,
    /// What to do about it, where something is to be done.
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// Works, with less than the full promise.
    Warn,
    /// Apps can't run like this.
    Fail,
}

/// It has been done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    pub message: String,
}

/// What went wrong, fit for any tenant's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Stable, for programs: `no_such_app`, `build_failed`…
    pub code: String,
    /// One sentence for a person, with the way out.
    pub message: String,
    /// More of it, such as the app's own traceback. May hold control characters.
    pub detail: Option<String>,
    /// The request that had this for an answer, by the name that the engine's log knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl ApiError {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), detail: None, request_id: None }
    }
}
