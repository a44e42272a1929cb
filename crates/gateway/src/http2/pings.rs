//! Finds out whether a client that says nothing is still there.

use std::future::{pending, poll_fn};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::client::ClientState;

/// How long a client may be silent before it's asked, and how long after that.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns once a client has not even answered a PING. Whatever it sends tells that it's there: the answer
/// to a PING may stand behind much that it's still receiving.
pub async fn silence(pings: Option<PingPong>, state: &ClientState) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        let before = state.heard();
        sleep(PING_INTERVAL).await;
        if state.heard() != before {
            continue;
        }
        // Where one is under way, its answer is waited for.
        _ = pings.send_ping(Ping::opaque());
        let pong = poll_fn(|cx| pings.poll_pong(cx));
        if timeout(PING_TIMEOUT, pong).await.is_err() && state.heard() == before {
            return;
        }
    }
}
