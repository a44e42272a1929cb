//! A source on its way from the client to the builder: a file that lives as long as its deploy.

use ace_api::ErrorCode;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ace_types::{BuildId, Bytes};
use axum::body::Body;
use http_body_util::BodyExt;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::refusal::Refusal;

/// What an archive may be sent as.
pub const MEDIA_TYPES: [&str; 2] = ["application/gzip", "application/octet-stream"];
/// The largest archive.
pub const SIZE_MAX: Bytes = Bytes::mib(200);
/// How long a client may pause while it sends one.
const IDLE: Duration = Duration::from_secs(60);
/// How long it may take altogether.
const WHOLE: Duration = Duration::from_secs(15 * 60);

/// An archive on disk, removed when this is dropped. What a kill leaves, the next start removes.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
}

impl Archive {
    /// Keeps `body` as a file in `folder`.
    ///
    /// Errors: what the client did wrong, or the disk.
    pub async fn receive(folder: &Path, build: &BuildId, body: Body) -> Result<Self, Refusal> {
        let archive = Self { path: folder.join(format!("{build}.tgz")) };
        timeout(WHOLE, archive.fill(body)).await.map_err(|_| too_slow())??;
        Ok(archive)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn fill(&self, mut body: Body) -> Result<(), Refusal> {
        let disk = |error| Refusal::engine("keep the archive", &error);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file: File = options.open(&self.path).await.map_err(disk)?;
        let mut size = 0;
        while let Some(frame) = timeout(IDLE, body.frame()).await.map_err(|_| too_slow())? {
            let frame = frame.map_err(|_| Refusal::bad_request("the archive came only in part"))?;
            let Ok(data) = frame.into_data() else { continue };
            size += data.len() as u64;
            if size > SIZE_MAX.0 {
                return Err(too_large());
            }
            file.write_all(&data).await.map_err(disk)?;
        }
        if size == 0 {
            return Err(Refusal::bad_request("the archive is empty; send a .tar.gz of the app"));
        }
        file.flush().await.map_err(disk)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove an archive");
        }
    }
}

/// The archive is larger than [`SIZE_MAX`].
pub fn too_large() -> Refusal {
    let message = format!(
        "the archive is larger than {SIZE_MAX}; leave out what the app does not need to run"
    );
    Refusal::new(ErrorCode::TooLarge, message)
}

fn too_slow() -> Refusal {
    let message = "the archive did not come in time";
    Refusal::new(ErrorCode::TooSlow, message)
}
