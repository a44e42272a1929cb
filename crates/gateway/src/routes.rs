//! The table of routes, and the count of what is under way along them.
//!
//! The table is replaced as a whole and read without a lock. Counts outlive tables: an app's are
//! found again by its name, an instance's by its id.
//!
//! **Draining.** A request picks an instance from the table it has loaded, which may be an old one
//! by the time the request is counted. So an instance's count and whether it is retired are one
//! atomic number: entering adds one and looks at the retired bit of the same number, retiring sets
//! the bit. Whichever comes first in that number's order is seen by the other: a request either is
//! counted before the instance retires, and then `drained` waits for it, or finds it retired and goes
//! back for the newer table. `set_routes` retires, before it returns, all that its table leaves out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ace_api::{AppTraffic, Backend, InstanceSocket, InstanceTraffic, Route, RouteTable};
use ace_types::{
    AppName, ErrorPage, HostName, InstanceId, Limits, Protocol, ReleaseNumber, RewriteRule,
    StaticRule, TryRule,
};
use ace_upstream::Pool;
use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, watch};

use crate::bandwidth::{AppBandwidth, Crowd};
use crate::file_cache::{CachedFolder, FileCache};
use crate::files::Folder;
use crate::meter::{AppMeter, Pace};
use crate::places::{NoPlace, Places};
use crate::spool::AppUse;

/// All routes, as of now.
pub struct Routes {
    table: ArcSwap<Table>,
    /// Sees a change after each change of the table.
    changed: watch::Sender<()>,
    known: Mutex<Known>,
    /// Requests that wait for the first table.
    early: Arc<AtomicU32>,
}

/// Routes by host.
///
/// `None` before the first table has come, when no name can be said to be unknown.
#[derive(Debug, Default)]
pub struct Table(Option<Names>);

/// Routes by the names that lead to them.
#[derive(Debug, Default)]
struct Names {
    hosts: HashMap<HostName, Arc<AppRoute>>,
    /// By the name without its first label.
    wildcards: HashMap<HostName, Arc<AppRoute>>,
}

/// The way to one app.
#[derive(Debug)]
pub struct AppRoute {
    pub app: AppName,
    pub release: ReleaseNumber,
    pub statics: Vec<StaticRule>,
    pub rewrites: Vec<RewriteRule>,
    pub tries: Vec<TryRule>,
    pub errors: Vec<ErrorPage>,
    /// Where `statics` and `errors` find their files; `None` where it could not be opened, or there are none.
    pub code: Option<Arc<CachedFolder>>,
    pub behind: Behind,
    pub limits: Limits,
    load: Arc<AppLoad>,
    code_path: PathBuf,
}

/// What is behind the files of an app; see [`Backend`].
#[derive(Debug)]
pub enum Behind {
    Nothing,
    Instances(Vec<Instance>),
    Stopped,
}

/// One instance of an app.
#[derive(Debug, Clone)]
pub struct Instance {
    pub id: InstanceId,
    pub socket: PathBuf,
    pub protocol: Protocol,
    load: Arc<InstanceLoad>,
}

/// What is under way to one app.
#[derive(Debug)]
struct AppLoad {
    meter: AppMeter,
    /// Requests that came and are not answered to the last byte.
    requests: Places,
    /// Those of them whose bodies are being received.
    receiving: Places,
    /// Those of them that the app is at work on; see [`WorkPermit`].
    working: Places,
    /// Those that wait for an instance.
    held: Arc<AtomicU32>,
    spooled: Arc<AppUse>,
    bandwidth: Arc<AppBandwidth>,
    /// Counts how often an instance has been looked for.
    turns: AtomicU32,
}

impl AppLoad {
    fn new(now: Instant, crowd: &Arc<Crowd>) -> Self {
        Self {
            meter: AppMeter::new(now),
            requests: Places::default(),
            receiving: Places::default(),
            working: Places::default(),
            held: Arc::default(),
            spooled: Arc::default(),
            bandwidth: Arc::new(AppBandwidth::new(crowd)),
            turns: AtomicU32::new(0),
        }
    }

