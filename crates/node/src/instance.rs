//! One task owns one instance: it collects what happens, asks [`Life`] what follows, and does that.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ace_api::{
    EndReason, InstanceSpec, InstanceState, InstanceStatus, InstanceUsage, MemoryKill, Program,
};
use ace_sandbox::{listeners, network};
use ace_types::error_chain;
use ace_upstream::{ProbeOutcome, probe};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::addresses::AddressLease;
use crate::container::{self, Container, Damage, Found, World};
use crate::ending;
use crate::life::{Effect, Event, Life, Patience, Phase};
use crate::meter::Gauge;
use crate::record::{InstanceFolder, Record, Stage};

/// The pause between two probes of a server that answers, but not as a ready one does. It doubles.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A probe that had less time than this tells less than the one before it.
const PROBE_TIME_MIN: Duration = Duration::from_secs(1);
/// How often a container is asked what the kernel did to it.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// How often it's looked whether somebody outside has changed a container.
const MEND_PAUSE: Duration = Duration::from_secs(5);
/// How long a container's cgroup may take to become empty and go.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);

/// The owner of one instance.
pub struct Instance {
    spec: InstanceSpec,
    folder: InstanceFolder,
    world: Arc<World>,
    address: AddressLease,
    life: Life,
    container: Option<Container>,
    memory_kills: u64,
    last_memory_kill: Option<MemoryKill>,
    gauge: Gauge,
    probe: Option<Probe>,
    /// The status of the answer that showed it to be ready.
    first_answer: Option<u16>,
    mend_at: Instant,
    /// Events that effects brought about, to be taken before any other.
    pending: VecDeque<Event>,
    /// Becomes true when the instance is no longer desired.
    stop: watch::Receiver<bool>,
    stop_seen: bool,
}

/// Ends with the status by which the server showed itself ready, or else with what the last probe in time got.
type Probe = Pin<Box<dyn Future<Output = Result<u16, ProbeOutcome>> + Send>>;

impl Instance {
    /// An instance that has never been launched.
    pub fn new(
        spec: InstanceSpec,
        folder: InstanceFolder,
        world: Arc<World>,
        address: AddressLease,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let life = Life::new(Timestamp::now(), patience(&spec));
        Self {
            spec,
            folder,
            world,
            address,
            life,
            container: None,
            memory_kills: 0,
            last_memory_kill: None,
            gauge: Gauge::new(),
            probe: None,
            first_answer: None,
            mend_at: Instant::now() + MEND_PAUSE,
            pending: VecDeque::new(),
            stop,
            stop_seen: false,
        }
    }

    /// The instance that `record` tells of: with its container where that has outlived an engine,
    /// else with why it ended. What it left in the kernel is gone then.
    pub fn adopted(mut self, record: Record, found: Found) -> Self {
        self.life = Life {
            ever_ready: record.ever_ready,
            crashes: record.crashes,
            restarts: record.restarts,
            last_end: record.last_end,
            ..self.life
        };
        match (found, record.stage) {
            (Found::Nothing, Stage::Waiting { since, retry_at }) => {
                (self.life.phase, self.life.since) = (Phase::Crashed { retry_at }, since);
            }
            (Found::Nothing, Stage::Unready | Stage::Ready { .. }) => {} // It's launched.
            (found, Stage::Ready { since }) => {
                (self.life.phase, self.life.since) = (Phase::Running, since);
                self.take_over(found);
            }
            (found, Stage::Unready | Stage::Waiting { .. }) => self.take_over(found),
        }
        self
    }

    fn take_over(&mut self, found: Found) {
        match found {
            Found::Alive(container) => {
                self.container = Some(container);
                self.gauge = Gauge::found();
            }
            Found::Ended(reason) => {
                let (ended, now) = (Event::Ended(reason), Timestamp::now());
                self.life = self.life.clone().next(ended, now, patience(&self.spec)).0;
            }
            Found::Nothing => {}
        }
    }

    /// Runs the instance until it is gone, telling `report` of each change.
    pub async fn run(mut self, mut report: impl FnMut(InstanceStatus) + Send) {
        self.begin().await;
        while self.life.phase != Phase::Gone {
            let event = self.next_event().await;
            let (life, effects) =
                self.life.clone().next(event, Timestamp::now(), patience(&self.spec));
            // Before the end of a container takes away what the kernel has counted.
            let news = self.look().await;
            let changed = life != self.life || news;
            self.count(&life);
            self.life = life;
            for effect in effects {
                self.carry_out(effect).await;
            }
            if changed && self.life.phase != Phase::Gone {
                self.save();
                report(self.status());
            }
        }
    }

