//! Files of releases as they are sent, kept between requests: the contents of small ones, the
//! descriptors of large ones.
//!
//! The files of a release never change, so nothing is looked at again; a release's files are dropped
//! when its folder is. What is not there is not kept: there is no end to it.

use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;

use ace_types::Coding;
use ace_types::media_type::{is_compressible, media_type};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use quick_cache::{Equivalent, Weighter, sync::Cache};
use tokio::task::spawn_blocking;

use crate::accept_encoding::Accepted;
use crate::body::Content;
use crate::conditional::{Part, Version, http_date};
use crate::files::{Entry, Folder, OpenFile, Wait, must_wait};

/// The files of all releases that have been asked for lately.
pub struct FileCache {
    files: Arc<Cache<Key, Arc<ServedFile>, Weight>>,
}

/// A release's folder, and its files in a [`FileCache`].
#[derive(Debug)]
pub struct CachedFolder {
    folder: Arc<Folder>,
    number: u64,
    files: Arc<Cache<Key, Arc<ServedFile>, Weight>>,
}

/// What a path leads to.
#[derive(Debug)]
pub enum Found {
    File(Arc<ServedFile>),
    Folder,
}

/// A file with its compressed siblings.
#[derive(Debug)]
pub struct ServedFile {
    /// `None` where its name does not tell.
    pub media_type: Option<HeaderValue>,
    plain: Variant,
    encoded: Vec<(Coding, Variant)>,
}

/// A file, in one coding.
#[derive(Debug)]
pub struct Variant {
    pub version: Version,
    pub etag: HeaderValue,
    pub last_modified: Option<HeaderValue>,
    /// As `Content-Length` has it.
    pub length: HeaderValue,
    content: Held,
}

#[derive(Debug)]
enum Held {
    InMemory(Bytes),
    Open(OpenFile),
}

/// What all kept files may weigh together.
const WEIGHT_MAX: u64 = 64 << 20;

/// What a file weighs beside its content, and what a descriptor does: a thousand of them are kept.
const ENTRY_WEIGHT: u64 = 512;
const DESCRIPTOR_WEIGHT: u64 = 64 << 10;

/// The largest file that is kept in memory. The kernel sends larger ones from the page cache, where the connection
/// lets it: that takes a call more, and spares a copy.
const SMALL_BYTES_MAX: u64 = 16 << 10;

impl Default for FileCache {
    fn default() -> Self {
        Self { files: Arc::new(Cache::with_weighter(4096, WEIGHT_MAX, Weight)) }
    }
}

impl FileCache {
    /// `folder`, whose files are kept here from now on. `number` is no other folder's.
    pub fn folder(&self, folder: Folder, number: u64) -> CachedFolder {
        CachedFolder { folder: Arc::new(folder), number, files: Arc::clone(&self.files) }
    }
}

impl CachedFolder {
    /// What is at `path`; `None` where nothing is that can be served. Never waits for a disk on this
    /// thread. Errors: as [`Folder::entry`].
    pub async fn find(&self, path: &[u8]) -> io::Result<Option<Found>> {
        if let Some(file) = self.files.get(&KeyRef { folder: self.number, path }) {
            return Ok(Some(Found::File(file)));
        }
        let found = match find(&self.folder, path, Wait::No) {
            Err(error) if must_wait(&error) => {
                let (folder, path) = (Arc::clone(&self.folder), path.to_vec());
                spawn_blocking(move || find(&folder, &path, Wait::ForDisk)).await??
            }
            found => found?,
        };
        if let Some(Found::File(file)) = &found {
            let key = Key { folder: self.number, path: path.into() };
            self.files.insert(key, Arc::clone(file));
        }
        Ok(found)
    }
}

impl Drop for CachedFolder {
    fn drop(&mut self) {
        self.files.retain(|key, _| key.folder != self.number);
    }
}

impl ServedFile {
    /// What suits a request with these headers, and its coding.
    pub fn suitable(&self, request: &HeaderMap) -> (Option<Coding>, &Variant) {
        if self.encoded.is_empty() {
            return (None, &self.plain);
        }
        let sizes = self.encoded.iter().map(|(coding, variant)| (*coding, variant.version.size));
        let best = Accepted::of(request).best(self.plain.version.size, sizes);
        let variant = self.encoded.iter().find(|(coding, _)| Some(*coding) == best);
        (best, variant.map_or(&self.plain, |(_, variant)| variant))
    }

    /// Whether what is sent depends on `Accept-Encoding`.
    pub fn varies(&self) -> bool {
        !self.encoded.is_empty()
    }

    fn weight(&self) -> u64 {
        let encoded = self.encoded.iter().map(|(_, variant)| variant);
        encoded.chain([&self.plain]).map(Variant::weight).sum()
    }
}

impl Variant {
    pub fn whole(&self) -> Content {
        match &self.content {
            Held::InMemory(bytes) => Content::Bytes(bytes.clone()),
            Held::Open(file) => Content::File(file.read(0, self.version.size)),
        }
    }

