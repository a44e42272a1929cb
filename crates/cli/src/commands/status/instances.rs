//! The part of `ace status` that shows instances: how they are, what they use, what they met.

use ace_api::http::{AppView, InstanceView};
use ace_api::{AppTraffic, InstanceState, InstanceUsage, Recent};
use jiff::Timestamp;

use super::ago;
use crate::screen::{self, Screen};

/// How long the gateway holds back in a minute before that is worth telling.
const TOLD_FROM_USEC: u64 = 1_000_000;

/// The instances of `app`, in tables, and what is to be said of each; one part after the other.
pub fn render(app: &AppView, screen: &Screen, now: Timestamp) -> Vec<String> {
    let mut parts = vec![table(&app.instances, screen, now)];
    parts.extend(pace(&app.instances, screen));
    let remarks: Vec<String> =
        app.instances.iter().flat_map(|instance| remarks(instance, now)).collect();
    parts.push(remarks.join("\n"));
    parts
}

/// What came to the app in the last minute, in a line.
pub fn requests(traffic: &AppTraffic) -> String {
    let AppTraffic { recent, under_way, waiting, bandwidth, .. } = traffic;
    let pace = match (recent.p50_usec, recent.p99_usec) {
        (Some(p50), Some(p99)) => {
            let (p50, p99) = (span(p50), span(p99));
            format!(", p50 {p50}, p99 {p99}")
        }
        _ => String::new(),
    };
    let failed = match recent.server_errors {
        0 => String::new(),
        _ => format!(", {} failed", percent(recent.server_error_percent())),
    };
    let waiting = if *waiting > 0 { format!(", {waiting} waiting") } else { String::new() };
    let held_back = match bandwidth.held_back_last_minute_usec {
        usec if usec < TOLD_FROM_USEC => String::new(),
        usec => format!(", slowed by its bandwidth for {} of the last minute", span(usec)),
    };
    format!("{} a second{pace}{failed}, {under_way} under way{waiting}{held_back}", rate(recent))
}

fn table(instances: &[InstanceView], screen: &Screen, now: Timestamp) -> String {
    let row = |instance: &InstanceView| {
        let used = |show: fn(&InstanceUsage) -> String| {
            instance.usage.as_ref().map_or("-".to_owned(), show)
        };
        vec![
            instance.id.to_string(),
            instance.release.to_string(),
            state(&instance.state).to_owned(),
            ago(instance.since, now),
            instance.restarts.to_string(),
            used(|usage| percent(usage.cpu_millicores as f64 / 10.0)),
            used(|usage| of(size(usage.memory_bytes), size(usage.memory_limit_bytes))),
            used(|usage| of(usage.pids, usage.pids_limit)),
        ]
    };
    let headings =
        ["INSTANCE", "RELEASE", "STATE", "FOR", "RESTARTS", "CPU", "MEMORY", "PROCESSES"];
    screen.table(&headings, instances.iter().map(row).collect())
}

/// How fast each instance answers; `None` where nothing has come to any of them.
fn pace(instances: &[InstanceView], screen: &Screen) -> Option<String> {
    let row = |instance: &InstanceView| {
        let (traffic, usage) = (instance.traffic.as_ref()?, instance.usage.as_ref());
        let recent = &traffic.recent;
        let known = |usec: Option<u64>| usec.map_or("-".to_owned(), span);
        Some(vec![
            instance.id.to_string(),
            rate(recent),
            known(recent.p50_usec),
            known(recent.p99_usec),
            percent(recent.server_error_percent()),
            traffic.under_way.to_string(),
            usage.and_then(|usage| usage.memory_peak_bytes).map_or("-".to_owned(), size),
            usage.map_or("-".to_owned(), |usage| span(usage.throttled_last_minute_usec)),
        ])
    };
    let rows: Vec<_> = instances.iter().filter_map(row).collect();
    let headings =
        ["LAST MIN", "REQ/S", "P50", "P99", "5XX", "UNDER WAY", "MEMORY PEAK", "THROTTLED"];
    (!rows.is_empty()).then(|| screen.table(&headings, rows))
}

