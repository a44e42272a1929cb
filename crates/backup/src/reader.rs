//! Checks a backup, and unpacks one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, chownat, utimensat};
use tar::{Archive, Entry, EntryType};

use crate::hash::Hashed;
use crate::writer::leads_down;
use crate::{BackupError, FORMAT, FileSum, HEADER, Header, MANIFEST, Manifest, VolumeSum};

/// The most bytes of a header, of a manifest, and of what stands in memory for them.
const DOCUMENT_MAX: u64 = 256 << 20;
/// More than stands behind a manifest.
const END_MAX: u64 = 64 << 10;

/// Reads all of a backup and checks that it's whole. Returns what is in it.
pub fn check(backup: impl Read) -> Result<(Header, Manifest), BackupError> {
    read(backup, &mut Nowhere)
}

/// Unpacks a backup into the folder `into`, which holds nothing of the same names, and checks that it
/// is whole. What has been written is of no use where it's not.
pub fn unpack(backup: impl Read, into: &Path) -> Result<(Header, Manifest), BackupError> {
    let mut folder = Folder { root: into.to_owned(), made: BTreeMap::new() };
    let (header, manifest) = read(backup, &mut folder)?;
    folder.finish(&manifest.volumes)?;
    Ok((header, manifest))
}

/// What is done with the entries of a backup.
trait Target {
    fn folder(&mut self, name: &Path, like: &tar::Header) -> io::Result<()>;
    fn link(&mut self, name: &Path, to: &Path, like: &tar::Header) -> io::Result<()>;
    fn file(&mut self, name: &Path, content: &mut dyn Read, like: &tar::Header) -> io::Result<()>;
}

fn read(backup: impl Read, target: &mut dyn Target) -> Result<(Header, Manifest), BackupError> {
    let mut archive = Archive::new(GzDecoder::new(backup));
    let found = read_entries(&mut archive, target)?;
    // To the very end, where the stream has a sum of its own.
    let rest = io::copy(&mut archive.into_inner().take(END_MAX), &mut io::sink());
    match rest.map_err(broken_off)? {
        END_MAX => Err(BackupError::Damaged { what: "it goes on after its end".to_owned() }),
        _ => Ok(found),
    }
}

fn read_entries(
    archive: &mut Archive<impl Read>,
    target: &mut dyn Target,
) -> Result<(Header, Manifest), BackupError> {
    let mut entries = archive.entries().map_err(BackupError::Foreign)?;
    let first = entries.next().ok_or(BackupError::CutShort)?.map_err(BackupError::Foreign)?;
    let (header, sum) = read_header(first)?;
    let mut files = BTreeMap::from([(PathBuf::from(HEADER), sum)]);
    let mut folders = BTreeSet::new();
    for entry in entries {
        let mut entry = entry.map_err(broken_off)?;
        let name = entry.path().map_err(broken_off)?.into_owned();
        if name == Path::new(MANIFEST) {
            let (manifest, _) = document::<Manifest>(&mut entry)?;
            compare(&manifest, &files)?;
            return Ok((header, manifest));
        }
        let is_piece = name.starts_with("volumes");
        check_place(&name, is_piece, &folders)?;
        match take(&mut entry, &name, target)? {
            Some(sum) => {
                files.insert(name, sum);
            }
            None if entry.header().entry_type() == EntryType::Directory => {
                folders.insert(name);
            }
            None => {}
        }
    }
    Err(BackupError::CutShort)
}

fn read_header(mut entry: Entry<'_, impl Read>) -> Result<(Header, FileSum), BackupError> {
    let name = entry.path().map_err(BackupError::Foreign)?.into_owned();
    if name != Path::new(HEADER) {
        return Err(BackupError::Foreign(io::Error::other("it begins with another file")));
    }
    let (value, sum) = document::<serde_json::Value>(&mut entry)?;
    // Before the rest: another format may have another shape.
    let found = value["format"].as_u64().and_then(|format| u32::try_from(format).ok()).unwrap_or(0);
    if found != FORMAT {
        return Err(BackupError::Format { found });
    }
    let header = serde_json::from_value(value);
    Ok((header.map_err(|error| BackupError::Foreign(error.into()))?, sum))
}

/// Hands one entry on; a file's sum comes back.
fn take(
    entry: &mut Entry<'_, impl Read>,
    name: &Path,
    target: &mut dyn Target,
) -> Result<Option<FileSum>, BackupError> {
    let failed = |source| BackupError::Write { path: name.to_owned(), source };
    let like = entry.header().clone();
    match like.entry_type() {
        EntryType::Directory => target.folder(name, &like).map_err(failed)?,
        EntryType::Symlink => {
            let to = entry.link_name().map_err(broken_off)?.map(|to| to.into_owned());
            let to = to.ok_or_else(|| damaged(name, "leads nowhere"))?;
            target.link(name, &to, &like).map_err(failed)?;
        }
        EntryType::Regular => {
            let mut content = Guarded { inner: Hashed::new(entry), broken: None };
            let written = target.file(name, &mut content, &like);
            if let Some(error) = content.broken {
                return Err(broken_off(error));
            }
            written.map_err(failed)?;
            return Ok(Some(content.inner.sum()));
        }
        _ => return Err(damaged(name, "is of an unknown kind")),
    }
    Ok(None)
}

/// A reader whose own failures are told from those of whom it's read for.
struct Guarded<R> {
    inner: R,
    broken: Option<io::Error>,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read(into).map_err(|error| {
            let kind = error.kind();
            self.broken = Some(error);
            kind.into()
        })
    }
}

