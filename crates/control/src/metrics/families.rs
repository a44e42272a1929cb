//! The metrics, one after the other.

use ace_api::traffic::Durations;

use super::apps::{AppFigures, STATES};
use super::{Family, Kind, Sample, Snapshot, Value};

/// Everything that is exported. docs/METRICS.md has the same, for people.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "ace_app_requests_total",
        kind: Kind::Counter,
        labels: &["app", "status"],
        help: "Requests that have ended, by the first digit of the answer's status.",
        samples: |all| by_app_and(all, requests_by_status),
    },
    Family {
        name: "ace_app_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["app"],
        help: "How long requests took, from the head to the last byte of the answer.",
        samples: |all| by_app(all, |app| Some(histogram(&app.traffic.durations))),
    },
    Family {
        name: "ace_app_request_bytes_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "Bytes of requests' bodies.",
        samples: |all| counts(all, |app| app.traffic.received_bytes),
    },
    Family {
        name: "ace_app_response_bytes_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "Bytes of answers' bodies.",
        samples: |all| counts(all, |app| app.traffic.sent_bytes),
    },
    Family {
        name: "ace_app_requests_under_way",
        kind: Kind::Gauge,
        labels: &["app"],
        help: "Requests that have come and are not answered to the last byte.",
        samples: |all| counts(all, |app| app.traffic.under_way),
    },
    Family {
        name: "ace_app_requests_waiting",
        kind: Kind::Gauge,
        labels: &["app"],
        help: "Requests that wait for an instance.",
        samples: |all| counts(all, |app| app.traffic.waiting),
    },
    Family {
        name: "ace_app_request_waits_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "Requests that have waited for an instance.",
        samples: |all| counts(all, |app| app.traffic.waits),
    },
    Family {
        name: "ace_app_request_wait_seconds_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "How long requests have waited for an instance, together.",
        samples: |all| seconds(all, |app| app.traffic.waited_usec),
    },
    Family {
        name: "ace_app_requests_refused_total",
        kind: Kind::Counter,
        labels: &["app", "limit"],
        help: "Requests that a limit turned away.",
        samples: |all| by_app_and(all, refused_by_limit),
    },
    Family {
        name: "ace_app_instances",
        kind: Kind::Gauge,
        labels: &["app", "state"],
        help: "Instances, by state.",
        samples: |all| by_app_and(all, |app| pairs(STATES.into_iter().zip(app.instances))),
    },
    Family {
        name: "ace_app_instance_restarts_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "Instances that were started again after they had ended by themselves.",
        samples: |all| counts(all, |app| app.usage.restarts),
    },
    Family {
        name: "ace_app_instance_ends_total",
        kind: Kind::Counter,
        labels: &["app", "reason"],
        help: "Instances that ended by themselves or never became ready, by reason.",
        samples: |all| {
            let ends = |app: &AppFigures| {
                pairs(app.usage.ends.iter().map(|(reason, count)| (reason.as_str(), *count)))
            };
            by_app_and(all, ends)
        },
    },
    Family {
        name: "ace_app_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "Processor time of the app's instances.",
        samples: |all| seconds(all, |app| app.usage.cpu_usec),
    },
    Family {
        name: "ace_app_cpu_throttled_seconds_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "How long instances were kept waiting for having used up their share of processors.",
        samples: |all| seconds(all, |app| app.usage.throttled_usec),
    },
    Family {
        name: "ace_app_io_at_limit_seconds_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "How long instances read from a disk, or wrote to it, as many bytes as they may.",
        samples: |all| seconds(all, |app| app.usage.io_at_limit_usec),
    },
    Family {
        name: "ace_app_iops_at_limit_seconds_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "How long instances had as many reads, or writes, of a disk as they may.",
        samples: |all| seconds(all, |app| app.usage.iops_at_limit_usec),
    },
    Family {
        name: "ace_app_bandwidth_at_limit_seconds_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "How long instances sent, or got, as much by the network as they may.",
        samples: |all| seconds(all, |app| app.usage.bandwidth_at_limit_usec),
    },
    Family {
        name: "ace_app_bandwidth_held_back_seconds_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "How long the gateway held back answers, or requests' bodies, for their app's bandwidth.",
        samples: |all| seconds(all, |app| app.traffic.bandwidth.held_back_usec),
    },
    Family {
        name: "ace_app_memory_bytes",
        kind: Kind::Gauge,
        labels: &["app"],
        help: "Memory of the app's instances, /tmp and /dev/shm included.",
        samples: |all| counts(all, |app| app.memory_bytes),
    },
    Family {
        name: "ace_app_memory_limit_bytes",
        kind: Kind::Gauge,
        labels: &["app"],
        help: "Memory that the app's instances may have.",
        samples: |all| counts(all, |app| app.memory_limit_bytes),
    },
    Family {
        name: "ace_app_memory_kills_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "Processes that the kernel ended for going past the memory limit.",
        samples: |all| counts(all, |app| app.usage.memory_kills),
    },
    Family {
        name: "ace_app_pids",
        kind: Kind::Gauge,
        labels: &["app"],
        help: "Processes and threads of the app's instances.",
        samples: |all| counts(all, |app| app.pids),
    },
    Family {
        name: "ace_app_pids_refused_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "Processes and threads that the kernel refused beyond the limit.",
        samples: |all| counts(all, |app| app.usage.pids_refused),
    },
    Family {
        name: "ace_app_log_lines_dropped_total",
        kind: Kind::Counter,
        labels: &["app"],
        help: "Lines of output that the app's log had no room for.",
        samples: |all| counts(all, |app| app.usage.log_lines_dropped),
    },
    Family {
        name: "ace_app_volume_used_bytes",
        kind: Kind::Gauge,
        labels: &["app"],
        help: "What stands on the app's volume, while an instance has it.",
        samples: |all| by_app(all, |app| app.volume.map(|it| Value::Count(it.used_bytes))),
    },
    Family {
        name: "ace_app_volume_size_bytes",
        kind: Kind::Gauge,
        labels: &["app"],
        help: "What the app's volume has room for, while an instance has it.",
        samples: |all| by_app(all, |app| app.volume.map(|it| Value::Count(it.size_bytes))),
    },
    Family {
        name: "ace_apps",
        kind: Kind::Gauge,
        labels: &[],
        help: "Apps that there are.",
        samples: |all| one(Value::Count(all.apps_known)),
    },
    Family {
        name: "ace_apps_merged",
        kind: Kind::Gauge,
        labels: &[],
        help: "Apps without series of their own; all of them share those of the app _other.",
        samples: |all| one(Value::Count(all.apps_merged)),
    },
    Family {
        name: "ace_gateway_connections",
        kind: Kind::Gauge,
        labels: &[],
        help: "Clients that are connected to the gateway.",
        samples: |all| one(Value::Count(all.traffic.connections)),
    },
    Family {
        name: "ace_gateway_unrouted_requests_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Requests that led to no app: unknown hosts, and what can't be understood.",
        samples: |all| one(Value::Count(all.traffic.unrouted)),
    },
    Family {
        name: "ace_gateway_access_log_lines_dropped_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Lines that the access log had no room for.",
        samples: |all| one(Value::Count(all.traffic.access_lines_dropped)),
    },
    Family {
        name: "ace_operations_total",
        kind: Kind::Counter,
        labels: &["kind", "result"],
        help: "Deploys and other changes of what serves an app, by what came of them.",
        samples: |all| {
            let operations = all.totals.operations.iter();
            let sample = |(labels, count): (&(&str, &str), &u64)| {
                let labels = vec![labels.0.to_owned(), labels.1.to_owned()];
                Sample { labels, value: Value::Count(*count) }
            };
            operations.map(sample).collect()
        },
    },
    Family {
        name: "ace_operation_duration_seconds",
        kind: Kind::Histogram,
        labels: &["kind"],
        help: "How long operations took that moved something, from being asked for to the switch.",
        samples: |all| {
            let durations = all.totals.operation_durations.iter();
            durations.map(|(kind, took)| labelled(kind, own_histogram(took))).collect()
        },
    },
    Family {
        name: "ace_build_duration_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "How long builds took, failed ones included.",
        samples: |all| one(own_histogram(&all.totals.build_durations)),
    },
    Family {
        name: "ace_store_commit_duration_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "How long the store took for commits.",
        samples: |all| one(own_histogram(&all.totals.commit_durations)),
    },
    Family {
        name: "ace_api_requests_total",
        kind: Kind::Counter,
        labels: &["status"],
        help: "Requests to the API, by the first digit of the answer's status.",
        samples: |all| {
            let requests = all.totals.api_requests.iter();
            requests.map(|(class, count)| labelled(class, Value::Count(*count))).collect()
        },
    },
    Family {
        name: "ace_info",
        kind: Kind::Gauge,
        labels: &["version"],
        help: "Always 1; its label is the engine's version.",
        samples: |_| vec![labelled(env!("CARGO_PKG_VERSION"), Value::Count(1))],
    },
    Family {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the engine started, in seconds since 1970.",
        samples: |all| one(Value::Amount(all.started_at.as_millisecond() as f64 / 1e3)),
    },
    Family {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Processor time of the engine's own process.",
        samples: |all| one(Value::Amount(all.process.cpu_seconds)),
    },
    Family {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Memory of the engine's own process.",
        samples: |all| one(Value::Count(all.process.resident_bytes)),
    },
    Family {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Files, sockets and the like that the engine has open.",
        samples: |all| one(Value::Count(all.process.open_files)),
    },
    Family {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "How many of those it may have open.",
        samples: |all| one(Value::Count(all.process.open_files_max)),
    },
    Family {
        name: "process_threads",
        kind: Kind::Gauge,
        labels: &[],
        help: "Threads of the engine.",
        samples: |all| one(Value::Count(all.process.threads)),
    },
];

