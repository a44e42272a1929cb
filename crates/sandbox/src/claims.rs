//! Which engine on this machine holds which slot of user ids and network addresses.
//!
//! A machine has 64 slots. Each is a /21 of 198.18.0.0/15, which nobody routes (RFC 2544 keeps it
//! for measurements), and 1,024 ranges of user ids. An engine claims one for as long as it has
//! anything on the machine. The register is a small file below `/run`, which a boot clears together
//! with all that it stands for; each change happens under a lock and replaces the file whole.
//!
//! The register also switches IPv4 forwarding on for the first engine that comes and back to what it
//! was for the last that leaves.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ace_types::{EngineId, IdRange};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::network::VETH_PREFIX;

/// Slots on a machine.
pub const SLOTS: u8 = 64;
/// Ranges of user ids in a slot.
pub const RANGES: u32 = IdRange::RANGES / SLOTS as u32;

/// The first address of slot 0.
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The length of a slot's prefix: 2,048 addresses.
const PREFIX: u8 = 21;
const ADDRESSES: u32 = 1 << (32 - PREFIX as u32);
/// Addresses that no container has: the subnet's own, the gateway's and the last.
const RESERVED: u32 = 3;
/// Routes shorter than this are ways to everywhere, such as a VPN's two halves of the internet.
const ROUTE_PREFIX_LEAST: u8 = 8;

const LOCK_DEADLINE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// One engine's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    slot: u8,
}

/// The last slot there is.
pub(crate) const LAST: Claim = Claim { slot: SLOTS - 1 };

/// The addresses of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    first: u32,
}

/// Why no slot could be had, or given back.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("could not open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("could not lock {} within {} s; another engine holds it", path.display(), LOCK_DEADLINE.as_secs())]
    Locked { path: PathBuf },
    #[error("{} is damaged; remove it when no engine runs", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("could not write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "slot {slot}, whose user ids this engine's files have, is held by the engine of {}; stop \
         that one with `ace down` first",
        data.display()
    )]
    Held { slot: u8, data: PathBuf },
    #[error("engine id {engine} is also that of {}; one is a copy of the other", data.display())]
    SameEngine { engine: EngineId, data: PathBuf },
    #[error("all {SLOTS} slots of this machine are held or overlap its routes")]
    Full,
}

/// Claims a slot of this machine for `engine`, whose data folder is `data`. An engine that has one
/// gets the same again. Switches IPv4 forwarding on.
///
/// `preferred` is the slot whose user ids its files have, where it had one before: that or none.
/// Claims of engines whose data folder is gone are dropped.
pub fn claim(engine: &EngineId, data: &Path, preferred: Option<u8>) -> Result<Claim, ClaimError> {
    Register::system().claim(engine, data, preferred)
}

/// Enters the `claim` that `engine` has again where the register has lost it. Returns whether it had.
///
/// Errors: as [`claim`]'s; another engine may have taken the slot meanwhile.
pub fn ensure(engine: &EngineId, data: &Path, claim: Claim) -> Result<bool, ClaimError> {
    Register::system().ensure(engine, data, claim)
}

/// Switches IPv4 forwarding on where it is off, as [`claim`] does. Returns whether it was off.
pub fn ensure_forwarding() -> Result<bool, ClaimError> {
    Register::system().set_forwarding("1")
}

/// Gives back what `engine` holds. No error where that is nothing.
pub fn release(engine: &EngineId) -> Result<(), ClaimError> {
    Register::system().release(engine)
}

impl Claim {
    /// Slot number `slot`; `None` where there are not so many.
    pub fn new(slot: u8) -> Option<Self> {
        (slot < SLOTS).then_some(Self { slot })
    }

    pub fn slot(self) -> u8 {
        self.slot
    }

    /// Range number `index` of the slot's [`RANGES`].
    pub fn id_range(self, index: u32) -> Option<IdRange> {
        if index >= RANGES {
            return None;
        }
        IdRange::new(u32::from(self.slot) * RANGES + index)
    }

    pub fn subnet(self) -> Subnet {
        Subnet { first: NETWORK.to_bits() + u32::from(self.slot) * ADDRESSES }
    }

    /// The host's address towards all containers of the engine.
    pub fn gateway(self) -> Ipv4Addr {
        self.subnet().gateway()
    }

