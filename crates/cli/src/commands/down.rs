//! `ace down`: stops every app and the engine, and leaves nothing in the kernel.

use ace_api::http::Done;
use clap::Args;
use http::Method;

use crate::client::{Client, ClientError, STOP_DEADLINE};
use crate::error::CommandError;
use crate::screen::{self, Screen};
use crate::{Offline, ServerAddress};

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
        Err(ClientError::NotRunning { .. }) => {
            let data = ServerAddress::data(client.socket());
            Done { message: offline.down(data).await.map_err(CommandError::Offline)? }
        }
        answer => answer?,
    };
    Ok(screen.show(&done, || screen::escape_lines(&done.message))?)
}