fn one(value: Value) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value }]
}

fn labelled(label: &str, value: Value) -> Sample {
    Sample { labels: vec![label.to_owned()], value }
}

/// A value an app; none where `value` is `None`.
fn by_app(all: &Snapshot, value: fn(&AppFigures) -> Option<Value>) -> Vec<Sample> {
    let sample = |(name, app): &(String, AppFigures)| Some(labelled(name, value(app)?));
    all.apps.iter().filter_map(sample).collect()
}

fn counts(all: &Snapshot, count: fn(&AppFigures) -> u64) -> Vec<Sample> {
    let sample = |(name, app): &(String, AppFigures)| labelled(name, Value::Count(count(app)));
    all.apps.iter().map(sample).collect()
}

fn seconds(all: &Snapshot, usec: fn(&AppFigures) -> u64) -> Vec<Sample> {
    let seconds = |app| Value::Amount(usec(app) as f64 / 1e6);
    all.apps.iter().map(|(name, app)| labelled(name, seconds(app))).collect()
}

/// Several values an app, each with another label.
fn by_app_and(all: &Snapshot, values: fn(&AppFigures) -> Vec<(String, u64)>) -> Vec<Sample> {
    let samples = |(name, app): &(String, AppFigures)| -> Vec<Sample> {
        let labels = |label| vec![name.clone(), label];
        let sample = |(label, count)| Sample { labels: labels(label), value: Value::Count(count) };
        values(app).into_iter().map(sample).collect()
    };
    all.apps.iter().flat_map(samples).collect()
}