    /// Launches what is new, and watches what is there.
    async fn begin(&mut self) {
        match (&self.life.phase, &self.container) {
            (Phase::Starting { .. }, Some(_)) => self.start_probe(),
            (Phase::Starting { .. }, None) => self.carry_out(Effect::Launch).await,
            _ => {} // Found as it is.
        }
    }

    async fn next_event(&mut self) -> Event {
        if let Some(event) = self.pending.pop_front() {
            return event;
        }
        tokio::select! {
            () = stop_asked(&mut self.stop), if !self.stop_seen => {
                self.stop_seen = true;
                Event::StopAsked
            }
            reason = container_end(&self.container, &self.world, &self.spec, &self.folder) => {
                reason.map_or(Event::Stopped, Event::Ended)
            }
            probed = probe_end(&mut self.probe) => {
                self.probe = None;
                self.first_answer = probed.as_ref().ok().copied();
                match probed {
                    Ok(_) => Event::Ready,
                    Err(last) => self.give_up(&last).await,
                }
            }
            () = wake(self.life.wakes_at()) => Event::Tick,
            () = sleep(LOOK_PAUSE), if self.container.is_some() => Event::Tick,
            () = sleep_until(self.mend_at), if self.container.is_some() => self.mend().await,
        }
    }

    /// Ends a container that was not ready in time, and finds out why; `last` came of the last probe.
    async fn give_up(&mut self, last: &ProbeOutcome) -> Event {
        let Some(container) = &self.container else { return Event::Ended(EndReason::Lost) };
        let unheard = nothing_listens(&self.spec, container.process().pid).await;
        container.end_at_once().await;
        let path = probe_path(&self.spec);
        let reason = container.delay_reason(&self.world, &self.spec, &self.folder, path, last);
        Event::NotReady(match (reason, unheard) {
            (EndReason::NoAnswer { .. }, Some(unheard)) => unheard,
            (reason, _) => reason,
        })
    }

    /// Asks the kernel what the container uses, and what was done to it. Returns whether there is
    /// news.
    async fn look(&mut self) -> bool {
        let Some(container) = &self.container else { return false };
        let wire = network::veth_name(&self.world.engine, self.spec.id.as_str());
        let look = container.look(&self.folder, &self.spec.code, wire);
        let reading = blocking(look).await;
        let (limits, now) = (&self.spec.limits, std::time::Instant::now());
        let (usage, growth) = self.gauge.take(reading, limits, now, Timestamp::now());
        let kills = usage.memory_kills;
        let before = std::mem::replace(&mut self.memory_kills, kills);
        if kills > before {
            let (world, id) = (Arc::clone(&self.world), self.spec.id.clone());
            let last = blocking(move || world.victims.last_of(&id)).await;
            self.last_memory_kill = last.or(self.last_memory_kill.take());
        }
        let usage = InstanceUsage { last_memory_kill: self.last_memory_kill.clone(), ..usage };
        self.world.meters.note(&self.spec.id, &self.spec.app, usage, growth);
        kills != before
    }

    /// Counts what `next` makes of it: an end, or a further start.
    fn count(&self, next: &Life) {
        let has_ended = |life: &Life| matches!(life.phase, Phase::Crashed { .. } | Phase::Failed);
        let (meters, app) = (&self.world.meters, &self.spec.app);
        if let Some(reason) =
            next.last_end.as_ref().filter(|_| has_ended(next) && !has_ended(&self.life))
        {
            meters.ended(app, reason);
        }
        if next.restarts > self.life.restarts {
            meters.restarted(app);
        }
    }

    /// Sets right what somebody outside has changed of the container, where that can be.
    async fn mend(&mut self) -> Event {
        self.mend_at = Instant::now() + MEND_PAUSE;
        let Some(init) = self.container.as_ref().map(Container::process) else {
            return Event::Tick;
        };
        if !self.folder.has_record() {
            tracing::warn!(instance = %self.spec.id, "its record was removed; it is there again");
            self.save();
        }
        let (world, spec) = (Arc::clone(&self.world), self.spec.clone());
        let (folder, address) = (self.folder.clone(), self.address.address());
        let volume = self.container.as_ref().and_then(Container::volume).cloned();
        let mend = move || container::mend(&world, &spec, &folder, address, init, volume.as_ref());
        match blocking(mend).await {
            Ok(()) => Event::Tick,
            Err(Damage { what }) => Event::Damaged { what: what.to_owned() },
        }
    }

