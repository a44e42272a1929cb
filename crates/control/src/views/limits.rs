//! An app's limits: what they are, who says so, how near the app is to them.

use ace_api::InstanceUsage;
use ace_api::http::{LimitMet, LimitOrigin, LimitView, LimitsView};
use ace_types::{Bytes, Limit, LimitKey, Limits};

use super::Observed;
use crate::rows::AppRow;
use crate::state::State;

/// The limits of `app`, whatever says so.
pub fn limits(state: &State, observed: &Observed, app: &AppRow) -> LimitsView {
    let release = app.serving.and_then(|number| state.release(&app.name, number));
    let default = Limits::for_app();
    let of_code = release.map_or(&default, |release| &release.built.app_yaml.limits);
    let limits = app.limits.over(of_code);
    let view = |key: LimitKey| LimitView {
        name: key.name().to_owned(),
        value: Limit::of(&limits, key).to_string(),
        origin: match app.limits.has(key) {
            true => LimitOrigin::Set,
            false if Limit::of(of_code, key) == Limit::of(&default, key) => LimitOrigin::Default,
            false => LimitOrigin::AppYaml,
        },
        used: used(key, app, observed),
        met: met(key, app, observed),
    };
    let volume = release.and_then(|release| release.built.app_yaml.volume);
    let volume = volume.map_or(Vec::new(), |size| of_volume(size, app, observed));
    LimitsView {
        app: app.name.clone(),
        tenant: app.tenant.clone(),
        limits: LimitKey::ALL.into_iter().map(view).chain(volume).collect(),
    }
}

/// The bounds of the app's volume, which has room for `size`: what its instances share, and no limit among `limits:`.
fn of_volume(size: Bytes, app: &AppRow, observed: &Observed) -> Vec<LimitView> {
    let space = instances(app, observed).find_map(|usage| usage.volume);
    let full = observed.usage.apps.get(&app.name).map(|usage| usage.volume_full);
    let bytes = LimitView {
        name: "volume".to_owned(),
        value: size.to_string(),
        origin: LimitOrigin::AppYaml,
        used: space.map(|space| self::size(space.used_bytes)),
        met: full.map(|count| LimitMet { count, what: "times full".to_owned() }),
    };
    // Not all that a volume can be on bounds their number.
    let files = space.and_then(|space| space.files).map(|files| LimitView {
        name: "volume files".to_owned(),
        value: files.most.to_string(),
        origin: LimitOrigin::AppYaml,
        used: Some(files.used.to_string()),
        met: None,
    });
    [bytes].into_iter().chain(files).collect()
}

/// What the app's instances use.
fn instances<'a>(
    app: &'a AppRow,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a InstanceUsage> {
    let of_app = observed.statuses.iter().filter(|(_, status)| status.app == app.name);
    of_app.filter_map(|(id, _)| observed.usage.instances.get(id))
}

/// What the app uses of `key`; its instance that uses most.
fn used(key: LimitKey, app: &AppRow, observed: &Observed) -> Option<String> {
    let most =
        |of: fn(&InstanceUsage) -> Option<u64>| instances(app, observed).filter_map(of).max();
    match key {
        LimitKey::Cpu => {
            most(|it| Some(it.cpu_millicores)).map(|used| (used as f64 / 1e3).to_string())
        }
        LimitKey::Memory => most(|it| Some(it.memory_bytes)).map(size),
        LimitKey::Pids => most(|it| Some(it.pids)).map(|used| used.to_string()),
        LimitKey::Tmp => most(|it| it.tmp.map(|space| space.used_bytes)).map(size),
        LimitKey::Shm => most(|it| it.shm.map(|space| space.used_bytes)).map(size),
        LimitKey::Connections => {
            observed.traffic.apps.get(&app.name).map(|traffic| traffic.working.to_string())
        }
        LimitKey::Io => most(|it| Some(it.io?.per_second)).map(size),
        LimitKey::Iops => most(|it| Some(it.iops?.per_second)).map(|used| used.to_string()),
        LimitKey::Bandwidth => {
            let passed = observed.traffic.apps.get(&app.name).map(|traffic| traffic.bandwidth);
            let passed = passed.map(|it| it.received_bits_per_second.max(it.sent_bits_per_second));
            most(|it| Some(it.bandwidth?.per_second)).max(passed).map(bits)
        }
        LimitKey::Files | LimitKey::Log | LimitKey::Body | LimitKey::Timeout => None,
    }
}

/// How often the app has met `key`.
fn met(key: LimitKey, app: &AppRow, observed: &Observed) -> Option<LimitMet> {
    let usage = observed.usage.apps.get(&app.name);
    let refused = observed.traffic.apps.get(&app.name).map(|traffic| traffic.refused);
    let counts = |of: fn(&InstanceUsage) -> bool| instances(app, observed).any(of);
    let (count, what) = match key {
        LimitKey::Cpu => (usage?.throttled_usec / 1_000_000, "seconds held back"),
        LimitKey::Memory => (usage?.memory_kills, "processes ended"),
        LimitKey::Pids => (usage?.pids_refused, "processes refused"),
        LimitKey::Log => (usage?.log_lines_dropped, "lines dropped"),
        LimitKey::Connections => (refused?.connections, "requests refused"),
        LimitKey::Body => (refused?.body, "requests refused"),
        LimitKey::Timeout => (refused?.timeout, "requests given up"),
        LimitKey::Io if counts(|it| it.io.is_some()) => {
            (usage?.io_at_limit_usec / 1_000_000, "seconds at the limit")
        }
        LimitKey::Iops if counts(|it| it.iops.is_some()) => {
            (usage?.iops_at_limit_usec / 1_000_000, "seconds at the limit")
        }
        LimitKey::Bandwidth => {
            let traffic = observed.traffic.apps.get(&app.name);
            let by_gateway = traffic.map(|traffic| traffic.bandwidth.held_back_usec);
            let by_wire = usage.map(|usage| usage.bandwidth_at_limit_usec);
            let usec = by_gateway.unwrap_or(0) + by_wire.unwrap_or(0);
            by_gateway.or(by_wire)?;
            (usec / 1_000_000, "seconds at the limit")
        }
        LimitKey::Io | LimitKey::Iops => return None,
        LimitKey::Tmp => (usage?.tmp_full, "times full"),
        LimitKey::Shm => (usage?.shm_full, "times full"),
        LimitKey::Files => return None,
    };
    Some(LimitMet { count, what: what.to_owned() })
}

