//! Who uses much of the processor gives way to who uses little.
//!
//! Among groups of the same weight, one that computes all the time gets every other turn even beside one that
//! wants a millisecond now and then, whose every request then takes twice as long. So a container's weight goes
//! down as it uses more, and up again as it uses less. Where nobody else wants the processor a
//! weight costs nothing, and those that want it all the time still share alike.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use super::{
    CgroupError, CgroupTree, Controller, Folder, Version, read_value, when_there, write_value,
};

/// What a container weighs that uses little, which is what the kernel gives each group.
const FULL_V1: u32 = 1024;
const FULL_V2: u32 = 100;
/// What it may use of a processor without losing weight.
const LITTLE_CORES: f64 = 0.5;
/// Each step beyond that halves its weight, down to a sixteenth.
const STEP_CORES: f64 = 0.125;
const HALVINGS_MOST: u32 = 4;
/// How much what a container used since the last look counts beside what it used before.
const NEWEST: f64 = 0.4;

/// What each container has used lately, as a basis for its weight.
#[derive(Debug, Default)]
pub struct Balance {
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    cpu_usec: u64,
    /// Processors in use, on average over some seconds.
    cores: f64,
}

impl Balance {
    /// Gives each container of `tree` the weight that what it used since the last call makes of the one before.
    /// To be called about every half second.
    ///
    /// Errors: the engine's groups can't be listed. One that has gone meanwhile is none.
    pub fn look(&mut self, tree: &CgroupTree, now: Instant) -> io::Result<()> {
        let names = tree.list()?; // Sorted.
        self.seen.retain(|name, _| names.binary_search(name).is_ok());
        for name in names {
            let cgroup = tree.get(&name);
            let cpu_usec = cgroup.cpu_usec();
            let halvings = self.note(name, cpu_usec, now);
            let Some(folder) = cgroup.with(Controller::Cpu) else { continue };
            weigh(folder, halvings)?;
        }
        Ok(())
    }

    /// Returns how often the weight of the container `name` is halved.
    fn note(&mut self, name: String, cpu_usec: u64, now: Instant) -> u32 {
        let seen = self.seen.entry(name).or_insert(Seen { at: now, cpu_usec, cores: 0.0 });
        let period = now.saturating_duration_since(seen.at).as_secs_f64();
        if period > 0.0 {
            let cores = cpu_usec.saturating_sub(seen.cpu_usec) as f64 / 1e6 / period;
            seen.cores += NEWEST * (cores - seen.cores);
            (seen.at, seen.cpu_usec) = (now, cpu_usec);
        }
        halvings(seen.cores)
    }
}

/// Gives all containers of an engine together as much of each of `processors` as a process of the host
/// has, where each of those counts by itself: on version 1, and without systemd. With more, processes of
/// the host, the engine's among them, would wait longer when they wake.
///
/// Errors: the group's file can't be written.
pub fn weigh_all(engine: &Folder, processors: u32) -> Result<(), CgroupError> {
    let (file, full) = file(engine);
    let most = if engine.version == Version::V1 { 262_144 } else { 10_000 };
    let value = full.saturating_mul(processors).min(most).to_string();
    write_value(&file, &value).map_err(|source| CgroupError::Write { file, value, source })
}

fn weigh(container: &Folder, halvings: u32) -> io::Result<()> {
    let (file, full) = file(container);
    let weight = (full >> halvings).to_string();
    if read_value(&file).trim() != weight {
        when_there(write_value(&file, &weight))?;
    }
    Ok(())
}

fn file(group: &Folder) -> (PathBuf, u32) {
    match group.version {
        Version::V1 => (group.path.join("cpu.shares"), FULL_V1),
        Version::V2 => (group.path.join("cpu.weight"), FULL_V2),
    }
}

fn halvings(cores: f64) -> u32 {
    if cores < LITTLE_CORES {
        return 0;
    }
    // The cast saturates.
    (((cores - LITTLE_CORES) / STEP_CORES) as u32 + 1).min(HALVINGS_MOST)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_more_it_uses_the_less_it_weighs() {
        let weights = [0.0, 0.49, 0.5, 0.63, 0.8, 1.0, 64.0].map(halvings);
        assert_eq!(weights, [0, 0, 1, 2, 3, 4, 4]);
    }

    #[test]
    fn it_weighs_less_within_seconds_and_as_much_again_when_it_rests() {
        let (mut balance, begin) = (Balance::default(), Instant::now());
        let mut cpu_usec = 0;
        let mut look = |half_seconds: u32, cores: f64| {
            cpu_usec += (cores * 5e5) as u64;
            let now = begin + Duration::from_millis(500) * half_seconds;
            balance.note("one".to_owned(), cpu_usec, now)
        };
        let busy: Vec<u32> = (0..8).map(|time| look(time, 1.0)).collect();
        assert_eq!(busy, [0, 0, 2, 3, 3, 4, 4, 4], "the first look only begins");
        let resting: Vec<u32> = (8..12).map(|time| look(time, 0.0)).collect();
        assert_eq!(resting, [1, 0, 0, 0]);
    }

    #[test]
    fn two_looks_at_once_change_nothing() {
        let (mut balance, now) = (Balance::default(), Instant::now());
        assert_eq!(balance.note("one".to_owned(), 0, now), 0);
        assert_eq!(balance.note("one".to_owned(), 9_000_000, now), 0);
    }
}
