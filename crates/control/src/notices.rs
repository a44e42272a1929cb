//! Tells in an app's log, and in the engine's, what has befallen its instances: that one ended, was held
//! back, ran out of memory, processes or space.
//!
//! What is told is worked out by [`Watch::look`] from what node and kernel say, and each thing is told of an
//! instance once a minute at most, with what has come together by then. Dropped lines of output are told by the
//! log itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_api::event::Happening;
use ace_api::{FlowUsage, InstanceState, InstanceStatus, InstanceUsage, NodeUsage, SpaceUsage};
use ace_types::{AppName, Bytes, InstanceId};
use jiff::Timestamp;
use tokio::time::sleep;

use crate::engine::Engine;
use crate::events::{self, News};
use crate::journal;
use crate::plan::Statuses;
use crate::state::State;

/// How often the kernel's counts are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How soon the same may be told again of one instance.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long an instance is held back in a minute before that is worth telling.
const HELD_BACK_USEC: u64 = 6_000_000;

/// Tells what befalls instances, until the engine ends.
pub async fn watch(engine: Arc<Engine>) {
    let mut statuses = engine.node.statuses();
    let mut watch = Watch::since(&statuses.borrow_and_update(), &engine.node.usage());
    loop {
        tokio::select! {
            changed = statuses.changed() => if changed.is_err() { return },
            () = sleep(LOOK_EVERY) => {}
            () = engine.ended() => return,
        }
        let now = Arc::clone(&statuses.borrow_and_update());
        for notice in watch.look(&now, &engine.node.usage(), Instant::now()) {
            let Notice { app, instance, text, what } = notice;
            tracing::warn!(%app, %instance, "{text}");
            journal::write(&engine.config, &app, &format!("instance {instance} {text}")).await;
            keep(&engine, &app, &what).await;
            if matches!(what, Happening::InstanceEnded { .. }) {
                engine.upgrades.look_now(); // Its Python may have gone under it.
            }
        }
    }
}

/// Adds what has befallen `app` to the events.
async fn keep(engine: &Engine, app: &AppName, what: &Happening) {
    let change = |state: &State| {
        let row = state.app(app);
        let news = row.map(|row| News {
            tenant: Some(row.tenant.clone()),
            app: Some(app.clone()),
            by: None,
            what: what.clone(),
        });
        Ok((events::keep(state, news.into_iter().collect(), engine.now()), ()))
    };
    if let Err(refusal) = engine.records.transact(change).await {
        tracing::warn!(%app, %refusal, "could not keep an event");
    }
}

/// Something that an app's operator should know.
#[derive(Debug, Clone, PartialEq)]
struct Notice {
    app: AppName,
    instance: InstanceId,
    text: String,
    /// The same as an event.
    what: Happening,
}

/// What has been told of every instance.
#[derive(Debug, Default)]
struct Watch {
    told: BTreeMap<InstanceId, Told>,
}

/// What has been told of one instance.
#[derive(Debug, Default)]
struct Told {
    memory_kills: Count,
    pids_refused: Count,
    held_back: Option<Instant>,
    /// When it was last told to be at each limit a second; see [`flows`].
    at_limit: [Option<Instant>; 3],
    /// When each place was last told to be full; see [`places`].
    full: [Option<Instant>; 3],
    /// Since when it was in the last bad state that was told.
    end: Option<Timestamp>,
}

/// A count of the kernel's, as far as it has been told.
#[derive(Debug, Default)]
struct Count {
    told: u64,
    at: Option<Instant>,
}

impl Watch {
    /// Takes what has been by now as told.
    fn since(statuses: &Statuses, usage: &NodeUsage) -> Self {
        let told = statuses.iter().map(|(id, status)| {
            let usage = usage.instances.get(id);
            let count =
                |of: fn(&InstanceUsage) -> u64| Count { told: usage.map_or(0, of), at: None };
            let told = Told {
                memory_kills: count(|usage| usage.memory_kills),
                pids_refused: count(|usage| usage.pids_refused),
                end: has_ended(status).then_some(status.since),
                ..Told::default()
            };
            (id.clone(), told)
        });
        Self { told: told.collect() }
    }