    /// The address of container number `n`, from 0.
    pub fn address(self, n: u32) -> Option<Ipv4Addr> {
        (n < ADDRESSES - RESERVED).then(|| Ipv4Addr::from_bits(self.subnet().first + 2 + n))
    }
}

impl Subnet {
    pub const PREFIX: u8 = PREFIX;

    /// `198.18.8.0` of `198.18.8.0/21`.
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first)
    }

    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + 1)
    }

    /// Whether it has addresses in common with `network/prefix`.
    fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        let common = prefix.min(PREFIX);
        let mask = u32::MAX.checked_shl(32 - u32::from(common)).unwrap_or(0);
        (self.first ^ network.to_bits()) & mask == 0
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{PREFIX}", self.first())
    }
}

/// Where claims are kept, and what they switch.
struct Register {
    folder: PathBuf,
    /// The kernel's switch of IPv4 forwarding.
    forwarding: PathBuf,
    /// The kernel's routes.
    routes: PathBuf,
}

/// What the register's file says.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Claims {
    engines: BTreeMap<EngineId, Entry>,
    /// What forwarding was before the first engine came.
    forwarding_before: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    slot: u8,
    data: PathBuf,
}

impl Register {
    fn system() -> Self {
        Self {
            folder: "/run/ace".into(),
            forwarding: "/proc/sys/net/ipv4/ip_forward".into(),
            routes: "/proc/net/route".into(),
        }
    }

    fn claim(
        &self,
        engine: &EngineId,
        data: &Path,
        preferred: Option<u8>,
    ) -> Result<Claim, ClaimError> {
        let data = data
            .canonicalize()
            .map_err(|source| ClaimError::Open { path: data.to_owned(), source })?;
        let _lock = self.lock()?;
        let mut claims = self.read()?;
        let routes = fs::read_to_string(&self.routes).unwrap_or_default();
        let slot = claims.take(engine, &data, preferred, &parse_routes(&routes))?;
        if claims.forwarding_before.is_none() {
            let before = self.read_forwarding()?;
            claims.forwarding_before = Some(before);
        }
        // What was is on disk before it changes.
        self.write(&claims)?;
        self.set_forwarding("1")?;
        Ok(Claim { slot })
    }

    fn ensure(&self, engine: &EngineId, data: &Path, claim: Claim) -> Result<bool, ClaimError> {
        // Replaced whole, so it can be read without the lock.
        if self.read()?.engines.get(engine).is_some_and(|entry| entry.slot == claim.slot) {
            return Ok(false);
        }
        self.claim(engine, data, Some(claim.slot)).map(|_| true)
    }

    fn release(&self, engine: &EngineId) -> Result<(), ClaimError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let lock = self.lock()?;
        let mut claims = self.read()?;
        claims.engines.remove(engine);
        claims.engines.retain(|_, entry| entry.data.is_dir());
        if !claims.engines.is_empty() {
            return self.write(&claims);
        }
        if let Some(before) = &claims.forwarding_before {
            self.set_forwarding(before)?;
        }
        self.remove_folder(lock)
    }

    /// Locks the register, which is made where there is none. Dropping the file unlocks it.
    fn lock(&self) -> Result<File, ClaimError> {
        let path = self.folder.join("lock");
        let failed = |source| ClaimError::Open { path: path.clone(), source };
        let until = Instant::now() + LOCK_DEADLINE;
        while Instant::now() < until {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&self.folder)
                .map_err(failed)?;
            let file = match open_lock(&path) {
                // The last engine to leave took the folder away in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(failed)?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_still_at(&file, &path) => return Ok(file),
                Ok(()) => continue,
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(failed(error.into())),
            }
        }
        Err(ClaimError::Locked { path })
    }

    fn file(&self) -> PathBuf {
        self.folder.join("claims.json")
    }

    fn read(&self) -> Result<Claims, ClaimError> {
        let path = self.file();
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Claims::default()),
            Err(source) => Err(ClaimError::Open { path, source }),
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| ClaimError::Damaged { path, source })
            }
        }
    }

    fn write(&self, claims: &Claims) -> Result<(), ClaimError> {
        let path = self.file();
        let fresh = self.folder.join("claims.json.new");
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(claims)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|source| ClaimError::Write { path: path.clone(), source })
    }

    fn remove_folder(&self, lock: File) -> Result<(), ClaimError> {
        let remove = |name: &str| match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        ["claims.json.new", "claims.json", "lock"]
            .into_iter()
            .try_for_each(remove)
            .map_err(|source| ClaimError::Write { path: self.file(), source })?;
        // Another engine that is just coming has put its own lock there: then the folder stays.
        let _ = fs::remove_dir(&self.folder);
        drop(lock);
        Ok(())
    }

    fn read_forwarding(&self) -> Result<String, ClaimError> {
        let path = self.forwarding.clone();
        let text = fs::read_to_string(&path).map_err(|source| ClaimError::Open { path, source })?;
        Ok(text.trim().to_owned())
    }

    /// Written only where it differs: the kernel resets other settings along with it.
    /// Returns whether it did.
    fn set_forwarding(&self, value: &str) -> Result<bool, ClaimError> {
        if self.read_forwarding()? == value {
            return Ok(false);
        }
        fs::write(&self.forwarding, value)
            .map_err(|source| ClaimError::Write { path: self.forwarding.clone(), source })?;
        Ok(true)
    }
}