    async fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch => self.launch().await,
            Effect::Terminate => self.terminate(),
            Effect::Kill => self.kill().await,
            Effect::CleanUp => self.clean_up().await,
            Effect::Remove => self.remove(),
        }
    }

    async fn launch(&mut self) {
        self.save(); // The intent, before anything exists.
        let (world, spec) = (Arc::clone(&self.world), self.spec.clone());
        let (folder, address) = (self.folder.clone(), self.address.address());
        let launched = blocking(move || container::launch(&world, &spec, &folder, address)).await;
        match launched {
            Ok(container) => {
                self.container = Some(container);
                self.gauge.container_made();
                self.save();
                self.start_probe();
            }
            Err(error) => {
                let (id, app, why) = (&self.spec.id, &self.spec.app, error_chain(&error));
                tracing::error!(instance = %id, app = %app, "not started: {why}");
                let message = error.for_tenant();
                self.pending.push_back(Event::Ended(EndReason::NotStarted { message }));
            }
        }
    }

    fn start_probe(&mut self) {
        self.probe = Some(Box::pin(until_ready(self.spec.clone(), self.folder.socket())));
    }

    fn terminate(&mut self) {
        self.probe = None;
        let asked = self.container.as_ref().map(Container::terminate);
        match asked {
            Some(Ok(())) => {}
            // What is not there has ended.
            None => self.pending.push_back(Event::Ended(EndReason::Lost)),
            Some(Err(error)) => {
                tracing::warn!(instance = %self.spec.id, "could not signal it: {error}");
            }
        }
    }

    async fn kill(&mut self) {
        let cgroup = self.world.cgroups.get(self.spec.id.as_str());
        let killed = blocking(move || cgroup.kill()).await;
        if let Err(error) = killed {
            tracing::warn!(instance = %self.spec.id, "could not kill it: {error}");
        }
    }

    async fn clean_up(&mut self) {
        self.probe = None;
        self.container = None;
        self.world.meters.gone(&self.spec.id);
        let cgroup = self.world.cgroups.get(self.spec.id.as_str());
        let world = Arc::clone(&self.world);
        let remove = move || {
            let removed = cgroup.remove(REMOVE_DEADLINE);
            world.cgroups.release_devices();
            removed
        };
        let removed = blocking(remove).await;
        if let Err(error) = removed {
            tracing::warn!(instance = %self.spec.id, "could not remove its cgroup: {error}");
        }
        for left in [self.folder.socket(), self.folder.exit()] {
            remove_if_there(&left);
        }
        self.save();
    }

    /// Removes the folder, but for its log, which is kept for a while.
    fn remove(&self) {
        let (spec, log) = (&self.spec, self.folder.log());
        let id = &spec.id;
        if let Err(error) = self.world.old_logs.keep(&spec.app, id, spec.release, &log) {
            tracing::warn!(instance = %id, "could not keep its log: {error}");
        }
        self.world.victims.forget(&self.spec.id);
        if let Err(error) = self.folder.remove() {
            tracing::warn!(instance = %self.spec.id, "could not remove its folder: {error}");
        }
    }

    /// Writes the record. A full disk must not end the task that owns a running container.
    fn save(&self) {
        let record = Record {
            spec: self.spec.clone(),
            address: self.address.address(),
            process: self.container.as_ref().map(Container::process),
            ever_ready: self.life.ever_ready,
            stage: self.stage(),
            restarts: self.life.restarts,
            crashes: self.life.crashes,
            last_end: self.life.last_end.clone(),
        };
        let written = self.folder.ensure().and_then(|()| self.folder.write(&record));
        if let Err(error) = written {
            tracing::error!(instance = %self.spec.id, "could not write its record: {error}");
        }
    }

    fn stage(&self) -> Stage {
        let since = self.life.since;
        match self.life.phase {
            Phase::Running => Stage::Ready { since },
            Phase::Crashed { retry_at } => Stage::Waiting { since, retry_at },
            Phase::Starting { .. } | Phase::Draining { .. } | Phase::Failed | Phase::Gone => {
                Stage::Unready
            }
        }
    }

    /// What is known of it.
    pub fn status(&self) -> InstanceStatus {
        let state = match &self.life.phase {
            Phase::Starting { .. } => InstanceState::Starting,
            Phase::Running => InstanceState::Running,
            Phase::Draining { .. } | Phase::Gone => InstanceState::Draining,
            Phase::Crashed { retry_at } => InstanceState::Crashed { retry_at: *retry_at },
            Phase::Failed => InstanceState::Failed,
        };
        InstanceStatus {
            app: self.spec.app.clone(),
            release: self.spec.release,
            state,
            since: self.life.since,
            socket: self.folder.socket(),
            log: self.folder.log(),
            first_answer: self.first_answer,
            restarts: self.life.restarts,
            last_end: self.life.last_end.clone(),
            memory_kills: self.memory_kills,
        }
    }
}