    /// What is to be told now.
    fn look(&mut self, statuses: &Statuses, usage: &NodeUsage, now: Instant) -> Vec<Notice> {
        self.told.retain(|id, _| statuses.contains_key(id));
        let mut notices = Vec::new();
        for (id, status) in statuses {
            let told = self.told.entry(id.clone()).or_default();
            let ended = told.end(status).map(|text| (text, ended(id, status)));
            let used = usage.instances.get(id).map(|usage| told.usage(usage, now));
            let met = used.into_iter().flatten().map(|(limit, text)| {
                let (limit, message) = (limit.to_owned(), text.clone());
                (text, Happening::LimitMet { instance: id.clone(), limit, message })
            });
            // Reasons may hold words of the app's own.
            let notice = |(text, what): (String, Happening)| Notice {
                app: status.app.clone(),
                instance: id.clone(),
                text: text.replace(char::is_control, " "),
                what,
            };
            notices.extend(ended.into_iter().chain(met).map(notice));
        }
        notices
    }
}

impl Told {
    /// That it has ended by itself, and what comes next.
    fn end(&mut self, status: &InstanceStatus) -> Option<String> {
        if !has_ended(status) || self.end == Some(status.since) {
            return None;
        }
        self.end = Some(status.since);
        let reason = status.last_end.as_ref().map(ToString::to_string).unwrap_or_default();
        Some(match status.state {
            InstanceState::Crashed { retry_at } => {
                let pause = retry_at.duration_since(status.since).as_secs();
                format!("ended: {reason}; it starts again {pause} s after that")
            }
            _ => format!("did not start: {reason}"),
        })
    }

    /// The limits that it has met, by their names, and what is to be said of that.
    fn usage(&mut self, usage: &InstanceUsage, now: Instant) -> Vec<(&'static str, String)> {
        let mut texts = Vec::new();
        if let Some(kills) = self.memory_kills.due(usage.memory_kills, now) {
            texts.push(("memory", killed(kills, usage)));
        }
        if let Some(refused) = self.pids_refused.due(usage.pids_refused, now) {
            let limit = usage.pids_limit;
            let what = match refused {
                1 => "a process or thread".to_owned(),
                n => format!("{n} processes or threads"),
            };
            texts.push(("pids", format!("was refused {what}: the limit is {limit} (pids)")));
        }
        let held_back = usage.throttled_last_minute_usec;
        if held_back >= HELD_BACK_USEC && is_due(self.held_back, now) {
            self.held_back = Some(now);
            let cores = usage.cpu_limit_millicores as f64 / 1000.0;
            let text = format!(
                "was held back for {} s in the last minute: it used up its share, {cores} of a \
                 core (cpu)",
                held_back / 1_000_000
            );
            texts.push(("cpu", text));
        }
        for (told, Flow { key, what, limit, at_limit_usec }) in
            self.at_limit.iter_mut().zip(flows(usage))
        {
            if at_limit_usec >= HELD_BACK_USEC && is_due(*told, now) {
                *told = Some(now);
                let seconds = at_limit_usec / 1_000_000;
                texts.push((
                    key,
                    format!(
                        "was at its limit for {seconds} s in the last minute: it may {what} \
                         {limit} a second ({key})"
                    ),
                ));
            }
        }
        for (told, (place, key, space)) in self.full.iter_mut().zip(places(usage)) {
            if let Some(space) = space.filter(SpaceUsage::is_full)
                && is_due(*told, now)
            {
                *told = Some(now);
                let room = room(&space);
                texts.push((key, format!("has {place} full: there is room for {room} ({key})")));
            }
        }
        texts
    }
}

