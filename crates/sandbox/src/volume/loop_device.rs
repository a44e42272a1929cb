//! Loop devices: finding the one that shows a file, and making one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys_kernel::{Backing, configure_loop, free_loop_number, loop_backing};

const CONTROL: &str = "/dev/loop-control";
/// Tries to get a device that another program on the machine does not take first.
const ATTEMPTS: u32 = 16;
const PAUSE: Duration = Duration::from_millis(5);

/// The device that shows `wanted`, opened, so that it stays; `None` where there is none.
pub fn find(wanted: Backing) -> io::Result<Option<(PathBuf, File)>> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        // A device that shows nothing lacks this folder.
        if !entry.path().join("loop").is_dir() {
            continue;
        }
        let device = Path::new("/dev").join(entry.file_name());
        let file = match open(&device) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        // Asked of the open device: it can't go any more. One that went before shows nothing.
        if loop_backing(&file).is_ok_and(|found| found == wanted) {
            return Ok(Some((device, file)));
        }
    }
    Ok(None)
}

/// Lets a free device show `image`.
pub fn configure(image: &File, block_size: u32) -> io::Result<(PathBuf, File)> {
    let control = open(Path::new(CONTROL)).map_err(without_driver)?;
    let mut busy = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..ATTEMPTS {
        let device = PathBuf::from(format!("/dev/loop{}", free_loop_number(&control)?));
        let file = open(&device)?;
        match configure_loop(&file, image, block_size) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => busy = error,
            result => return result.map(|()| (device, file)),
        }
        std::thread::sleep(PAUSE);
    }
    Err(busy)
}

fn open(device: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(device)
}

fn without_driver(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            error.kind(),
            format!("{CONTROL} is missing; load the driver with `modprobe loop`"),
        ),
        _ => error,
    }
}
