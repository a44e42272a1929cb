//! A folder as the archive that `ace deploy` sends: a `.tar.gz` made while it is being sent.
//!
//! [`plan`] walks the folder and decides what is sent, so that what is too large is refused before
//! a byte of it leaves; [`stream`] reads and packs it. The order is that of the names, owners and
//! modes are made uniform, links are sent as links. What to leave out is decided in [`ignore`].
//!
//! The engine unpacks in a container and trusts none of this.

pub mod ignore;

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ace_types::Bytes;
use flate2::{Compression, GzBuilder};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::RequestBody;
use ignore::Rules;

/// What the engine takes, packed.
pub const PACKED_MAX: Bytes = Bytes::mib(200);
/// What the engine takes, unpacked.
pub const UNPACKED_MAX: Bytes = Bytes::mib(512);
/// Files, folders and links that the engine takes.
pub const ENTRIES_MAX: usize = 50_000;
/// Folders within folders that the engine takes.
pub const DEPTH_MAX: usize = 64;

/// Beyond this many entries the walk ends: this is not an app's folder.
const WALK_MAX: usize = 4 * ENTRIES_MAX;
const CHUNK_BYTES: usize = 64 << 10;
/// Packed chunks that wait for the engine to read them.
const QUEUED_CHUNKS: usize = 8;

/// What will be sent.
#[derive(Debug)]
pub struct Plan {
    root: PathBuf,
    entries: Vec<Entry>,
    /// What the files hold.
    pub size: Bytes,
    /// Sockets, pipes and devices, which no archive can hold. Relative.
    pub unpackable: Vec<PathBuf>,
}

/// One file, folder or link.
#[derive(Debug)]
struct Entry {
    /// Relative to the root.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File { size: u64 },
    Folder,
    Link,
}

/// Why a folder can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("{} is no folder; name the folder with your index.py", path.display())]
    NotAFolder { path: PathBuf },
    #[error("could not read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} changed while it was being sent; deploy again", path.display())]
    Changed { path: PathBuf },
    #[error("{}: {problem}", path.display())]
    Ignore { path: PathBuf, problem: ignore::RuleError },
    #[error("{} lies more than {DEPTH_MAX} folders deep", path.display())]
    Deep { path: PathBuf },
    #[error(
        "the folder is too large: it has {found}, an app can have {most}; the largest parts are \
         {largest}; list in .aceignore what the app does not need"
    )]
    Large { found: String, most: String, largest: String },
    #[error("packing the folder ended unexpectedly")]
    Ended,
    /// The engine has stopped reading. Its answer says why.
    #[error("the engine did not take the whole folder")]
    Unwanted,
}

/// Decides what of the folder `root` is sent.
pub fn plan(root: &Path) -> Result<Plan, PackError> {
    let root = fs::canonicalize(root)
        .map_err(|source| PackError::Read { path: root.to_owned(), source })?;
    if !root.is_dir() {
        return Err(PackError::NotAFolder { path: root });
    }
    let rules = read_rules(&root)?;
    let mut plan = Plan { root, entries: Vec::new(), size: Bytes(0), unpackable: Vec::new() };
    plan.walk(Path::new(""), 1, &rules)?;
    plan.check_size()?;
    Ok(plan)
}

/// Packs what `plan` says, as a request's body, and tells in the end whether it all went well.
///
/// An error ends the body before its end, so that the engine sees that the archive is not whole.
pub fn stream(plan: Plan) -> (RequestBody, JoinHandle<Result<(), PackError>>) {
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    let packing = tokio::task::spawn_blocking(move || {
        let failed = sender.clone();
        let result = plan.write_to(Chunks::new(sender));
        if result.is_err() {
            // A closed channel: the engine does not read any more and needs no sign.
            let _ = failed.blocking_send(Err(io::Error::other("the archive is not whole")));
        }
        result
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        let chunk: io::Result<bytes::Bytes> = receiver.recv().await?;
        Some((chunk.map(Frame::data), receiver))
    });
    (StreamBody::new(frames).boxed_unsync(), packing)
}

