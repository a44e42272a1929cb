//! What has happened on an engine, as `GET /v1/events` tells it.

use std::fmt;

use ace_types::{AppName, Domain, InstanceId, Label, ReleaseNumber, TenantName, TokenId};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::EndReason;
use crate::http::{Author, DeployKind, TokenRole};

/// One thing that has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Later events have higher ones. What is told to one tenant has gaps.
    pub id: u64,
    pub at: Timestamp,
    /// Whose business it is; `None`: the engine's alone.
    pub tenant: Option<TenantName>,
    pub app: Option<AppName>,
    /// Who asked for it, where somebody did.
    pub by: Option<Author>,
    #[serde(flatten)]
    pub what: Happening,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Happening {
    /// A new name has become an app.
    AppCreated,
    AppDestroying,
    /// Nothing of it is left.
    AppDestroyed,
    /// A deploy, or another change of what serves, is under way.
    Began {
        operation: DeployKind,
        release: ReleaseNumber,
    },
    /// It has come true: requests go to this release.
    Switched {
        operation: DeployKind,
        release: ReleaseNumber,
    },
    /// Nothing has changed for those who use the app.
    Failed {
        operation: DeployKind,
        release: ReleaseNumber,
        code: String,
        error: String,
    },
    /// Variables of an app that has no release yet; never to what they were set.
    Configured {
        names: Vec<String>,
    },
    /// Limits of an app that has no release yet.
    Limited {
        names: Vec<String>,
    },
    /// How many instances an app will have when it runs.
    Scaled {
        instances: u16,
    },
    DomainsChanged {
        added: Vec<Domain>,
        removed: Vec<Domain>,
    },
    /// An instance ended by itself.
    InstanceEnded {
        instance: InstanceId,
        release: ReleaseNumber,
        reason: Option<EndReason>,
        /// When it starts again; `None` where it does not.
        retry_at: Option<Timestamp>,
    },
    /// An instance has met a limit: lost processes for lack of memory, was held back, has a place full.
    LimitMet {
        instance: InstanceId,
        /// As in `app.yaml`.
        limit: String,
        message: String,
    },
    TokenCreated {
        token: TokenId,
        role: TokenRole,
        label: Option<Label>,
    },
    TokenRevoked {
        token: TokenId,
    },
}

impl Happening {
    /// Whether it's for those alone who may see tokens.
    pub fn is_of_a_token(&self) -> bool {
        matches!(self, Self::TokenCreated { .. } | Self::TokenRevoked { .. })
    }

    /// Whether somebody should look after it.
    pub fn is_bad(&self) -> bool {
        let is_retreat = |kind: &DeployKind| matches!(kind, DeployKind::Retreat { .. });
        match self {
            Self::Failed { .. } | Self::InstanceEnded { .. } | Self::LimitMet { .. } => true,
            Self::Began { operation, .. } | Self::Switched { operation, .. } => {
                is_retreat(operation)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Happening {
    /// One sentence, without who did it. Reasons may hold words of the app's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppCreated => f.write_str("the app was created"),
            Self::AppDestroying => f.write_str("the app is being destroyed"),
            Self::AppDestroyed => f.write_str("the app is gone"),
            Self::Began { operation, release } => {
                write!(f, "{operation} began: release {release}{}", cause(operation))
            }
            Self::Switched { operation: DeployKind::Stop, .. } => f.write_str("stopped"),
            Self::Switched { operation, release } => {
                write!(f, "release {release} serves: {operation}{}", cause(operation))
            }
            Self::Failed { operation, error, .. } => write!(f, "{operation} failed: {error}"),
            Self::Configured { names } => write!(f, "variables set or unset: {}", names.join(", ")),
            Self::Limited { names } => write!(f, "limits set: {}", names.join(", ")),
            Self::Scaled { instances } => write!(f, "set to {instances} instances"),
            Self::DomainsChanged { added, removed } => {
                let signed = |sign: &str, names: &[Domain]| -> Vec<String> {
                    names.iter().map(|name| format!("{sign}{name}")).collect()
                };
                let all = [signed("+", added), signed("-", removed)].concat();
                write!(f, "domains: {}", all.join(" "))
            }
            Self::InstanceEnded { instance, release, reason, retry_at } => {
                write!(f, "instance {instance} of release {release} ended")?;
                if let Some(reason) = reason {
                    write!(f, ": {reason}")?;
                }
                match retry_at {
                    Some(at) => write!(f, "; it starts again at {at:.0}"),
                    None => f.write_str("; it does not start again by itself"),
                }
            }
            Self::LimitMet { instance, message, .. } => write!(f, "instance {instance} {message}"),
            Self::TokenCreated { token, role, label } => {
                write!(f, "token {token} was made, for {role}")?;
                label.iter().try_for_each(|label| write!(f, ": {label}"))
            }
            Self::TokenRevoked { token } => write!(f, "token {token} was revoked"),
        }
    }
}

/// Why the engine did it by itself.
fn cause(operation: &DeployKind) -> String {
    match operation {
        DeployKind::Retreat { from, reason } => format!(", since release {from} died: {reason}"),
        DeployKind::Scale { instances } => format!(" to {instances}"),
        _ => String::new(),
    }
}
