//! The first step of a build: a tenant's archive becomes a folder, and is looked over.
//!
//! All of it runs inside a container without network, as a user without rights: the archive is
//! whatever somebody chose to send. The engine only reads the one [`Report`] that [`unpack_main`]
//! prints. `archive` reads tar, `tree` writes files, `inspect`, `needs` and `procfile` look at what
//! was written.

mod archive;
mod inspect;
mod named_python;
mod needs;
mod path;
mod procfile;
mod tree;

use std::error::Error;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use ace_types::{AppYaml, Bytes, PythonRange, error_chain};
use serde::{Deserialize, Serialize};

pub use inspect::is_file;
pub use named_python::NamedPython;
pub use needs::Requirements;
pub use procfile::Procfile;
use tree::Tree;
pub use tree::open_beneath;

/// Where the code stands in every container.
pub const CODE: &str = "/ace/code";

/// The most an archive may unpack to, contents of files alone.
const CONTENT_MAX: Bytes = Bytes::mib(512);
/// The longest tar stream that is read: the contents, and a generous kilobyte of headers for each entry.
const STREAM_MAX: Bytes = Bytes(CONTENT_MAX.0 + ENTRIES_MAX * 1536);
/// The largest archive that is read.
const PACKED_MAX: Bytes = Bytes::mib(200);
/// The most files, folders and links, those that only appear within a path included.
const ENTRIES_MAX: u64 = 50_000;

/// The most that is put in a folder.
struct Bounds {
    /// Contents of files.
    content: Bytes,
    /// Files, folders and links.
    entries: u64,
}

/// What the hidden command says on its standard output: one JSON document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Report {
    Ok(Box<Inspection>),
    /// The tenant's archive can't be built. A sentence for the tenant.
    Rejected(String),
}

/// What there is in a source.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspection {
    pub app_yaml: AppYaml,
    pub requirements: Requirements,
    /// Files that could have asked for packages, and didn't count.
    pub ignored: Vec<String>,
    /// The Pythons that its `pyproject.toml` asks for, as packages write them.
    pub python: Option<String>,
    /// The one that it was written on.
    pub named_python: Option<NamedPython>,
    /// It is a project that is neither installed by its requirements nor has its metadata with it.
    pub undescribed: bool,
    /// There is a `manage.py`.
    pub manage_py: bool,
    pub procfile: Procfile,
    /// There is Python at its top, or what asks for it, such as a `requirements.txt`.
    pub has_python: bool,
    /// There is an `index.html` at its top.
    pub index_html: bool,
    /// SHA-256 of the paths, kinds and contents in the archive's order, in hexadecimal.
    pub source_hash: String,
    /// Files, folders and links.
    pub entries: u64,
}

impl Inspection {
    /// The Pythons that the app may run on: what `app.yaml` says goes first.
    pub fn python(&self) -> Option<PythonRange> {
        let project = self.python.as_deref().map(PythonRange::from_specifiers);
        // What can't be read there is for other tools.
        self.app_yaml.python.clone().or(project.and_then(Result::ok))
    }

    /// That its project asks for another Python than `version`, which `app.yaml` made it be, if so.
    pub fn python_of_project(&self, version: [u32; 3]) -> Option<String> {
        let text = self.python.as_deref()?;
        let range = PythonRange::from_specifiers(text).ok()?;
        (!range.contains(version)).then(|| {
            format!("its project is for Python {text}; \"python:\" in app.yaml goes before that")
        })
    }

    /// The minor version that it was written on, where nothing goes before that.
    pub fn named_python(&self) -> Option<(&NamedPython, PythonRange)> {
        let named = self.named_python.as_ref().filter(|_| self.app_yaml.python.is_none())?;
        Some((named, named.minor_version.parse().ok()?))
    }
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("the archive is damaged")]
    Damaged(#[source] io::Error),
    #[error("the archive is larger than {PACKED_MAX}")]
    Packed,
    #[error("the source is larger than {CONTENT_MAX}")]
    Content,
    #[error("the source has more than {ENTRIES_MAX} files and folders")]
    Entries,
    #[error("{path:?} {wrong}")]
    Unfit { path: String, wrong: &'static str },
    #[error("{0}")]
    Source(String),
    /// Not the archive's fault.
    #[error("could not write {path:?}")]
    Write { path: String, source: io::Error },
}

/// The hidden command: unpacks the archive on standard input into [`CODE`], prints a [`Report`].
///
/// Returns failure, with a sentence on standard error, where neither the archive nor the tenant is
/// to blame.
pub fn unpack_main() -> ExitCode {
    let report = match unpack_into(io::stdin().lock(), Path::new(CODE)) {
        Ok(inspection) => Report::Ok(Box::new(inspection)),
        Err(error @ UnpackError::Write { .. }) => return fail(&error),
        Err(error) => Report::Rejected(error_chain(&error)),
    };
    let written = serde_json::to_writer(io::stdout().lock(), &report)
        .map_err(io::Error::from)
        .and_then(|()| io::stdout().flush());
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Unpacks `packed`, a tar or gzipped tar, into the empty `folder`, and looks at the result.
pub fn unpack_into(packed: impl Read, folder: &Path) -> Result<Inspection, UnpackError> {
    let mut tree = Tree::open(folder, Bounds { content: CONTENT_MAX, entries: ENTRIES_MAX })?;
    let source_hash = archive::unpack(packed, &mut tree)?;
    tree.check_links()?;
    inspect::inspect(&tree, source_hash)
}

fn fail(error: &dyn Error) -> ExitCode {
    eprintln!("{}", error_chain(error));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests;