impl Count {
    /// By how much `count` has grown since that was told, if it's time to tell it.
    fn due(&mut self, count: u64, now: Instant) -> Option<u64> {
        // In a new container the kernel counts from zero.
        self.told = if count < self.told { 0 } else { self.told };
        let growth = count - self.told;
        if growth == 0 || !is_due(self.at, now) {
            return None;
        }
        (self.told, self.at) = (count, Some(now));
        Some(growth)
    }
}

fn has_ended(status: &InstanceStatus) -> bool {
    matches!(status.state, InstanceState::Crashed { .. } | InstanceState::Failed)
}

/// The end of an instance as an event.
fn ended(instance: &InstanceId, status: &InstanceStatus) -> Happening {
    let retry_at = match status.state {
        InstanceState::Crashed { retry_at } => Some(retry_at),
        _ => None,
    };
    let (release, reason) = (status.release, status.last_end.clone());
    Happening::InstanceEnded { instance: instance.clone(), release, reason, retry_at }
}

fn is_due(told: Option<Instant>, now: Instant) -> bool {
    told.is_none_or(|told| now.duration_since(told) >= AGAIN_AFTER)
}

fn killed(count: u64, usage: &InstanceUsage) -> String {
    let limit = Bytes(usage.memory_limit_bytes);
    let processes = match count {
        1 => "a process".to_owned(),
        n => format!("{n} processes"),
    };
    let last = usage.last_memory_kill.as_ref().map_or(String::new(), |kill| {
        format!("; the last was {:?} with {}", kill.process, Bytes::mib(kill.memory_bytes >> 20))
    });
    format!("lost {processes} for lack of memory: the limit is {limit} (memory){last}")
}

/// How long it was at a limit a second in the last minute.
struct Flow {
    key: &'static str,
    /// What is limited.
    what: &'static str,
    limit: String,
    at_limit_usec: u64,
}

fn flows(usage: &InstanceUsage) -> [Flow; 3] {
    let flow = |key, what, flow: Option<FlowUsage>, show: fn(u64) -> String| {
        let FlowUsage { limit_per_second, at_limit_last_minute_usec, .. } =
            flow.unwrap_or_default();
        Flow { key, what, limit: show(limit_per_second), at_limit_usec: at_limit_last_minute_usec }
    };
    [
        flow("io", "read from a disk, and write to it,", usage.io, |bytes| {
            Bytes(bytes).to_string()
        }),
        flow("iops", "ask a disk for", usage.iops, |n| format!("{n} reads, and as many writes,")),
        flow("bandwidth", "send, and get,", usage.bandwidth, |bits| {
            format!("{}M bits", bits / 1_000_000)
        }),
    ]
}

/// Where it can write, and the limit's name.
fn places(usage: &InstanceUsage) -> [(&'static str, &'static str, Option<SpaceUsage>); 3] {
    [
        ("/tmp", "tmp", usage.tmp),
        ("/dev/shm", "shm", usage.shm),
        ("/ace/data", "volume", usage.volume),
    ]
}

