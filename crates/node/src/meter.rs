//! What instances use: the newest reading of each, and sums by app that outlive them.
//!
//! An instance's task reads what the kernel counts ([`Reading`]) and has its [`Gauge`] make of it
//! what an operator asks for; [`Meters`] keeps that for all. Time is an argument.

mod flow;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ace_api::{AppUsage, EndReason, FlowUsage, InstanceUsage, NodeUsage, SpaceUsage, WrittenFiles};
use ace_sandbox::cgroup::{self, DiskTraffic};
use ace_sandbox::disk::Device;
use ace_sandbox::network::WireTraffic;
use ace_types::{AppName, InstanceId, Limits};
use flow::{Flow, Way};
use jiff::Timestamp;

/// Over how long processor time is averaged.
const CPU_SPAN: Duration = Duration::from_secs(10);
/// How long readings are kept.
const KEPT: Duration = Duration::from_secs(60);

/// What all instances of a node use.
#[derive(Debug, Default)]
pub struct Meters(Mutex<NodeUsage>);

/// One instance's readings over the last minute.
#[derive(Debug)]
pub struct Gauge {
    past: VecDeque<Past>,
    /// Up to where the app's sums have it; `None` before the first reading of a container that was
    /// found: what it had used by then counts for the engine before.
    counted: Option<Counts>,
    lines_dropped: u64,
    lines_counted: Option<u64>,
    io: Flow<Device>,
    iops: Flow<Device>,
    bandwidth: Flow<()>,
    full: Full,
    /// How long it has been at its limits, as far as the app's sums have it.
    at_limit_counted: AtLimit,
}

/// What there is to see of a container at one time.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub kernel: cgroup::Usage,
    /// `None` where the kernel does not count it, and so with the next.
    pub disks: Option<BTreeMap<Device, DiskTraffic>>,
    pub wire: Option<WireTraffic>,
    pub tmp: Option<SpaceUsage>,
    pub shm: Option<SpaceUsage>,
    pub volume: Option<SpaceUsage>,
    /// `None` where none has been, or it can't be read.
    pub log_lines_dropped: Option<u64>,
    /// What goes with the container.
    pub written: Option<WrittenFiles>,
}

/// By how much counts have grown between two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    kernel: Counts,
    log_lines_dropped: u64,
    at_limit: AtLimit,
    /// Which places have become full.
    full: Full,
}

/// How long an instance has been as fast as its limits allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct AtLimit {
    io_usec: u64,
    iops_usec: u64,
    bandwidth_usec: u64,
}

/// Where there is no room left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Full {
    tmp: bool,
    shm: bool,
    volume: bool,
}

/// What only grows while a container is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    cpu_usec: u64,
    throttled_usec: u64,
    memory_kills: u64,
    pids_refused: u64,
    packets_held_back: u64,
}

#[derive(Debug, Clone, Copy)]
struct Past {
    at: Instant,
    counts: Counts,
}

impl Meters {
    pub fn usage(&self) -> NodeUsage {
        self.lock().clone()
    }

    /// What `instance` uses now; its app has used `growth` more.
    pub fn note(&self, instance: &InstanceId, app: &AppName, usage: InstanceUsage, growth: Growth) {
        let mut all = self.lock();
        all.instances.insert(instance.clone(), usage);
        let sum = all.apps.entry(app.clone()).or_default();
        let Growth { kernel, log_lines_dropped, at_limit, full } = growth;
        sum.cpu_usec += kernel.cpu_usec;
        sum.throttled_usec += kernel.throttled_usec;
        sum.memory_kills += kernel.memory_kills;
        sum.pids_refused += kernel.pids_refused;
        sum.packets_held_back += kernel.packets_held_back;
        sum.log_lines_dropped += log_lines_dropped;
        sum.io_at_limit_usec += at_limit.io_usec;
        sum.iops_at_limit_usec += at_limit.iops_usec;
        sum.bandwidth_at_limit_usec += at_limit.bandwidth_usec;
        sum.tmp_full += u64::from(full.tmp);
        sum.shm_full += u64::from(full.shm);
        sum.volume_full += u64::from(full.volume);
    }

    /// `instance` has no container any more.
    pub fn gone(&self, instance: &InstanceId) {
        self.lock().instances.remove(instance);
    }

