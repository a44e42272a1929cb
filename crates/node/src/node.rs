//! Compares what should run with what does, and gives each instance its task.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ace_api::{
    CommandEnd, CommandError, CommandIo, CommandSpec, InstanceSpec, InstanceStatus, KeptLog, Node,
    NodeUsage,
};
use ace_sandbox::cgroup::{Balance, CgroupTree};
use ace_sandbox::launch::LauncherProgram;
use ace_sandbox::{network, volume};
use ace_types::{AppName, EngineId, InstanceId, error_chain};
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::addresses::AddressPool;
use crate::command::{Command, CommandRecord};
use crate::container::{self, Found, World};
use crate::instance::Instance;
use crate::kernel_memory;
use crate::meter::Meters;
use crate::old_logs::OldLogs;
use crate::record::{self, InstanceFolder, Record};
use crate::victims::Victims;

/// How often the node looks again without being told of a change.
const RESYNC: Duration = Duration::from_secs(5);
/// How often it's looked who uses how much of the processor.
const BALANCE_PAUSE: Duration = Duration::from_millis(250);
/// How long `down` waits for instances to end by themselves, beyond their own grace.
const DOWN_DEADLINE: Duration = Duration::from_secs(60);
/// How long a dead engine's leftover cgroup may take to go.
const LEFTOVER_DEADLINE: Duration = Duration::from_secs(10);

/// Logs kept of each app's instances that are gone. Each is as large as the app's own limit at most.
const OLD_LOGS_KEPT: usize = 3;
/// Commands of each app of which it's kept that they were run: two lines each.
const COMMAND_LOGS_KEPT: usize = 20;

/// What a node needs of the machine and the engine.
pub struct NodeConfig {
    pub engine: EngineId,
    /// `DATA/run`: a folder an instance.
    pub run: PathBuf,
    /// Where the logs of instances that are gone are kept.
    pub old_logs: PathBuf,
    /// Where it stands what commands were run.
    pub command_logs: PathBuf,
    pub launcher: Arc<LauncherProgram>,
    pub cgroups: Arc<CgroupTree>,
    pub addresses: AddressPool,
    pub gateway: Ipv4Addr,
    pub nameservers: Vec<Ipv4Addr>,
    /// What new volumes are made as.
    pub volumes: volume::Store,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("could not read {folder}")]
    Run { folder: PathBuf, source: io::Error },
    #[error("could not list this engine's control groups")]
    Cgroups(#[source] io::Error),
}

/// Runs instances in containers on this machine.
pub struct ContainerNode {
    run: PathBuf,
    world: Arc<World>,
    addresses: AddressPool,
    /// `None` before it is first told: then nothing is stopped or started.
    desired: Mutex<Option<Desired>>,
    statuses: watch::Sender<Arc<Statuses>>,
    /// The stop switch of each instance that has a task.
    tasks: Mutex<Tasks>,
    /// This node, for the tasks that it starts.
    itself: Weak<Self>,
}

type Desired = BTreeMap<InstanceId, InstanceSpec>;
type Statuses = BTreeMap<InstanceId, InstanceStatus>;
type Tasks = BTreeMap<InstanceId, watch::Sender<bool>>;

impl ContainerNode {
    /// A node that has adopted every instance that outlived the engine before. It stops none of
    /// them before it has been told what should run.
    pub async fn start(config: NodeConfig) -> Result<Arc<Self>, NodeError> {
        let victims = Victims::new(config.engine.clone());
        let world = World {
            engine: config.engine,
            launcher: config.launcher,
            cgroups: config.cgroups,
            gateway: config.gateway,
            nameservers: config.nameservers,
            old_logs: OldLogs::new(config.old_logs, OLD_LOGS_KEPT),
            meters: Meters::default(),
            victims,
            volumes: config.volumes,
            command_logs: OldLogs::new(config.command_logs, COMMAND_LOGS_KEPT),
        };
        let node = Arc::new_cyclic(|itself| Self {
            run: config.run,
            world: Arc::new(world),
            addresses: config.addresses,
            desired: Mutex::default(),
            statuses: watch::Sender::new(Arc::default()),
            tasks: Mutex::default(),
            itself: Weak::clone(itself),
        });
        node.recover()?;
        tokio::spawn(Arc::clone(&node).reconcile());
        tokio::spawn(kernel_memory::watch(Arc::clone(&node.world.cgroups)));
        tokio::spawn(balance(Arc::clone(&node.world)));
        Ok(node)
    }

