//! One app's figures, from what node and gateway say; and of several apps as one.

#[cfg(test)]
use std::collections::BTreeMap;

#[cfg(test)]
use ace_api::traffic::DurationCount;
use ace_api::traffic::{BandwidthUse, Durations, Refused, StatusCounts};
use ace_api::{AppTraffic, AppUsage, InstanceState, SpaceUsage};
use ace_types::AppName;

use crate::views::Observed;

/// What is told of one app.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AppFigures {
    pub traffic: AppTraffic,
    pub usage: AppUsage,
    /// Instances by state: those of [`STATES`], in their order.
    pub instances: [u64; STATES.len()],
    pub memory_bytes: u64,
    pub memory_limit_bytes: u64,
    pub pids: u64,
    /// `None` where it has none, or nobody sees into it.
    pub volume: Option<SpaceUsage>,
}

/// The states of instances, as their metric has them.
pub const STATES: [&str; 5] = ["starting", "running", "draining", "crashed", "failed"];

impl AppFigures {
    pub fn of(app: &AppName, observed: &Observed) -> Self {
        let of_app = observed.statuses.iter().filter(|(_, status)| status.app == *app);
        let mut figures = Self {
            traffic: observed.traffic.apps.get(app).cloned().unwrap_or_default(),
            usage: observed.usage.apps.get(app).cloned().unwrap_or_default(),
            ..Self::default()
        };
        for (id, status) in of_app {
            figures.instances[state_index(&status.state)] += 1;
            let Some(usage) = observed.usage.instances.get(id) else { continue };
            figures.memory_bytes += usage.memory_bytes;
            figures.memory_limit_bytes += usage.memory_limit_bytes;
            figures.pids += usage.pids;
            // They share one.
            figures.volume = usage.volume.or(figures.volume);
        }
        figures
    }

    /// Both together.
    pub fn with(self, other: Self) -> Self {
        Self {
            traffic: sum_traffic(&self.traffic, &other.traffic),
            usage: sum_usage(self.usage, other.usage),
            instances: std::array::from_fn(|n| self.instances[n] + other.instances[n]),
            memory_bytes: self.memory_bytes + other.memory_bytes,
            memory_limit_bytes: self.memory_limit_bytes + other.memory_limit_bytes,
            pids: self.pids + other.pids,
            volume: match (self.volume, other.volume) {
                (Some(a), Some(b)) => Some(SpaceUsage {
                    used_bytes: a.used_bytes + b.used_bytes,
                    size_bytes: a.size_bytes + b.size_bytes,
                    files: None, // No metric tells of them.
                }),
                (a, b) => a.or(b),
            },
        }
    }

    /// An app that has had one of everything.
    #[cfg(test)]
    pub fn example() -> Self {
        let durations = Durations {
            within: vec![DurationCount { bound_usec: 1000, count: 1 }],
            count: 2,
            sum_usec: 3_000_500,
        };
        let ends = BTreeMap::from([("out_of_memory".to_owned(), 1)]);
        Self {
            traffic: AppTraffic { durations, ..AppTraffic::default() },
            usage: AppUsage { cpu_usec: 1_500_000, ends, ..AppUsage::default() },
            volume: Some(SpaceUsage { used_bytes: 1, size_bytes: 2, files: None }),
            ..Self::default()
        }
    }
}

fn state_index(state: &InstanceState) -> usize {
    match state {
        InstanceState::Starting => 0,
        InstanceState::Running => 1,
        InstanceState::Draining => 2,
        InstanceState::Crashed { .. } => 3,
        InstanceState::Failed => 4,
    }
}

fn sum_traffic(a: &AppTraffic, b: &AppTraffic) -> AppTraffic {
    AppTraffic {
        ended: StatusCounts {
            informational: a.ended.informational + b.ended.informational,
            successful: a.ended.successful + b.ended.successful,
            redirected: a.ended.redirected + b.ended.redirected,
            client_errors: a.ended.client_errors + b.ended.client_errors,
            server_errors: a.ended.server_errors + b.ended.server_errors,
            unanswered: a.ended.unanswered + b.ended.unanswered,
        },
        durations: sum_durations(&a.durations, &b.durations),
        received_bytes: a.received_bytes + b.received_bytes,
        sent_bytes: a.sent_bytes + b.sent_bytes,
        under_way: a.under_way + b.under_way,
        working: a.working + b.working,
        waiting: a.waiting + b.waiting,
        waits: a.waits + b.waits,
        waited_usec: a.waited_usec + b.waited_usec,
        refused: Refused {
            connections: a.refused.connections + b.refused.connections,
            body: a.refused.body + b.refused.body,
            timeout: a.refused.timeout + b.refused.timeout,
            no_instance: a.refused.no_instance + b.refused.no_instance,
        },
        bandwidth: BandwidthUse {
            held_back_usec: a.bandwidth.held_back_usec + b.bandwidth.held_back_usec,
            ..a.bandwidth
        },
        // The last minute is not among the metrics.
        recent: a.recent,
    }
}

/// An app that has no requests yet has no bounds; all others have the same.
fn sum_durations(a: &Durations, b: &Durations) -> Durations {
    let (longer, other) = if a.within.len() >= b.within.len() { (a, b) } else { (b, a) };
    let mut within = longer.within.clone();
    for (sum, more) in within.iter_mut().zip(&other.within) {
        sum.count += more.count;
    }
    Durations { within, count: a.count + b.count, sum_usec: a.sum_usec + b.sum_usec }
}

fn sum_usage(mut a: AppUsage, b: AppUsage) -> AppUsage {
    for (reason, count) in b.ends {
        *a.ends.entry(reason).or_default() += count;
    }
    AppUsage {
        cpu_usec: a.cpu_usec + b.cpu_usec,
        throttled_usec: a.throttled_usec + b.throttled_usec,
        memory_kills: a.memory_kills + b.memory_kills,
        pids_refused: a.pids_refused + b.pids_refused,
        log_lines_dropped: a.log_lines_dropped + b.log_lines_dropped,
        io_at_limit_usec: a.io_at_limit_usec + b.io_at_limit_usec,
        iops_at_limit_usec: a.iops_at_limit_usec + b.iops_at_limit_usec,
        bandwidth_at_limit_usec: a.bandwidth_at_limit_usec + b.bandwidth_at_limit_usec,
        packets_held_back: a.packets_held_back + b.packets_held_back,
        tmp_full: a.tmp_full + b.tmp_full,
        shm_full: a.shm_full + b.shm_full,
        volume_full: a.volume_full + b.volume_full,
        restarts: a.restarts + b.restarts,
        ends: a.ends,
    }
}
