//! Descriptors that others pass over a Unix socket (`SCM_RIGHTS`), for a socket on which none is wanted.
//!
//! What comes with bytes that are received by read(2) is closed right there, in the thread that receives. Whoever sends
//! the last descriptor of a deleted file so has that thread free the file's blocks, on the sender's own disk, at that
//! disk's speed. A receiver can refuse descriptors since Linux 6.16.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::sys;

/// Has whoever passes descriptors to `socket`, which is of a Unix address and not connected yet, get `EPERM`.
///
/// Errors: `ENOPROTOOPT` before Linux 6.16.
pub fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<()> {
    sys::set_pass_rights(socket, false)
}

/// Whether this kernel can do that.
pub fn can_refuse_descriptors() -> io::Result<bool> {
    let (one, _other) = UnixStream::pair()?;
    match refuse_descriptors(one.as_fd()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(error) => Err(error),
    }
}
