//! Source and requirements in, what a release is made of out.

use std::path::{Path, PathBuf};

use ace_types::{AppName, AppYaml, BuildId, Bytes, IdRange, TenantName};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::Serving;

/// Makes releases' contents. One build runs in containers of its own and leaves nothing behind but
/// what [`Built`] names.
#[async_trait]
pub trait Builder: Send + Sync {
    /// Builds `request`, telling each line of progress to `log` (dropped lines are no error).
    ///
    /// Dropping the returned future ends the build's processes and removes its scratch.
    async fn build(
        &self,
        request: BuildRequest,
        log: mpsc::Sender<String>,
    ) -> Result<Built, BuildError>;

    /// What has become of the Python that `built` was made with.
    async fn python_of(&self, built: &Built) -> PythonState;

    /// Makes the environment of a release anew, from the lock that was kept with it, for the Python
    /// that has taken the place of the one it was made with. All else of the release stays.
    ///
    /// Says and ends as [`Builder::build`] does.
    async fn rebuild(
        &self,
        request: RebuildRequest,
        log: mpsc::Sender<String>,
    ) -> Result<Built, BuildError>;

    /// The Pythons that apps can have, the newest first.
    async fn pythons(&self) -> Vec<KnownPython>;

    /// Makes the interpreter `program` one that apps can have, for good.
    async fn add_python(&self, program: &Path) -> Result<KnownPython, BuildError>;

    /// Removes `built` from disk. What another release still uses must not be passed.
    async fn remove(&self, paths: Vec<PathBuf>) -> std::io::Result<()>;

    /// Removes from disk all that builds have ever made for `app`, with its caches. None of them
    /// may be under way. May be called twice.
    async fn remove_app(&self, app: &AppName) -> std::io::Result<()>;

    /// Removes what an engine that died has left of builds. Called once, before the first build.
    async fn recover(&self) -> std::io::Result<()>;
}

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    pub id: BuildId,
    pub tenant: TenantName,
    pub app: AppName,
    /// The user ids that this build's containers run as; nobody else's while it runs.
    pub ids: IdRange,
    /// The source: a `.tar.gz` as the client sent it, of a size already bounded. Hostile.
    pub archive: PathBuf,
    /// The Python that the app is pinned to, if it was deployed before.
    pub python: Option<Interpreter>,
}

/// What to make anew.
#[derive(Debug, Clone)]
pub struct RebuildRequest {
    pub id: BuildId,
    pub tenant: TenantName,
    pub app: AppName,
    /// As a build's.
    pub ids: IdRange,
    /// The release's contents as they are. Its folders must stay until this has ended.
    pub built: Built,
}

/// What has become of a Python that an environment was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PythonState {
    /// It is as it was.
    Same,
    /// It was upgraded, or another of the same minor version has to do in its place.
    Replaced(Interpreter),
    /// There is none of its minor version any more. A sentence with the way out.
    Gone(String),
}

/// What a build made. All folders are read-only, belong to root and can be read by anyone who is
/// let into them. Beside the environment lies the lock that it was made from, for root alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Built {
    /// The unpacked source with its byte code: `/ace/code`.
    pub code: PathBuf,
    pub serving: Serving,
    /// With the rules that a release of files alone gets where it names none.
    pub app_yaml: AppYaml,
    /// What `code` takes on disk.
    pub code_size: Bytes,
}

/// A Python on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// `3.13.1`.
    pub version: String,
    /// The program, links resolved: `/usr/bin/python3.11`.
    pub program: PathBuf,
    /// `sys.base_prefix`: what must be visible for it to run, at its original path.
    pub prefix: PathBuf,
    /// Tells this program from a later one at its path, such as one with a security fix: a hash of
    /// what it says of itself and of its file's size and time.
    pub build: u64,
}

/// A Python that apps can have, and what serves them on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPython {
    pub interpreter: Interpreter,
    /// App servers with their versions: `uwsgi-2.0.30`.
    pub servers: Vec<String>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The tenant's doing: the message is theirs to read, with the installer's or the app's words
    /// already in the log.
    #[error("{0}")]
    Rejected(String),
    /// Ours or the machine's doing.
    #[error("the engine could not {doing}")]
    Engine {
        doing: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
