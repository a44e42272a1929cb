//! The words of ACE as types: names, ids, quantities, limits and `app.yaml`.
//!
//! No I/O, no async, no unsafe. Every type here checks what it holds when it is made, so that code
//! which receives an [`AppName`] need not ask again whether it is one.

#![forbid(unsafe_code)]

pub mod app_yaml;
pub mod bit_rate;
pub mod bytes;
pub mod ceilings;
pub mod coding;
pub mod config;
pub mod domain;
pub mod error_chain;
pub mod id;
pub mod limit_overrides;
pub mod limits;
pub mod media_type;
pub mod name;
pub mod python;
pub mod rewrite;
pub mod server;
pub mod shared_object;
pub mod terminal;
pub mod whole;

pub use app_yaml::{AppYaml, ErrorPage, StaticRule};
pub use bit_rate::BitRate;
pub use bytes::Bytes;
pub use ceilings::{AboveCeiling, Ceilings};
pub use coding::Coding;
pub use config::{Config, ConfigChange, ConfigError};
pub use domain::{Domain, DomainError};
pub use error_chain::error_chain;
pub use id::{BuildId, EngineId, IdRange, InstanceId, ReleaseNumber, TokenId};
pub use limit_overrides::{Limit, LimitChange, LimitError, LimitKey, LimitOverrides};
pub use limits::{Limits, OutOfBounds};
pub use name::{AppName, HostName, Label, LabelError, NameError, TenantName};
pub use python::{NoPythonRange, PythonRange};
pub use rewrite::{RewriteRule, TryRule};
pub use server::{Protocol, Server, ServerChoice};
pub use terminal::TerminalSize;