impl Plan {
    /// The folder, links resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many files will be sent.
    pub fn files(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.kind, Kind::File { .. })).count()
    }

    /// Takes in what lies in `folder`, which is relative to the root.
    fn walk(&mut self, folder: &Path, depth: usize, rules: &Rules) -> Result<(), PackError> {
        if depth > DEPTH_MAX {
            return Err(PackError::Deep { path: folder.to_owned() });
        }
        for name in names_in(&self.root.join(folder))? {
            let path = folder.join(name);
            let full = self.root.join(&path);
            let metadata = fs::symlink_metadata(&full)
                .map_err(|source| PackError::Read { path: full.clone(), source })?;
            if rules.ignore(&path, metadata.is_dir()) || is_virtual_environment(&full, &metadata) {
                continue;
            }
            let Some(kind) = kind_of(&metadata) else {
                self.unpackable.push(path);
                continue;
            };
            self.size.0 += if let Kind::File { size } = kind { size } else { 0 };
            self.entries.push(Entry { path: path.clone(), kind });
            if self.entries.len() >= WALK_MAX {
                return Ok(());
            }
            if kind == Kind::Folder {
                self.walk(&path, depth + 1, rules)?;
            }
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), PackError> {
        let large = |found: String, most: String| {
            Err(PackError::Large { found, most, largest: self.largest() })
        };
        if self.entries.len() >= WALK_MAX {
            return large(format!("{WALK_MAX} files and more"), ENTRIES_MAX.to_string());
        }
        if self.entries.len() > ENTRIES_MAX {
            return large(format!("{} files", self.entries.len()), ENTRIES_MAX.to_string());
        }
        if self.size > UNPACKED_MAX {
            return large(readable(self.size), readable(UNPACKED_MAX));
        }
        Ok(())
    }

    /// The three largest things that lie directly in the folder, as a person reads them.
    fn largest(&self) -> String {
        let mut parts: BTreeMap<&Path, (u64, usize)> = BTreeMap::new();
        for entry in &self.entries {
            let Some(top) = entry.path.iter().next() else { continue };
            let (bytes, count) = parts.entry(Path::new(top)).or_default();
            *count += 1;
            if let Kind::File { size } = entry.kind {
                *bytes += size;
            }
        }
        let mut parts: Vec<_> = parts.into_iter().collect();
        // A large number of files weighs as much as large files: both have their bound.
        let share = |(bytes, count): (u64, usize)| {
            let of_bytes = bytes.saturating_mul(1000) / UNPACKED_MAX.0;
            of_bytes.max(count as u64 * 1000 / ENTRIES_MAX as u64)
        };
        parts.sort_by_key(|(_, weight)| std::cmp::Reverse(share(*weight)));
        let named: Vec<String> = parts
            .iter()
            .take(3)
            .map(|(path, (bytes, count))| {
                format!("{} ({count} in number, {})", path.display(), readable(Bytes(*bytes)))
            })
            .collect();
        named.join(", ")
    }

    fn write_to(&self, chunks: Chunks) -> Result<(), PackError> {
        let gzip = GzBuilder::new().write(chunks, Compression::fast());
        let mut archive = tar::Builder::new(gzip);
        for entry in &self.entries {
            self.append(&mut archive, entry)?;
        }
        let end = |error| self.failed(error, &self.root);
        archive.into_inner().and_then(|gzip| gzip.finish()).and_then(Chunks::finish).map_err(end)
    }

    fn append(
        &self,
        archive: &mut tar::Builder<impl Write>,
        entry: &Entry,
    ) -> Result<(), PackError> {
        let path = self.root.join(&entry.path);
        let read = |source| PackError::Read { path: path.clone(), source };
        match entry.kind {
            Kind::Folder => {
                let mut header = header(tar::EntryType::Directory, 0, 0o755, mtime(&path)?);
                let added = archive.append_data(&mut header, &entry.path, io::empty());
                added.map_err(|error| self.failed(error, &path))
            }
            Kind::Link => {
                let target = fs::read_link(&path).map_err(read)?;
                let mut header = header(tar::EntryType::Symlink, 0, 0o777, mtime(&path)?);
                let added = archive.append_link(&mut header, &entry.path, target);
                added.map_err(|error| self.failed(error, &path))
            }
            Kind::File { .. } => {
                let (file, metadata) = open(&path).map_err(read)?;
                let mode = if metadata.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
                let size = metadata.len();
                let mut header = header(tar::EntryType::Regular, size, mode, seconds(&metadata));
                let mut exact = Exact { file, left: size };
                let added = archive.append_data(&mut header, &entry.path, &mut exact);
                added.map_err(|error| self.failed(error, &path))
            }
        }
    }

    /// What an error while `path` was packed means.
    fn failed(&self, error: io::Error, path: &Path) -> PackError {
        match error.kind() {
            io::ErrorKind::BrokenPipe => PackError::Unwanted,
            io::ErrorKind::UnexpectedEof => PackError::Changed { path: path.to_owned() },
            io::ErrorKind::FileTooLarge => PackError::Large {
                found: format!("over {} packed", readable(PACKED_MAX)),
                most: readable(PACKED_MAX),
                largest: self.largest(),
            },
            _ => PackError::Read { path: path.to_owned(), source: error },
        }
    }
}

