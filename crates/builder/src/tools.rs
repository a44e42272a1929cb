//! uv, the installer: one version of it, known by its hash.
//!
//! It is taken out of its wheel, from the index that packages come from, and kept in the data
//! folder. One that the machine happens to have is never used.

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::fetch::{self, Client, FetchError};
use crate::hash::hex;
use crate::index::{self, PageError};
use crate::log::BuildLog;

/// Where it stands in a build's containers.
pub const UV: &str = "/ace/bin/uv";

const VERSION: &str = "0.13.9";
#[cfg(target_arch = "x86_64")]
const WHEEL: Wheel = Wheel {
    name: "uv-0.13.9-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    sha256: "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
};
#[cfg(target_arch = "aarch64")]
const WHEEL: Wheel = Wheel {
    name: "uv-0.13.9-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
    sha256: "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
};
/// The program's place in the wheel.
const MEMBER: &str = "uv-0.13.9.data/scripts/uv";
const WHEEL_MAX: usize = 64 << 20;
const PROGRAM_MAX: u64 = 256 << 20;
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// Keeps uv in a folder of the engine's.
pub struct Tools {
    folder: PathBuf,
    /// The index's address, `https://pypi.org/simple`.
    index: String,
    fetching: Mutex<()>,
}

/// Why uv is not there.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    #[error("could not fetch uv {VERSION} from {index}")]
    Fetch { index: String, source: FetchError },
    #[error("could not read the list of uv's files at {index}")]
    Page { index: String, source: PageError },
    #[error("{index} has no {}", WHEEL.name)]
    Missing { index: String },
    #[error("{} from {index} is not the file that was published: its SHA-256 is {found}", WHEEL.name)]
    Hash { index: String, found: String },
    #[error("could not unpack {}", WHEEL.name)]
    Unpack(#[source] io::Error),
    #[error("could not write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

struct Wheel {
    name: &'static str,
    sha256: &'static str,
}

impl Tools {
    pub fn new(folder: PathBuf, index: String) -> Self {
        Self { folder, index, fetching: Mutex::default() }
    }

    /// The uv program on the host, fetched if it isn't there.
    pub async fn ensure_uv(&self, log: &BuildLog) -> Result<PathBuf, ToolsError> {
        let _fetching = self.fetching.lock().await;
        let program = self.folder.join(format!("uv-{VERSION}"));
        // It comes to its name by a rename, so it is whole.
        if program.is_file() {
            return Ok(program);
        }
        log.say(format!("fetching uv {VERSION}, once for this server")).await;
        let wheel = self.fetch_wheel(log).await?;
        let placed = program.clone();
        spawn_blocking(move || place(&wheel, &placed))
            .await
            .map_err(|error| ToolsError::Unpack(io::Error::other(error)))??;
        Ok(program)
    }

    async fn fetch_wheel(&self, log: &BuildLog) -> Result<Vec<u8>, ToolsError> {
        let client = Client::new();
        let mut attempt = 1;
        loop {
            match self.try_fetch_wheel(&client).await {
                Err(error) if attempt < TRIES => {
                    log.say(format!("{error}; trying again")).await;
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_fetch_wheel(&self, client: &Client) -> Result<Vec<u8>, ToolsError> {
        let failed = |source| ToolsError::Fetch { index: self.index.clone(), source };
        let (base, page) = index::page(client, &self.index, "uv")
            .await
            .map_err(|source| ToolsError::Page { index: self.index.clone(), source })?;
        let file = page.files.iter().find(|file| file.filename == WHEEL.name);
        let file = file.ok_or_else(|| ToolsError::Missing { index: self.index.clone() })?;
        let address = fetch::resolve(&base, &file.url).map_err(failed)?;
        let wheel = client.get(&address, "*/*", WHEEL_MAX).await.map_err(failed)?;
        let found = hex(&Sha256::digest(&wheel));
        if found != WHEEL.sha256 {
            return Err(ToolsError::Hash { index: self.index.clone(), found });
        }
        Ok(wheel.into())
    }
}

/// Takes the program out of `wheel` and puts it at `program`, all at once.
fn place(wheel: &[u8], program: &Path) -> Result<(), ToolsError> {
    let unpack = |error| ToolsError::Unpack(io::Error::other(error));
    let mut wheel = zip::ZipArchive::new(Cursor::new(wheel)).map_err(unpack)?;
    let member = wheel.by_name(MEMBER).map_err(unpack)?;
    let half = program.with_extension("half");
    write_program(member, &half)
        .and_then(|()| fs::rename(&half, program))
        .map_err(|source| ToolsError::Write { path: program.to_owned(), source })
}

fn write_program(content: impl Read, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = File::create(path)?;
    let length = io::copy(&mut content.take(PROGRAM_MAX), &mut file)?;
    if length == PROGRAM_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::SimpleFileOptions;

    use super::*;

    fn wheel(member: &str) -> Vec<u8> {
        let mut wheel = zip::ZipWriter::new(Cursor::new(Vec::new()));
        wheel.start_file(member, SimpleFileOptions::default()).unwrap();
        wheel.write_all(b"program").unwrap();
        wheel.finish().unwrap().into_inner()
    }

    #[test]
    fn the_program_comes_out_of_its_wheel_whole() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("tools/uv");
        place(&wheel(MEMBER), &program).unwrap();
        assert_eq!(fs::read(&program).unwrap(), b"program");
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(folder.path().join("tools")).unwrap().count(), 1);
    }

    #[test]
    fn a_wheel_without_it_places_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("uv");
        assert!(place(&wheel("other"), &program).is_err());
        assert!(place(b"no zip", &program).is_err());
        assert!(!program.exists());
    }

    #[test]
    fn the_wheel_is_of_the_version_it_is_said_to_be() {
        assert!(WHEEL.name.starts_with(&format!("uv-{VERSION}-")));
        assert!(MEMBER.starts_with(&format!("uv-{VERSION}.data/")));
        assert_eq!(WHEEL.sha256.len(), 64);
    }
}