impl Claims {
    /// Enters a claim and returns its slot.
    fn take(
        &mut self,
        engine: &EngineId,
        data: &Path,
        preferred: Option<u8>,
        routes: &[(Ipv4Addr, u8)],
    ) -> Result<u8, ClaimError> {
        self.engines.retain(|_, entry| entry.data.is_dir());
        if let Some(entry) = self.engines.get(engine) {
            if entry.data != data {
                let data = entry.data.clone();
                return Err(ClaimError::SameEngine { engine: engine.clone(), data });
            }
            if preferred.is_none_or(|slot| slot == entry.slot) {
                return Ok(entry.slot);
            }
        }
        let slot = match preferred.filter(|slot| *slot < SLOTS) {
            Some(slot) => self.check_free(slot, engine)?,
            None => self.find_free(engine, routes).ok_or(ClaimError::Full)?,
        };
        self.engines.insert(engine.clone(), Entry { slot, data: data.to_owned() });
        Ok(slot)
    }

    fn check_free(&self, slot: u8, engine: &EngineId) -> Result<u8, ClaimError> {
        match self.engines.iter().find(|(id, entry)| entry.slot == slot && *id != engine) {
            Some((_, entry)) => Err(ClaimError::Held { slot, data: entry.data.clone() }),
            None => Ok(slot),
        }
    }

    /// A free slot, the same for the same engine where it can be.
    fn find_free(&self, engine: &EngineId, routes: &[(Ipv4Addr, u8)]) -> Option<u8> {
        let start = first_choice(engine);
        (0..SLOTS).map(|step| (start + step) % SLOTS).find(|slot| {
            let subnet = Claim { slot: *slot }.subnet();
            let held = self.engines.values().any(|entry| entry.slot == *slot);
            !held && !routes.iter().any(|(network, prefix)| subnet.overlaps(*network, *prefix))
        })
    }
}

/// Spreads engines over slots, so that two which never meet seldom want the same.
fn first_choice(engine: &EngineId) -> u8 {
    let sum = engine.as_str().bytes().fold(0_u32, |sum, byte| sum * 31 + u32::from(byte));
    (sum % u32::from(SLOTS)) as u8
}

