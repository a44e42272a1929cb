//! What a program has written beside its code, as its container's init notes it in the folder of its log.
//!
//! Written by init alone, and read by the engine, which takes it for no more than something to tell.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::{Errno, write};
use serde::{Deserialize, Serialize};

use crate::spec::LogSpec;

/// The longest note.
const NOTE_MAX: u64 = 16 << 10;
/// What a note is called while it's written.
const UNFINISHED: &str = "written.new";

/// Files that go with their container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenNote {
    /// The first of them, below the source; fit to be shown.
    pub names: Vec<String>,
    /// How many there are.
    pub count: usize,
}

/// What is noted in the log's `folder`; `None` where nothing is.
pub fn written(folder: &Path) -> io::Result<Option<WrittenNote>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, folder, flags, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(&folder, LogSpec::WRITTEN, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        result => std::fs::File::from(result?),
    };
    let mut text = Vec::new();
    file.take(NOTE_MAX).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Notes it, in place of what was noted before. An empty note is none.
pub fn note(folder: &OwnedFd, note: &WrittenNote) -> io::Result<()> {
    if note.count == 0 {
        return match unlinkat(folder, LogSpec::WRITTEN, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        };
    }
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, UNFINISHED, flags, Mode::from_raw_mode(0o644))?;
    let text = serde_json::to_vec(note)?;
    // A file takes all of so little, or has no room.
    if write(&file, &text)? < text.len() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    // A reader sees a whole one.
    Ok(renameat(folder, UNFINISHED, folder, LogSpec::WRITTEN)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_made_and_an_empty_one_takes_it_away() {
        let folder = tempfile::TempDir::new().unwrap();
        let held = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        assert_eq!(written(folder.path()).unwrap(), None);
        let made = WrittenNote { names: vec!["db.sqlite3".to_owned()], count: 3 };
        note(&held, &made).unwrap();
        note(&held, &made).unwrap();
        assert_eq!(written(folder.path()).unwrap(), Some(made));
        for _ in 0..2 {
            note(&held, &WrittenNote::default()).unwrap();
            assert_eq!(written(folder.path()).unwrap(), None);
        }
        std::fs::write(folder.path().join(LogSpec::WRITTEN), "{").unwrap();
        assert!(written(folder.path()).is_err());
    }
}
