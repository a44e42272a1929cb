//! What the gateway counts of requests.

use std::collections::BTreeMap;

use ace_types::{AppName, InstanceId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the gateway has counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Those that a route leads to, or a request is under way to.
    pub apps: BTreeMap<AppName, AppTraffic>,
    pub instances: BTreeMap<InstanceId, InstanceTraffic>,
    /// Clients that are connected.
    pub connections: u64,
    /// Requests that led to no app: unknown hosts, and what can't be understood.
    pub unrouted: u64,
    /// Lines that the access log had no room for.
    pub access_lines_dropped: u64,
}

/// The requests for one app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppTraffic {
    /// Requests that have ended.
    pub ended: StatusCounts,
    /// How long they took, from the head to the last byte of the answer; tunnels don't count.
    pub durations: Durations,
    /// Bytes of requests' bodies.
    pub received_bytes: u64,
    /// Bytes of answers' bodies.
    pub sent_bytes: u64,
    pub under_way: u64,
    /// Those of them that have come as a whole and that the app has not answered, which its `connections` bounds.
    pub working: u64,
    /// Those of them that wait for an instance.
    pub waiting: u64,
    /// Requests that have waited for an instance, and how long in all.
    pub waits: u64,
    pub waited_usec: u64,
    pub refused: Refused,
    pub bandwidth: BandwidthUse,
    pub recent: Recent,
}

/// The requests that one instance got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceTraffic {
    pub under_way: u64,
    pub recent: Recent,
}

/// Requests by the first digit of their answer's status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusCounts {
    /// Tunnels.
    pub informational: u64,
    pub successful: u64,
    pub redirected: u64,
    pub client_errors: u64,
    pub server_errors: u64,
    /// The client left before there was an answer.
    pub unanswered: u64,
}

/// Requests that a limit turned away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// As many as `connections` allows were under way.
    pub connections: u64,
    /// Their bodies were larger than `body` allows.
    pub body: u64,
    /// The app did nothing for as long as `timeout` allows.
    pub timeout: u64,
    /// No instance took them in time, or too many waited for one.
    pub no_instance: u64,
}

/// What passes the gateway for an app, which its `bandwidth` bounds each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BandwidthUse {
    /// Of requests' bodies, over the last seconds; small ones when their request has ended.
    pub received_bits_per_second: u64,
    /// Of answers' bodies, likewise.
    pub sent_bits_per_second: u64,
    /// For how long the gateway has held something back, of whichever way.
    pub held_back_usec: u64,
    /// How much of that was in the last minute.
    pub held_back_last_minute_usec: u64,
}

/// How long things took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Durations {
    /// How many took no longer than each of these bounds, the shortest first.
    pub within: Vec<DurationCount>,
    /// How many there are in all.
    pub count: u64,
    pub sum_usec: u64,
}

/// How many took no longer than a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DurationCount {
    pub bound_usec: u64,
    pub count: u64,
}

/// The last minute, or less where less is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recent {
    /// How long that is.
    pub seconds: f64,
    /// Requests that ended in it.
    pub requests: u64,
    /// Those of them that were answered with a status of 500 and above.
    pub server_errors: u64,
    /// Half of them took no longer; `None` without requests. Right to a quarter of itself.
    pub p50_usec: Option<u64>,
    /// All but one in a hundred took no longer.
    pub p99_usec: Option<u64>,
}

impl Recent {
    pub fn requests_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.requests as f64 / self.seconds } else { 0.0 }
    }

    /// Of 100 requests, how many were answered with a status of 500 and above.
    pub fn server_error_percent(&self) -> f64 {
        match self.requests {
            0 => 0.0,
            requests => self.server_errors as f64 * 100.0 / requests as f64,
        }
    }
}