    fn traffic(&self, now: Instant) -> AppTraffic {
        let (received_bytes, sent_bytes) = self.meter.bytes();
        let (waits, waited_usec) = self.meter.waits();
        AppTraffic {
            ended: self.meter.status_counts(),
            durations: self.meter.pace().durations(),
            received_bytes,
            sent_bytes,
            under_way: self.requests.taken().into(),
            working: self.working.taken().into(),
            waiting: self.held.load(Ordering::Relaxed).into(),
            waits,
            waited_usec,
            refused: self.meter.refused(),
            bandwidth: self.bandwidth.usage(now.into()),
            recent: self.meter.pace().recent(now),
        }
    }

    /// Whose turn it is among `count` instances.
    fn turn(&self, count: usize) -> usize {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        usize::try_from(turn).unwrap_or_default().checked_rem(count).unwrap_or_default()
    }
}

/// One of the requests that an app may have under way; given back when dropped.
#[derive(Debug)]
pub struct AppPermit {
    load: Arc<AppLoad>,
    address: Option<IpAddr>,
}

/// One of the requests of an app whose bodies are being received; given back when dropped. There are fewer of them than of all
/// requests, so that clients who send slowly leave places to those who have nothing to send.
#[derive(Debug)]
pub struct BodyPermit {
    load: Arc<AppLoad>,
    address: Option<IpAddr>,
}

/// One of the requests that an app is at work on, from when all of it has come until the app has answered; given
/// back when dropped. So a client that sends or reads slowly takes none from others.
#[derive(Debug)]
pub struct WorkPermit {
    load: Arc<AppLoad>,
    address: Option<IpAddr>,
}

/// One of the requests that may wait, for an instance of an app or for the first table; given back
/// when dropped.
#[derive(Debug)]
pub struct HoldPermit {
    held: Arc<AtomicU32>,
    began: Instant,
    /// Who is told how long it was.
    app: Option<Arc<AppLoad>>,
}

/// A request under way to an instance; it has left when this is dropped.
#[derive(Debug)]
pub struct InstancePermit {
    load: Arc<InstanceLoad>,
    /// Given back at the same time.
    work: Option<WorkPermit>,
}

/// Which instance a request was taken to, be it still there or not.
#[derive(Debug)]
pub struct Visit {
    load: Arc<InstanceLoad>,
}

/// Loads by what they belong to, for as long as a table names it or something is under way.
#[derive(Debug, Default)]
struct Known {
    files: FileCache,
    crowd: Arc<Crowd>,
    /// How many folders have been opened.
    folders: u64,
    apps: HashMap<AppName, Arc<AppLoad>>,
    instances: HashMap<InstanceId, Arc<InstanceLoad>>,
}

/// What is under way to one instance.
#[derive(Debug)]
struct InstanceLoad {
    id: InstanceId,
    pace: Pace,
    /// The number of requests, and [`RETIRED`].
    state: AtomicU64,
    /// Connections between two requests. Closed while it is retired.
    pool: Arc<Pool>,
    /// Notified when the last request has left a retired instance.
    empty: Notify,
}

/// No table names the instance any more.
const RETIRED: u64 = 1 << 63;

impl Routes {
    pub fn new() -> Self {
        Self {
            table: ArcSwap::default(),
            changed: watch::Sender::default(),
            known: Mutex::default(),
            early: Arc::default(),
        }
    }

    /// The table as it is now.
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Sees every change that comes after this call.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Counts in a request that waits for the first table, unless `max` of them do.
    pub fn hold(&self, max: u32) -> Option<HoldPermit> {
        HoldPermit::take(&self.early, None, max)
    }

    /// Replaces the table. On return, no request can newly go to what it doesn't name.
    pub fn replace(&self, table: RouteTable) {
        let mut known = self.known();
        let table = Arc::new(known.prepare(table, &self.table.load()));
        // First the table, then the retirement: who finds an instance retired finds the new table.
        self.table.store(Arc::clone(&table));
        known.retire_all_but(&table);
        drop(known);
        self.changed.send_replace(());
    }

    /// Waits until nothing is under way to `instance`, but no longer than `deadline`. Returns
    /// whether that came about.
    pub async fn drained(&self, instance: &InstanceId, deadline: Duration) -> bool {
        let Some(load) = self.known().instances.get(instance).cloned() else { return true };
        tokio::time::timeout(deadline, load.until_empty()).await.is_ok()
    }