/// Takes packed bytes and hands them on in chunks; refuses more than [`PACKED_MAX`].
struct Chunks {
    to: mpsc::Sender<io::Result<bytes::Bytes>>,
    chunk: Vec<u8>,
    taken: u64,
}

impl Chunks {
    fn new(to: mpsc::Sender<io::Result<bytes::Bytes>>) -> Self {
        Self { to, chunk: Vec::with_capacity(CHUNK_BYTES), taken: 0 }
    }

    fn finish(mut self) -> io::Result<()> {
        self.hand_on()
    }

    fn hand_on(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.to.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.taken += bytes.len() as u64;
        if self.taken > PACKED_MAX.0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.hand_on()?;
        }
        Ok(bytes.len())
    }

    /// Does nothing: a chunk goes when it is full, and the last one by [`Chunks::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of which exactly `left` more bytes are read: its header has already told its size.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut into[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// The rules of the folder's `.aceignore`, or the built-in ones alone.
fn read_rules(root: &Path) -> Result<Rules, PackError> {
    let path = root.join(ignore::FILE_NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(PackError::Read { path, source }),
    };
    Rules::parse(&text).map_err(|problem| PackError::Ignore { path, problem })
}

/// The names in `folder`, in order.
fn names_in(folder: &Path) -> Result<Vec<std::ffi::OsString>, PackError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect();
    let names: io::Result<Vec<_>> = read();
    let mut names = names.map_err(|source| PackError::Read { path: folder.to_owned(), source })?;
    names.sort();
    Ok(names)
}

/// The engine makes its own virtual environment; one of another machine would not work there.
fn is_virtual_environment(path: &Path, metadata: &Metadata) -> bool {
    metadata.is_dir() && path.join("pyvenv.cfg").is_file()
}

fn kind_of(metadata: &Metadata) -> Option<Kind> {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => Some(Kind::Folder),
        () if kind.is_symlink() => Some(Kind::Link),
        () if kind.is_file() => Some(Kind::File { size: metadata.len() }),
        () => None,
    }
}

/// Opens the regular file at `path`, though it may have become something else since it was seen.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // A link could lead out of the folder, and a pipe would make us wait for ever.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(io::Error::other("it is no longer a file")),
    }
}

fn mtime(path: &Path) -> Result<u64, PackError> {
    let metadata = fs::symlink_metadata(path);
    metadata
        .map(|found| seconds(&found))
        .map_err(|source| PackError::Read { path: path.to_owned(), source })
}

/// When the file changed last, in seconds since 1970; a time before that is 1970.
fn seconds(metadata: &Metadata) -> u64 {
    u64::try_from(metadata.mtime()).unwrap_or(0)
}

