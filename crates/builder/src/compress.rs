//! Makes compressed siblings of a release's static files, so that the gateway need not compress.
//!
//! Runs as a hidden command inside a container without network, as a user without rights. It is an
//! improvement and no more: what can't be compressed, or not in time, is left as it is.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ace_types::Coding;
use ace_types::media_type::{is_compressible, media_type};
use brotli::enc::BrotliEncoderParams;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::unpack::CODE;

/// Smaller ones fit into one packet anyway; larger ones would take long.
const FILE_BYTES: std::ops::RangeInclusive<u64> = 1024..=16 << 20;

/// How long all of it may take.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A sibling is kept if it has at most this share of the file's size.
const WORTHWHILE_PERCENT: u64 = 95;

/// Folders within each other.
const DEPTH_MAX: usize = 32;
const THREADS_MAX: usize = 4;

/// The hidden command: its arguments are files and folders, relative to [`CODE`]. Says what it did.
pub fn compress_main() -> ExitCode {
    let wanted = std::env::args().skip(2);
    let sum = compress_in(Path::new(CODE), wanted.map(PathBuf::from), Instant::now() + TIME_MAX);
    if sum.files > 0 {
        let Sum { files, before, after, .. } = sum;
        println!("static files compressed: {files}, to {} % of their size", after * 100 / before);
    }
    if sum.left_out > 0 {
        println!("static files left uncompressed for want of time: {}", sum.left_out);
    }
    ExitCode::SUCCESS
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    /// Files that have got a sibling.
    files: usize,
    /// Their bytes, and those of each one's smallest sibling.
    before: u64,
    after: u64,
    left_out: usize,
}

/// Compresses what is `wanted` below `root`, beginning no file after `end`.
fn compress_in(root: &Path, wanted: impl Iterator<Item = PathBuf>, end: Instant) -> Sum {
    let mut files = BTreeSet::new();
    for path in wanted {
        // A link may have led out of the code; what is there is not ours to write beside.
        if let Ok(path) = root.join(path).canonicalize()
            && path.starts_with(root)
        {
            collect(&path, 0, &mut files);
        }
    }
    let files: Vec<_> = files.into_iter().collect();
    let (next, left_out) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (count, before, after) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if Instant::now() >= end {
                left_out.fetch_add(1, Ordering::Relaxed);
            } else if let Some((size, smallest)) = compress(path) {
                count.fetch_add(1, Ordering::Relaxed);
                before.fetch_add(size, Ordering::Relaxed);
                after.fetch_add(smallest, Ordering::Relaxed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    Sum {
        files: count.into_inner(),
        before: before.into_inner(),
        after: after.into_inner(),
        left_out: left_out.into_inner(),
    }
}

/// Adds to `files` what is worth compressing at and below `path`. Follows no links and looks at
/// nothing whose name begins with a dot.
fn collect(path: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if metadata.is_file() {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let worth = media_type(name).is_some_and(|media_type| is_compressible(&media_type));
        if worth && FILE_BYTES.contains(&metadata.len()) {
            files.insert(path.to_owned());
        }
        return;
    }
    let Some(entries) = fs::read_dir(path).ok().filter(|_| depth < DEPTH_MAX) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            collect(&entry.path(), depth + 1, files);
        }
    }
}

/// Makes the siblings of one file. Returns its size and that of the smallest; `None` where none was
/// made.
fn compress(path: &Path) -> Option<(u64, u64)> {
    let content = fs::read(path).ok()?;
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    let size = content.len() as u64;
    let sizes = Coding::ALL.into_iter().filter_map(|coding| {
        let mut sibling = path.as_os_str().to_owned();
        sibling.push(coding.suffix());
        let sibling = PathBuf::from(sibling);
        if sibling.symlink_metadata().is_ok() {
            return None; // The app's own.
        }
        let encoded = encode(coding, &content).ok()?;
        let fits = encoded.len() as u64 * 100 <= size * WORTHWHILE_PERCENT;
        let written = fits && write(&sibling, &encoded, modified).is_ok();
        written.then_some(encoded.len() as u64)
    });
    Some((size, sizes.min()?))
}