    /// Adopts or removes what a former engine left.
    fn recover(&self) -> Result<(), NodeError> {
        let unreadable = |source| NodeError::Run { folder: self.run.clone(), source };
        std::fs::create_dir_all(&self.run).map_err(unreadable)?;
        let known = record::list(&self.run).map_err(unreadable)?;
        self.remove_unknown_cgroups(&known).map_err(NodeError::Cgroups)?;
        for id in known {
            let folder = InstanceFolder::new(&self.run, &id);
            match folder.read().map_err(unreadable)? {
                Some(record) => self.adopt(record, folder),
                None => {
                    // Nobody waits for a command that its engine has left.
                    CommandRecord::tell_end(&folder, &id, &self.world.command_logs);
                    self.discard(&id, &folder);
                }
            }
        }
        Ok(())
    }

    /// A container whose folder is gone belongs to nobody. Builds' groups are the builder's.
    fn remove_unknown_cgroups(&self, known: &[InstanceId]) -> io::Result<()> {
        for name in self.world.cgroups.list()? {
            let is_ours = name.parse::<InstanceId>().is_ok_and(|id| !known.contains(&id));
            if is_ours && let Err(error) = self.world.cgroups.get(&name).remove(LEFTOVER_DEADLINE) {
                tracing::warn!("could not remove the leftover cgroup {name}: {error}");
            }
        }
        Ok(())
    }

    fn adopt(&self, record: Record, folder: InstanceFolder) {
        let id = record.spec.id.clone();
        let found = container::find(&self.world, &folder, &record);
        let is_alive = matches!(found, Found::Alive(_));
        if !is_alive {
            // A launch that was cut short may have left processes without a known init.
            self.remove_cgroup(&id);
            if !record.ever_ready {
                // Nothing is known of it that could matter: if it's still wanted, it starts anew.
                return self.discard(&id, &folder);
            }
        }
        let Some(address) = self.addresses.lease_exactly(record.address) else {
            tracing::error!(instance = %id, "its address {} is not free; it goes", record.address);
            return self.discard(&id, &folder);
        };
        tracing::info!(instance = %id, app = %record.spec.app, alive = is_alive, "adopted");
        let (stop, stopped) = watch::channel(false);
        let world = Arc::clone(&self.world);
        let instance = Instance::new(record.spec.clone(), folder, world, address, stopped);
        self.spawn(id, instance.adopted(record, found), stop, &mut self.lock_tasks());
    }

    fn discard(&self, id: &InstanceId, folder: &InstanceFolder) {
        self.remove_cgroup(id);
        if let Err(error) = folder.remove() {
            tracing::warn!(instance = %id, "could not remove its folder: {error}");
        }
    }

    fn remove_cgroup(&self, id: &InstanceId) {
        let cgroup = self.world.cgroups.get(id.as_str());
        if let Err(error) = cgroup.remove(LEFTOVER_DEADLINE) {
            tracing::warn!(instance = %id, "could not remove its leftover cgroup: {error}");
        }
    }

    /// Looks again whenever an instance has changed, and from time to time.
    async fn reconcile(self: Arc<Self>) {
        let mut statuses = self.statuses.subscribe();
        loop {
            self.converge();
            tokio::select! {
                _ = statuses.changed() => {} // One that is gone may be wanted again.
                () = sleep(RESYNC) => {}
            }
        }
    }

    /// Sets going what brings that which runs to that which should. When it returns, every instance
    /// that it started has a status.
    fn converge(&self) {
        // Held throughout, so that of two callers the one with the older wish comes first.
        let mut tasks = self.lock_tasks();
        let wanted = self.desired.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(wanted) = wanted else { return };
        let have = tasks.keys().cloned().collect();
        for step in plan(&wanted, &have) {
            match step {
                Step::Start(spec) => self.start_instance(*spec, &mut tasks),
                Step::Stop(id) => drop(tasks.get(&id).map(|stop| stop.send_replace(true))),
            }
        }
    }