    /// Notes how much has come until `now`, so that the last minute can be told.
    pub fn roll(&self, now: Instant) {
        let known = self.known();
        for app in known.apps.values() {
            app.meter.pace().roll(now);
            app.bandwidth.roll(now.into());
        }
        known.instances.values().for_each(|instance| instance.pace.roll(now));
    }

    /// What has come to every app that is known.
    pub fn apps(&self, now: Instant) -> BTreeMap<AppName, AppTraffic> {
        let known = self.known();
        known.apps.iter().map(|(app, load)| (app.clone(), load.traffic(now))).collect()
    }

    /// What has come to every instance that is known.
    pub fn instances(&self, now: Instant) -> BTreeMap<InstanceId, InstanceTraffic> {
        let known = self.known();
        known.instances.iter().map(|(id, load)| (id.clone(), load.traffic(now))).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing that holds the lock leaves half a change behind.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    pub fn route(&self, host: &HostName) -> Option<&Arc<AppRoute>> {
        let names = self.0.as_ref()?;
        names.hosts.get(host).or_else(|| names.wildcards.get(host.parent()?))
    }

    /// Whether this is the emptiness before the first table.
    pub fn is_none_yet(&self) -> bool {
        self.0.is_none()
    }

    fn routes(&self) -> impl Iterator<Item = &Arc<AppRoute>> {
        self.0.iter().flat_map(|names| names.hosts.values().chain(names.wildcards.values()))
    }

    fn instances(&self) -> HashSet<&InstanceId> {
        let instances = self.routes().flat_map(|route| route.instances());
        instances.map(|instance| &instance.id).collect()
    }

    fn apps(&self) -> HashSet<&AppName> {
        self.routes().map(|route| &route.app).collect()
    }
}

impl AppRoute {
    /// Whether a request may be led elsewhere than where it asks for.
    pub fn has_rules(&self) -> bool {
        !self.rewrites.is_empty() || !self.tries.is_empty()
    }

    /// Whether what its rules don't cover is not found.
    pub fn is_files_alone(&self) -> bool {
        matches!(self.behind, Behind::Nothing)
    }

    /// Whether every request is told that the app does not run.
    pub fn is_stopped(&self) -> bool {
        matches!(self.behind, Behind::Stopped)
    }

    fn instances(&self) -> &[Instance] {
        match &self.behind {
            Behind::Instances(instances) => instances,
            Behind::Nothing | Behind::Stopped => &[],
        }
    }

    /// The least busy instance that is not among `but`; equally busy ones take turns.
    pub fn least_busy(&self, but: &[&InstanceId]) -> Option<&Instance> {
        let (before, after) = self.instances().split_at(self.load.turn(self.instances().len()));
        let candidates = after.iter().chain(before).filter(|instance| !but.contains(&&instance.id));
        candidates.min_by_key(|instance| instance.load.count())
    }

    /// Counts what comes to the app.
    pub fn meter(&self) -> &AppMeter {
        &self.load.meter
    }

    /// What the app has on disk of requests and answers under way.
    pub fn spooled(&self) -> &Arc<AppUse> {
        &self.load.spooled
    }

    /// Whether more than a quarter of the `max` requests are under way that it may have.
    pub fn is_crowded(&self, max: u32) -> bool {
        self.load.requests.taken() > max / 4
    }

    /// What may pass for the app.
    pub fn bandwidth(&self) -> &Arc<AppBandwidth> {
        &self.load.bandwidth
    }

