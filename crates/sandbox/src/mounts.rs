//! What is mounted where, as the kernel tells it; see proc_pid_mountinfo(5).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::process::ProcessRef;

/// Where file systems are mounted below the root of `process`, as it calls those places.
///
/// Errors: the process is gone, or nothing can be seen of it.
pub fn points(process: ProcessRef) -> io::Result<BTreeSet<PathBuf>> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", process.pid))?;
    // Looked at afterwards: then the text is of no later process of that id.
    if ProcessRef::of(process.pid)? != process {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(parse(&text))
}

fn parse(text: &str) -> BTreeSet<PathBuf> {
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

/// Undoes the kernel's `\040` for a blank, and its like for tab, newline and backslash.
pub fn unescape(text: &str) -> PathBuf {
    const ESCAPES: [(&str, &str); 4] =
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(ESCAPES.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_whatever_their_names() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw\n\
                    37 36 0:5 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(parse(text), BTreeSet::from(["/mnt 2".into(), "/tmp".into()]));
    }

    #[test]
    fn this_process_has_proc_mounted() {
        let this = ProcessRef::of(std::process::id()).unwrap();
        assert!(points(this).unwrap().contains(&PathBuf::from("/proc")));
    }
}