    fn start_instance(&self, spec: InstanceSpec, tasks: &mut Tasks) {
        let id = spec.id.clone();
        let Some(address) = self.addresses.lease() else {
            return tracing::error!(instance = %id, "no address of this engine's subnet is free");
        };
        let folder = InstanceFolder::new(&self.run, &id);
        let (stop, stopped) = watch::channel(false);
        let instance = Instance::new(spec, folder, Arc::clone(&self.world), address, stopped);
        self.spawn(id, instance, stop, tasks);
    }

    fn spawn(
        &self,
        id: InstanceId,
        instance: Instance,
        stop: watch::Sender<bool>,
        tasks: &mut Tasks,
    ) {
        let Some(node) = self.itself.upgrade() else { return }; // It's being dropped.
        tasks.insert(id.clone(), stop);
        self.report(&id, Some(instance.status()));
        tokio::spawn(async move {
            let reported = (Arc::clone(&node), id.clone());
            instance.run(move |status| reported.0.report(&reported.1, Some(status))).await;
            node.lock_tasks().remove(&id);
            node.report(&id, None);
        });
    }

    /// Replaces one instance's status, or takes it out.
    fn report(&self, id: &InstanceId, status: Option<InstanceStatus>) {
        self.statuses.send_modify(|all| {
            let all = Arc::make_mut(all);
            match status {
                Some(status) => drop(all.insert(id.clone(), status)),
                None => drop(all.remove(id)),
            }
        });
    }

    fn lock_tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no instance is left, up to the longest that one may take.
    async fn wait_until_empty(&self) -> Result<(), String> {
        let mut statuses = self.statuses.subscribe();
        let empty = statuses.wait_for(|all| all.is_empty());
        match timeout(DOWN_DEADLINE, empty).await {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("instances still there: {}", self.names_left())),
        }
    }

    fn names_left(&self) -> String {
        let left: Vec<_> = self.statuses.borrow().keys().map(ToString::to_string).collect();
        left.join(", ")
    }
}

/// Has containers that use much of the processor give way to those that use little. Builds are among them.
async fn balance(world: Arc<World>) {
    let mut balance = Balance::default();
    loop {
        sleep(BALANCE_PAUSE).await;
        let cgroups = Arc::clone(&world.cgroups);
        let looked = tokio::task::spawn_blocking(move || {
            let result = balance.look(&cgroups, Instant::now());
            (balance, result)
        });
        let Ok((back, result)) = looked.await else { return }; // The engine is ending.
        balance = back;
        if let Err(error) = result {
            tracing::debug!("could not have containers give way: {error}");
        }
    }
}

#[async_trait]
impl Node for ContainerNode {
    fn set_desired(&self, instances: Vec<InstanceSpec>) {
        let wanted = instances.into_iter().map(|spec| (spec.id.clone(), spec)).collect();
        *self.desired.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        self.converge();
    }

    fn statuses(&self) -> watch::Receiver<Arc<BTreeMap<InstanceId, InstanceStatus>>> {
        self.statuses.subscribe()
    }

    fn usage(&self) -> NodeUsage {
        self.world.meters.usage()
    }

