//! What an engine has of the machine: a slot, control groups, a firewall table, a network, a node.
//!
//! `ace server` sets it up and leaves it when it ends, since apps go on; `ace down` takes it away.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ace_api::Node;
use ace_builder::{Network, NetworkLease};
use ace_node::dns::{self, Resolvers};
use ace_node::{AddressPool, ContainerNode, NodeConfig};
use ace_sandbox::cgroup::CgroupTree;
use ace_sandbox::claims::{self, Claim};
use ace_sandbox::firewall::{self, FirewallError};
use ace_sandbox::launch::LauncherProgram;
use ace_sandbox::network::{self, Wire};
use ace_sandbox::spec::NetworkSpec;
use ace_sandbox::volume::Store;
use ace_types::{EngineId, IdRange, Limits, error_chain};
use anyhow::{Context, Result, bail};

use crate::engine::EngineFolder;

/// How often the firewall's table and forwarding are looked after.
const WALLS_RESYNC: Duration = Duration::from_secs(5);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// This engine's part of the machine.
pub struct Machine {
    pub engine: EngineId,
    pub claim: Claim,
    pub launcher: Arc<LauncherProgram>,
    pub cgroups: Arc<CgroupTree>,
    pub addresses: AddressPool,
    pub resolvers: Resolvers,
    pub node: Arc<ContainerNode>,
    walls: Arc<Walls>,
}

impl Machine {
    /// Claims a slot, sets up what containers need, and adopts the instances that are there.
    pub async fn set_up(engine: &mut EngineFolder, volumes: Store) -> Result<Self> {
        let id = engine.identity.id.clone();
        let claim = claims::claim(&id, engine.path(), engine.identity.slot)
            .context("could not claim a slot of user ids and addresses")?;
        engine.set_slot(claim.slot())?;
        let launcher = LauncherProgram::seal(Path::new("/proc/self/exe"))
            .context("could not copy this program for launchers")?;
        let cgroups = CgroupTree::find(&id).context("could not find the control groups")?;
        let resolvers = resolvers(&claim);
        let forwarder: Vec<_> = resolvers.forward_to.map(|_| claim.gateway()).into_iter().collect();
        firewall::ensure(&id, claim.subnet(), &forwarder)
            .context("could not set up the firewall's table")?;
        let (data, stand) = (engine.path().to_owned(), Mutex::new(true));
        let walls = Arc::new(Walls { engine: id.clone(), data, claim, forwarder, stand });
        tokio::spawn(keep_walls(Arc::clone(&walls)));
        warn_of_foreign_drops();
        let machine = Parts {
            launcher: Arc::new(launcher),
            cgroups: Arc::new(cgroups),
            resolvers,
            walls,
            volumes,
        };
        machine.start(id, claim, engine).await
    }

    /// Ends every instance and removes what this engine has in the kernel. Its data stays.
    pub async fn tear_down(&self) -> Result<()> {
        let mut failures = self.node.down().await.err().unwrap_or_default();
        failures.extend(self.walls.remove().err().map(|error| error.to_string()));
        failures.extend(claims::release(&self.engine).err().map(|error| error.to_string()));
        if !failures.is_empty() {
            bail!("not all could be removed: {}", failures.join("; "));
        }
        Ok(())
    }
}

impl Machine {
    /// The ranges of user ids that are this engine's, in an order that never changes.
    pub fn id_ranges(&self) -> Vec<IdRange> {
        (0..).map_while(|index| self.claim.id_range(index)).collect()
    }

    /// The network for the containers of builds.
    pub fn build_network(&self) -> BuildNetwork {
        BuildNetwork {
            engine: self.engine.clone(),
            addresses: self.addresses.clone(),
            gateway: self.claim.gateway(),
        }
    }
}

/// Lends builds addresses of the same subnet as instances have.
pub struct BuildNetwork {
    engine: EngineId,
    addresses: AddressPool,
    gateway: Ipv4Addr,
}

impl Network for BuildNetwork {
    fn lease(&self, name: &str) -> Option<NetworkLease> {
        let lease = self.addresses.lease()?;
        let spec = NetworkSpec::Veth(Wire {
            host_interface: network::veth_name(&self.engine, name),
            address: lease.address(),
            gateway: self.gateway,
            bandwidth: Limits::for_build().bandwidth,
        });
        Some(NetworkLease { spec, held: Box::new(lease) })
    }
}

