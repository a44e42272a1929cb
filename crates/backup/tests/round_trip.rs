//! What is written comes back as it was, and what is not whole is refused.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use ace_backup::{BackupError, FORMAT, Header, Manifest, Writer, check, unpack};
use jiff::Timestamp;
use tempfile::TempDir;

const HOLE: u64 = 32 << 20;

fn header() -> Header {
    Header {
        format: FORMAT,
        version: "1".to_owned(),
        made_at: Timestamp::UNIX_EPOCH,
        data: "/var/lib/ace".into(),
    }
}

/// A data folder with a bit of everything.
fn source() -> TempDir {
    let folder = TempDir::new().unwrap();
    let code = folder.path().join("releases/shop/aaaaaaaa/code");
    fs::create_dir_all(&code).unwrap();
    fs::write(code.join("index.py"), "print(1)\n").unwrap();
    fs::write(code.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(code.join("run"), Permissions::from_mode(0o555)).unwrap();
    symlink("/etc/passwd", code.join("link")).unwrap();
    let long = code.join("deep".repeat(40)).join("name".repeat(40));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("file"), vec![7; 100_000]).unwrap();
    fs::set_permissions(&code, Permissions::from_mode(0o555)).unwrap();
    let volume = File::create(folder.path().join("shop.img")).unwrap();
    volume.set_len(2 * HOLE + 5).unwrap();
    volume.write_all_at(b"first", 0).unwrap();
    volume.write_all_at(b"second", HOLE).unwrap();
    folder
}

fn backup(source: &Path) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.add_bytes(Path::new("rows.jsonl"), b"{}\n").unwrap();
    let name = Path::new("releases/shop/aaaaaaaa");
    writer.add_tree(&source.join(name), name).unwrap();
    let name = Path::new("volumes/shop.img");
    writer.add_volume(&source.join("shop.img"), name, Duration::from_millis(3)).unwrap();
    writer.finish(1, 2).unwrap()
}

fn unpacked(bytes: &[u8]) -> (TempDir, Result<(Header, Manifest), BackupError>) {
    let folder = TempDir::new().unwrap();
    let result = unpack(bytes, folder.path());
    (folder, result)
}

#[test]
fn all_comes_back_as_it_was() {
    let source = source();
    let bytes = backup(source.path());
    let (folder, result) = unpacked(&bytes);
    let (found, manifest) = result.unwrap();
    assert_eq!((found, manifest.apps, manifest.releases), (header(), 1, 2));
    let (ours, theirs) = (folder.path(), source.path());
    for name in [
        "",
        "index.py",
        "run",
        "link",
        &format!("{}/{}/file", "deep".repeat(40), "name".repeat(40)),
    ] {
        let path = Path::new("releases/shop/aaaaaaaa/code").join(name);
        let of = |root: &Path| {
            let found = fs::symlink_metadata(root.join(&path)).unwrap();
            let content = fs::read(root.join(&path)).unwrap_or_default();
            let link = fs::read_link(root.join(&path)).ok();
            (found.mode(), found.uid(), found.gid(), found.mtime(), content, link)
        };
        assert_eq!(of(ours), of(theirs), "{}", path.display());
    }
}

#[test]
fn a_volume_keeps_its_holes() {
    let source = source();
    let bytes = backup(source.path());
    assert!(bytes.len() < 1 << 20);
    let (folder, result) = unpacked(&bytes);
    assert_eq!(result.unwrap().1.volumes[Path::new("volumes/shop.img")].paused_ms, 3);
    let image = folder.path().join("volumes/shop.img");
    assert_eq!(fs::read(&image).unwrap(), fs::read(source.path().join("shop.img")).unwrap());
    assert!(image.metadata().unwrap().blocks() * 512 < HOLE);
}

#[test]
fn one_that_ends_anywhere_but_at_its_end_is_refused() {
    let source = source();
    let bytes = backup(source.path());
    assert!(check(&bytes[..]).is_ok());
    for end in (0..bytes.len()).step_by(97).chain([bytes.len() - 9]) {
        assert!(check(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
    }
}

#[test]
fn one_with_a_changed_byte_is_refused() {
    let source = source();
    // Not compressed any further, so that a change reaches the content.
    let mut tar = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::read::GzDecoder::new(&backup(source.path())[..]),
        &mut tar,
    )
    .unwrap();
    let at = tar.windows(8).position(|bytes| bytes == b"print(1)").unwrap();
    tar[at] ^= 1;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let error = check(&gzip.finish().unwrap()[..]).unwrap_err();
    assert!(
        matches!(&error, BackupError::Damaged { what } if what.contains("index.py")),
        "{error}"
    );
}

#[test]
fn nothing_is_written_through_a_link_or_outside() {
    let outside = TempDir::new().unwrap();
    let evil = |name: &[u8], link: Option<&Path>| {
        let mut writer = tar::Builder::new(flate2::write::GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        ));
        let mut add = |name: &[u8], kind, content: &[u8], to: Option<&Path>| {
            let mut entry = tar::Header::new_gnu();
            entry.as_old_mut().name[..name.len()].copy_from_slice(name);
            entry.set_entry_type(kind);
            entry.set_mode(0o644);
            entry.set_uid(0);
            entry.set_gid(0);
            entry.set_mtime(0);
            entry.set_size(content.len() as u64);
            if let Some(to) = to {
                entry.set_link_name(to).unwrap();
            }
            entry.set_cksum();
            writer.append(&entry, content).unwrap();
        };
        add(b"backup.json", tar::EntryType::Regular, &serde_json::to_vec(&header()).unwrap(), None);
        if let Some(to) = link {
            add(b"out", tar::EntryType::Symlink, b"", Some(to));
        }
        add(name, tar::EntryType::Regular, b"x", None);
        writer.into_inner().unwrap().finish().unwrap()
    };
    for bytes in [
        evil(b"out/written", Some(outside.path())),
        evil(b"../written", None),
        evil(b"/tmp/written-by-a-backup", None),
    ] {
        let (_folder, result) = unpacked(&bytes);
        assert!(matches!(result, Err(BackupError::Damaged { .. })), "{result:?}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!Path::new("/tmp/written-by-a-backup").exists());
}

#[test]
fn what_is_no_backup_or_of_another_format_says_so() {
    assert!(matches!(check(&b"hello"[..]), Err(BackupError::Foreign(_))));
    let newer = Header { format: FORMAT + 1, ..header() };
    let bytes = Writer::new(Vec::new(), &newer).unwrap().finish(0, 0).unwrap();
    let error = check(&bytes[..]).unwrap_err();
    assert!(matches!(error, BackupError::Format { found } if found == FORMAT + 1));
}