fn header(kind: tar::EntryType, size: u64, mode: u32, mtime: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(mtime);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A size to read rather than to copy: `3.4 MiB`.
pub fn readable(size: Bytes) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| size.0 >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", size.0 as f64 / (1u64 << shift) as f64),
        None => format!("{} bytes", size.0),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use flate2::read::GzDecoder;
    use tempfile::TempDir;

    use super::*;

    fn folder_of(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().expect("a temp folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    async fn packed(folder: &Path) -> Vec<u8> {
        let (body, packing) = stream(plan(folder).expect("a plan"));
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        packing.await.expect("no panic").expect("no error");
        bytes.to_vec()
    }

    /// `path kind text` of each entry.
    fn listed(packed: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(GzDecoder::new(packed));
        let entries = archive.entries().expect("an archive");
        let describe = |mut entry: tar::Entry<'_, _>| -> io::Result<String> {
            let path = entry.path()?.display().to_string();
            let kind = entry.header().entry_type();
            let mut text = entry.link_name()?.map_or(String::new(), |to| to.display().to_string());
            entry.read_to_string(&mut text)?;
            Ok(format!("{path} {kind:?} {text}"))
        };
        entries.map(|entry| entry.and_then(describe).expect("an entry")).collect()
    }

    #[tokio::test]
    async fn a_folder_is_packed_in_order_and_links_stay_links() {
        let folder = folder_of(&[("b.py", "b"), ("a/z.txt", "z"), ("index.py", "i")]);
        symlink("a/z.txt", folder.path().join("c")).expect("a link");
        assert_eq!(
            listed(&packed(folder.path()).await),
            [
                "a Directory ",
                "a/z.txt Regular z",
                "b.py Regular b",
                "c Symlink a/z.txt",
                "index.py Regular i"
            ]
        );
    }

    #[tokio::test]
    async fn the_same_folder_packs_to_the_same_bytes() {
        let folder = folder_of(&[("index.py", "i"), ("x/y", "z")]);
        assert_eq!(packed(folder.path()).await, packed(folder.path()).await);
    }

    #[tokio::test]
    async fn a_large_file_and_a_long_name_arrive_whole() {
        let (name, text) = ("n".repeat(200), "0123456789".repeat(100_000));
        let folder = folder_of(&[(&name, &text)]);
        assert_eq!(listed(&packed(folder.path()).await), [format!("{name} Regular {text}")]);
    }

    #[tokio::test]
    async fn what_no_app_needs_stays_here() {
        let folder = folder_of(&[
            ("index.py", ""),
            (".git/config", ""),
            ("pkg/__pycache__/a.pyc", ""),
            ("node_modules/left/pad.js", ""),
            ("env/pyvenv.cfg", ""),
            ("env/lib/site.py", ""),
            (".aceignore", "*.log\n"),
            ("pkg/debug.log", ""),
        ]);
        assert_eq!(
            listed(&packed(folder.path()).await),
            [".aceignore Regular *.log\n", "index.py Regular ", "pkg Directory "]
        );
    }

    #[test]
    fn sockets_are_named_and_left_out() {
        let folder = folder_of(&[("index.py", "")]);
        let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("app.sock"));
        let plan = plan(folder.path()).expect("a plan");
        assert_eq!(plan.unpackable, [PathBuf::from("app.sock")]);
        assert_eq!(plan.files(), 1);
    }

    #[test]
    fn a_folder_that_is_too_large_is_refused_with_its_largest_parts() {
        let folder = folder_of(&[("index.py", ""), ("videos/cat.mp4", ""), ("data.bin", "")]);
        let grow = |path: &str, size: Bytes| {
            let file = File::options().write(true).open(folder.path().join(path));
            file.expect("a file").set_len(size.0).expect("a sparse file");
        };
        grow("videos/cat.mp4", UNPACKED_MAX);
        grow("data.bin", Bytes::mib(3));
        let text = plan(folder.path()).expect_err("too large").to_string();
        assert!(
            text.contains("videos (2 in number, 512.0 MiB), data.bin (1 in number, 3.0 MiB)"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_file_that_shrinks_while_it_is_packed_ends_the_body_early() {
        let folder = folder_of(&[("index.py", "12345")]);
        let (file, metadata) = open(&folder.path().join("index.py")).expect("a file");
        File::create(folder.path().join("index.py")).expect("an empty file");
        let mut exact = Exact { file, left: metadata.len() };
        let error = exact.read_to_end(&mut Vec::new()).expect_err("too short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn an_unreadable_file_breaks_the_body() {
        let folder = folder_of(&[("index.py", ""), ("z", "")]);
        let plan = plan(folder.path()).expect("a plan");
        fs::remove_file(folder.path().join("z")).expect("a file");
        symlink("/etc/passwd", folder.path().join("z")).expect("a link");
        let (body, packing) = stream(plan);
        assert!(body.collect().await.is_err());
        let error = packing.await.expect("no panic").expect_err("a link in place of a file");
        assert!(matches!(error, PackError::Read { .. }), "{error}");
    }

    #[test]
    fn a_file_is_no_folder() {
        let folder = folder_of(&[("index.py", "")]);
        let error = plan(&folder.path().join("index.py")).expect_err("no folder");
        assert!(matches!(error, PackError::NotAFolder { .. }), "{error}");
    }
}
