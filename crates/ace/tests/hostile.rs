//! Archives that no client of ours would send, sent straight to the API.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ace_testkit::Engine;
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

/// An archive of raw entries: name, kind, link target, content.
fn archive(entries: &[(&str, EntryType, &str, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    for (name, kind, target, content) in entries {
        let mut header = Header::new_gnu();
        // Set by hand: the library refuses to write what these tests are about.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar)?;
    Ok(gzip.finish()?)
}

/// Posts `body` as a deploy of `app` and returns the whole answer.
fn post(engine: &Engine, app: &str, body: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(engine.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let length = body.len();
    write!(
        stream,
        "POST /v1/apps/{app}/deploys HTTP/1.1\r\nhost: ace\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )?;
    // The engine may have heard enough before the end.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn hostile_archives_are_refused_and_write_nothing_outside() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let mark = tempfile::tempdir()?;
    let outside = mark.path().join("written").display().to_string();
    let index = ("index.py", EntryType::Regular, "", &b"application = None"[..]);
    let attacks: [(&str, Vec<_>); 6] = [
        ("absolute", vec![index, (&outside[..], EntryType::Regular, "", b"x")]),
        ("parent", vec![index, ("../../../../../../written", EntryType::Regular, "", b"x")]),
        (
            "link-out",
            vec![
                index,
                ("l", EntryType::Symlink, "/etc", b""),
                ("l/written", EntryType::Regular, "", b"x"),
            ],
        ),
        ("hard-link", vec![index, ("h", EntryType::Link, "/etc/passwd", b"")]),
        ("device", vec![index, ("d", EntryType::Char, "", b"")]),
        ("pipe", vec![index, ("p", EntryType::Fifo, "", b"")]),
    ];
    for (app, entries) in attacks {
        let answer = post(&engine, app, &archive(&entries)?)?;
        assert!(answer.contains("\"failed\""), "{app}: {answer}");
    }
    for (app, bytes) in [("noise", &b"this is no archive"[..]), ("empty", b"")] {
        let answer = post(&engine, app, bytes)?;
        assert!(!answer.contains("\"done\""), "{app}: {answer}");
    }
    assert_eq!(std::fs::read_dir(mark.path())?.count(), 0, "a file was written outside");
    for path in ["/written", "/etc/written"] {
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
    let apps = engine.ace(&["apps", "--json"])?.ok()?.json()?;
    let apps = apps.as_array().context("no list of apps")?;
    assert!(
        apps.iter().all(|app| app["state"] == "new" && app["instances"] == serde_json::json!([])),
        "one of them has run: {apps:?}"
    );
    Ok(())
}

#[test]
fn names_that_are_paths_reach_no_folder() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    for name in ["..", "%2e%2e", "a%2fb", "-x", "A"] {
        let answer = post(&engine, name, b"")?;
        let status = answer.split(' ').nth(1).context("no status")?;
        assert!(status.starts_with('4'), "{name}: {answer}");
    }
    Ok(())
}

#[test]
fn an_archive_that_never_ends_is_cut_off() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let zeros = ("zeros", EntryType::Regular, "", vec![0; 600 << 20]);
    let entries = [
        ("index.py", EntryType::Regular, "", &b"application = None"[..]),
        (zeros.0, zeros.1, zeros.2, &zeros.3[..]),
    ];
    let answer = post(&engine, "bomb", &archive(&entries)?)?;
    assert!(answer.contains("\"failed\"") && answer.contains("512"), "{answer}");
    Ok(())
}