/// What an operator should know of an instance, a line each.
fn remarks(instance: &InstanceView, now: Timestamp) -> Vec<String> {
    let InstanceView { id, last_end, state, memory_kills, usage, .. } = instance;
    let mut remarks = Vec::new();
    let mut say = |what: String| remarks.push(screen::fold(&format!("{id} {what}")));
    if let Some(end) = last_end {
        say(format!("last ended: {}", screen::escape(&end.to_string())));
    }
    if let InstanceState::Crashed { retry_at } = state {
        say(format!("crash loop, next start in {}", ago(now, *retry_at)));
    }
    let last_kill = usage.as_ref().and_then(|usage| usage.last_memory_kill.as_ref());
    let last_kill = last_kill.map_or(String::new(), |kill| {
        let name = screen::escape(&kill.process);
        format!("; the last was \"{name}\" with {}", size(kill.memory_bytes))
    });
    match memory_kills {
        0 => {}
        1 => say(format!("lost a process for lack of memory (memory){last_kill}")),
        n => say(format!("lost {n} processes for lack of memory (memory){last_kill}")),
    }
    let Some(usage) = usage else { return remarks };
    match usage.pids_refused {
        0 => {}
        1 => say("was refused a process or thread (pids)".to_owned()),
        n => say(format!("was refused {n} processes or threads (pids)")),
    }
    let flows = [("io", usage.io), ("iops", usage.iops), ("bandwidth", usage.bandwidth)];
    for (key, flow) in flows {
        let last_minute = flow.map_or(0, |flow| flow.at_limit_last_minute_usec);
        if last_minute > 0 {
            say(format!("was at its limit for {} of the last minute ({key})", span(last_minute)));
        }
    }
    match usage.log_lines_dropped {
        0 => {}
        1 => say("printed a line more than its log takes (log)".to_owned()),
        n => say(format!("printed {n} lines more than its log takes (log)")),
    }
    let places = [("/tmp", usage.tmp), ("/dev/shm", usage.shm), ("/ace/data", usage.volume)];
    for (place, space) in places {
        if let Some(space) = space.filter(|it| it.used_bytes >= it.size_bytes / 10 * 9) {
            let (used, size) = (size(space.used_bytes), size(space.size_bytes));
            say(format!("has {used} of {size} used in {place}"));
        }
        let files = space.and_then(|it| it.files);
        if let Some(files) = files.filter(|it| it.used >= it.most / 10 * 9) {
            say(format!("has {} of {} files used in {place}", files.used, files.most));
        }
    }
    remarks
}

fn state(state: &InstanceState) -> &'static str {
    match state {
        InstanceState::Starting => "starting",
        InstanceState::Running => "running",
        InstanceState::Draining => "draining",
        InstanceState::Crashed { .. } => "crashed",
        InstanceState::Failed => "failed",
    }
}

fn rate(recent: &Recent) -> String {
    let rate = recent.requests_per_second();
    if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

fn percent(percent: f64) -> String {
    match percent {
        0.0 => "0 %".to_owned(),
        ..1.0 => format!("{percent:.1} %"),
        _ => format!("{percent:.0} %"),
    }
}

fn of(used: impl std::fmt::Display, limit: impl std::fmt::Display) -> String {
    format!("{used}/{limit}")
}

/// `1.2G`, `512M`, `9K`, in units of powers of 1,024 as limits are written.
fn size(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..0x10_0000 => ("K", 10),
        0x10_0000..0x4000_0000 => ("M", 20),
        _ => ("G", 30),
    };
    let size = bytes as f64 / f64::from(1 << shift);
    if size < 9.95 && size.fract() > 0.05 {
        format!("{size:.1}{unit}")
    } else {
        format!("{size:.0}{unit}")
    }
}

