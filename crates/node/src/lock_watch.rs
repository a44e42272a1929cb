//! Ends what runs in a container that holds so many locks of files that the kernel's own memory is at stake: no limit binds
//! them (see [`file_locks`]).

use std::sync::Arc;
use std::time::Duration;

use ace_sandbox::cgroup::CgroupTree;
use ace_sandbox::file_locks;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// What the machine may have more of before containers are looked at one by one: some 50 MB.
const STEP: u64 = 250_000;
/// What one container may hold: some 20 MB. A database has a few.
const MOST: u64 = 100_000;

/// Watches the containers of `cgroups`, those of builds and commands included, for as long as the engine lives.
pub async fn watch(cgroups: Arc<CgroupTree>) {
    let mut calm = Calm::default();
    loop {
        sleep(LOOK_PAUSE).await;
        let cgroups = Arc::clone(&cgroups);
        let looked = spawn_blocking(move || calm.look(&cgroups)).await;
        calm = match looked {
            Ok(Some(calm)) => calm,
            Ok(None) => {
                return tracing::info!(
                    "this kernel does not tell how many locks of files there are"
                );
            }
            Err(error) => return tracing::error!(%error, "the watch of locks has ended"),
        };
    }
}

/// How many there were when no container had too many.
#[derive(Debug, Clone, Copy, Default)]
struct Calm(u64);

impl Calm {
    /// `None` where the kernel does not tell.
    fn look(self, cgroups: &CgroupTree) -> Option<Self> {
        let all = file_locks::in_kernel().ok()?;
        if !self.is_worth_a_look(all) {
            return Some(Self(self.0.min(all)));
        }
        Some(if end_the_greedy(cgroups) { self } else { Self(all) })
    }

    fn is_worth_a_look(self, all: u64) -> bool {
        all >= self.0.saturating_add(STEP)
    }
}

/// Returns whether there was one.
fn end_the_greedy(cgroups: &CgroupTree) -> bool {
    let names = cgroups.list().unwrap_or_default();
    let groups = names.into_iter().map(|name| (cgroups.get(&name), name));
    let mut found = false;
    for (group, name) in groups {
        let processes = group.app_processes().unwrap_or_default();
        if file_locks::held_by(&processes, MOST) < MOST {
            continue;
        }
        found = true;
        tracing::warn!(container = %name, "it holds more than {MOST} locks of files, which no limit binds: its processes are ended");
        if let Err(error) = group.kill_app() {
            tracing::warn!(container = %name, %error, "could not end its processes");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_looked_at_when_there_are_many_more_than_in_calm() {
        assert!(!Calm(0).is_worth_a_look(STEP - 1));
        assert!(Calm(0).is_worth_a_look(STEP));
        assert!(!Calm(STEP).is_worth_a_look(STEP + 1));
    }
}
