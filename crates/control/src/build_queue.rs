//! Who may build: one build a tenant at a time, as many at once as the machine has memory for, and
//! tenants in turn, however many builds one of them has waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ace_types::TenantName;
use tokio::sync::watch;

/// The builds that run and wait.
#[derive(Debug)]
pub struct BuildQueue {
    queue: Mutex<Queue>,
    /// Changes whenever somebody who waits may be let in.
    moved: watch::Sender<()>,
}

#[derive(Debug)]
struct Queue {
    most: usize,
    running: BTreeSet<TenantName>,
    /// By arrival.
    waiting: BTreeMap<u64, TenantName>,
    arrivals: u64,
    /// When each tenant that builds or waits was last let in, by count.
    last: BTreeMap<TenantName, u64>,
    starts: u64,
}

/// A place in the queue; dropping it gives the place up.
#[derive(Debug)]
pub struct Place<'a> {
    queue: &'a BuildQueue,
    number: u64,
    /// Builds that run and those that wait before this one.
    pub before: usize,
}

/// Room for one build, until it's dropped.
#[derive(Debug)]
pub struct BuildRoom<'a> {
    queue: &'a BuildQueue,
    tenant: TenantName,
}

impl BuildQueue {
    /// For `most` builds at once.
    pub fn new(most: usize) -> Self {
        let queue = Queue {
            most: most.max(1),
            running: BTreeSet::new(),
            waiting: BTreeMap::new(),
            arrivals: 0,
            last: BTreeMap::new(),
            starts: 0,
        };
        Self { queue: Mutex::new(queue), moved: watch::Sender::new(()) }
    }

    /// Takes the last place in the queue.
    pub fn enter(&self, tenant: &TenantName) -> Place<'_> {
        let mut queue = self.lock();
        let before = queue.waiting.len() + queue.running.len();
        queue.arrivals += 1;
        let number = queue.arrivals;
        queue.waiting.insert(number, tenant.clone());
        Place { queue: self, number, before }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Place<'a> {
    /// Room to build, if it can be had without waiting.
    pub fn try_room(&self) -> Option<BuildRoom<'a>> {
        let mut queue = self.queue.lock();
        if queue.next() != Some(self.number) {
            return None;
        }
        let tenant = queue.waiting.remove(&self.number)?;
        queue.let_in(&tenant);
        drop(queue);
        // There may be room for one more.
        self.queue.moved.send_replace(());
        Some(BuildRoom { queue: self.queue, tenant })
    }

    /// Waits until there is room for this build.
    pub async fn room(&self) -> BuildRoom<'a> {
        let mut moved = self.queue.moved.subscribe();
        loop {
            if let Some(room) = self.try_room() {
                return room;
            }
            // The queue has the sender, so there is always a change to come.
            if moved.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.queue.lock().waiting.remove(&self.number).is_some() {
            self.queue.moved.send_replace(());
        }
    }
}

impl Drop for BuildRoom<'_> {
    fn drop(&mut self) {
        let mut queue = self.queue.lock();
        queue.running.remove(&self.tenant);
        let Queue { running, waiting, last, .. } = &mut *queue;
        last.retain(|tenant, _| {
            running.contains(tenant) || waiting.values().any(|other| other == tenant)
        });
        drop(queue);
        self.queue.moved.send_replace(());
    }
}

impl Queue {
    /// Whose turn it is: of the tenants that have no build running, the one that was let in longest ago.
    fn next(&self) -> Option<u64> {
        if self.running.len() >= self.most {
            return None;
        }
        let free = self.waiting.iter().filter(|(_, tenant)| !self.running.contains(*tenant));
        let turn = |(number, tenant): &(&u64, &TenantName)| {
            (self.last.get(*tenant).copied().unwrap_or(0), **number)
        };
        free.min_by_key(turn).map(|(number, _)| *number)
    }

    fn let_in(&mut self, tenant: &TenantName) {
        self.starts += 1;
        self.last.insert(tenant.clone(), self.starts);
        self.running.insert(tenant.clone());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        name.parse().unwrap()
    }

    #[test]
    fn a_tenant_builds_one_thing_at_a_time() {
        let queue = BuildQueue::new(4);
        let (first, second) = (queue.enter(&tenant("a")), queue.enter(&tenant("a")));
        assert_eq!((first.before, second.before), (0, 1));
        let room = first.try_room().unwrap();
        assert!(second.try_room().is_none());
        let other = queue.enter(&tenant("b"));
        assert!(other.try_room().is_some());
        drop(room);
        assert!(second.try_room().is_some());
    }

    #[test]
    fn tenants_take_turns_however_many_builds_wait() {
        let queue = BuildQueue::new(1);
        let places: Vec<Place<'_>> =
            ["a", "a", "a", "b", "c"].map(|t| queue.enter(&tenant(t))).into();
        let mut order = Vec::new();
        for _ in 0..places.len() {
            let room = places.iter().find_map(Place::try_room).unwrap();
            order.push(room.tenant.to_string());
        }
        assert_eq!(order, ["a", "b", "c", "a", "a"]);
    }

    #[tokio::test]
    async fn who_gives_up_lets_the_next_one_in() {
        let queue = BuildQueue::new(1);
        let (first, second) = (queue.enter(&tenant("a")), queue.enter(&tenant("b")));
        assert!(second.try_room().is_none());
        let (room, ()) = tokio::join!(second.room(), async { drop(first) });
        drop(room);
        assert!(queue.lock().last.is_empty());
    }
}
