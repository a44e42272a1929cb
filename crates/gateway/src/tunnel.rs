//! A connection that has left HTTP behind: bytes between a client and an app, until either ends.
//!
//! There is no limit on its time. It counts as a request of the app and of the instance, so an
//! instance that is drained waits for it within its deadline; when the instance ends, so does this.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ace_upstream::Tunnel;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::access::RequestRecord;
use crate::bandwidth::{Allowance, Way};
use crate::client_end::Upgrade;
use crate::forward::AppTunnel;
use crate::server::Lease;

/// How much is moved at once, each way.
const BUFFER_BYTES: usize = 16 * 1024;

/// Carries bytes both ways once the client has its answer. Ends with either side, or when the gateway
/// closes.
pub async fn run(
    client: Upgrade,
    (app, _permit): AppTunnel,
    mut record: Box<RequestRecord>,
    lease: Arc<Lease>,
) {
    let received = AtomicU64::new(0);
    let moved = async {
        match client {
            Upgrade::Connection(client) => {
                let client = client.await.map_err(io::Error::other)?;
                carry(TokioIo::new(client), app, &mut record, &received).await
            }
            Upgrade::Stream(client) => {
                let client = client.await.map_err(io::Error::other)?;
                carry(client, app, &mut record, &received).await
            }
        }
    };
    let result = tokio::select! {
        result = moved => result,
        () = lease.closing() => Ok(()),
    };
    record.received(received.into_inner());
    if let Err(error) = result {
        tracing::debug!(request = record.id, %error, "a tunnel ended early");
    }
}

async fn carry(
    client: impl AsyncRead + AsyncWrite,
    app: Tunnel,
    record: &mut RequestRecord,
    received: &AtomicU64,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_app, mut to_app) = app.stream.into_split();
    to_client.write_all(&app.early).await?;
    record.sent(app.early.len());
    let [inward, outward] = [Way::Received, Way::Sent].map(|way| allowance(record, way));
    let outward = copy(&mut from_app, &mut to_client, outward, |count| record.sent(count));
    let inward = copy(&mut from_client, &mut to_app, inward, |count| {
        received.fetch_add(count as u64, Ordering::Relaxed);
    });
    // A WebSocket is closed as a whole: who has closed one half reads no more of the other.
    tokio::select! {
        result = outward => result?,
        result = inward => result?,
    }
    to_client.shutdown().await
}

/// What may pass one way, for as long as the tunnel is open.
fn allowance(record: &mut RequestRecord, way: Way) -> Option<Allowance> {
    record.pace(way);
    let route = record.route.as_ref();
    route.map(|route| Allowance::with_credit(route.bandwidth(), way))
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut allowance: Option<Allowance>,
    mut count: impl FnMut(usize),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if let Some(allowance) = &mut allowance {
            allowance.ready().await;
        }
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            length => {
                to.write_all(&buffer[..length]).await?;
                to.flush().await?;
                count(length);
                if let Some(allowance) = &mut allowance {
                    allowance.spend(length as u64);
                }
            }
        }
    }
}
