//! What a program has written to a layer, which is gone with its container: told at its end, and once before; in
//! between the engine finds it noted, as it is by then.
//!
//! Init is unprivileged and reads names alone, in the folder that holds what was written. A folder
//! that it may not read it names instead of what is in it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FileType, Mode, OFlags, openat};
use rustix::io;

use crate::written::WrittenNote;

/// How many names are told.
const TOLD: usize = 5;
/// What is told of one, in characters.
const NAME_MAX: usize = 200;
/// How deep is looked, with a descriptor for each level.
const DEPTH_MAX: usize = 24;

/// How often is looked before anything is told, since much of what a program writes at its start it removes again.
const EARLY_PAUSE: Duration = Duration::from_millis(500);
/// After so much time may something be told for the first time, and after twice as long each time until there is something.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// When to look at what a program writes.
#[derive(Debug)]
pub struct Lookout {
    begin: Instant,
    pause: Duration,
    /// `None` once there was something.
    due: Option<Instant>,
}

/// Files that a program has written.
#[derive(Debug, Default)]
pub struct Written {
    /// The first of them by their names, which are fit to be shown.
    names: BTreeSet<String>,
    count: usize,
}

impl Lookout {
    pub fn new(now: Instant) -> Self {
        Self { begin: now, pause: FIRST_PAUSE, due: Some(now + EARLY_PAUSE) }
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time to look.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    /// Whether what is found now is not to be told yet.
    pub fn is_early(&self, now: Instant) -> bool {
        now < self.begin + FIRST_PAUSE
    }

    /// Somebody has looked, and found something or not.
    pub fn looked(&mut self, found: bool, now: Instant) {
        if self.is_early(now) {
            self.due = Some((now + EARLY_PAUSE).min(self.begin + FIRST_PAUSE));
            return;
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.due = (!found).then(|| now + self.pause);
    }
}

impl Written {
    /// Adds the files in `folder`, in which all lies that was written to a layer.
    pub fn add_folder(&mut self, folder: &OwnedFd) {
        // What can't be read is not told.
        let _ = self.add_entries(folder, Path::new(""), DEPTH_MAX);
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The same for the engine.
    pub fn to_note(&self) -> WrittenNote {
        WrittenNote { names: self.names.iter().cloned().collect(), count: self.count }
    }

    fn add_entries(&mut self, folder: &OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let path = path.join(name);
            match entry.file_type() {
                // Byte code is made again.
                _ if name == "." || name == ".." || name == "__pycache__" => {}
                FileType::RegularFile => self.add(path.to_string_lossy().into_owned()),
                FileType::Directory => match open_folder(folder, name, depth) {
                    Ok(inside) => self.add_entries(&inside, &path, depth - 1)?,
                    Err(_) => self.add(format!("{}/", path.to_string_lossy())),
                },
                // Links, sockets, and the marks of what was removed.
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String) {
        self.count += 1;
        let bounded = name.chars().take(NAME_MAX);
        let shown = bounded.map(|it| if it.is_control() { '\u{fffd}' } else { it });
        self.names.insert(shown.collect());
        if self.names.len() > TOLD {
            self.names.pop_last();
        }
    }
}

impl fmt::Display for Written {
    /// `a, b and 3 more`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.iter().map(String::as_str).collect::<Vec<_>>();
        f.write_str(&names.join(", "))?;
        match self.count - names.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Opens a folder `depth` levels above the deepest one that is looked into.
fn open_folder(parent: &OwnedFd, name: &OsStr, depth: usize) -> io::Result<OwnedFd> {
    if depth == 0 {
        return Err(io::Errno::MFILE);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn told(folder: &Path) -> String {
        let mut written = Written::default();
        written.add_folder(&fs::File::open(folder).unwrap().into());
        written.to_string()
    }

    #[test]
    fn the_first_files_are_named_and_the_others_counted() {
        let folder = TempDir::new().unwrap();
        assert_eq!(told(folder.path()), "");
        fs::create_dir_all(folder.path().join("b/c")).unwrap();
        fs::write(folder.path().join("b/c/d"), "").unwrap();
        fs::write(folder.path().join("z\x1b[31m"), "").unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("a")).unwrap();
        fs::create_dir(folder.path().join("__pycache__")).unwrap();
        fs::write(folder.path().join("__pycache__/a.pyc"), "").unwrap();
        assert_eq!(told(folder.path()), "b/c/d, z\u{fffd}[31m");
        (0..8).for_each(|n| fs::write(folder.path().join(format!("y{n}")), "").unwrap());
        assert_eq!(told(folder.path()), "b/c/d, y0, y1, y2, y3 and 5 more");
    }

    #[test]
    fn pauses_double_until_there_is_something() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut lookout = Lookout::new(begin);
        assert!(lookout.is_due(after(1)) && lookout.is_early(after(9)));
        lookout.looked(true, after(9));
        lookout.looked(true, begin + Duration::from_millis(9600));
        assert!(!lookout.is_due(after(9)) && lookout.is_due(after(10)));
        assert!(!lookout.is_early(after(10)));
        lookout.looked(false, after(10));
        assert_eq!(lookout.due(), Some(after(30)));
        (0..20).for_each(|_| lookout.looked(false, after(30)));
        assert_eq!(lookout.due(), Some(after(3630)));
        lookout.looked(true, after(3630));
        assert!(!lookout.is_due(after(1 << 20)));
    }

    #[test]
    fn what_is_too_deep_is_named_by_its_folder() {
        let folder = TempDir::new().unwrap();
        let deep = (0..40).fold(folder.path().to_owned(), |path, _| path.join("x"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "").unwrap();
        assert_eq!(told(folder.path()), format!("{}x/", "x/".repeat(DEPTH_MAX)));
    }
}
