//! Who uses much of the processor gives way to who uses little.
//!
//! Whatever groups weigh, a task that wakes waits until the one that runs has had its turn, which the kernel looks at once
//! a tick of its clock. Only for a group that is *idle* to the kernel nobody waits. So a container that uses much is made idle, and ceases to be when
//! it uses less, or gets less.
//!
//! That takes groups right below the tree's root. A group above several of them has next to no weight on
//! a processor where only idle ones run, and owes the kernel for what they did there with it: who wakes there, in another container, waits for a
//! tenth of a second. There, and before Linux 5.15, one that uses much has little weight instead.
//!
//! Nobody starves by that. Whoever goes first uses less than the share that each would have who wants more than there
//! is ([`fair_share`]); so those who give way have at least that share between them, and among
//! themselves they share alike. Who suddenly wants more goes first until it is noticed, which takes one or two looks.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{
    CgroupError, CgroupTree, Controller, Folder, Version, processors, read_value, when_there,
    write_value,
};

/// What a container weighs that goes first, which is what the kernel gives each group.
const FULL_V1: u32 = 1024;
const FULL_V2: u32 = 100;
/// What one that gives way has of that, where it can't be idle.
const LIGHT_PART: u32 = 16;
/// The most that version 2 takes.
const WEIGHT_MOST: u32 = 10_000;
const IDLE: &str = "cpu.idle";

/// Who uses less of a processor than this wants none: nobody gives way to it.
const NEXT_TO_NOTHING: f64 = 0.01;
/// For so many seconds it's still given way to whoever has rested: its next request should find the processors free.
const LATELY: f64 = 20.0;
/// Processors that a container may use without giving way, in use all the time.
const LITTLE_CORES: f64 = 0.5;
/// The same, in parts of what the greediest uses.
const GREEDIEST_PART: f64 = 0.67;
/// But never more than this part of the fair share.
const FAIR_PART: f64 = 0.8;
/// The part of an equal share of the machine from which on a container is at work.
const BUSY_PART: f64 = 0.25;
/// Seconds of a processor that it may use at once beyond that, after a rest; and the most that it has to make up for.
const BURST: f64 = 0.1;

/// What each container has used lately, as a basis for who gives way.
#[derive(Debug, Default)]
pub struct Balance {
    /// When it was looked last.
    at: Option<Instant>,
    accounts: BTreeMap<String, Account>,
}

/// What is known of one container.
#[derive(Debug, Default)]
struct Account {
    /// All that it has used.
    used_usec: u64,
    /// Processors in use between the last two looks.
    cores: f64,
    /// Seconds since it wanted any.
    rested: f64,
    /// Seconds of a processor that it has used too much; below zero, what it may still use.
    excess: f64,
}

impl Balance {
    /// Has each container of `tree` give way, or go first, by what it has used since the last call and before. To be
    /// called some times a second.
    ///
    /// Errors: the engine's groups can't be listed, or written to.
    pub fn look(&mut self, tree: &CgroupTree, now: Instant) -> io::Result<()> {
        let groups: BTreeMap<_, _> =
            tree.list()?.into_iter().map(|name| (name.clone(), tree.get(&name))).collect();
        let used = groups.iter().map(|(name, group)| (name.clone(), group.cpu_usec())).collect();
        self.note(&used, now, f64::from(processors()));
        for (name, group) in &groups {
            let Some(folder) = group.with(Controller::Cpu) else { continue };
            set_standing(folder, self.standing(name, f64::from(processors())))?;
        }
        Ok(())
    }

    /// Takes in what each container has used until `now`, in microseconds, on a machine of so many `processors`.
    fn note(&mut self, used: &BTreeMap<String, u64>, now: Instant, processors: f64) {
        let period = self.at.map(|at| now.saturating_duration_since(at).as_secs_f64());
        if period == Some(0.0) {
            return;
        }
        self.at = Some(now);
        self.accounts.retain(|name, _| used.contains_key(name));
        for (name, used_usec) in used {
            let account = self.accounts.entry(name.clone()).or_default();
            // The first look of all only begins; who comes later has used nothing before.
            let newly = used_usec.saturating_sub(account.used_usec) as f64 / 1e6;
            account.cores = period.map_or(0.0, |period| newly / period);
            account.used_usec = *used_usec;
            let rested = account.rested + period.unwrap_or(0.0);
            account.rested = if account.cores > NEXT_TO_NOTHING { 0.0 } else { rested };
        }
        let cores: Vec<f64> = self.accounts.values().map(|account| account.cores).collect();
        let much = much(&cores, processors);
        for account in self.accounts.values_mut() {
            let excess = account.excess + (account.cores - much) * period.unwrap_or(0.0);
            account.excess = excess.clamp(-BURST, BURST);
        }
    }