/// What is there before the node is.
struct Parts {
    launcher: Arc<LauncherProgram>,
    cgroups: Arc<CgroupTree>,
    resolvers: Resolvers,
    walls: Arc<Walls>,
    volumes: Store,
}

impl Parts {
    async fn start(self, engine: EngineId, claim: Claim, data: &EngineFolder) -> Result<Machine> {
        let addresses = AddressPool::new(addresses(&claim));
        let config = NodeConfig {
            engine: engine.clone(),
            run: data.folder("run")?,
            old_logs: data.folder("logs/apps")?,
            command_logs: data.folder("logs/commands")?,
            launcher: Arc::clone(&self.launcher),
            cgroups: Arc::clone(&self.cgroups),
            addresses: addresses.clone(),
            gateway: claim.gateway(),
            nameservers: self.resolvers.nameservers.clone(),
            volumes: self.volumes,
        };
        let node = ContainerNode::start(config).await.context("could not start the node")?;
        let Self { launcher, cgroups, resolvers, walls, volumes: _ } = self;
        Ok(Machine { engine, claim, launcher, cgroups, addresses, resolvers, node, walls })
    }
}

/// Every address of the engine's subnet that a container may have.
fn addresses(claim: &Claim) -> impl Iterator<Item = Ipv4Addr> {
    (0..).map_while(|n| claim.address(n))
}

/// The servers that containers ask for names, with the forwarder running where one is needed.
fn resolvers(claim: &Claim) -> Resolvers {
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let resolvers = Resolvers::choose(&text, claim.gateway());
    if let Some(upstream) = resolvers.forward_to
        && let Err(error) = dns::forward(claim.gateway(), upstream)
    {
        tracing::warn!("apps can't resolve names: could not forward them to {upstream}: {error}");
    }
    resolvers
}

/// What all containers of the engine need of the host's network.
struct Walls {
    engine: EngineId,
    data: PathBuf,
    claim: Claim,
    forwarder: Vec<Ipv4Addr>,
    /// Whether they are to be there. Held while something is done to them.
    stand: Mutex<bool>,
}

/// Sets the firewall's table and the kernel's forwarding again when somebody else has changed them: a
/// flush of all tables takes the walls between containers away with the rest.
async fn keep_walls(walls: Arc<Walls>) {
    let mut whole = None;
    loop {
        let (kept, before) = (Arc::clone(&walls), whole.take());
        match tokio::task::spawn_blocking(move || kept.keep(before)).await {
            Ok(Ok(listing)) => whole = listing,
            Ok(Err(error)) => {
                tracing::error!("the walls between containers may be down: {error:#}");
            }
            Err(error) => tracing::error!("could not look after the firewall: {error}"),
        }
        tokio::time::sleep(WALLS_RESYNC).await;
    }
}

impl Walls {
    /// Looks after them once. `whole` is the table's listing as it should be, where that is known.
    /// Returns it.
    fn keep(&self, whole: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        let stand = self.stand.lock().unwrap_or_else(PoisonError::into_inner);
        if !*stand {
            return Ok(None);
        }
        match claims::ensure(&self.engine, &self.data, self.claim) {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!("this engine had left the machine's register; it's in it again")
            }
            Err(error) => tracing::error!("the machine's register: {}", error_chain(&error)),
        }
        if claims::ensure_forwarding()? {
            tracing::warn!("forwarding was switched off; it is on again");
        }
        let found = firewall::listing(&self.engine)?;
        if found.is_some() && found == whole {
            return Ok(whole);
        }
        if whole.is_some() {
            tracing::warn!("the firewall's table was changed or gone; it is set again");
        }
        firewall::ensure(&self.engine, self.claim.subnet(), &self.forwarder)?;
        Ok(firewall::listing(&self.engine)?)
    }

    /// Removes them for good.
    fn remove(&self) -> Result<(), FirewallError> {
        let mut stand = self.stand.lock().unwrap_or_else(PoisonError::into_inner);
        *stand = false;
        firewall::remove(&self.engine)
    }
}

/// Other tables' chains that would cut apps off from the internet.
fn warn_of_foreign_drops() {
    for chain in firewall::foreign_drops().unwrap_or_default() {
        tracing::warn!(
            "the chain {} of table {} {} drops what apps send; to let it pass: {}",
            chain.chain,
            chain.family,
            chain.table,
            chain.remedy()
        );
    }
}
