//! Attacks on the unpacking, each an archive made by hand.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A tar, entry by entry, that the `tar` crate's own builder would refuse to make.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    /// An entry without content: a folder `5`, a link `2`, a hard link `1`, a device `3`…
    fn entry(self, kind: u8, path: &str, target: &str) -> Self {
        self.full(kind, path.as_bytes(), target.as_bytes(), 0o644, b"")
    }
    fn file(self, path: &str, content: &str) -> Self {
        self.full(b'0', path.as_bytes(), b"", 0o644, content.as_bytes())
    }
    fn full(mut self, kind: u8, path: &[u8], target: &[u8], mode: u32, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        bytes[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        bytes[157..157 + target.len()].copy_from_slice(target);
        bytes[156] = kind;
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    /// A pax header of `records`, for the entry after it.
    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut content = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|n| *n == rest + n.to_string().len()).unwrap_or(0);
            content += &format!("{length} {key}={value}\n");
        }
        self.full(b'x', b"pax", b"", 0o644, content.as_bytes())
    }
    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn app() -> Archive {
    Archive::default().file("index.py", "application = None\n")
}

fn unpack(archive: &[u8]) -> (TempDir, Result<Inspection, UnpackError>) {
    let folder = tempfile::tempdir().unwrap();
    let code = folder.path().join("code");
    fs::create_dir(&code).unwrap();
    fs::write(folder.path().join("outside"), "untouched").unwrap();
    let unpacked = unpack_into(archive, &code);
    assert_eq!(fs::read(folder.path().join("outside")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something was made outside");
    (folder, unpacked)
}

fn refusal(archive: Archive) -> String {
    let (_folder, unpacked) = unpack(&archive.end());
    error_chain(&unpacked.expect_err("it was taken"))
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(plain).unwrap();
    packed.finish().unwrap()
}

#[test]
fn an_app_is_unpacked_from_either_kind_of_archive() {
    let archive = app()
        .entry(b'5', "static/", "")
        .full(b'0', b"./bin/run", b"", 0o4777, b"#!/bin/sh\n")
        .file("requirements.txt", "flask\n")
        .entry(b'2', "link.py", "index.py")
        .entry(b'1', "hard.py", "index.py")
        .end();
    for archive in [gzip(&archive), archive] {
        let (folder, unpacked) = unpack(&archive);
        let inspection = unpacked.unwrap();
        assert_eq!(
            inspection.requirements,
            Requirements::File { prereleases: false, rewritten: None }
        );
        assert!(!inspection.manage_py);
        assert_eq!(inspection.entries, 7);
        let code = folder.path().join("code");
        assert_eq!(fs::read(code.join("link.py")).unwrap(), b"application = None\n");
        assert_eq!(fs::metadata(code.join("index.py")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(code.join("index.py")).unwrap().mtime(), 1_700_000_000);
        let mode =
            |path: &str| fs::metadata(code.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("index.py"), mode("bin/run"), mode("bin")), (0o644, 0o755, 0o755));
    }
}

#[test]
fn paths_that_leave_the_folder_are_refused() {
    for path in ["/outside", "../outside", "a/../../outside", "./../outside"] {
        assert!(refusal(app().file(path, "x")).contains(path), "{path}");
        assert!(refusal(app().pax(&[("path", path)]).file("x", "x")).contains(path), "{path}");
        assert!(
            refusal(app().full(b'L', b"name", b"", 0, path.as_bytes()).file("x", "x"))
                .contains(path)
        );
    }
}

#[test]
fn links_that_leave_the_folder_are_refused() {
    for target in ["/etc/passwd", "..", "a/../..", ""] {
        assert!(refusal(app().entry(b'2', "link", target)).contains("link"), "{target}");
    }
    // By their names alone these two stay inside; together they lead out.
    let chain =
        app().entry(b'5', "a/b", "").entry(b'2', "a/b/up", "../..").entry(b'2', "out", "a/b/up/..");
    assert_eq!(refusal(chain), "\"out\" is a link out of the source");
    assert!(refusal(app().entry(b'2', "loop", "loop")).contains("leads to itself"));
}

#[test]
fn nothing_is_written_through_a_link() {
    let through = app().entry(b'5', "real/", "").entry(b'2', "link", "real").file("link/x", "x");
    assert!(refusal(through).contains("a file or a link"));
    let (folder, unpacked) =
        unpack(&app().entry(b'2', "link", "index.py").file("link", "new").end());
    unpacked.unwrap();
    assert_eq!(fs::read(folder.path().join("code/link")).unwrap(), b"new");
    assert_eq!(fs::read(folder.path().join("code/index.py")).unwrap(), b"application = None\n");
}

#[test]
fn hard_links_name_files_of_the_archive() {
    for target in ["/etc/passwd", "../outside", "missing", "folder", "link"] {
        let archive = app().entry(b'5', "folder/", "").entry(b'2', "link", "index.py");
        assert!(!refusal(archive.entry(b'1', "hard", target)).is_empty(), "{target}");
    }
}

#[test]
fn a_name_is_one_kind_of_thing() {
    assert!(refusal(app().entry(b'5', "a/", "").file("a", "x")).contains("a folder and a file"));
    assert!(refusal(app().file("a", "x").entry(b'5', "a/", "")).contains("no folder"));
    assert!(refusal(app().file("a", "x").file("a/b", "x")).contains("no folder"));
}

#[test]
fn devices_pipes_sparse_files_and_the_unknown_are_refused() {
    for (kind, word) in
        [(b'3', "device"), (b'4', "device"), (b'6', "pipe"), (b'S', "sparse"), (b'Z', "unknown")]
    {
        assert!(refusal(app().entry(kind, "x", "")).contains(word), "{word}");
    }
    let sparse = app().pax(&[("GNU.sparse.major", "1")]).file("x", "x");
    assert!(refusal(sparse).contains("sparse"));
}

#[test]
fn extension_headers_that_tar_programs_read_differently_are_refused() {
    let two = app().pax(&[("path", "a"), ("path", "b")]).file("x", "x");
    assert!(refusal(two).contains("twice"));
    let both = app().full(b'L', b"n", b"", 0, b"a").pax(&[("path", "b")]).file("x", "x");
    assert!(refusal(both).contains("twice"));
    assert!(refusal(app().pax(&[("size", "4000")]).file("x", "x")).contains("two sizes"));
    let global = app().full(b'g', b"g", b"", 0, b"9 path=a\n");
    assert!(refusal(global).contains("every entry"));
    for records in [&b"5 a=b"[..], b"99 a=b\n", b"a=b\n", b"3 \n", b"0 a=b\n", b"-7 a=b\n"] {
        let malformed = app().full(b'x', b"p", b"", 0, records).file("x", "x");
        assert!(refusal(malformed).contains("malformed"), "{records:?}");
    }
}

#[test]
fn a_comment_for_all_entries_does_no_harm() {
    let archive = Archive::default().full(b'g', b"pax_global_header", b"", 0, b"16 comment=abcd\n");
    let archive = archive.file("index.py", "application = None\n").end();
    unpack(&archive).1.unwrap();
}

#[test]
fn bombs_are_refused() {
    let unpack_bounded = |archive: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { content: Bytes::kib(64), entries: 100 };
        archive::unpack(archive, &mut Tree::open(folder.path(), bounds).unwrap()).unwrap_err()
    };
    let zeros = gzip(&app().file("zeros", &"\0".repeat(65 * 1024)).end());
    assert!(matches!(unpack_bounded(&zeros), UnpackError::Content));
    // Folders that no entry names are made as well, and counted.
    let deep = app().file(&format!("a/{}x", "d/".repeat(45)), "");
    let deep = deep.file(&format!("b/{}x", "d/".repeat(45)), "").file("c/d/e/f/g/h/i/j", "");
    assert!(matches!(unpack_bounded(&deep.end()), UnpackError::Entries));

    let headers = Archive::default().entry(b'5', "./", "").0.repeat(4 * ENTRIES_MAX as usize + 1);
    assert!(matches!(unpack(&headers).1, Err(UnpackError::Entries)));

    let long = app().full(b'L', b"n", b"", 0, &vec![b'a'; 2 << 20]).file("x", "x");
    assert!(refusal(long).contains("larger than 1 MiB"));
}

#[test]
fn a_cut_off_archive_is_refused() {
    let whole = gzip(&app().file("b.py", &"x".repeat(4000)).end());
    for length in [1, 10, whole.len() / 2, whole.len() - 12] {
        assert!(unpack(&whole[..length]).1.is_err(), "{length}");
    }
    assert!(unpack(b"").1.is_err());
    assert!(unpack(b"no archive at all").1.is_err());
}

#[test]
fn times_are_kept_between_1980_and_now() {
    let mut archive = app().file("old.py", "").end();
    let mut header = tar::Header::new_gnu();
    header.set_path("new.py").unwrap();
    header.set_mode(0o644);
    header.set_mtime(1 << 40);
    header.set_size(0);
    header.set_cksum();
    archive.truncate(archive.len() - 1024);
    archive.extend(header.as_bytes());
    archive.extend([0; 1024]);
    let (folder, unpacked) = unpack(&archive);
    unpacked.unwrap();
    assert!(fs::metadata(folder.path().join("code/new.py")).unwrap().mtime() < 1 << 33);
}

#[test]
fn what_the_app_needs_must_be_there() {
    let app_yaml = |text: &str| app().file("app.yaml", text);
    assert!(refusal(app_yaml("entry: shop.wsgi:app\n")).contains("shop/wsgi.py"));
    assert_eq!(
        refusal(app_yaml("static: [{path: /s/, files: s/}]\n")),
        "app.yaml serves /s/ from \"s/\", but the source has no such folder"
    );
    assert!(refusal(app_yaml("pyton: 3\n")).starts_with("app.yaml:1:1: unknown key"));
    let collected = app_yaml("static: [{path: /s/, files: s/}]\n").file("manage.py", "");
    assert!(unpack(&collected.end()).1.unwrap().manage_py);
    let pipe = app().entry(b'5', "app.yaml", "");
    assert!(refusal(pipe).contains("app.yaml can't be read"));
}

#[test]
fn the_same_source_has_the_same_hash() {
    let hash = |archive: Archive| unpack(&archive.end()).1.unwrap().source_hash;
    assert_eq!(hash(app()), hash(app()));
    assert_ne!(hash(app()), hash(app().file("a", "")));
    assert_ne!(hash(app().file("a", "bc")), hash(app().file("ab", "c")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_panic_or_write_outside(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = unpack(&bytes);
    }

    #[test]
    fn no_damaged_archive_panics_or_writes_outside(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..24),
        fix in any::<bool>(),
    ) {
        let mut archive = app()
            .entry(b'5', "a/", "")
            .entry(b'2', "a/link", "../index.py")
            .pax(&[("path", "a/long")])
            .file("x", "content")
            .full(b'L', b"n", b"", 0, b"a/longer")
            .file("y", "content")
            .entry(b'1', "hard", "index.py")
            .end();
        for (index, byte) in changes {
            let place = index.index(archive.len());
            archive[place] = byte;
        }
        if fix {
            fix_checksums(&mut archive);
        }
        let _ = unpack(&archive);
        let _ = unpack(&gzip(&archive));
    }
}

/// Gives every block a right checksum, so that a damaged header gets past it.
fn fix_checksums(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