    async fn down(&self) -> Result<(), Vec<String>> {
        self.set_desired(Vec::new());
        let mut failures: Vec<String> = self.wait_until_empty().await.err().into_iter().collect();
        let (cgroups, engine) = (Arc::clone(&self.world.cgroups), self.world.engine.clone());
        let removed = tokio::task::spawn_blocking(move || {
            let groups = cgroups.remove_all().map_err(|error| error_chain(&error));
            let veths =
                network::remove_leftover_veths(&engine).map_err(|error| error_chain(&error));
            [groups.err(), veths.err()]
        });
        match removed.await {
            Ok(errors) => failures.extend(errors.into_iter().flatten()),
            Err(error) => failures.push(error.to_string()),
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    async fn run(&self, command: CommandSpec, io: CommandIo) -> Result<CommandEnd, CommandError> {
        let doing = "find an address that is free for it";
        let none = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let address = self.addresses.lease();
        let address = address.ok_or_else(|| CommandError { doing, source: none.into() })?;
        let folder = InstanceFolder::new(&self.run, &command.like.id);
        let command = Command { spec: command, folder, world: Arc::clone(&self.world), address };
        // A task of its own: it cleans up though whoever waits for it may leave.
        let ran = tokio::spawn(command.run(io)).await;
        ran.map_err(|error| CommandError { doing: "see it through", source: error.into() })?
    }

    fn command_logs(&self, app: &AppName) -> io::Result<Vec<KeptLog>> {
        self.world.command_logs.list(app)
    }

    async fn kill_app(&self, app: &AppName) -> io::Result<()> {
        let of_app: Vec<InstanceId> = {
            let statuses = self.statuses.borrow();
            let of_app = statuses.iter().filter(|(_, status)| status.app == *app);
            of_app.map(|(id, _)| id.clone()).collect()
        };
        let cgroups = Arc::clone(&self.world.cgroups);
        let kill = move || of_app.iter().try_for_each(|id| cgroups.get(id.as_str()).kill());
        tokio::task::spawn_blocking(kill).await.map_err(io::Error::other)?
    }

    fn old_logs(&self, app: &AppName) -> io::Result<Vec<KeptLog>> {
        self.world.old_logs.list(app)
    }

    async fn copy_volume(&self, image: PathBuf, to: PathBuf) -> io::Result<Duration> {
        let copy = move || volume::copy(&image, &to).map_err(io::Error::other);
        tokio::task::spawn_blocking(copy).await.map_err(io::Error::other)?
    }

    async fn remove_app(&self, app: &AppName, volume: PathBuf) -> io::Result<()> {
        let (world, app) = (Arc::clone(&self.world), app.clone());
        let remove = move || {
            world.old_logs.remove(&app)?;
            world.command_logs.remove(&app)?;
            world.meters.forget(&app);
            volume::remove(&volume).map_err(io::Error::other)
        };
        tokio::task::spawn_blocking(remove).await.map_err(io::Error::other)?
    }
}

/// A difference between what should run and what does.
#[derive(Debug, PartialEq)]
enum Step {
    Start(Box<InstanceSpec>),
    Stop(InstanceId),
}

/// The steps from what there is (`have`) to what should be. Stops come first: they free memory.
fn plan(desired: &Desired, have: &BTreeSet<InstanceId>) -> Vec<Step> {
    let stops = have.iter().filter(|id| !desired.contains_key(id)).cloned().map(Step::Stop);
    let missing = desired.values().filter(|spec| !have.contains(&spec.id));
    stops.chain(missing.map(|spec| Step::Start(Box::new(spec.clone())))).collect()
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use ace_api::{Interpreter, Program, Runtime};
    use ace_types::app_yaml::Entry;
    use ace_types::{Bytes, IdRange, Limits, ReleaseNumber, Server, TenantName};

    use super::*;

    fn id(text: &str) -> InstanceId {
        format!("{text:a<8}").parse().expect("letters make an id")
    }

    pub fn spec(name: &str) -> InstanceSpec {
        InstanceSpec {
            id: id(name),
            tenant: TenantName::default(),
            app: "shop".parse().expect("a name"),
            release: ReleaseNumber(1),
            ids: IdRange::new(0).expect("there is a first range"),
            code: "/code".into(),
            runtime: Runtime {
                python: Interpreter {
                    version: "3.13.1".into(),
                    program: "/usr/bin/python3.13".into(),
                    prefix: "/usr".into(),
                    build: 1,
                },
                environment: "/environment".into(),
                environment_size: Bytes(1),
                program: Program::Server {
                    kind: Server::Uwsgi,
                    packages: "/server".into(),
                    entry: Entry::default(),
                },
            },
            processes: 1,
            threads: 4,
            env: BTreeMap::new(),
            limits: Limits::for_app(),
            volume: None,
            health: None,
            host: "shop.localhost".into(),
            startup: Duration::from_secs(60),
            stop_grace: Duration::from_secs(30),
        }
    }

    fn want(names: &[&str]) -> Desired {
        names.iter().map(|name| (id(name), spec(name))).collect()
    }

    fn have(names: &[&str]) -> BTreeSet<InstanceId> {
        names.iter().map(|name| id(name)).collect()
    }

    #[test]
    fn what_is_as_it_should_be_needs_no_step() {
        assert_eq!(plan(&want(&["one", "two"]), &have(&["one", "two"])), []);
    }

    #[test]
    fn what_is_not_wanted_stops_before_what_is_missing_starts() {
        let steps = plan(&want(&["new"]), &have(&["old"]));
        assert_eq!(steps, [Step::Stop(id("old")), Step::Start(Box::new(spec("new")))]);
    }
}
