//! The file that a backup is: how it's written, checked and unpacked.
//!
//! A gzipped tar. Its first entry says whose it is ([`Header`]), its last one names every file with its
//! size and hash ([`Manifest`]): a backup that was cut short has no last entry. Files of volumes, which
//! are mostly holes, are kept as pieces: `volumes/shop.img/0000000000004096` is what stands at that
//! offset.
//!
//! Not here: what belongs in a backup (`control`), and what is done with one (`cli`, `ace`).

#![forbid(unsafe_code)]

mod hash;
mod reader;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use reader::{check, unpack};
pub use writer::Writer;

/// The version of the format that this program writes and reads.
pub const FORMAT: u32 = 1;
/// The engine's rows in a backup: a [`Row`] a line.
pub const ROWS: &str = "rows.jsonl";

const HEADER: &str = "backup.json";
const MANIFEST: &str = "manifest.json";

/// Whose backup it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    /// The program that wrote it.
    pub version: String,
    pub made_at: Timestamp,
    /// The data folder that it was made of, whose path stands in rows.
    pub data: PathBuf,
}

/// One row of the engine's store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub key: String,
    pub value: serde_json::Value,
}

/// All that a whole backup holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub apps: u64,
    pub releases: u64,
    /// By their paths in the backup, pieces of volumes too.
    pub files: BTreeMap<PathBuf, FileSum>,
    /// By their paths in the data folder.
    pub volumes: BTreeMap<PathBuf, VolumeSum>,
}

/// A file's content in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    pub size: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A volume's size, and what its backup cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSum {
    /// With its holes.
    pub size: u64,
    /// For so long it could not be written.
    pub paused_ms: u64,
}

impl Manifest {
    /// The bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }
}

/// Why a backup could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("it is no backup of an engine")]
    Foreign(#[source] io::Error),
    #[error(
        "it is of format {found}, and this program reads format {FORMAT}; use the `ace` that made it, or a newer one"
    )]
    Format { found: u32 },
    #[error("it was cut short: its end is missing")]
    CutShort,
    #[error("it is damaged: {what}")]
    Damaged { what: String },
    #[error("it could not be read to its end")]
    Read(#[source] io::Error),
    #[error("could not write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}
