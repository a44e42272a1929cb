//! The terminal that a container's process runs on.
//!
//! It's made in the container's own `/dev/pts`, while nothing of the tenant's has run there. The
//! engine gets the master side and moves bytes; it never follows a path to a terminal.

use std::io;
use std::os::fd::OwnedFd;

use ace_types::TerminalSize;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::channel;
use crate::rootfs::PTMX;

/// Makes a terminal of `size`, sends its master side to `engine`, and returns the side that programs
/// use. This process's root is the container's.
pub fn open(size: TerminalSize, engine: Option<OwnedFd>) -> io::Result<OwnedFd> {
    let nobody = || io::Error::new(io::ErrorKind::InvalidInput, "nobody waits for it");
    let engine = engine.ok_or_else(nobody)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open(PTMX, flags, Mode::empty())?;
    unlockpt(&master)?;
    tcsetwinsize(&master, winsize(size))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&master, flags)?;
    channel::send_descriptor(engine, master)?;
    Ok(terminal)
}

fn winsize(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}