    /// Counts in a request that waits for an instance, unless `max` of them do.
    pub fn hold(&self, max: u32) -> Option<HoldPermit> {
        HoldPermit::take(&self.load.held, Some(&self.load), max)
    }
}

impl AppPermit {
    /// Counts in a request of `address`, if that is counted, where there is a place among `max`.
    pub fn take(route: &Arc<AppRoute>, max: u32, address: Option<IpAddr>) -> Result<Self, NoPlace> {
        let permit = Self { load: Arc::clone(&route.load), address };
        route.load.requests.take(max, address)?;
        Ok(permit)
    }
}

impl BodyPermit {
    /// Counts in a request of `address`, if that is counted, where there is a place among `max`.
    pub fn take(route: &Arc<AppRoute>, max: u32, address: Option<IpAddr>) -> Result<Self, NoPlace> {
        let permit = Self { load: Arc::clone(&route.load), address };
        route.load.receiving.take(max, address)?;
        Ok(permit)
    }
}

impl WorkPermit {
    /// Counts in a request of `address`, if that is counted, where there is a place among `max`.
    pub fn take(route: &Arc<AppRoute>, max: u32, address: Option<IpAddr>) -> Result<Self, NoPlace> {
        let permit = Self { load: Arc::clone(&route.load), address };
        route.load.working.take(max, address)?;
        Ok(permit)
    }
}

impl HoldPermit {
    fn take(held: &Arc<AtomicU32>, app: Option<&Arc<AppLoad>>, max: u32) -> Option<Self> {
        let app = app.cloned();
        let permit = Self { held: Arc::clone(held), began: Instant::now(), app };
        let before = held.fetch_add(1, Ordering::AcqRel);
        (before < max).then_some(permit)
    }
}

impl Instance {
    /// Counts a request in; `None` where a newer table has left this instance out.
    pub fn enter(&self) -> Option<InstancePermit> {
        let permit = InstancePermit { load: Arc::clone(&self.load), work: None };
        let before = self.load.state.fetch_add(1, Ordering::AcqRel);
        (before & RETIRED == 0).then_some(permit)
    }
}

impl Instance {
    /// Its connections between two requests.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.load.pool
    }
}

impl InstancePermit {
    /// Has `work` given back when this is.
    pub fn keep(&mut self, work: Option<WorkPermit>) {
        self.work = work;
    }

    pub fn visit(&self) -> Visit {
        Visit { load: Arc::clone(&self.load) }
    }
}

impl Visit {
    pub fn instance(&self) -> &InstanceId {
        &self.load.id
    }

    /// Counts what the instance's requests take.
    pub fn pace(&self) -> &Pace {
        &self.load.pace
    }
}

impl Drop for AppPermit {
    fn drop(&mut self) {
        self.load.requests.give_back(self.address);
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.load.receiving.give_back(self.address);
    }
}

impl Drop for WorkPermit {
    fn drop(&mut self) {
        self.load.working.give_back(self.address);
    }
}

impl Drop for HoldPermit {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
        if let Some(app) = &self.app {
            app.meter.waited(self.began.elapsed());
        }
    }
}

impl Drop for InstancePermit {
    fn drop(&mut self) {
        if self.load.state.fetch_sub(1, Ordering::AcqRel) == RETIRED + 1 {
            self.load.empty.notify_waiters();
        }
    }
}

impl InstanceLoad {
    fn new(id: InstanceId, now: Instant) -> Self {
        Self {
            id,
            pace: Pace::new(now),
            state: AtomicU64::new(0),
            pool: Arc::default(),
            empty: Notify::new(),
        }
    }

    fn traffic(&self, now: Instant) -> InstanceTraffic {
        InstanceTraffic { under_way: self.count(), recent: self.pace.recent(now) }
    }

    fn count(&self) -> u64 {
        self.state.load(Ordering::Acquire) & !RETIRED
    }

    fn retire(&self) {
        self.state.fetch_or(RETIRED, Ordering::AcqRel);
        self.pool.close();
    }

    fn revive(&self) {
        self.pool.open();
        self.state.fetch_and(!RETIRED, Ordering::AcqRel);
    }

    async fn until_empty(&self) {
        loop {
            let mut empty = std::pin::pin!(self.empty.notified());
            empty.as_mut().enable(); // Before looking, lest the last one leave in between.
            if self.count() == 0 {
                return;
            }
            empty.await;
        }
    }
}

impl Known {
    fn prepare(&mut self, table: RouteTable, old: &Table) -> Table {
        let mut names = Names::default();
        for mut route in table.routes {
            let hosts = std::mem::take(&mut route.hosts);
            let wildcards = std::mem::take(&mut route.wildcards);
            let old_route = hosts.first().and_then(|host| old.route(host));
            let route = Arc::new(self.prepare_route(route, old_route));
            let leading = |name| (name, Arc::clone(&route));
            names.hosts.extend(hosts.into_iter().map(leading));
            names.wildcards.extend(wildcards.into_iter().map(leading));
        }
        Table(Some(names))
    }

