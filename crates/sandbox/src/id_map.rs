//! A map of owners for a mount: what is root's on disk appears as the tenant's.
//!
//! The kernel takes such a map from a user namespace (mount_setattr(2)), and a user namespace has to
//! be made by a process: a child that lives just for that.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

use crate::sys::{self, Fork};

/// A user namespace without processes, in which root is somebody else of the host.
#[derive(Debug)]
pub struct IdMap(OwnedFd);

impl IdMap {
    /// Root's files become those of the host's user and group `owner`, and nobody else's anybody's.
    pub fn of_root(owner: u32) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        match sys::fork()? {
            // Nothing but system calls: other threads may have held any lock.
            Fork::Child => {
                drop(ours);
                hold_namespace(&theirs)
            }
            Fork::Parent { child } => {
                drop(theirs);
                let namespace = map(child, owner, &ours);
                drop(ours);
                waitpid(Some(child), WaitOptions::empty())?;
                namespace.map(Self)
            }
        }
    }

    /// Puts the map on `mount`, which is attached nowhere yet, and makes it read-only, without device
    /// files and set-user-id programs.
    ///
    /// Errors: `EINVAL` where the file system can't have one.
    pub fn put_on(&self, mount: impl AsFd) -> io::Result<()> {
        sys::map_mount(mount.as_fd(), self.0.as_fd())
    }
}

/// Stays in a user namespace until the other side has it, and ends.
fn hold_namespace(mut parent: &UnixStream) -> ! {
    let made = sys::unshare(UnshareFlags::NEWUSER);
    // The parent takes silence for a failure.
    if made.is_ok() && parent.write_all(&[1]).is_ok() {
        let _ = parent.read(&mut [0]);
    }
    sys::exit_now(0)
}

/// Waits for `child`'s namespace, maps its root to `owner`, and opens it.
fn map(child: Pid, owner: u32, mut stream: &UnixStream) -> io::Result<OwnedFd> {
    stream.read_exact(&mut [0])?;
    let folder = format!("/proc/{}", child.as_raw_nonzero());
    for name in ["uid_map", "gid_map"] {
        fs::write(format!("{folder}/{name}"), format!("0 {owner} 1"))?;
    }
    Ok(File::open(format!("{folder}/ns/user"))?.into())
}