fn probe_path(spec: &InstanceSpec) -> &str {
    spec.health.as_deref().unwrap_or("/")
}

fn patience(spec: &InstanceSpec) -> Patience {
    Patience { startup: spec.startup, stop_grace: spec.stop_grace }
}

/// Returns when the instance is no longer desired, or nobody is left to desire it.
async fn stop_asked(stop: &mut watch::Receiver<bool>) {
    // An error means that the node is being dropped: the instance outlives it, so wait for ever.
    if stop.wait_for(|asked| *asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn container_end(
    container: &Option<Container>,
    world: &World,
    spec: &InstanceSpec,
    folder: &InstanceFolder,
) -> Option<EndReason> {
    match container {
        Some(container) => {
            container.ended().await;
            container.end_reason(world, spec, folder)
        }
        None => std::future::pending().await,
    }
}

async fn probe_end(probe: &mut Option<Probe>) -> Result<u16, ProbeOutcome> {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

async fn wake(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let left = at.duration_since(Timestamp::now());
            sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

/// Probes the server at `socket` until it is ready or `spec.startup` has passed.
async fn until_ready(
    spec: InstanceSpec,
    socket: impl AsRef<Path> + Send + 'static,
) -> Result<u16, ProbeOutcome> {
    let deadline = Instant::now() + spec.startup;
    let path = probe_path(&spec);
    let protocol = spec.runtime.program.protocol();
    let (mut pause, mut telling) = (PROBE_PAUSE, None);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = probe(socket.as_ref(), protocol, &spec.host, path, left).await;
        if let Some(status) = ready_answer(&outcome, spec.health.is_some()) {
            return Ok(status);
        }
        let tells = left >= PROBE_TIME_MIN || matches!(outcome, ProbeOutcome::Answered { .. });
        let telling = if tells { telling.insert(outcome) } else { telling.get_or_insert(outcome) };
        if Instant::now() + pause >= deadline {
            sleep_until(deadline).await;
            return Err(telling.clone());
        }
        sleep(pause).await;
        pause = (pause * 2).min(PROBE_PAUSE_MAX);
    }
}

/// That a command of the app's own listens elsewhere or not at all, if it is so. `init` is the
/// process 1 of its container, as the host calls it.
async fn nothing_listens(spec: &InstanceSpec, init: u32) -> Option<EndReason> {
    let Program::Command { port, .. } = spec.runtime.program else { return None };
    let found = blocking(move || listeners::of(init)).await.ok()?;
    ending::of_silence(port, spec.startup, &found)
}

/// The status of an answer that shows a server that is ready for requests.
fn ready_answer(outcome: &ProbeOutcome, has_health_path: bool) -> Option<u16> {
    let ProbeOutcome::Answered { status, .. } = outcome else { return None };
    let status = status.as_u16();
    let shows_it = match has_health_path {
        true => (200..400).contains(&status),
        false => !(502..=504).contains(&status),
    };
    shows_it.then_some(status)
}

fn remove_if_there(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("could not remove {}: {error}", path.display());
        }
        _ => {}
    }
}

/// Runs `work`, which talks to the kernel, off the event loop.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> ProbeOutcome {
        let status = http::StatusCode::from_u16(status).expect("a status");
        ProbeOutcome::Answered { status, beginning: Vec::new() }
    }

    #[test]
    fn without_a_health_path_any_answer_of_the_app_will_do() {
        for status in [200, 302, 404, 500] {
            assert_eq!(ready_answer(&answered(status), false), Some(status));
        }
        for status in [502, 503, 504] {
            assert_eq!(ready_answer(&answered(status), false), None, "{status}");
        }
    }

    #[test]
    fn a_health_path_must_succeed() {
        assert!(ready_answer(&answered(204), true).is_some());
        assert!(ready_answer(&answered(404), true).is_none());
        assert!(ready_answer(&answered(500), true).is_none());
    }
}