    /// Where all that lately wanted any use much, none gives way: nobody would be served by it but processes of the host.
    fn standing(&self, name: &str, processors: f64) -> Standing {
        let Some(account) = self.accounts.get(name) else { return Standing::GoesFirst };
        let uses_much = |it: &Account| it.excess > 0.0;
        let goes_first = |it: &Account| !uses_much(it) && it.rested < LATELY;
        let some_give_way = self.accounts.values().any(goes_first);
        let gives_way = |it: &Account| uses_much(it) && some_give_way;
        if gives_way(account) {
            return Standing::GivesWay;
        }
        let wants = |it: &&Account| it.cores > NEXT_TO_NOTHING;
        let equal_share = processors / self.accounts.values().filter(wants).count() as f64;
        let is_busy = |it: &&Account| wants(it) && it.cores > BUSY_PART * equal_share;
        if !is_busy(&account) {
            return Standing::GoesFirst;
        }
        let busy = self.accounts.values().filter(|it| is_busy(it) && !gives_way(it)).count();
        Standing::OneOfBusy { busy: u32::try_from(busy).unwrap_or(u32::MAX) }
    }
}

/// How a container stands to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    GoesFirst,
    GivesWay,
    /// It gives way to none, and is at work as so many are.
    OneOfBusy {
        busy: u32,
    },
}

/// Whether `group` can be idle.
pub fn can_be_idle(group: &Path) -> bool {
    group.join(IDLE).exists()
}

/// Gives all containers of an engine together as much of each of `processors` as a process of the host
/// has, where each of those counts by itself: in a group of the engine's that no systemd made. With more, processes of
/// the host, the engine's among them, would wait longer when they wake.
///
/// Errors: the group's file can't be written.
pub fn weigh_all(engine: &Folder, processors: u32) -> Result<(), CgroupError> {
    let (file, full) = weight_of(engine);
    let value = full.saturating_mul(processors).min(WEIGHT_MOST).to_string();
    write_value(&file, &value).map_err(|source| CgroupError::Write { file, value, source })
}

/// How many processors are much, where containers use `cores` of so many `processors`.
fn much(cores: &[f64], processors: f64) -> f64 {
    let greediest = cores.iter().copied().fold(0.0, f64::max);
    let much = LITTLE_CORES.max(GREEDIEST_PART * greediest);
    much.min(FAIR_PART * fair_share(cores, processors))
}

/// What each has who wants more than there is, once those who want less have what they use: the level of
/// max-min fairness.
fn fair_share(cores: &[f64], processors: f64) -> f64 {
    let mut ascending = cores.to_vec();
    ascending.sort_by(f64::total_cmp);
    let (mut left, mut share) = (processors, processors);
    for (served, used) in ascending.iter().enumerate() {
        share = left / (ascending.len() - served) as f64;
        if *used >= share {
            break;
        }
        left -= used;
    }
    share
}

/// Writes what is not so already. A group that has gone meanwhile is none.
fn set_standing(container: &Folder, standing: Standing) -> io::Result<()> {
    let idle = container.path.join(IDLE);
    let stands = read_value(&idle);
    let can_be_idle = container.stands_alone && !stands.is_empty();
    let wanted = if standing == Standing::GivesWay { "1" } else { "0" };
    if can_be_idle && stands.trim() != wanted {
        when_there(write_value(&idle, wanted))?;
    }
    match standing {
        Standing::GoesFirst => weigh(container, 1),
        Standing::GivesWay if can_be_idle => Ok(()), // While it's idle the kernel takes no weight.
        Standing::GivesWay => weigh(container, LIGHT_PART),
        Standing::OneOfBusy { busy } => {
            weigh(container, part_of_busy(container, busy, processors()))
        }
    }
}

/// Into how many parts the weight of one goes where so many are at work.
///
/// Beside the root's other groups of version 2, which hold all services of the host, and the engine, with one's weight
/// each, they may not weigh more on any of `processors` than one. Version 1's root has processes that count each by
/// itself; and elsewhere the group above them has its own weight.
fn part_of_busy(container: &Folder, busy: u32, processors: u32) -> u32 {
    match container.version {
        Version::V2 if container.stands_alone => busy.div_ceil(processors),
        Version::V1 | Version::V2 => 1,
    }
}