/// `0.4 ms`, `12 ms`, `3.1 s`.
fn span(usec: u64) -> String {
    match usec {
        0 => "0 ms".to_owned(),
        1..10_000 => format!("{:.1} ms", usec as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", usec / 1000),
        1_000_000..100_000_000 => format!("{:.1} s", usec as f64 / 1e6),
        _ => format!("{} s", usec / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use ace_api::{EndReason, InstanceTraffic, MemoryKill, SpaceUsage};
    use ace_types::Bytes;

    use super::*;
    use crate::commands::status::tests::shop;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn busy() -> InstanceView {
        let usage = InstanceUsage {
            cpu_millicores: 853,
            cpu_limit_millicores: 1000,
            throttled_last_minute_usec: 12_345_678,
            memory_bytes: 123 << 20,
            memory_peak_bytes: Some(1 << 30),
            memory_limit_bytes: 512 << 20,
            pids: 12,
            pids_limit: 256,
            ..InstanceUsage::default()
        };
        let recent = Recent {
            seconds: 60.0,
            requests: 740,
            server_errors: 3,
            p50_usec: Some(12_345),
            p99_usec: Some(3_140_000),
        };
        let traffic = InstanceTraffic { under_way: 2, recent };
        InstanceView {
            usage: Some(usage),
            traffic: Some(traffic),
            last_end: None,
            ..shop().instances.remove(0)
        }
    }

    fn text(instance: InstanceView) -> String {
        let app = AppView { instances: vec![instance], ..shop() };
        render(&app, &Screen::plain(), at(600)).join("\n")
    }

    #[test]
    fn figures_of_an_instance_fit_a_terminal() {
        let told = text(busy());
        assert_eq!(
            told,
            "INSTANCE  RELEASE  STATE    FOR     RESTARTS  CPU   MEMORY     PROCESSES\n\
             abcd1234  3        running  10 min  1         85 %  123M/512M  12/256\n\
             LAST MIN  REQ/S  P50    P99    5XX    UNDER WAY  MEMORY PEAK  THROTTLED\n\
             abcd1234  12.3   12 ms  3.1 s  0.4 %  2          1G           12.3 s\n"
        );
        assert!(told.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn what_an_instance_met_is_told() {
        let mut instance = busy();
        instance.state = InstanceState::Crashed { retry_at: at(632) };
        instance.last_end = Some(EndReason::OutOfMemory { limit: Bytes::mib(512) });
        instance.memory_kills = 2;
        let full = SpaceUsage { used_bytes: 64 << 20, size_bytes: 64 << 20, files: None };
        instance.usage.as_mut().expect("usage").tmp = Some(full);
        let usage = instance.usage.as_mut().expect("usage");
        usage.log_lines_dropped = 9;
        usage.last_memory_kill =
            Some(MemoryKill { process: "python".to_owned(), memory_bytes: 60 << 20 });
        let told = text(instance);
        for line in [
            "abcd1234 last ended: out of memory: its limit is 512M (memory)",
            "abcd1234 crash loop, next start in 32 s",
            "abcd1234 lost 2 processes for lack of memory (memory); the last was \"python\"",
            "    with 60M",
            "abcd1234 printed 9 lines more than its log takes (log)",
            "abcd1234 has 64M of 64M used in /tmp",
        ] {
            assert!(told.lines().any(|told| told == line), "{line}: {told}");
        }
    }

    #[test]
    fn an_app_says_what_came_in_the_last_minute() {
        let recent = busy().traffic.expect("traffic").recent;
        let mut traffic = AppTraffic { recent, under_way: 4, ..AppTraffic::default() };
        let line = "12.3 a second, p50 12 ms, p99 3.1 s, 0.4 % failed, 4 under way";
        assert_eq!(requests(&traffic), line);
        traffic.bandwidth.held_back_last_minute_usec = 12_300_000;
        let slowed = "slowed by its bandwidth for 12.3 s of the last minute";
        assert_eq!(requests(&traffic), format!("{line}, {slowed}"));
        assert_eq!(requests(&AppTraffic::default()), "0.0 a second, 0 under way");
    }

    #[test]
    fn figures_are_short() {
        let sizes = [0, 9 << 10, 1023 << 10, 3 << 19, 512 << 20, 5 << 29].map(size);
        assert_eq!(sizes, ["0K", "9K", "1023K", "1.5M", "512M", "2.5G"]);
        let spans = [0, 400, 12_345, 999_999, 3_140_000, 240_000_000].map(span);
        assert_eq!(spans, ["0 ms", "0.4 ms", "12 ms", "999 ms", "3.1 s", "240 s"]);
        assert_eq!([0.0, 0.04, 12.6].map(percent), ["0 %", "0.0 %", "13 %"]);
    }
}
