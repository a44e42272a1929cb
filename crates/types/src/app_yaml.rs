//! `app.yaml`: what a tenant may say about an app, and its parser.
//!
//! Parsing runs where the tenant's bytes are handled: inside a container, unprivileged, and in the
//! CLI. Its result crosses to the engine as JSON and is checked again there by its types.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Bytes, Limits, PythonRange, RewriteRule, ServerChoice, TryRule};

mod parser;
pub(crate) mod values;

pub use parser::{AppYamlError, Mistake, parse};

/// The longest that an app may take to its first answer.
pub const STARTUP_MAX: Duration = Duration::from_secs(600);

/// What `app.yaml` says, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppYaml {
    /// Paths that the gateway answers from files, the longest path first.
    pub statics: Vec<StaticRule>,
    /// Paths that stand for others, in the order in which they are tried.
    #[serde(default)]
    pub rewrites: Vec<RewriteRule>,
    /// Folders where what is no file goes elsewhere, the longest path first.
    #[serde(default)]
    pub tries: Vec<TryRule>,
    /// What stands for the engine's own error pages; no two of one status.
    #[serde(default)]
    pub errors: Vec<ErrorPage>,
    /// The WSGI or ASGI callable; `None` is the one that the build finds.
    pub entry: Option<Entry>,
    /// The wanted Python; `None` is the newest known at the first deploy.
    pub python: Option<PythonRange>,
    /// What serves the app; `None` is what suits what the build finds.
    pub server: Option<ServerChoice>,
    /// Worker processes of the server in each instance.
    pub processes: u16,
    /// Threads of each worker.
    pub threads: u16,
    pub limits: Limits,
    /// The disk that outlives instances, at `/ace/data`.
    pub volume: Option<Bytes>,
    /// Folders and files of the code that lie on the volume, which there is then: relative to the code,
    /// without `.` and `..`, no `/` at either end; none is in another.
    #[serde(default)]
    pub keep: Vec<String>,
    /// The path that must answer 2xx or 3xx before a new instance counts as ready.
    pub health: Option<String>,
    /// How long a new instance may take to its first answer.
    pub startup: Duration,
    /// What is run once a deploy, as a shell would, before anything of the new release starts.
    #[serde(default)]
    pub predeploy: Option<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
}

/// Requests below `path` are answered from `files` in the release, by the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRule {
    /// Begins with `/`. Ending in `/` it is a prefix, else one path exactly.
    pub path: String,
    /// Relative to the release's code, without `.` and `..`, no leading `/`; ends in `/` as `path`
    /// does. Empty is all of it, which only a release of files alone has.
    pub files: String,
    /// How long a client may keep the answer; `None` sends no `Cache-Control`.
    pub expire: Option<Duration>,
}

/// Where the engine itself answers with `status`, the answer's body is `file` of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorPage {
    /// From 400 to 599.
    pub status: u16,
    /// Relative to the release's code, as [`StaticRule::files`].
    pub file: String,
}

/// What a server calls: `index:application`, what `app:create_app()` returns, or something in a file
/// that is named by its path, `deploy/wiki.wsgi:application`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// A dotted Python module, or the path of a file below the source, without `.` and `..`.
    pub module: String,
    /// An attribute of it.
    pub callable: String,
    /// The attribute is called once, without arguments, and returns the application.
    pub factory: bool,
}

/// A text is no [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a module or file and a callable, as in index:application, app:create_app() or \
     deploy/shop.wsgi:application"
)]
pub struct NoEntry(String);

impl Entry {
    const LENGTH_MAX: usize = 1024;

    /// Whether its module is named by a path. A `wiki.wsgi` may be either.
    pub fn is_file(&self) -> bool {
        self.module.contains('/') || self.module.ends_with(".py")
    }
}

impl FromStr for Entry {
    type Err = NoEntry;

    fn from_str(text: &str) -> Result<Self, NoEntry> {
        let error = || NoEntry(text.chars().take(Self::LENGTH_MAX).collect());
        let (module, attribute) = text.split_once(':').ok_or_else(error)?;
        let callable = attribute.strip_suffix("()").unwrap_or(attribute);
        let fits = text.len() <= Self::LENGTH_MAX
            && (module.split('.').all(is_identifier) || is_path(module))
            && is_identifier(callable);
        fits.then(|| Self {
            module: module.to_owned(),
            callable: callable.to_owned(),
            factory: attribute != callable,
        })
        .ok_or_else(error)
    }
}

impl fmt::Display for Entry {
    /// As servers take it on their command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = if self.factory { "()" } else { "" };
        write!(f, "{}:{}{call}", self.module, self.callable)
    }
}

impl Default for Entry {
    /// `index:application`.
    fn default() -> Self {
        Self { module: "index".to_owned(), callable: "application".to_owned(), factory: false }
    }
}

impl Default for AppYaml {
    /// What an app without an `app.yaml` gets.
    fn default() -> Self {
        Self {
            statics: Vec::new(),
            rewrites: Vec::new(),
            tries: Vec::new(),
            errors: Vec::new(),
            entry: None,
            python: None,
            server: None,
            processes: 1,
            threads: 4,
            limits: Limits::for_app(),
            volume: None,
            keep: Vec::new(),
            health: None,
            startup: Duration::from_secs(60),
            predeploy: None,
            env: BTreeMap::new(),
        }
    }
}

/// Whether `text` leads to a file of Python below the folder that it is seen from.
fn is_path(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control)
    };
    (text.ends_with(".py") || text.ends_with(".wsgi")) && text.split('/').all(plain)
}

pub(crate) fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_module_or_a_file_and_a_name_or_a_call() {
        for good in [
            "index:application",
            "shop.wsgi:app",
            "app:create_app()",
            "deploy/my wiki.wsgi:application",
            "web-app.py:app",
        ] {
            assert_eq!(good.parse::<Entry>().map(|entry| entry.to_string()), Ok(good.to_owned()));
        }
        for bad in ["index", "index:", ":app", "a b:c", "a:b(1)", "a..b:c", "../x:y", "1:a", "a:()"]
            .into_iter()
            .chain(["/x.py:a", "../x.py:a", "a//b.py:c", "a/b:c", "a\n/b.py:c"])
        {
            assert!(bad.parse::<Entry>().is_err(), "{bad:?}");
        }
    }
}