fn encode(coding: Coding, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoded = Vec::new();
    match coding {
        Coding::Brotli => {
            // Levels above 9 take ten times as long for a twentieth of the size.
            let quality = if content.len() <= 1 << 20 { 9 } else { 5 };
            let parameters =
                BrotliEncoderParams { quality, size_hint: content.len(), ..Default::default() };
            brotli::BrotliCompress(&mut &*content, &mut encoded, &parameters)?;
        }
        Coding::Zstandard => encoded = compress_to_vec(content, CompressionLevel::Fastest),
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(&mut encoded, Compression::best());
            encoder.write_all(content)?;
            encoder.finish()?;
        }
    }
    Ok(encoded)
}

/// Writes a new file; leaves none behind that is incomplete.
fn write(path: &Path, content: &[u8], modified: std::time::SystemTime) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(path)?;
    let written = file.write_all(content).and_then(|()| file.set_modified(modified));
    written.inspect_err(|_| _ = fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let text = "body { color: red }\n".repeat(200);
        for name in ["s/a.css", "s/deep/b.js", "s/.hidden/c.css", "s/own.css", "other.css"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &text).unwrap();
        }
        fs::write(folder.path().join("s/own.css.br"), "own").unwrap();
        fs::write(folder.path().join("s/small.css"), "a{}").unwrap();
        fs::write(folder.path().join("s/picture.png"), text).unwrap();
        std::os::unix::fs::symlink("../other.css", folder.path().join("s/link.css")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("etc")).unwrap();
        folder
    }

    fn compress_folder(folder: &Path, wanted: &[&str], time: Duration) -> Sum {
        compress_in(folder, wanted.iter().map(PathBuf::from), Instant::now() + time)
    }

    fn siblings(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = [".", "s", "s/deep", "s/.hidden"]
            .iter()
            .flat_map(|folder_name| fs::read_dir(folder.join(folder_name)).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| [".br", ".zst", ".gz"].iter().any(|suffix| name.ends_with(suffix)))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_declared_and_compressible_gets_siblings() {
        let folder = folder();
        let sum = compress_folder(folder.path(), &["s/", "etc", "missing"], TIME_MAX);
        assert_eq!((sum.files, sum.left_out), (3, 0));
        assert!(sum.after * 10 < sum.before, "{sum:?}");
        let of = |name: &str| Coding::ALL.map(|coding| format!("{name}{}", coding.suffix()));
        let mut expected = [of("a.css"), of("b.js"), of("own.css")].concat();
        expected.sort();
        assert_eq!(siblings(folder.path()), expected);
        assert_eq!(fs::read(folder.path().join("s/own.css.br")).unwrap(), b"own");
        let again = compress_folder(folder.path(), &["s/"], TIME_MAX);
        assert_eq!(again, Sum::default());
    }

    #[test]
    fn siblings_hold_the_file_and_are_as_old() {
        let folder = folder();
        let path = folder.path().join("s/a.css");
        compress_folder(folder.path(), &["s/a.css"], TIME_MAX);
        let content = fs::read(&path).unwrap();
        let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        for coding in Coding::ALL {
            let sibling = path.with_file_name(format!("a.css{}", coding.suffix()));
            let (mut decoded, encoded) = (Vec::new(), fs::read(&sibling).unwrap());
            match coding {
                Coding::Brotli => brotli::BrotliDecompress(&mut &*encoded, &mut decoded).unwrap(),
                Coding::Zstandard => {
                    let mut decoder = ruzstd::decoding::StreamingDecoder::new(&*encoded).unwrap();
                    decoder.read_to_end(&mut decoded).map(drop).unwrap();
                }
                Coding::Gzip => {
                    let mut decoder = flate2::read::GzDecoder::new(&*encoded);
                    decoder.read_to_end(&mut decoded).map(drop).unwrap();
                }
            }
            assert_eq!(decoded, content, "{coding:?}");
            assert_eq!(modified(&sibling), modified(&path));
        }
    }

    #[test]
    fn without_time_nothing_is_begun() {
        let folder = folder();
        let sum = compress_folder(folder.path(), &["s/"], Duration::ZERO);
        assert_eq!((sum.files, sum.left_out), (0, 3));
        assert_eq!(siblings(folder.path()), ["own.css.br"]);
    }
}
