//! Apps that something is going on with, each at most once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ace_types::AppName;

/// The apps that are marked.
#[derive(Debug, Default, Clone)]
pub struct Marks(Arc<Mutex<BTreeSet<AppName>>>);

/// An app is marked until this is dropped.
#[derive(Debug)]
pub struct Mark {
    marks: Marks,
    app: AppName,
}

impl Marks {
    /// Marks `app`; `None` where it is.
    pub fn mark(&self, app: &AppName) -> Option<Mark> {
        let is_new = self.lock().insert(app.clone());
        is_new.then(|| Mark { marks: self.clone(), app: app.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<AppName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.marks.lock().remove(&self.app);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn an_app_is_marked_once_at_a_time() {
        let marks = Marks::default();
        let mark = marks.mark(&name("shop"));
        assert!(mark.is_some() && marks.mark(&name("shop")).is_none());
        assert!(marks.mark(&name("blog")).is_some());
        drop(mark);
        assert!(marks.mark(&name("shop")).is_some());
    }
}
