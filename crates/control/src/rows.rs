//! The rows that `control` keeps in the store: their shapes and their keys.
//!
//! A row's shape is a promise to every later version of the engine, which will have to read it.

use ace_api::event::Event;
use ace_api::http::{Author, DeployKind, ReleaseCause, TokenRole};
use ace_api::{Built, Interpreter};
use ace_types::{
    AppName, BuildId, Config, Domain, InstanceId, Label, LimitOverrides, ReleaseNumber, TenantName,
    TokenId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What is kept under a key of its own.
pub trait Record {
    /// The first part of its keys, with the slash.
    const FOLDER: &'static str;

    fn key(&self) -> String;
}

/// An app: what it is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppRow {
    pub name: AppName,
    pub tenant: TenantName,
    /// Number of its range of user ids, its own until it's destroyed.
    pub ids: u32,
    /// The Python of the release that serves; later builds keep it.
    pub python: Option<Interpreter>,
    /// The number that the next release takes.
    pub next_release: ReleaseNumber,
    /// What the next release takes with it.
    pub config: Config,
    pub limits: LimitOverrides,
    /// How many instances it has when it runs. No release's: it outlives them.
    pub scale: u16,
    /// It is not to run, and its requests are told so.
    pub stopped: bool,
    /// The release that its route leads to. Changing it is the moment of a deploy.
    pub serving: Option<ReleaseNumber>,
    /// The release that `serving` took the place of; kept, as one that is in use.
    pub served_before: Option<ReleaseNumber>,
    /// When `serving` last changed.
    pub deployed_at: Option<Timestamp>,
    /// Where to turn back to if `serving`, a new release, dies soon after `deployed_at`.
    pub trial: Option<Trial>,
    /// It is on its way out: nothing of it runs, and what it has is being removed.
    pub destroying: bool,
}

/// What an app was before it got a new release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub serving: ReleaseNumber,
    pub served_before: Option<ReleaseNumber>,
}

/// A release: all that an instance of it is made of. What it's made of never changes, and it's kept as
/// long as it may be wanted again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseRow {
    pub app: AppName,
    pub tenant: TenantName,
    pub number: ReleaseNumber,
    /// The build that made `built`; releases that differ in their configuration alone share one.
    pub build: BuildId,
    pub built: Built,
    /// Overrides the variables of `built.app_yaml`.
    pub config: Config,
    /// Overrides the limits of `built.app_yaml`.
    pub limits: LimitOverrides,
    pub cause: ReleaseCause,
    /// Who asked for it.
    pub by: Author,
    pub created_at: Timestamp,
    /// It died soon after its switch, and another took its place by itself.
    pub withdrawn: Option<Withdrawn>,
}

/// How a release came to be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    pub at: Timestamp,
    pub to: ReleaseNumber,
    /// How it ended.
    pub reason: String,
}

/// The newest change of what serves an app: a deploy, a rollback, a restart…
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeployRow {
    pub app: AppName,
    pub tenant: TenantName,
    pub kind: DeployKind,
    pub by: Author,
    pub release: ReleaseNumber,
    /// The build that is part of it, if one is.
    pub build: Option<BuildId>,
    pub started_at: Timestamp,
    pub state: DeployState,
}

/// How far a deploy has come.
///
/// ```text
/// Building ──▶ Preparing ──▶ Starting ──▶ Draining ──▶ Done
///     └────────────┴────────────┴──▶ Failed
/// ```
///
/// An app without a `predeploy` skips `Preparing`, and so does what is no deploy, which has no `Building`
/// either. The step to `Draining` comes in one commit with what the app is from then on: it can no
/// longer fail. What needs no new instance begins with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum DeployState {
    Building,
    /// The app's `predeploy` runs, or has run.
    Preparing,
    Starting,
    Draining,
    Done {
        ended_at: Timestamp,
    },
    Failed {
        ended_at: Timestamp,
        /// For programs: one that the API has for failures, or `interrupted`.
        code: String,
        error: String,
    },
}

/// One run of source to release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildRow {
    pub app: AppName,
    pub tenant: TenantName,
    /// The release that it was for.
    pub number: ReleaseNumber,
    pub id: BuildId,
    pub started_at: Timestamp,
    pub state: BuildState,
}

/// What came of a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum BuildState {
    Building,
    Built {
        ended_at: Timestamp,
    },
    Failed {
        ended_at: Timestamp,
        error: String,
    },
    /// It was built, and then did not start.
    Unfit {
        ended_at: Timestamp,
        error: String,
    },
}

/// A name besides its own at which an app answers. Its key is the name, so that it is one app's only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRow {
    pub name: Domain,
    pub app: AppName,
    pub tenant: TenantName,
    pub added_at: Timestamp,
}

/// An instance that should run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRow {
    pub id: InstanceId,
    pub app: AppName,
    pub tenant: TenantName,
    pub release: ReleaseNumber,
    pub role: InstanceRole,
    /// How many failed instances before it had its place since the release was deployed.
    pub replaced: u32,
}

