//! Calls to the loop driver and to a mounted file system, one small function each, safe from outside.
//! Source: loop(4), ioctl_fifreeze in `linux/fs.h`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

const LOOP_GET_STATUS64: u32 = 0x4C05;
const LOOP_CONFIGURE: u32 = 0x4C0A;
const LOOP_CTL_GET_FREE: u32 = 0x4C82;

const FIFREEZE: u32 = 0xC004_5877;
const FITHAW: u32 = 0xC004_5878;

const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The file that a loop device shows: its file system's device number and its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backing {
    pub device: u64,
    pub inode: u64,
}

/// The number of a loop device that is free at the moment.
pub fn free_loop_number(control: impl AsFd) -> io::Result<u32> {
    // SAFETY: the command takes no argument; the descriptor is open for the whole call.
    let number = unsafe { libc::ioctl(raw(&control), LOOP_CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// What `device` shows; `ENXIO` where it shows nothing.
pub fn loop_backing(device: impl AsFd) -> io::Result<Backing> {
    let mut info = LoopInfo::zeroed();
    // SAFETY: `info` has the layout that the command fills in, and outlives the call.
    errno_result(unsafe { libc::ioctl(raw(&device), LOOP_GET_STATUS64 as _, &raw mut info) })?;
    Ok(Backing { device: info.device, inode: info.inode })
}

/// Lets `device` show `file` in blocks of `block_size`, past the page cache where the file system
/// can, until its last user is gone.
pub fn configure_loop(device: impl AsFd, file: impl AsFd, block_size: u32) -> io::Result<()> {
    let info = LoopInfo { flags: FLAG_AUTOCLEAR | FLAG_DIRECT_IO, ..LoopInfo::zeroed() };
    let fd = u32::try_from(raw(&file)).map_err(io::Error::other)?;
    let config = LoopConfig { fd, block_size, info, reserved: [0; 8] };
    // SAFETY: `config` has the layout that the command reads, and outlives the call.
    errno_result(unsafe { libc::ioctl(raw(&device), LOOP_CONFIGURE as _, &raw const config) })
}

/// Brings all that was written to the file system of `mounted` to its disk, and lets everyone who writes
/// wait until [`thaw`]. Outlives this process.
pub fn freeze(mounted: impl AsFd) -> io::Result<()> {
    // SAFETY: the command ignores its argument; the descriptor is open for the whole call.
    errno_result(unsafe { libc::ioctl(raw(&mounted), FIFREEZE as _, 0) })
}

/// Undoes [`freeze`]; `EINVAL` where nothing is frozen.
pub fn thaw(mounted: impl AsFd) -> io::Result<()> {
    // SAFETY: as above.
    errno_result(unsafe { libc::ioctl(raw(&mounted), FITHAW as _, 0) })
}

impl LoopInfo {
    fn zeroed() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

fn raw(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

fn errno_result(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
