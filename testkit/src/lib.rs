//! Real engines for tests: a temporary data folder, a free port, and the `ace` program itself.
//!
//! An [`Engine`] that is dropped is taken down, and the test fails if anything is left of it in the
//! kernel. The tests need root and, for builds, the network.

#![forbid(unsafe_code)]

pub mod app;
pub mod connection;
pub mod engine;
pub mod http;
pub mod leftovers;
pub mod load;

mod seed;

pub use app::AppFolder;
pub use engine::{Engine, Output};
pub use http::Answer;
pub use load::Load;

use std::time::{Duration, Instant};

/// Asks `question` again until it has an answer, at most for `deadline`.
///
/// Errors: `what` did not come in time.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut question: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = question() {
            return Ok(answer);
        }
        anyhow::ensure!(Instant::now() < end, "{what} did not come within {deadline:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
