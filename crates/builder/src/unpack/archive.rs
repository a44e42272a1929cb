//! Reads tar, plain or gzipped, and hands its entries to a [`Tree`].
//!
//! Extension headers (GNU long names, pax records) are read here and not by the `tar` crate, which
//! would hold any size of them in memory. Where two of them disagree, or one says what another tar
//! program could understand differently, the archive is refused.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::path::{RelativePath, unfit};
use super::tree::{NewFile, Tree};
use super::{ENTRIES_MAX, PACKED_MAX, STREAM_MAX, UnpackError};
use crate::hash::hex;

/// The largest extension header. Its long names are far smaller; foreign attributes may be this large.
const EXTENSION_MAX: u64 = 1 << 20;
/// The first bytes of a gzip file.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Unpacks `packed` into `tree`. Returns the SHA-256 of what it holds, in hexadecimal.
pub fn unpack(packed: impl Read, tree: &mut Tree) -> Result<String, UnpackError> {
    let mut packed = BufReader::with_capacity(64 * 1024, Bounded::new(packed, PACKED_MAX.0));
    let gzipped = packed.fill_buf().map_err(damaged)?.starts_with(GZIP);
    let plain: Box<dyn Read> =
        if gzipped { Box::new(MultiGzDecoder::new(packed)) } else { Box::new(packed) };
    let mut archive = tar::Archive::new(Bounded::new(plain, STREAM_MAX.0));
    let mut hash = Sha256::new();
    let mut extension = Extension::default();
    let mut headers = 0;
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        headers += 1;
        // Extension headers count as well, or an archive of nothing but them would have no bound.
        if headers > 4 * ENTRIES_MAX {
            return Err(UnpackError::Entries);
        }
        if extension.takes(&mut entry)? {
            continue;
        }
        let member = Member::new(entry.header(), std::mem::take(&mut extension))?;
        member.write(&mut entry, tree, &mut hash)?;
    }
    // A gzip file's checksum comes last: it tells a whole archive from one that was cut off.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    Ok(hex(&hash.finalize()))
}

/// One entry, understood.
struct Member {
    /// `None` for the root itself.
    path: Option<RelativePath>,
    kind: Kind,
    modified: u64,
}

enum Kind {
    Folder,
    File { executable: bool },
    SymbolicLink { target: Vec<u8> },
    HardLink { target: RelativePath },
}

impl Member {
    fn new(header: &tar::Header, extension: Extension) -> Result<Self, UnpackError> {
        let name = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let target =
            extension.target.or_else(|| header.link_name_bytes().map(|target| target.into_owned()));
        let size = header.entry_size().map_err(damaged)?;
        if extension.size.is_some_and(|other| other != size) {
            return Err(unfit(&name, "has two sizes"));
        }
        let path = RelativePath::parse(&name)?;
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Folder,
            // Before there was a type for folders, they were files with a slash at the end.
            EntryType::Regular if name.ends_with(b"/") && size == 0 => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => {
                Kind::File { executable: header.mode().map_err(damaged)? & 0o100 != 0 }
            }
            EntryType::Symlink => Kind::SymbolicLink { target: target.unwrap_or_default() },
            EntryType::Link => {
                let target = RelativePath::parse(&target.unwrap_or_default())?;
                Kind::HardLink {
                    target: target.ok_or_else(|| unfit(&name, "is a hard link to nothing"))?,
                }
            }
            EntryType::Char | EntryType::Block => return Err(unfit(&name, "is a device")),
            EntryType::Fifo => return Err(unfit(&name, "is a named pipe")),
            EntryType::GNUSparse => return Err(unfit(&name, "is a sparse file")),
            _ => return Err(unfit(&name, "is of an unknown kind")),
        };
        Ok(Self { path, kind, modified: header.mtime().unwrap_or(0) })
    }

    fn write(
        &self,
        content: &mut impl Read,
        tree: &mut Tree,
        hash: &mut Sha256,
    ) -> Result<(), UnpackError> {
        let Some(path) = &self.path else {
            return match self.kind {
                Kind::Folder => Ok(()),
                _ => Err(unfit(b".", "is no folder")),
            };
        };
        self.add_to(hash, path);
        match &self.kind {
            Kind::Folder => tree.folder(path),
            Kind::File { executable } => {
                let mut content = Hashed { content, hash, length: 0 };
                let (executable, modified) = (*executable, self.modified);
                tree.file(NewFile { path, executable, modified, content: &mut content })?;
                let length = content.length;
                hash.update(length.to_le_bytes());
                Ok(())
            }
            Kind::SymbolicLink { target } => tree.symbolic_link(path, target),
            Kind::HardLink { target } => tree.hard_link(path, target),
        }
    }

    /// Every field ends in a byte that can't stand in it, so no two archives hash alike.
    fn add_to(&self, hash: &mut Sha256, path: &RelativePath) {
        let (kind, target) = match &self.kind {
            Kind::Folder => (b'd', Vec::new()),
            Kind::File { executable: false } => (b'f', Vec::new()),
            Kind::File { executable: true } => (b'x', Vec::new()),
            Kind::SymbolicLink { target } => (b's', target.clone()),
            Kind::HardLink { target } => (b'h', target.to_bytes()),
        };
        hash.update([kind]);
        hash.update(path.to_bytes());
        hash.update([0]);
        hash.update(target);
        hash.update([0]);
    }
}

