//! `ace down`: stops every app and the engine, and leaves nothing in the kernel.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use ace_api::http::Done;
use clap::Args;
use http::Method;
use rustix::fs::{FlockOperation, flock};

use crate::client::{Client, ClientError, STOP_DEADLINE};
use crate::error::CommandError;
use crate::screen::{self, Screen};
use crate::{Offline, ServerAddress};

/// How long an engine that has stopped all apps may take to end.
const END_DEADLINE: Duration = Duration::from_secs(30);
const END_POLL: Duration = Duration::from_millis(50);

/// Stop every app and the engine, and remove all they have in the kernel
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace down

Apps, their releases and volumes stay on disk: the next `ace server` starts them again. Ending
`ace server` itself leaves apps running; this command stops them, also when no engine listens.")]
pub struct DownArgs {}

pub async fn run(
    _: DownArgs,
    client: &Client,
    offline: &dyn Offline,
    screen: &Screen,
) -> Result<(), CommandError> {
    let done = match client.document(Method::POST, "/v1/down", STOP_DEADLINE).await {
        Err(ClientError::NotRunning { server: ServerAddress::Socket(socket) }) => {
            let data = ServerAddress::data(&socket);
            Done { message: offline.down(data).await.map_err(CommandError::Offline)? }
        }
        answer => {
            let done = answer?;
            if let ServerAddress::Socket(socket) = client.server() {
                wait_for_end(socket).await?;
            }
            done
        }
    };
    Ok(screen.show(&done, || screen::escape_lines(&done.message))?)
}

/// Whether no engine has the folder of `socket`: on a disk that can only be read the socket stays there.
fn is_unlocked(socket: &Path) -> bool {
    let folder = File::open(ServerAddress::data(socket));
    folder.is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockShared).is_ok())
}

/// Waits until the engine has taken its socket away, which is the last thing it does.
async fn wait_for_end(socket: &Path) -> Result<(), CommandError> {
    let gone = async {
        while tokio::fs::try_exists(socket).await.unwrap_or(false) && !is_unlocked(socket) {
            tokio::time::sleep(END_POLL).await;
        }
    };
    tokio::time::timeout(END_DEADLINE, gone).await.map_err(|_| {
        let seconds = END_DEADLINE.as_secs();
        CommandError::Refused(format!(
            "all apps have stopped, but the engine has not ended within {seconds} s; see its log"
        ))
    })
}