fn weigh(container: &Folder, part: u32) -> io::Result<()> {
    let (file, full) = weight_of(container);
    let weight = (full / part).max(1).to_string();
    if read_value(&file).trim() != weight {
        when_there(write_value(&file, &weight))?;
    }
    Ok(())
}

fn weight_of(group: &Folder) -> (PathBuf, u32) {
    match group.version {
        Version::V1 => (group.path.join("cpu.shares"), FULL_V1),
        Version::V2 => (group.path.join("cpu.weight"), FULL_V2),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TICK: f64 = 0.25;
    /// How many ticks a share may take to be right.
    const WINDOW: usize = 20;

    /// A machine as the kernel shares it out: who goes first has what it wants, as far as that goes; the others share what is left.
    struct Machine {
        processors: f64,
        balance: Balance,
        begin: Instant,
        ticks: u32,
        /// What each has used, in seconds of a processor.
        used: Vec<f64>,
    }

    impl Machine {
        fn new(processors: f64, containers: usize) -> Self {
            let used = vec![0.0; containers];
            let mut machine = Self {
                processors,
                balance: Balance::default(),
                begin: Instant::now(),
                ticks: 0,
                used,
            };
            machine.look();
            machine
        }

        fn look(&mut self) {
            let now = self.begin + Duration::from_secs_f64(TICK) * self.ticks;
            let used =
                self.used.iter().enumerate().map(|(at, used)| (name(at), (used * 1e6) as u64));
            self.balance.note(&used.collect(), now, self.processors);
            self.ticks += 1;
        }

        fn gives_way(&self) -> Vec<bool> {
            let standing = |at| self.balance.standing(&name(at), self.processors);
            let gives_way = |at| standing(at) == Standing::GivesWay;
            (0..self.used.len()).map(gives_way).collect()
        }

        /// Lets a tick pass in which containers want so many processors. Returns how many each had.
        fn tick(&mut self, wanted: &[f64]) -> Vec<f64> {
            let gives_way = self.gives_way();
            let of = |class: bool| {
                let wants =
                    |(at, wants): (usize, &f64)| if gives_way[at] == class { *wants } else { 0.0 };
                wanted.iter().enumerate().map(wants).collect::<Vec<_>>()
            };
            let first = shared_out(&of(false), self.processors);
            let rest = shared_out(&of(true), self.processors - first.iter().sum::<f64>());
            let had: Vec<f64> = first.iter().zip(&rest).map(|(first, rest)| first + rest).collect();
            for (used, had) in self.used.iter_mut().zip(&had) {
                *used += had * TICK;
            }
            self.look();
            had
        }
    }

    fn name(at: usize) -> String {
        format!("{at:03}")
    }

    /// What max-min fairness gives each.
    fn shared_out(wanted: &[f64], processors: f64) -> Vec<f64> {
        let share = fair_share(wanted, processors);
        let is_full = wanted.iter().sum::<f64>() > processors;
        wanted.iter().map(|wants| if is_full { wants.min(share) } else { *wants }).collect()
    }

    #[test]
    fn a_fair_share_is_what_is_left_of_the_machine_by_those_who_want_less() {
        assert_eq!(fair_share(&[], 2.0), 2.0);
        assert_eq!(fair_share(&[1.0, 1.0, 1.0, 1.0], 2.0), 0.5);
        assert_eq!(fair_share(&[1.0, 0.25, 1.0, 0.25], 2.0), 0.75);
        assert_eq!(fair_share(&[1.0, 0.25], 2.0), 1.75, "which nobody needs");
    }

    #[test]
    fn who_uses_much_gives_way_at_the_first_look_and_goes_first_again_after_a_rest() {
        let mut machine = Machine::new(2.0, 2);
        assert_eq!(machine.gives_way(), [false, false]);
        machine.tick(&[1.0, 0.2]);
        assert_eq!(machine.gives_way(), [true, false]);
        (0..99).for_each(|_| drop(machine.tick(&[1.0, 0.4])));
        assert_eq!(machine.gives_way(), [true, false]);
        (0..2).for_each(|_| drop(machine.tick(&[0.0, 0.4])));
        assert_eq!(machine.gives_way(), [false, false]);
    }

    #[test]
    fn many_at_work_weigh_as_one_on_each_processor_beside_services_of_the_host() {
        let of = |version, stands_alone| {
            let controllers = vec![Controller::Cpu];
            let folder = Folder { path: PathBuf::new(), version, controllers, stands_alone };
            [1, 2, 3, 40].map(|busy| part_of_busy(&folder, busy, 2))
        };
        assert_eq!(of(Version::V2, true), [1, 1, 2, 20]);
        assert_eq!(of(Version::V2, false), [1; 4]);
        assert_eq!(of(Version::V1, true), [1; 4]);
    }

    #[test]
    fn who_is_at_work_is_one_of_so_many_also_where_the_host_takes_its_part() {
        let mut machine = Machine::new(2.0, 8);
        // Six share what the host leaves, one has next to no visitors and one has none.
        machine.tick(&[0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.02, 0.0]);
        let standing = |at| machine.balance.standing(&name(at), 2.0);
        assert_eq!(standing(0), Standing::OneOfBusy { busy: 6 });
        assert_eq!([standing(6), standing(7)], [Standing::GoesFirst; 2]);
        // Those who give way weigh nothing beside it.
        let wants = [1.0, 1.0, 0.2, 0.2, 0.02, 0.0, 0.0, 0.0];
        (0..4).for_each(|_| drop(machine.tick(&wants)));
        let standing = |at| machine.balance.standing(&name(at), 2.0);
        assert_eq!(
            [standing(0), standing(2)],
            [Standing::GivesWay, Standing::OneOfBusy { busy: 2 }]
        );
    }

    #[test]
    fn where_all_use_much_none_gives_way_until_one_comes_that_uses_little() {
        let mut machine = Machine::new(2.0, 3);
        (0..90).for_each(|_| drop(machine.tick(&[1.0, 1.0, 0.001])));
        assert_eq!(machine.gives_way(), [false, false, false]);
        machine.tick(&[1.0, 1.0, 0.1]);
        assert_eq!(machine.gives_way(), [true, true, false]);
        (0..9).for_each(|_| drop(machine.tick(&[1.0, 1.0, 0.0])));
        assert_eq!(machine.gives_way(), [true, true, false], "it may come again");
        (0..90).for_each(|_| drop(machine.tick(&[1.0, 0.0, 0.0])));
        assert_eq!(machine.gives_way(), [false, false, false], "who is alone");
    }

    #[test]
    fn a_short_burst_is_free() {
        let mut machine = Machine::new(2.0, 2);
        (0..9).for_each(|_| drop(machine.tick(&[0.1, 0.1])));
        machine.tick(&[0.8, 0.1]);
        assert_eq!(machine.gives_way(), [false, false]);
    }

    #[test]
    fn a_container_that_processes_of_the_host_leave_nothing_goes_first() {
        let mut machine = Machine::new(2.0, 2);
        (0..3).for_each(|_| drop(machine.tick(&[1.0, 0.2])));
        assert_eq!(machine.gives_way(), [true, false]);
        (0..2).for_each(|_| drop(machine.tick(&[0.1, 0.2])));
        assert_eq!(machine.gives_way(), [false, false]);
    }

    #[test]
    fn two_looks_at_once_change_nothing() {
        let (mut balance, now) = (Balance::default(), Instant::now());
        let used = |usec| BTreeMap::from([(name(0), usec)]);
        balance.note(&used(0), now, 2.0);
        balance.note(&used(9_000_000), now, 2.0);
        assert_ne!(balance.standing(&name(0), 2.0), Standing::GivesWay);
    }

    #[test]
    fn nobody_who_wants_more_has_less_than_most_of_its_fair_share() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let processors = [1.0, 2.0, 4.0, 16.0][random.below(4)];
            let containers = 1 + random.below(24);
            let caps: Vec<f64> =
                (0..containers).map(|_| [0.5, 1.0, 1.0, 4.0][random.below(4)]).collect();
            let mut machine = Machine::new(processors, containers);
            for _ in 0..5 {
                let wanted: Vec<f64> =
                    caps.iter().map(|cap| cap.min(processors) * random.part().powi(2)).collect();
                let fair = shared_out(&wanted, processors);
                let mut had = vec![0.0; containers];
                for _ in 0..WINDOW {
                    let tick = machine.tick(&wanted);
                    had.iter_mut().zip(tick).for_each(|(had, tick)| *had += tick / WINDOW as f64);
                }
                for (at, (had, fair)) in had.iter().zip(&fair).enumerate() {
                    assert!(
                        *had >= 0.75 * fair,
                        "seed {seed}: {at} had {had} of {fair}, {wanted:?}"
                    );
                }
            }
        }
    }

    /// A linear congruential generator: the same numbers in each run.
    struct Random(u64);

    impl Random {
        fn part(&mut self) -> f64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as f64 / f64::from(1_u32 << 31)
        }

        fn below(&mut self, count: usize) -> usize {
            (self.part() * count as f64) as usize
        }
    }
}