    /// An instance of `app` has ended by itself.
    pub fn ended(&self, app: &AppName, reason: &EndReason) {
        self.with(app, |sum| *sum.ends.entry(reason.code().to_owned()).or_default() += 1);
    }

    /// An instance of `app` is started again.
    pub fn restarted(&self, app: &AppName) {
        self.with(app, |sum| sum.restarts += 1);
    }

    /// There is no `app` any more.
    pub fn forget(&self, app: &AppName) {
        self.lock().apps.remove(app);
    }

    fn with(&self, app: &AppName, change: impl FnOnce(&mut AppUsage)) {
        change(self.lock().apps.entry(app.clone()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, NodeUsage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gauge {
    /// For an instance whose container is still to be made.
    pub fn new() -> Self {
        let (counted, lines_counted) = (Some(Counts::default()), Some(0));
        Self {
            past: VecDeque::new(),
            counted,
            lines_dropped: 0,
            lines_counted,
            io: Flow::new(),
            iops: Flow::new(),
            bandwidth: Flow::new(),
            full: Full::default(),
            at_limit_counted: AtLimit::default(),
        }
    }

    /// For an instance whose container an engine before has made.
    pub fn found() -> Self {
        Self { counted: None, lines_counted: None, ..Self::new() }
    }

    /// A new container is made, and the kernel counts from zero.
    pub fn container_made(&mut self) {
        self.past.clear();
        self.io.container_made();
        self.iops.container_made();
        self.bandwidth.container_made();
        self.counted = Some(Counts::default());
    }

    /// Takes a reading of `now`, which is `at` on the clock.
    pub fn take(
        &mut self,
        reading: Reading,
        limits: &Limits,
        now: Instant,
        at: Timestamp,
    ) -> (InstanceUsage, Growth) {
        let counts = Counts::of(&reading);
        self.past.push_back(Past { at: now, counts });
        while self.past.get(1).is_some_and(|second| now.duration_since(second.at) >= KEPT) {
            self.past.pop_front();
        }
        self.lines_dropped = reading.log_lines_dropped.unwrap_or(self.lines_dropped);
        let usage = self.usage(reading, limits, now, at);
        let growth = self.growth(counts, AtLimit::of(&usage), Full::of(&usage));
        (usage, growth)
    }

    fn growth(&mut self, counts: Counts, at_limit: AtLimit, full: Full) -> Growth {
        let kernel = self.counted.map_or(Counts::default(), |counted| counts.since(counted));
        let lines = self.lines_counted.map_or(0, |lines| self.lines_dropped.saturating_sub(lines));
        self.counted = Some(counts);
        self.lines_counted = Some(self.lines_dropped);
        let counted = std::mem::replace(&mut self.at_limit_counted, at_limit);
        let was_full = std::mem::replace(&mut self.full, full);
        Growth {
            kernel,
            log_lines_dropped: lines,
            at_limit: at_limit.since(counted),
            full: full.since(was_full),
        }
    }

    fn usage(
        &mut self,
        reading: Reading,
        limits: &Limits,
        now: Instant,
        at: Timestamp,
    ) -> InstanceUsage {
        let Reading { kernel, disks, wire, tmp, shm, volume, log_lines_dropped: _, written } =
            reading;
        let of_disks = |ways: fn(&DiskTraffic) -> [(Way, u64); 2]| {
            let disks = disks.as_ref()?.iter();
            let counts = disks.flat_map(|(disk, it)| ways(it).map(|(way, n)| ((*disk, way), n)));
            Some(counts.collect::<BTreeMap<_, _>>())
        };
        let bytes = of_disks(|it| [(Way::In, it.read_bytes), (Way::Out, it.written_bytes)]);
        let operations = of_disks(|it| [(Way::In, it.reads), (Way::Out, it.writes)]);
        let bits = wire.map(|it| {
            let (came, went) = (it.received_bytes * 8, it.sent_bytes * 8);
            BTreeMap::from([(((), Way::In), came), (((), Way::Out), went)])
        });
        InstanceUsage {
            at,
            cpu_millicores: self.cpu_millicores(now),
            cpu_limit_millicores: limits.cpu_millicores.into(),
            cpu_usec: kernel.cpu_usec,
            throttled_usec: kernel.throttled_usec,
            throttled_last_minute_usec: self.since(now, KEPT).throttled_usec,
            memory_bytes: kernel.memory_bytes,
            memory_peak_bytes: kernel.memory_peak_bytes,
            memory_limit_bytes: limits.memory.0,
            memory_kills: kernel.memory_kills,
            last_memory_kill: None,
            pids: kernel.pids,
            pids_limit: limits.pids.into(),
            pids_refused: kernel.pids_refused,
            tmp,
            shm,
            volume,
            io: bytes.map(|it| self.io.take(it, limits.io.0, now)),
            iops: operations.map(|it| self.iops.take(it, limits.iops.into(), now)),
            bandwidth: bits
                .map(|it| self.bandwidth.take(it, limits.bandwidth.bytes_per_second() * 8, now)),
            packets_held_back: wire.map_or(0, |it| it.held_back),
            log_lines_dropped: self.lines_dropped,
            written,
        }
    }

    fn cpu_millicores(&self, now: Instant) -> u64 {
        let Some(then) = self.then(now, CPU_SPAN) else { return 0 };
        let span_usec = u64::try_from(now.duration_since(then.at).as_micros()).unwrap_or(u64::MAX);
        (self.since(now, CPU_SPAN).cpu_usec * 1000).checked_div(span_usec).unwrap_or(0)
    }

    /// By how much counts have grown in the last `span`.
    fn since(&self, now: Instant, span: Duration) -> Counts {
        let newest = self.past.back().map(|past| past.counts).unwrap_or_default();
        self.then(now, span).map_or(Counts::default(), |then| newest.since(then.counts))
    }

    /// The youngest reading that is at least `span` old, or else the oldest.
    fn then(&self, now: Instant, span: Duration) -> Option<&Past> {
        let old = self.past.iter().rfind(|past| now.duration_since(past.at) >= span);
        old.or(self.past.front())
    }
}

impl Counts {
    fn of(reading: &Reading) -> Self {
        let cgroup::Usage { cpu_usec, throttled_usec, memory_kills, pids_refused, .. } =
            reading.kernel;
        let packets_held_back = reading.wire.map_or(0, |wire| wire.held_back);
        Self { cpu_usec, throttled_usec, memory_kills, pids_refused, packets_held_back }
    }

    fn since(self, then: Self) -> Self {
        Self {
            cpu_usec: self.cpu_usec.saturating_sub(then.cpu_usec),
            throttled_usec: self.throttled_usec.saturating_sub(then.throttled_usec),
            memory_kills: self.memory_kills.saturating_sub(then.memory_kills),
            pids_refused: self.pids_refused.saturating_sub(then.pids_refused),
            packets_held_back: self.packets_held_back.saturating_sub(then.packets_held_back),
        }
    }
}

impl AtLimit {
    fn of(usage: &InstanceUsage) -> Self {
        let usec = |flow: Option<FlowUsage>| flow.map_or(0, |flow| flow.at_limit_usec);
        Self {
            io_usec: usec(usage.io),
            iops_usec: usec(usage.iops),
            bandwidth_usec: usec(usage.bandwidth),
        }
    }

    fn since(self, then: Self) -> Self {
        Self {
            io_usec: self.io_usec.saturating_sub(then.io_usec),
            iops_usec: self.iops_usec.saturating_sub(then.iops_usec),
            bandwidth_usec: self.bandwidth_usec.saturating_sub(then.bandwidth_usec),
        }
    }
}

impl Full {
    fn of(usage: &InstanceUsage) -> Self {
        let is_full = |space: Option<SpaceUsage>| space.is_some_and(|space| space.is_full());
        Self { tmp: is_full(usage.tmp), shm: is_full(usage.shm), volume: is_full(usage.volume) }
    }

    fn since(self, then: Self) -> Self {
        Self {
            tmp: self.tmp && !then.tmp,
            shm: self.shm && !then.shm,
            volume: self.volume && !then.volume,
        }
    }
}

#[cfg(test)]
mod tests {
    use ace_api::FilesUsage;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reading(cpu_usec: u64, throttled_usec: u64, memory_kills: u64) -> Reading {
        let kernel =
            cgroup::Usage { cpu_usec, throttled_usec, memory_kills, ..cgroup::Usage::default() };
        Reading { kernel, ..Reading::default() }
    }

    fn take(gauge: &mut Gauge, reading: Reading, now: Instant) -> (InstanceUsage, Growth) {
        gauge.take(reading, &Limits::for_app(), now, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn processor_time_is_of_the_last_seconds() {
        let (mut gauge, start) = (Gauge::new(), Instant::now());
        for second in 0..30 {
            take(&mut gauge, reading(0, 0, 0), start + SECOND * second);
        }
        // Half a core, for ten seconds.
        for second in 30..=40 {
            let used = u64::from(second - 30) * 500_000;
            let (usage, _) = take(&mut gauge, reading(used, 0, 0), start + SECOND * second);
            assert!(usage.cpu_millicores <= 500);
            assert!(second < 40 || usage.cpu_millicores == 500);
        }
    }

    #[test]
    fn throttling_is_forgotten_after_a_minute() {
        let (mut gauge, start) = (Gauge::new(), Instant::now());
        take(&mut gauge, reading(0, 0, 0), start);
        let at = |gauge: &mut Gauge, second| {
            let (usage, _) = take(gauge, reading(0, 700, 0), start + SECOND * second);
            (usage.throttled_usec, usage.throttled_last_minute_usec)
        };
        assert_eq!(at(&mut gauge, 2), (700, 700));
        assert_eq!(at(&mut gauge, 59), (700, 700));
        assert_eq!(at(&mut gauge, 63), (700, 0));
    }

    #[test]
    fn an_app_s_sums_outlive_its_containers() {
        let (meters, mut gauge) = (Meters::default(), Gauge::new());
        let (id, app): (InstanceId, AppName) =
            ("abcd1234".parse().unwrap(), "shop".parse().unwrap());
        for kills in [1, 3] {
            let (usage, growth) = take(&mut gauge, reading(10, 0, kills), Instant::now());
            meters.note(&id, &app, usage, growth);
        }
        meters.gone(&id);
        meters.restarted(&app);
        meters.ended(&app, &EndReason::Lost);
        gauge.container_made();
        let (usage, growth) = take(&mut gauge, reading(5, 0, 1), Instant::now());
        meters.note(&id, &app, usage, growth);
        let sum = meters.usage().apps[&app].clone();
        assert_eq!((sum.memory_kills, sum.cpu_usec, sum.restarts), (4, 15, 1));
        assert_eq!(sum.ends["lost"], 1);
        meters.forget(&app);
        assert!(meters.usage().apps.is_empty());
    }

    #[test]
    fn a_place_is_full_once_for_as_long_as_it_is() {
        let (meters, mut gauge) = (Meters::default(), Gauge::new());
        let (id, app): (InstanceId, AppName) =
            ("abcd1234".parse().unwrap(), "shop".parse().unwrap());
        let mut times = |used_bytes, files_used| {
            let files = Some(FilesUsage { used: files_used, most: 100 });
            let tmp = Some(SpaceUsage { used_bytes, size_bytes: 64 << 20, files });
            let found = Reading { tmp, ..reading(0, 0, 0) };
            let (usage, growth) = take(&mut gauge, found, Instant::now());
            meters.note(&id, &app, usage, growth);
            meters.usage().apps[&app].tmp_full
        };
        assert_eq!(times(1 << 20, 7), 0);
        assert_eq!(times(64 << 20, 7), 1);
        assert_eq!(times(64 << 20, 7), 1);
        assert_eq!(times(1 << 20, 7), 1);
        assert_eq!(times(1 << 20, 100), 2);
    }

    #[test]
    fn what_an_earlier_engine_has_counted_is_not_counted_again() {
        let mut gauge = Gauge::found();
        let first = Reading { log_lines_dropped: Some(7), ..reading(10, 0, 2) };
        assert_eq!(take(&mut gauge, first, Instant::now()).1, Growth::default());
        let second = Reading { log_lines_dropped: Some(9), ..reading(10, 0, 3) };
        let (usage, growth) = take(&mut gauge, second, Instant::now());
        assert_eq!((growth.kernel.memory_kills, growth.log_lines_dropped), (1, 2));
        assert_eq!((usage.memory_kills, usage.log_lines_dropped), (3, 9));
    }
}
