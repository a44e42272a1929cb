//! The API's socket: it stays where clients look for it, whatever else happens to its name.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

/// How often it's looked whether the socket still has its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A socket that root alone can connect to, bound anew when somebody has removed it.
#[derive(Debug)]
pub struct ApiSocket {
    path: PathBuf,
    listener: UnixListener,
    /// The device and number of the file that it was bound as.
    file: (u64, u64),
}

impl ApiSocket {
    /// Binds `path`, in place of what another engine left there. The caller sees to it that no other uses it,
    /// and that nobody else can enter its folder.
    ///
    /// Call within a runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        remove(path)?;
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { path: path.to_owned(), listener, file: file_at(path)? })
    }

    /// Waits for the next client. Dropping the future loses none.
    pub async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return Ok(accepted?.0),
                () = sleep(LOOK_EVERY) => self.ensure_named(),
            }
        }
    }

    /// Takes the socket's name away.
    pub fn remove(path: &Path) {
        if let Err(error) = remove(path) {
            tracing::warn!(path = %path.display(), %error, "could not remove the API's socket");
        }
    }

    fn ensure_named(&mut self) {
        if file_at(&self.path).is_ok_and(|file| file == self.file) {
            return;
        }
        let path = self.path.display();
        match Self::bind(&self.path) {
            Ok(fresh) => {
                tracing::warn!(%path, "the API's socket was removed; it is there again");
                *self = fresh;
            }
            Err(error) => {
                tracing::error!(%path, %error, "the API's socket is gone, and could not be made")
            }
        }
    }
}

fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_was_removed_or_replaced_is_bound_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ace.sock");
        let mut socket = ApiSocket::bind(&path).unwrap();
        let away: [fn(&Path); 2] = [
            |path| fs::remove_file(path).unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                fs::write(path, "no socket").unwrap();
            },
        ];
        for away in away {
            away(&path);
            let client = async {
                loop {
                    match UnixStream::connect(&path).await {
                        Ok(stream) => return stream,
                        Err(_) => sleep(LOOK_EVERY / 4).await,
                    }
                }
            };
            let (accepted, _client) = tokio::join!(socket.accept(), client);
            accepted.unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