/// Networks that the machine has routes to, besides those to containers and to everywhere.
///
/// `text` is `/proc/net/route`: name, destination and, seventh from there, mask, in hexadecimal of
/// the machine's byte order.
fn parse_routes(text: &str) -> Vec<(Ipv4Addr, u8)> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?;
        let destination = u32::from_str_radix(fields.next()?, 16).ok()?;
        let mask = u32::from_str_radix(fields.nth(5)?, 16).ok()?;
        let prefix = u32::from_be(mask).leading_ones() as u8;
        let counts = prefix >= ROUTE_PREFIX_LEAST && !interface.starts_with(VETH_PREFIX);
        counts.then(|| (Ipv4Addr::from_bits(u32::from_be(destination)), prefix))
    };
    text.lines().skip(1).filter_map(parse).collect()
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Whether `path` still names `file`: a lock on a removed file locks nothing.
fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(number: u8) -> EngineId {
        EngineId::from_random([number, 0, 0, 0])
    }

    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("ip_forward"), "0\n").unwrap();
            Self { folder }
        }
        fn register(&self) -> Register {
            let at = |name| self.folder.path().join(name);
            Register { folder: at("ace"), forwarding: at("ip_forward"), routes: at("routes") }
        }
        fn data(&self, name: &str) -> PathBuf {
            let data = self.folder.path().join(name);
            fs::create_dir_all(&data).unwrap();
            data.canonicalize().unwrap()
        }
        fn forwarding(&self) -> String {
            fs::read_to_string(self.folder.path().join("ip_forward")).unwrap().trim().to_owned()
        }
    }

    #[test]
    fn the_same_engine_gets_the_same_slot_again() {
        let machine = Machine::new();
        let data = machine.data("a");
        let first = machine.register().claim(&engine(1), &data, None).unwrap();
        assert_eq!(machine.register().claim(&engine(1), &data, None).unwrap(), first);
        assert_eq!(machine.register().claim(&engine(1), &data, Some(first.slot)).unwrap(), first);
    }

    #[test]
    fn two_engines_never_share_a_slot() {
        let machine = Machine::new();
        let mut slots: Vec<u8> = (0..SLOTS)
            .map(|n| {
                let data = machine.data(&n.to_string());
                machine.register().claim(&engine(n % 32), &data, None).map(Claim::slot)
            })
            .filter_map(Result::ok)
            .collect();
        assert_eq!(slots.len(), 32, "the other 32 have the same ids");
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), 32);
    }

    #[test]
    fn a_preferred_slot_that_another_holds_is_refused_with_its_folder() {
        let machine = Machine::new();
        let (a, b) = (machine.data("a"), machine.data("b"));
        let held = machine.register().claim(&engine(1), &a, Some(9)).unwrap();
        let refused = machine.register().claim(&engine(2), &b, Some(held.slot()));
        assert!(matches!(refused, Err(ClaimError::Held { slot: 9, data }) if data == a));
    }

    #[test]
    fn a_claim_whose_data_folder_is_gone_is_dropped() {
        let machine = Machine::new();
        let (a, b) = (machine.data("a"), machine.data("b"));
        machine.register().claim(&engine(1), &a, Some(9)).unwrap();
        fs::remove_dir(&a).unwrap();
        assert_eq!(machine.register().claim(&engine(2), &b, Some(9)).unwrap().slot(), 9);
    }

    #[test]
    fn forwarding_is_given_back_by_the_last_to_leave() {
        let machine = Machine::new();
        for (number, name) in [(1, "a"), (2, "b")] {
            machine.register().claim(&engine(number), &machine.data(name), None).unwrap();
        }
        assert_eq!(machine.forwarding(), "1");
        machine.register().release(&engine(1)).unwrap();
        assert_eq!(machine.forwarding(), "1");
        machine.register().release(&engine(2)).unwrap();
        assert_eq!(machine.forwarding(), "0");
        assert!(!machine.register().folder.exists());
        machine.register().release(&engine(2)).unwrap();
    }

    #[test]
    fn a_slot_in_use_by_a_route_is_skipped() {
        let taken = Claim::new(first_choice(&engine(1))).unwrap().subnet();
        let [a, b, c, d] = taken.first().octets().map(|octet| format!("{octet:02X}"));
        let routes = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
             eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n\
             va12\t{d}{c}{b}{a}\t00000000\t0001\t0\t0\t0\tFFFFFFFF\n\
             lab0\t{d}{c}{b}{a}\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"
        );
        assert_eq!(parse_routes(&routes), [(taken.first(), 24)]);
        let slot = Claims::default().find_free(&engine(1), &parse_routes(&routes)).unwrap();
        assert_eq!(slot, (first_choice(&engine(1)) + 1) % SLOTS);
    }

    #[test]
    fn slots_divide_addresses_and_ids_without_overlap() {
        let (first, last) = (Claim::new(0).unwrap(), Claim::new(SLOTS - 1).unwrap());
        assert_eq!(first.subnet().to_string(), "198.18.0.0/21");
        assert_eq!(last.subnet().to_string(), "198.19.248.0/21");
        assert_eq!(last.address(ADDRESSES - 4), Some(Ipv4Addr::new(198, 19, 255, 254)));
        assert_eq!(last.address(ADDRESSES - 3), None);
        assert_eq!(first.gateway(), Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(first.id_range(RANGES), None);
        assert_eq!(last.id_range(RANGES - 1), IdRange::new(IdRange::RANGES - 1));
        assert_eq!(Claim::new(SLOTS), None);
    }
}
