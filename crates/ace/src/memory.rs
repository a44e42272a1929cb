//! Gives memory back that is free again.
//!
//! The allocator keeps what thousands of clients have needed at once for the next thousands, between pieces that
//! are still in use. The machine's other programs would go without it.

use std::time::Duration;

use ace_sandbox::memory;
use ace_types::error_chain;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

const LOOK_EVERY: Duration = Duration::from_secs(30);

/// So much more than was left at the least is worth the time it takes to look for what is free.
const WORTH_BYTES: u64 = 64 << 20;

/// Goes on for as long as the process.
pub async fn keep_trim() {
    let mut least_bytes = u64::MAX;
    loop {
        let resident = match memory::resident_bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                let causes = error_chain(&error);
                return tracing::warn!(
                    causes,
                    "free memory is not given back: its size is unknown"
                );
            }
        };
        least_bytes = least_bytes.min(resident);
        if resident - least_bytes > WORTH_BYTES {
            _ = spawn_blocking(memory::give_back).await;
        }
        sleep(LOOK_EVERY).await;
    }
}