/// What extension headers said about the entry that follows them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extension {
    /// Reads `entry` if it is an extension header; returns whether it was one.
    fn takes<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool, UnpackError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => once(&mut self.path, long_name(entry)?)?,
            EntryType::GNULongLink => once(&mut self.target, long_name(entry)?)?,
            EntryType::XHeader => self.read_records(&read_extension(entry)?)?,
            EntryType::XGlobalHeader => {
                let mut global = Self::default();
                global.read_records(&read_extension(entry)?)?;
                if global.path.is_some() || global.target.is_some() || global.size.is_some() {
                    return Err(contradiction("gives every entry the same name or size"));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads pax records, `LENGTH KEY=VALUE\n` one after the other.
    ///
    /// Source: <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html>.
    fn read_records(&mut self, mut records: &[u8]) -> Result<(), UnpackError> {
        let malformed = || contradiction("has a malformed pax record");
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = number(&records[..space]).ok_or_else(malformed)?;
            let length = usize::try_from(length).map_err(|_| malformed())?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &records[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            self.read_record(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn read_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), UnpackError> {
        match key {
            b"path" => once(&mut self.path, value.to_vec()),
            b"linkpath" => once(&mut self.target, value.to_vec()),
            b"size" => {
                let size = number(value).ok_or_else(|| contradiction("has a malformed size"))?;
                once(&mut self.size, size)
            }
            _ if key.starts_with(b"GNU.sparse") => Err(contradiction("holds a sparse file")),
            // Times, owners, attributes: not for us.
            _ => Ok(()),
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), UnpackError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(contradiction("names one entry twice")),
    }
}

fn long_name<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, UnpackError> {
    let mut name = read_extension(entry)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn read_extension<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, UnpackError> {
    if entry.size() > EXTENSION_MAX {
        return Err(contradiction("has an extension header larger than 1 MiB"));
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content).map_err(damaged)?;
    if content.len() as u64 != entry.size() {
        return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(content)
}

fn number(digits: &[u8]) -> Option<u64> {
    let fits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if fits { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

fn contradiction(wrong: &str) -> UnpackError {
    UnpackError::Source(format!("the archive {wrong}; make it with a usual tar program"))
}

/// What reading an archive fails with; a bound that was reached names itself.
fn damaged(error: io::Error) -> UnpackError {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<BoundReached>()) {
        Some(BoundReached { max }) if *max == PACKED_MAX.0 => UnpackError::Packed,
        Some(_) => UnpackError::Content,
        None => UnpackError::Damaged(error),
    }
}

/// A reader that fails once more than a number of bytes were read.
struct Bounded<R> {
    inner: R,
    left: u64,
    max: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("longer than {max} bytes")]
struct BoundReached {
    max: u64,
}

impl<R: Read> Bounded<R> {
    fn new(inner: R, max: u64) -> Self {
        Self { inner, left: max, max }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| io::Error::other(BoundReached { max: self.max }))?;
        Ok(length)
    }
}

/// A reader that hashes what passes.
struct Hashed<'a, R> {
    content: &'a mut R,
    hash: &'a mut Sha256,
    length: u64,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.content.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_an_error_and_not_an_end() {
        let read = |max| Bounded::new(&b"12345"[..], max).read_to_end(&mut Vec::new());
        assert_eq!(read(5).unwrap(), 5);
        assert!(matches!(damaged(read(4).unwrap_err()), UnpackError::Content));
    }
}
