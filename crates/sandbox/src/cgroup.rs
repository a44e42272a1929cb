//! Control groups on cgroup v1, hybrid and v2, found at run time.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The groups of one container: `init` beside `app` below one folder, in each hierarchy there is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cgroup {
    /// Folders of the container's group, one in each hierarchy that it uses.
    pub folders: Vec<PathBuf>,
}