/// What there is room for: of files, where it's they that are too many.
fn room(space: &SpaceUsage) -> String {
    match space.files.filter(|_| space.has_no_file_left()) {
        Some(files) => format!("{} files", files.most),
        None => Bytes(space.size_bytes).to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ace_api::{EndReason, FilesUsage};

    use super::*;
    use crate::testing::{at, status};

    const SECOND: Duration = Duration::from_secs(1);

    fn usage(id: &InstanceId, of: InstanceUsage) -> NodeUsage {
        NodeUsage { instances: BTreeMap::from([(id.clone(), of)]), ..NodeUsage::default() }
    }

    fn running() -> (InstanceId, Statuses) {
        let (id, status) = status("shop", 1, InstanceState::Running);
        (id.clone(), Statuses::from([(id, status)]))
    }

    fn texts(notices: Vec<Notice>) -> Vec<String> {
        notices.into_iter().map(|notice| notice.text).collect()
    }

    #[test]
    fn lost_processes_are_told_once_a_minute_together() {
        let (id, statuses) = running();
        let (mut watch, start) = (Watch::default(), Instant::now());
        let mut look = |kills, seconds| {
            let used = InstanceUsage {
                memory_kills: kills,
                memory_limit_bytes: 64 << 20,
                ..InstanceUsage::default()
            };
            texts(watch.look(&statuses, &usage(&id, used), start + SECOND * seconds))
        };
        let lost = |what| format!("lost {what} for lack of memory: the limit is 64M (memory)");
        assert_eq!(look(1, 0), [lost("a process")]);
        assert_eq!(look(2, 30), [""; 0]);
        assert_eq!(look(4, 60), [lost("3 processes")]);
        assert_eq!(look(4, 120), [""; 0]);
        assert_eq!(look(1, 180), [lost("a process")], "a new container counts anew");
    }

    #[test]
    fn what_its_disk_or_network_held_back_is_told_with_the_limit() {
        let (id, statuses) = running();
        let (mut watch, start) = (Watch::default(), Instant::now());
        let mut look = |seconds_at_limit: u64, seconds| {
            let flow = |limit_per_second| FlowUsage {
                limit_per_second,
                at_limit_last_minute_usec: seconds_at_limit * 1_000_000,
                ..FlowUsage::default()
            };
            let (io, bandwidth) = (Some(flow(20 << 20)), Some(flow(50_000_000)));
            let used = InstanceUsage { io, bandwidth, ..InstanceUsage::default() };
            texts(watch.look(&statuses, &usage(&id, used), start + SECOND * seconds))
        };
        assert_eq!(look(5, 0), [""; 0], "a little is usual");
        let told = look(12, 5);
        assert_eq!(
            told,
            [
                "was at its limit for 12 s in the last minute: it may read from a disk, and write \
                 to it, 20M a second (io)",
                "was at its limit for 12 s in the last minute: it may send, and get, 50M bits a \
                 second (bandwidth)",
            ]
        );
        assert_eq!(look(30, 40), [""; 0]);
    }

    #[test]
    fn what_was_before_the_engine_is_not_told() {
        let (id, statuses) = running();
        let used = usage(&id, InstanceUsage { pids_refused: 9, ..InstanceUsage::default() });
        let mut watch = Watch::since(&statuses, &used);
        assert_eq!(watch.look(&statuses, &used, Instant::now()), []);
    }

    #[test]
    fn an_end_is_told_with_what_comes_next() {
        let (id, mut crashed) = status("shop", 1, InstanceState::Crashed { retry_at: at(12) });
        crashed.since = at(8);
        crashed.last_end = Some(EndReason::Exited { status: 1 });
        let statuses = Statuses::from([(id, crashed)]);
        let mut watch = Watch::default();
        let text = "ended: the app server ended with status 1; it starts again 4 s after that";
        let mut look = || texts(watch.look(&statuses, &NodeUsage::default(), Instant::now()));
        assert_eq!(look(), [text]);
        assert_eq!(look(), [""; 0]);
    }

    #[test]
    fn being_held_back_and_full_places_are_told() {
        let (id, statuses) = running();
        let full = SpaceUsage { used_bytes: 64 << 20, size_bytes: 64 << 20, files: None };
        let used = InstanceUsage {
            throttled_last_minute_usec: 12_345_678,
            cpu_limit_millicores: 500,
            tmp: Some(full),
            shm: Some(SpaceUsage { used_bytes: 1 << 20, ..full }),
            volume: Some(SpaceUsage {
                used_bytes: 1 << 20,
                files: Some(FilesUsage { used: 4096, most: 4096 }),
                ..full
            }),
            ..InstanceUsage::default()
        };
        let told = texts(Watch::default().look(&statuses, &usage(&id, used), Instant::now()));
        assert_eq!(
            told,
            [
                "was held back for 12 s in the last minute: it used up its share, 0.5 of a core (cpu)",
                "has /tmp full: there is room for 64M (tmp)",
                "has /ace/data full: there is room for 4096 files (volume)",
            ]
        );
    }
}