/// What an instance runs for.
///
/// ```text
/// Candidate ──▶ Serving ──▶ Retired
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceRole {
    /// To be ready before a switch.
    Candidate,
    /// The app's route leads to it when it runs.
    Serving,
    /// To end what it has under way.
    Retired,
}

/// A range of user ids that somebody has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdsRow {
    /// The range's number within the engine.
    pub index: u32,
    pub owner: IdsOwner,
}

/// Who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdsOwner {
    App(AppName),
    /// Until the build has ended.
    Build(BuildId),
}

/// A token of the API's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    pub id: TokenId,
    pub label: Option<Label>,
    pub role: TokenRole,
    /// An admin's has none: it's for all of them.
    pub tenant: Option<TenantName>,
    /// SHA-256 of its secret, in hexadecimal.
    pub hash: String,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
}

impl AppRow {
    pub fn key_of(name: &AppName) -> String {
        format!("{}{name}", Self::FOLDER)
    }
}

impl ReleaseRow {
    /// Whether it is `release` as it was built anew for `python`.
    pub fn is_rebuilt(&self, release: &Self, python: &Interpreter) -> bool {
        let of_it = matches!(self.cause, ReleaseCause::Rebuilt { of, .. } if of == release.number);
        of_it && self.built.serving.runtime().is_some_and(|runtime| runtime.python == *python)
    }

    /// What the keys of an app's releases begin with.
    pub fn prefix(app: &AppName) -> String {
        format!("{}{app}/", Self::FOLDER)
    }

    pub fn key_of(app: &AppName, number: ReleaseNumber) -> String {
        // Ten digits, so that the keys' order is the numbers' order.
        format!("{}{:010}", Self::prefix(app), number.0)
    }
}

impl DeployRow {
    pub fn key_of(app: &AppName) -> String {
        format!("{}{app}", Self::FOLDER)
    }
}

impl BuildRow {
    /// What the keys of an app's builds begin with.
    pub fn prefix(app: &AppName) -> String {
        format!("{}{app}/", Self::FOLDER)
    }

    pub fn key_of(app: &AppName, number: ReleaseNumber) -> String {
        format!("{}{:010}", Self::prefix(app), number.0)
    }
}

impl DomainRow {
    pub fn key_of(name: &Domain) -> String {
        // No label of a host name begins with "_", and no key has a "*" in it.
        let star = if name.is_wildcard() { "_." } else { "" };
        format!("{}{star}{}", Self::FOLDER, name.host())
    }
}

impl InstanceRow {
    /// What the keys of an app's instances begin with.
    pub fn prefix(app: &AppName) -> String {
        format!("{}{app}/", Self::FOLDER)
    }
}

impl TokenRow {
    pub fn key_of(id: &TokenId) -> String {
        format!("{}{id}", Self::FOLDER)
    }
}

impl Record for AppRow {
    const FOLDER: &'static str = "apps/";

    fn key(&self) -> String {
        Self::key_of(&self.name)
    }
}

impl Record for ReleaseRow {
    const FOLDER: &'static str = "releases/";

    fn key(&self) -> String {
        Self::key_of(&self.app, self.number)
    }
}

impl Record for DeployRow {
    const FOLDER: &'static str = "deploys/";

    fn key(&self) -> String {
        Self::key_of(&self.app)
    }
}

impl Record for BuildRow {
    const FOLDER: &'static str = "builds/";

    fn key(&self) -> String {
        Self::key_of(&self.app, self.number)
    }
}

impl Record for DomainRow {
    const FOLDER: &'static str = "domains/";

    fn key(&self) -> String {
        Self::key_of(&self.name)
    }
}

impl Record for InstanceRow {
    const FOLDER: &'static str = "instances/";

    fn key(&self) -> String {
        format!("{}{}", Self::prefix(&self.app), self.id)
    }
}

impl Record for IdsRow {
    const FOLDER: &'static str = "ids/";

    fn key(&self) -> String {
        format!("{}{:05}", Self::FOLDER, self.index)
    }
}

/// Events are kept as they are told.
impl Record for Event {
    const FOLDER: &'static str = "events/";

    fn key(&self) -> String {
        event_key(self.id)
    }
}

/// The key of event `id`. Twenty digits, so that the keys' order is the numbers' order.
pub fn event_key(id: u64) -> String {
    format!("{}{id:020}", Event::FOLDER)
}

impl Record for TokenRow {
    const FOLDER: &'static str = "tokens/";

    fn key(&self) -> String {
        Self::key_of(&self.id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_releases_sort_as_their_numbers_do() {
        let app: AppName = "shop".parse().unwrap();
        let key = |number| ReleaseRow::key_of(&app, ReleaseNumber(number));
        assert!(key(9) < key(10) && key(10) < key(u32::MAX));
    }

    #[test]
    fn no_app_finds_the_rows_of_one_whose_name_its_own_begins() {
        let (shop, shop2) = ("shop".parse().unwrap(), "shop-2".parse().unwrap());
        assert!(
            !ReleaseRow::key_of(&shop2, ReleaseNumber(1)).starts_with(&ReleaseRow::prefix(&shop))
        );
    }
}