    fn prepare_route(&mut self, route: Route, old: Option<&Arc<AppRoute>>) -> AppRoute {
        let code = match route.statics.is_empty() && route.errors.is_empty() {
            true => None,
            false => self.open_code(&route.code, &route.app, old),
        };
        let behind = match route.backend {
            Backend::Files => Behind::Nothing,
            Backend::Instances(sockets) => Behind::Instances(
                sockets.into_iter().map(|socket| self.prepare_instance(socket)).collect(),
            ),
            Backend::Stopped => Behind::Stopped,
        };
        let load = self.app(&route.app);
        load.bandwidth.set_limit(route.limits.bandwidth);
        AppRoute {
            load,
            behind,
            app: route.app,
            release: route.release,
            statics: route.statics,
            rewrites: route.rewrites,
            tries: route.tries,
            errors: route.errors,
            code,
            limits: route.limits,
            code_path: route.code,
        }
    }

    fn app(&mut self, name: &AppName) -> Arc<AppLoad> {
        let crowd = &self.crowd;
        let known = self.apps.entry(name.clone());
        Arc::clone(known.or_insert_with(|| Arc::new(AppLoad::new(Instant::now(), crowd))))
    }

    fn prepare_instance(&mut self, instance: InstanceSocket) -> Instance {
        let known = self.instances.entry(instance.id.clone());
        let new = || Arc::new(InstanceLoad::new(instance.id.clone(), Instant::now()));
        let load = Arc::clone(known.or_insert_with(new));
        load.revive();
        Instance { id: instance.id, socket: instance.socket, protocol: instance.protocol, load }
    }

    /// Opens the folder of a release's code, or takes over from the app's `old` route.
    fn open_code(
        &mut self,
        path: &Path,
        app: &AppName,
        old: Option<&Arc<AppRoute>>,
    ) -> Option<Arc<CachedFolder>> {
        let known = old.filter(|route| route.code_path == path);
        if let Some(code) = known.and_then(|route| route.code.clone()) {
            return Some(code);
        }
        match Folder::open(path) {
            Ok(folder) => {
                self.folders += 1;
                Some(Arc::new(self.files.folder(folder, self.folders)))
            }
            Err(error) => {
                let path = path.display();
                tracing::error!(%app, %path, %error, "static files can't be served: no code folder");
                None
            }
        }
    }

    /// Retires what `table` leaves out, and forgets it once nothing is under way to it.
    fn retire_all_but(&mut self, table: &Table) {
        let (instances, apps) = (table.instances(), table.apps());
        self.instances.retain(|id, load| {
            if instances.contains(id) {
                return true;
            }
            load.retire();
            load.count() > 0
        });
        self.apps.retain(|app, load| apps.contains(app) || load.requests.taken() > 0);
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Routes").field(&self.table.load()).finish()
    }
}

#[cfg(test)]
mod tests {
    use ace_types::ReleaseNumber;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn id(text: &str) -> InstanceId {
        InstanceId::try_from(format!("{text:a<0$}", InstanceId::LENGTH)).unwrap()
    }

    fn table(instances: &[&str]) -> RouteTable {
        let socket = |name: &&str| InstanceSocket {
            id: id(name),
            socket: PathBuf::from(*name),
            protocol: Protocol::Uwsgi,
        };
        RouteTable {
            routes: vec![Route {
                hosts: vec!["shop.localhost".parse().unwrap()],
                wildcards: Vec::new(),
                app: "shop".parse().unwrap(),
                release: ReleaseNumber(1),
                code: PathBuf::from("/nonexistent"),
                statics: Vec::new(),
                rewrites: Vec::new(),
                tries: Vec::new(),
                errors: Vec::new(),
                backend: Backend::Instances(instances.iter().map(socket).collect()),
                limits: Limits::for_app(),
            }],
        }
    }

    fn route(routes: &Routes) -> Arc<AppRoute> {
        let table = routes.table();
        Arc::clone(table.route(&"shop.localhost".parse().unwrap()).unwrap())
    }

    fn first(route: &AppRoute) -> &Instance {
        route.least_busy(&[]).unwrap()
    }

