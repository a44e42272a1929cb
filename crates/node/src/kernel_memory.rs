//! Ends what runs in a container that has the kernel keep much for it in memory which no limit binds: locks of files
//! ([`file_locks`]), netlink sockets with answers in them that nobody reads ([`netlink_queues`]), and the least that the
//! buffers of each TCP socket may hold ([`sockets`]), whatever the limit is.

use std::sync::Arc;
use std::time::Duration;

use ace_sandbox::cgroup::{Cgroup, CgroupTree};
use ace_sandbox::sockets::Protocol;
use ace_sandbox::{file_locks, netlink_queues, sockets};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How many locks more than in calm there may be on the machine before containers are looked at one by one: some 50 MB.
const LOCKS_STEP: u64 = 250_000;
/// What one container may hold: some 20 MB. A database has a few.
const LOCKS_MAX: u64 = 100_000;
/// What the netlink sockets of one may take: 8,192 of them, or fewer with answers in them. A program reads the answers to its
/// questions, of some hundred bytes each.
const NETLINK_MAX: u64 = 16 << 20;
/// How many TCP sockets one may have: of each, the kernel takes 8 KiB in any case, out of what it has for those of the whole
/// machine, 376 MiB on one of 4 GiB. Connections with the world are 4,096 at most; the gateway's are none of these.
const TCP_SOCKETS_MAX: u64 = 16_384;

/// Watches the containers of `cgroups`, those of builds and commands included, for as long as the engine lives.
pub async fn watch(cgroups: Arc<CgroupTree>) {
    let mut calm = Calm::default();
    loop {
        sleep(LOOK_PAUSE).await;
        let cgroups = Arc::clone(&cgroups);
        calm = match spawn_blocking(move || look(&cgroups, calm)).await {
            Ok(calm) => calm,
            Err(error) => {
                return tracing::error!(%error, "the watch of the kernel's memory has ended");
            }
        };
    }
}

/// How many locks there were when no container had too many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Calm(u64);

impl Calm {
    fn ends_with(self, locks: u64) -> bool {
        locks >= self.0.saturating_add(LOCKS_STEP)
    }
}

/// Looks once at all containers; `calm` is what the look before came to.
fn look(cgroups: &CgroupTree, calm: Calm) -> Calm {
    // Where the kernel does not tell, there is nothing to see of locks.
    let locks = file_locks::in_kernel().unwrap_or(0);
    let counts_locks = calm.ends_with(locks);
    let mut is_explained = false;
    for name in cgroups.list().unwrap_or_default() {
        let group = cgroups.get(&name);
        let Some(what) = excess(&group, counts_locks) else { continue };
        is_explained = true;
        tracing::warn!(container = %name, "it has {what}, which no limit binds: its processes are ended");
        if let Err(error) = cgroups.end_for_excess(&name, &what) {
            tracing::warn!(container = %name, %error, "could not end its processes");
        }
    }
    match counts_locks {
        true if is_explained => calm,
        true => Calm(locks),
        false => Calm(calm.0.min(locks)),
    }
}

/// What the processes of `group` have too much of.
fn excess(group: &Cgroup, counts_locks: bool) -> Option<String> {
    let processes = group.app_processes().unwrap_or_default();
    // They all have the same network.
    let first = processes.first()?;
    if netlink_queues::bytes(*first, NETLINK_MAX) >= NETLINK_MAX {
        return Some(format!("more than {} MiB in netlink sockets", NETLINK_MAX >> 20));
    }
    if sockets::count(*first, Protocol::Tcp) >= TCP_SOCKETS_MAX {
        return Some(format!("more than {TCP_SOCKETS_MAX} TCP sockets"));
    }
    let has_locks = counts_locks && file_locks::held_by(&processes, LOCKS_MAX) >= LOCKS_MAX;
    has_locks.then(|| format!("more than {LOCKS_MAX} locks of files"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calm_ends_with_many_more_locks_than_there_were() {
        assert!(!Calm(0).ends_with(LOCKS_STEP - 1));
        assert!(Calm(0).ends_with(LOCKS_STEP));
        assert!(!Calm(LOCKS_STEP).ends_with(LOCKS_STEP + 1));
    }
}
