//! What is on disk of an instance: `DATA/run/ID/instance.json`, written before it is acted on.
//!
//! An engine that starts reads these to find the containers that outlived the one before it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ace_api::{EndReason, InstanceSpec};
use ace_sandbox::process::ProcessRef;
use ace_types::InstanceId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One instance's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub spec: InstanceSpec,
    pub address: Ipv4Addr,
    /// Its init, once the launcher has reported it. `None`: it waits, or a launch is under way or never ended.
    pub process: Option<ProcessRef>,
    pub ever_ready: bool,
    pub stage: Stage,
    pub restarts: u32,
    pub crashes: u32,
    pub last_end: Option<EndReason>,
}

/// Where an instance was when its record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not ready yet, or on its way out.
    Unready,
    Ready {
        since: Timestamp,
    },
    /// It has ended, and starts again.
    Waiting {
        since: Timestamp,
        retry_at: Timestamp,
    },
}

/// The folder of one instance and the names in it.
#[derive(Debug, Clone)]
pub struct InstanceFolder {
    path: PathBuf,
}

impl InstanceFolder {
    pub fn new(run: &Path, id: &InstanceId) -> Self {
        Self { path: run.join(id.as_str()) }
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Where the app server listens.
    pub fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }
    /// Where init writes the app's output.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }
    /// Where init writes how it ended.
    pub fn exit(&self) -> PathBuf {
        self.path.join("exit")
    }
    fn record(&self) -> PathBuf {
        self.path.join("instance.json")
    }

    /// Makes the folder with its log folder. May be called twice.
    pub fn ensure(&self) -> io::Result<()> {
        fs::create_dir_all(self.log())
    }

    /// Whether the record is there; so it is where that can't be seen.
    pub fn has_record(&self) -> bool {
        !matches!(self.record().try_exists(), Ok(false))
    }

    /// Replaces the record, all or nothing, and waits until it is on disk.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let draft = self.path.join("instance.json.new");
        // It has the app's environment in it, for nobody's eyes but ours.
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        fs::rename(&draft, self.record())?;
        File::open(&self.path)?.sync_all()
    }

    /// The record; `None` where there is none, or none that this version can read.
    pub fn read(&self) -> io::Result<Option<Record>> {
        match fs::read(self.record()) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the folder with everything in it. May be called twice.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Every instance that has a folder in `run`.
pub fn list(run: &Path) -> io::Result<Vec<InstanceId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run)? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    Ok(found)
}