    #[test]
    fn a_name_of_its_own_comes_before_a_wildcard() {
        let wildcard = || vec!["example.com".parse().unwrap()];
        let mut routes = table(&["x"]).routes;
        routes.push(Route {
            hosts: vec!["blog.localhost".parse().unwrap(), "b.example.com".parse().unwrap()],
            app: "blog".parse().unwrap(),
            ..routes[0].clone()
        });
        routes[0].wildcards = wildcard();
        let known = Routes::new();
        known.replace(RouteTable { routes });
        let led_to = |host: &str| {
            let table = known.table();
            table.route(&host.parse().unwrap()).map(|route| route.app.to_string())
        };
        assert_eq!(led_to("a.example.com").as_deref(), Some("shop"));
        assert_eq!(led_to("b.example.com").as_deref(), Some("blog"));
        for host in ["example.com", "a.a.example.com", "com", "aexample.com"] {
            assert_eq!(led_to(host), None, "{host}");
        }
    }

    #[test]
    fn the_least_busy_instance_is_next() {
        let routes = Routes::new();
        routes.replace(table(&["x", "y"]));
        let route = route(&routes);
        let first = route.least_busy(&[]).unwrap();
        let _permit = first.enter().unwrap();
        for _ in 0..3 {
            assert_eq!(route.least_busy(&[]).unwrap().id, id("y"));
        }
        assert_eq!(route.least_busy(&[&id("y")]).unwrap().id, id("x"));
    }

    #[test]
    fn equally_busy_instances_take_turns() {
        let routes = Routes::new();
        routes.replace(table(&["x", "y", "z"]));
        let route = route(&routes);
        let met: Vec<_> = (0..6).map(|_| route.least_busy(&[]).unwrap().id.clone()).collect();
        assert_eq!(met[..3], [id("x"), id("y"), id("z")]);
        assert_eq!(met[..3], met[3..]);
    }

    #[tokio::test]
    async fn a_request_with_an_old_table_does_not_enter() {
        let routes = Routes::new();
        routes.replace(table(&["x"]));
        let old = route(&routes);
        routes.replace(table(&["y"]));
        assert!(first(&old).enter().is_none());
        assert!(routes.drained(&id("x"), SOON).await);
    }

    #[tokio::test]
    async fn a_request_that_entered_before_is_waited_for() {
        let routes = Arc::new(Routes::new());
        routes.replace(table(&["x"]));
        let permit = first(&route(&routes)).enter().unwrap();
        routes.replace(table(&["y"]));
        routes.replace(table(&["y"]));
        assert!(!routes.drained(&id("x"), SOON).await);
        let waiting = Arc::clone(&routes);
        let drained = tokio::spawn(async move { waiting.drained(&id("x"), 50 * SOON).await });
        tokio::task::yield_now().await;
        drop(permit);
        assert!(drained.await.unwrap());
    }

    #[tokio::test]
    async fn an_instance_that_comes_back_is_entered_again() {
        let routes = Routes::new();
        for instances in [&["x"][..], &[], &["x"]] {
            routes.replace(table(instances));
        }
        assert!(first(&route(&routes)).enter().is_some());
    }

    #[test]
    fn an_app_has_no_more_requests_than_its_limit() {
        let routes = Routes::new();
        let mut one_at_once = table(&["x"]);
        one_at_once.routes[0].limits.connections = 1;
        routes.replace(one_at_once.clone());
        let take = || AppPermit::take(&route(&routes), 1, None);
        let permit = take();
        routes.replace(one_at_once);
        assert!(permit.is_ok() && take().is_err());
        drop(permit);
        assert!(take().is_ok());
    }

    #[test]
    fn what_is_entered_while_tables_change_is_always_counted() {
        let routes = Arc::new(Routes::new());
        routes.replace(table(&["x"]));
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let inside: Arc<AtomicU64> = Arc::default();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let route = route(&routes);
                        let Some(instance) = route.least_busy(&[]) else { continue };
                        let Some(_permit) = instance.enter() else { continue };
                        let mine = if instance.id == id("x") { 1 } else { 1 << 32 };
                        inside.fetch_add(mine, Ordering::SeqCst);
                        inside.fetch_sub(mine, Ordering::SeqCst);
                    }
                });
            }
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for round in 0..2000 {
                let (new, old) = if round % 2 == 0 { ("y", "x") } else { ("x", "y") };
                routes.replace(table(&[new]));
                assert!(runtime.block_on(routes.drained(&id(old), 500 * SOON)));
                let there = inside.load(Ordering::SeqCst);
                let to_old = if old == "x" { there & 0xffff_ffff } else { there >> 32 };
                assert_eq!(to_old, 0, "a request is under way to a drained instance");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