    pub fn part(&self, part: Part) -> Content {
        match &self.content {
            // Both ends lie within the size, which is small.
            Held::InMemory(bytes) => {
                Content::Bytes(bytes.slice(part.first as usize..=part.last as usize))
            }
            Held::Open(file) => Content::File(file.read(part.first, part.last + 1)),
        }
    }

    fn weight(&self) -> u64 {
        ENTRY_WEIGHT
            + match &self.content {
                Held::InMemory(bytes) => bytes.len() as u64,
                Held::Open(_) => DESCRIPTOR_WEIGHT,
            }
    }
}

/// Opens, and reads if it is small, what is at `path`, and its siblings.
fn find(folder: &Folder, path: &[u8], wait: Wait) -> io::Result<Option<Found>> {
    let file = match folder.entry(path, wait)? {
        None => return Ok(None),
        Some(Entry::Folder) => return Ok(Some(Found::Folder)),
        Some(Entry::File(file)) => file,
    };
    let media_type = media_type(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
    let mut encoded = Vec::new();
    if media_type.as_deref().is_some_and(is_compressible) {
        for coding in Coding::ALL {
            let sibling = [path, coding.suffix().as_bytes()].concat();
            if let Some(Entry::File(mut sibling)) = folder.entry(&sibling, wait)? {
                // What it says is as old as the file.
                sibling.version.modified = file.version.modified;
                encoded.push((coding, variant(sibling, wait)?));
            }
        }
    }
    let media_type = media_type.and_then(|text| HeaderValue::from_str(&text).ok());
    let file = ServedFile { media_type, plain: variant(file, wait)?, encoded };
    Ok(Some(Found::File(Arc::new(file))))
}

fn variant(file: OpenFile, wait: Wait) -> io::Result<Variant> {
    let version = file.version.clone();
    let header = |text: String| HeaderValue::try_from(text).ok();
    Ok(Variant {
        etag: header(version.etag.clone()).ok_or(io::ErrorKind::InvalidData)?,
        last_modified: http_date(version.modified).and_then(header),
        length: HeaderValue::from(version.size),
        content: match version.size <= SMALL_BYTES_MAX {
            true => Held::InMemory(file.content(wait)?),
            false => Held::Open(file),
        },
        version,
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    folder: u64,
    path: Box<[u8]>,
}

/// A [`Key`] that is looked for.
struct KeyRef<'a> {
    folder: u64,
    path: &'a [u8],
}

impl Hash for KeyRef<'_> {
    /// As [`Key`] does.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folder.hash(state);
        self.path.hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.folder == key.folder && *self.path == *key.path
    }
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Arc<ServedFile>> for Weight {
    fn weight(&self, key: &Key, file: &Arc<ServedFile>) -> u64 {
        key.path.len() as u64 + file.weight()
    }
}

impl std::fmt::Debug for FileCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileCache").field("files", &self.files.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(cache: &FileCache, number: u64) -> (tempfile::TempDir, CachedFolder) {
        let path = tempfile::tempdir().unwrap();
        for (name, content) in
            [("a.css", "body{}"), ("a.css.gz", "gz"), ("a.png", "png"), ("a.png.gz", "gz")]
        {
            std::fs::write(path.path().join(name), content).unwrap();
        }
        std::fs::write(path.path().join("large.bin"), vec![7; SMALL_BYTES_MAX as usize + 1])
            .unwrap();
        let folder = cache.folder(Folder::open(path.path()).unwrap(), number);
        (path, folder)
    }

    async fn file(folder: &CachedFolder, path: &str) -> Arc<ServedFile> {
        match folder.find(path.as_bytes()).await.unwrap() {
            Some(Found::File(file)) => file,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_file_is_read_once_for_each_release() {
        let cache = FileCache::default();
        let ((path, old), (_other, new)) = (folder(&cache, 1), folder(&cache, 2));
        let first = file(&old, "a.css").await;
        std::fs::remove_file(path.path().join("a.css")).unwrap();
        assert!(Arc::ptr_eq(&first, &file(&old, "a.css").await));
        assert!(!Arc::ptr_eq(&first, &file(&new, "a.css").await));
        assert!(old.find(b"missing").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_release_that_goes_takes_its_files_along() {
        let cache = FileCache::default();
        let ((_one, old), (_other, new)) = (folder(&cache, 1), folder(&cache, 2));
        let large = Arc::downgrade(&file(&old, "large.bin").await);
        file(&new, "a.css").await;
        drop(old);
        assert_eq!((cache.files.len(), large.strong_count()), (1, 0));
    }

    #[tokio::test]
    async fn only_what_compresses_has_siblings() {
        let cache = FileCache::default();
        let (_path, folder) = folder(&cache, 1);
        assert!(file(&folder, "a.css").await.varies());
        assert!(!file(&folder, "a.png").await.varies());
        assert!(!file(&folder, "a.css.gz").await.varies());
    }

    #[tokio::test]
    async fn large_files_weigh_a_descriptor() {
        let cache = FileCache::default();
        let (_path, folder) = folder(&cache, 1);
        let weight = file(&folder, "large.bin").await.weight();
        assert!((DESCRIPTOR_WEIGHT..2 * DESCRIPTOR_WEIGHT).contains(&weight));
    }
}
