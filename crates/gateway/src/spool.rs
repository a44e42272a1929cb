//! Room on disk for what one side sends faster than the other takes it: requests' bodies until they
//! are complete, answers until their clients have read them.
//!
//! There is so much of it for all apps together, and so much for one. Files have no name, so that
//! nothing is left behind.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where spooled bytes go, and how much room there is.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    used: AtomicU64,
}

/// How much one app has of it.
#[derive(Debug, Default)]
pub struct AppUse(AtomicU64);

/// One app's way to the spool.
#[derive(Debug, Clone)]
pub struct AppSpool {
    spool: Arc<Spool>,
    app: Arc<AppUse>,
}

/// What one file takes; given back when dropped.
#[derive(Debug)]
pub struct Room {
    spool: AppSpool,
    taken: u64,
}

/// The part of the room that one app may have.
const APP_SHARE: u64 = 4;

impl Spool {
    pub fn new(folder: PathBuf, bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { folder, bytes_max, used: AtomicU64::new(0) })
    }

    pub fn of(self: &Arc<Self>, app: &Arc<AppUse>) -> AppSpool {
        AppSpool { spool: Arc::clone(self), app: Arc::clone(app) }
    }
}

impl AppSpool {
    pub fn room(&self) -> Room {
        Room { spool: self.clone(), taken: 0 }
    }

    /// A file without a name. Waits for the disk.
    pub fn file(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.spool.folder)
    }
}

impl Room {
    /// Takes `bytes` more, if all and the app have so much left. Returns whether they had.
    pub fn take(&mut self, bytes: u64) -> bool {
        let Spool { bytes_max, used, .. } = &*self.spool.spool;
        let app_used = &self.spool.app.0;
        let all = used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let app = app_used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = all <= *bytes_max && app <= bytes_max / APP_SHARE;
        self.taken += bytes;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    /// Gives all back.
    pub fn clear(&mut self) {
        self.give_back(self.taken);
    }

    fn give_back(&mut self, bytes: u64) {
        self.taken -= bytes;
        self.spool.spool.used.fetch_sub(bytes, Ordering::Relaxed);
        self.spool.app.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_app_leaves_room_for_others() {
        let spool = Spool::new(PathBuf::from("/nonexistent"), 400);
        let greedy = spool.of(&Arc::default());
        let (mut first, mut second) = (greedy.room(), greedy.room());
        assert!(first.take(60) && !second.take(50) && second.take(40));
        for _ in 0..3 {
            assert!(spool.of(&Arc::default()).room().take(100));
        }
        drop(first);
        assert!(second.take(60) && !second.take(1));
        second.clear();
        assert_eq!(spool.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_together_have_no_more_than_there_is() {
        let spool = Spool::new(PathBuf::from("/nonexistent"), 400);
        let mut rooms: Vec<_> = (0..5).map(|_| spool.of(&Arc::default()).room()).collect();
        let taken = rooms.iter_mut().filter_map(|room| room.take(100).then_some(()));
        assert_eq!(taken.count(), 4);
    }
}
