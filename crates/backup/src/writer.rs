//! Writes a backup as a stream.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{OFlags, SeekFrom as Extent};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header as TarHeader};

use crate::hash::Hashed;
use crate::{HEADER, Header, MANIFEST, Manifest, VolumeSum};

/// The most of a volume that is one piece.
const PIECE_MAX: u64 = 64 << 20;

/// A backup that is being written. Without [`Writer::finish`] it's no whole one.
pub struct Writer<W: Write> {
    tar: Builder<GzEncoder<W>>,
    manifest: Manifest,
    /// Folders that stand in it.
    folders: BTreeSet<PathBuf>,
}

impl<W: Write> Writer<W> {
    /// Begins a backup on `out`.
    pub fn new(out: W, header: &Header) -> io::Result<Self> {
        let tar = Builder::new(GzEncoder::new(out, Compression::fast()));
        let mut writer = Self { tar, manifest: Manifest::default(), folders: BTreeSet::new() };
        writer.add_bytes(Path::new(HEADER), &serde_json::to_vec(header)?)?;
        Ok(writer)
    }

    /// Adds a small file that is `content`, for root alone.
    pub fn add_bytes(&mut self, name: &Path, content: &[u8]) -> io::Result<()> {
        self.append(private(), name, content.len() as u64, content)
    }

    /// Adds the file or folder `path` as `name`, with all in it; links as links.
    ///
    /// Nothing in it may change meanwhile.
    pub fn add_tree(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut left = vec![(path.to_owned(), name.to_owned())];
        while let Some((path, name)) = left.pop() {
            let found = fs::symlink_metadata(&path).map_err(|error| named(error, &path))?;
            self.add_parents(&path, &name)?;
            if found.is_dir() {
                self.add_folder(&found, &name)?;
                for entry in fs::read_dir(&path)? {
                    let entry = entry?;
                    left.push((entry.path(), name.join(entry.file_name())));
                }
            } else if found.is_symlink() {
                self.add_link(&path, &found, &name)?;
            } else if found.is_file() {
                self.add_file(&path, &name)?;
            }
            // Sockets and the like are of no use to anybody later.
        }
        Ok(())
    }

    /// Adds the volume `path` as `name`: what is in it, without its holes.
    pub fn add_volume(&mut self, path: &Path, name: &Path, paused: Duration) -> io::Result<()> {
        let mut file = open(path)?;
        let size = file.metadata()?.len();
        let mut at = 0;
        while let Some((start, end)) = data_from(&file, at, size)? {
            let end = end.min(start + PIECE_MAX);
            file.seek(SeekFrom::Start(start))?;
            let piece = name.join(format!("{start:016}"));
            self.append(private(), &piece, end - start, (&file).take(end - start))?;
            at = end;
        }
        let paused_ms = u64::try_from(paused.as_millis()).unwrap_or(u64::MAX);
        self.manifest.volumes.insert(name.to_owned(), VolumeSum { size, paused_ms });
        Ok(())
    }

    /// Ends the backup of so many apps and releases: from here on it's whole.
    pub fn finish(mut self, apps: u64, releases: u64) -> io::Result<W> {
        let manifest = Manifest { apps, releases, ..std::mem::take(&mut self.manifest) };
        self.add_bytes(Path::new(MANIFEST), &serde_json::to_vec(&manifest)?)?;
        self.tar.into_inner()?.finish()
    }

    /// Adds the folders that lead to `name`, as they lead to `path`.
    fn add_parents(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let pairs = path.ancestors().zip(name.ancestors()).skip(1);
        for (path, name) in pairs.take_while(|(_, name)| name.components().next().is_some()) {
            if !self.folders.contains(name) {
                missing.push((path.to_owned(), name.to_owned()));
            }
        }
        for (path, name) in missing.into_iter().rev() {
            self.add_folder(&fs::symlink_metadata(&path)?, &name)?;
        }
        Ok(())
    }

    fn add_folder(&mut self, found: &Metadata, name: &Path) -> io::Result<()> {
        if self.folders.insert(name.to_owned()) {
            let mut header = like(found, EntryType::Directory);
            header.set_size(0);
            self.tar.append_data(&mut header, name, io::empty())?;
        }
        Ok(())
    }

    fn add_link(&mut self, path: &Path, found: &Metadata, name: &Path) -> io::Result<()> {
        let target = fs::read_link(path)?;
        let mut header = like(found, EntryType::Symlink);
        header.set_size(0);
        self.tar.append_link(&mut header, name, target)
    }

    fn add_file(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let file = open(path)?;
        let found = file.metadata()?;
        self.append(like(&found, EntryType::Regular), name, found.len(), &file)
    }

    /// Adds `size` bytes of `content`.
    fn append(
        &mut self,
        mut header: TarHeader,
        name: &Path,
        size: u64,
        content: impl Read,
    ) -> io::Result<()> {
        header.set_size(size);
        let mut content = Hashed::new(content.take(size));
        self.tar.append_data(&mut header, name, &mut content)?;
        let sum = content.sum();
        if sum.size != size {
            return Err(io::Error::other(format!(
                "{} became shorter while it was read",
                name.display()
            )));
        }
        self.manifest.files.insert(name.to_owned(), sum);
        Ok(())
    }
}

/// The entry of a file for root alone.
fn private() -> TarHeader {
    let mut header = TarHeader::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// An entry with the owner, mode and time of what was `found`.
fn like(found: &Metadata, kind: EntryType) -> TarHeader {
    let mut header = TarHeader::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.mode() & 0o7777);
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header
}

fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut options = OpenOptions::new();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    options.read(true).custom_flags(flags).open(path).map_err(|error| named(error, path))
}

/// The next stretch of `file` from `at` on that is no hole.
fn data_from(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, Extent::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, Extent::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Whether `name` is a way down from a folder, and nowhere else.
pub(crate) fn leads_down(name: &Path) -> bool {
    let normal = |part: Component<'_>| matches!(part, Component::Normal(part) if !is_odd(part));
    name.components().next().is_some() && name.components().all(normal)
}

fn is_odd(part: &OsStr) -> bool {
    part.as_bytes().contains(&0)
}