fn pairs<'a>(values: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<(String, u64)> {
    values.into_iter().map(|(label, count)| (label.to_owned(), count)).collect()
}

fn requests_by_status(app: &AppFigures) -> Vec<(String, u64)> {
    let ended = app.traffic.ended;
    pairs([
        ("1xx", ended.informational),
        ("2xx", ended.successful),
        ("3xx", ended.redirected),
        ("4xx", ended.client_errors),
        ("5xx", ended.server_errors),
        ("none", ended.unanswered),
    ])
}

fn refused_by_limit(app: &AppFigures) -> Vec<(String, u64)> {
    let refused = app.traffic.refused;
    pairs([
        ("connections", refused.connections),
        ("body", refused.body),
        ("timeout", refused.timeout),
        ("no_instance", refused.no_instance),
    ])
}

fn histogram(durations: &Durations) -> Value {
    let mut below = 0;
    let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(durations.within.len() + 1);
    for within in &durations.within {
        buckets.push((within.bound_usec as f64 / 1e6, within.count - below));
        below = within.count;
    }
    buckets.push((f64::INFINITY, durations.count.saturating_sub(below)));
    Value::Histogram(buckets, durations.sum_usec as f64 / 1e6)
}

fn own_histogram(durations: &super::tally::Durations) -> Value {
    Value::Histogram(durations.buckets(), durations.sum_seconds())
}