/// To the whole unit that says enough: `120M`, not `125829121`.
fn size(bytes: u64) -> String {
    match bytes {
        0x10_0000.. => Bytes::mib(bytes >> 20).to_string(),
        0 => "0".to_owned(),
        _ => Bytes::kib(bytes.div_ceil(1024)).to_string(),
    }
}

/// The same of bits, in powers of 1,000.
fn bits(bits: u64) -> String {
    match bits {
        1_000_000.. => format!("{}M", bits / 1_000_000),
        0 => "0".to_owned(),
        _ => format!("{}K", bits.div_ceil(1000)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use ace_api::{
        AppTraffic, AppUsage, FilesUsage, FlowUsage, InstanceState, NodeUsage, SpaceUsage, Traffic,
    };

    use super::*;
    use crate::testing::{Rows, deploy, name, status};

    #[test]
    fn a_limit_says_what_is_used_of_it_and_how_often_it_was_met() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let (id, status) = status("shop", 1, InstanceState::Running);
        let usage =
            InstanceUsage { memory_bytes: 120 << 20, cpu_millicores: 250, ..Default::default() };
        let flow = |per_second| Some(FlowUsage { per_second, ..FlowUsage::default() });
        let usage = InstanceUsage { io: flow(3 << 20), bandwidth: flow(49_900_000), ..usage };
        let sum = AppUsage {
            memory_kills: 3,
            io_at_limit_usec: 7_900_000,
            bandwidth_at_limit_usec: 2_500_000,
            ..AppUsage::default()
        };
        let mut traffic = AppTraffic { working: 7, ..AppTraffic::default() };
        traffic.refused.body = 2;
        traffic.bandwidth.held_back_usec = 4_500_000;
        traffic.bandwidth.sent_bits_per_second = 51_300_000;
        let observed = Observed {
            statuses: Arc::new(BTreeMap::from([(id.clone(), status)])),
            usage: NodeUsage {
                instances: BTreeMap::from([(id, usage)]),
                apps: BTreeMap::from([(name("shop"), sum)]),
            },
            traffic: Traffic {
                apps: BTreeMap::from([(name("shop"), traffic)]),
                ..Traffic::default()
            },
        };
        let view = limits(&state, &observed, state.app(&name("shop")).unwrap());
        let of = |name: &str| {
            let limit = view.limits.iter().find(|limit| limit.name == name).unwrap().clone();
            (limit.used, limit.met.map(|met| (met.count, met.what)))
        };
        assert_eq!(of("cpu"), (Some("0.25".to_owned()), Some((0, "seconds held back".to_owned()))));
        assert_eq!(
            of("memory"),
            (Some("120M".to_owned()), Some((3, "processes ended".to_owned())))
        );
        assert_eq!(of("connections").0.as_deref(), Some("7"));
        assert_eq!(of("body"), (None, Some((2, "requests refused".to_owned()))));
        assert_eq!(of("files"), (None, None));
        let io = Some((7, "seconds at the limit".to_owned()));
        assert_eq!(of("io"), (Some("3M".to_owned()), io));
        let bandwidth = Some((7, "seconds at the limit".to_owned()));
        assert_eq!(of("bandwidth"), (Some("51M".to_owned()), bandwidth));
        // A kernel that doesn't count it has it told so.
        assert_eq!(of("iops"), (None, None));
    }

    #[test]
    fn a_volume_has_lines_of_its_own() {
        let mut state = Rows::default();
        deploy(&mut state, "shop", 1);
        let (id, status) = status("shop", 1, InstanceState::Running);
        let files = Some(FilesUsage { used: 12, most: 4096 });
        let volume = Some(SpaceUsage { used_bytes: 3 << 20, size_bytes: 60 << 20, files });
        let usage = InstanceUsage { volume, ..InstanceUsage::default() };
        let sum = AppUsage { volume_full: 2, ..AppUsage::default() };
        let usage = NodeUsage {
            instances: BTreeMap::from([(id.clone(), usage)]),
            apps: BTreeMap::from([(name("shop"), sum)]),
        };
        let statuses = Arc::new(BTreeMap::from([(id, status)]));
        let observed = Observed { statuses, usage, ..Observed::default() };
        let rows = of_volume(Bytes::mib(64), state.app(&name("shop")).unwrap(), &observed);
        let [bytes, files] = rows.try_into().unwrap();
        assert_eq!((bytes.value.as_str(), bytes.used.as_deref()), ("64M", Some("3M")));
        assert_eq!(bytes.met, Some(LimitMet { count: 2, what: "times full".to_owned() }));
        assert_eq!((files.value.as_str(), files.used.as_deref()), ("4096", Some("12")));
    }

    #[test]
    fn sizes_are_whole() {
        assert_eq!([0, 1, 1 << 20, (5 << 30) + 7].map(size), ["0", "1K", "1M", "5G"]);
    }
}
