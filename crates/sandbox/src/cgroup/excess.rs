//! What containers were ended for that no limit of the kernel's binds, until somebody asks for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By container, what it had too much of.
#[derive(Debug, Default)]
pub struct Excesses(Mutex<BTreeMap<String, String>>);

impl Excesses {
    /// The container `name` is ended for having `what`. Forgets those that are not among `there`.
    pub fn note(&self, name: &str, what: &str, there: &[String]) {
        let mut known = self.lock();
        known.retain(|name, _| there.contains(name));
        known.insert(name.to_owned(), what.to_owned());
    }

    /// What the container `name` was ended for; the next time, nothing.
    pub fn take(&self, name: &str) -> Option<String> {
        self.lock().remove(name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_was_ended_for_is_told_once() {
        let excesses = Excesses::default();
        excesses.note("shop", "more than 7 locks", &["shop".to_owned()]);
        assert_eq!(excesses.take("shop").as_deref(), Some("more than 7 locks"));
        assert_eq!(excesses.take("shop"), None);
    }

    #[test]
    fn containers_that_are_gone_are_forgotten() {
        let excesses = Excesses::default();
        excesses.note("shop", "more than 7 locks", &["shop".to_owned()]);
        excesses.note("blog", "more than 7 locks", &["blog".to_owned()]);
        assert_eq!(excesses.take("shop"), None);
    }
}