/// Nothing is written through a link, or outside: each entry's folder came before it, as a folder.
fn check_place(
    name: &Path,
    is_piece: bool,
    folders: &BTreeSet<PathBuf>,
) -> Result<(), BackupError> {
    let parent = name.parent().unwrap_or(Path::new(""));
    let is_known = is_piece || parent == Path::new("") || folders.contains(parent);
    match leads_down(name) && is_known {
        true => Ok(()),
        false => Err(damaged(name, "stands in no folder of it")),
    }
}

fn compare(manifest: &Manifest, files: &BTreeMap<PathBuf, FileSum>) -> Result<(), BackupError> {
    for (name, sum) in &manifest.files {
        match files.get(name) {
            None => return Err(damaged(name, "is missing")),
            Some(found) if found != sum => return Err(damaged(name, "is not what it was")),
            Some(_) => {}
        }
    }
    match files.keys().find(|name| !manifest.files.contains_key(*name)) {
        Some(name) => Err(damaged(name, "does not belong to it")),
        None => Ok(()),
    }
}

fn document<T: serde::de::DeserializeOwned>(
    entry: &mut Entry<'_, impl Read>,
) -> Result<(T, FileSum), BackupError> {
    let mut content = Hashed::new(entry.take(DOCUMENT_MAX));
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).map_err(broken_off)?;
    let value = serde_json::from_slice(&bytes);
    Ok((value.map_err(|error| BackupError::Foreign(error.into()))?, content.sum()))
}

fn damaged(name: &Path, what: &str) -> BackupError {
    BackupError::Damaged { what: format!("{} {what}", name.display()) }
}

/// A stream that ends early, or does not unpack.
fn broken_off(error: io::Error) -> BackupError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::CutShort,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
            BackupError::Damaged { what: error.to_string() }
        }
        _ => BackupError::Read(error),
    }
}

/// Reads files, and keeps nothing.
struct Nowhere;

impl Target for Nowhere {
    fn folder(&mut self, _: &Path, _: &tar::Header) -> io::Result<()> {
        Ok(())
    }

    fn link(&mut self, _: &Path, _: &Path, _: &tar::Header) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, _: &Path, content: &mut dyn Read, _: &tar::Header) -> io::Result<()> {
        io::copy(content, &mut io::sink()).map(drop)
    }
}

/// Unpacks into a folder.
struct Folder {
    root: PathBuf,
    /// The folders that were made, and how they are to be in the end.
    made: BTreeMap<PathBuf, tar::Header>,
}

impl Folder {
    /// Sets what could not be set while something was still written there, and waits for the disk.
    fn finish(&self, volumes: &BTreeMap<PathBuf, VolumeSum>) -> Result<(), BackupError> {
        for (name, volume) in volumes {
            let path = self.root.join(name);
            let failed = |source| BackupError::Write { path: path.clone(), source };
            let file = piece_of(&path).map_err(failed)?;
            file.set_len(volume.size).map_err(failed)?;
        }
        // The deepest first: a folder's time changes with what is made in it.
        for (name, like) in self.made.iter().rev() {
            let path = self.root.join(name);
            adorn(&path, like).map_err(|source| BackupError::Write { path, source })?;
        }
        let failed = |source| BackupError::Write { path: self.root.clone(), source };
        let root = File::open(&self.root).map_err(failed)?;
        rustix::fs::syncfs(&root).map_err(|error| failed(error.into()))
    }
}

impl Target for Folder {
    fn folder(&mut self, name: &Path, like: &tar::Header) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(self.root.join(name))?;
        self.made.insert(name.to_owned(), like.clone());
        Ok(())
    }

    fn link(&mut self, name: &Path, to: &Path, like: &tar::Header) -> io::Result<()> {
        let path = self.root.join(name);
        std::os::unix::fs::symlink(to, &path)?;
        adorn(&path, like)
    }

    fn file(&mut self, name: &Path, content: &mut dyn Read, like: &tar::Header) -> io::Result<()> {
        if let Some((volume, offset)) = piece(name) {
            fs::create_dir_all(self.root.join("volumes"))?;
            let mut file = piece_of(&self.root.join(volume))?;
            file.seek(SeekFrom::Start(offset))?;
            return io::copy(content, &mut file).map(drop);
        }
        let path = self.root.join(name);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        io::copy(content, &mut file)?;
        file.flush()?;
        adorn(&path, like)
    }
}

/// The volume and the offset that `volumes/shop.img/0000000000004096` names.
fn piece(name: &Path) -> Option<(&Path, u64)> {
    let volume = name.parent().filter(|volume| volume.parent() == Some(Path::new("volumes")))?;
    let offset = std::str::from_utf8(name.file_name()?.as_bytes()).ok()?.parse().ok()?;
    Some((volume, offset))
}

fn piece_of(volume: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(volume)
}

/// Gives `path` the owner, mode and time that `like` says.
fn adorn(path: &Path, like: &tar::Header) -> io::Result<()> {
    let id = |id: io::Result<u64>| u32::try_from(id?).map_err(io::Error::other);
    let (uid, gid) = (Uid::from_raw(id(like.uid())?), Gid::from_raw(id(like.gid())?));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if like.entry_type() != EntryType::Symlink {
        fs::set_permissions(path, fs::Permissions::from_mode(like.mode()? & 0o7777))?;
    }
    let seconds = i64::try_from(like.mtime()?).map_err(io::Error::other)?;
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
