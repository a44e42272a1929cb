//! Addresses of this engine's subnet, each for one container at a time.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

/// Hands out addresses. Cheap to clone; all clones are one pool.
#[derive(Debug, Clone)]
pub struct AddressPool {
    free: Arc<Mutex<BTreeSet<Ipv4Addr>>>,
}

/// One address, given back when dropped.
#[derive(Debug)]
pub struct AddressLease {
    address: Ipv4Addr,
    pool: AddressPool,
}

impl AddressPool {
    /// A pool of `addresses`.
    pub fn new(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self { free: Arc::new(Mutex::new(addresses.into_iter().collect())) }
    }

    /// Any free address; `None` when all are taken.
    pub fn lease(&self) -> Option<AddressLease> {
        let address = self.lock().pop_first()?;
        Some(AddressLease { address, pool: self.clone() })
    }

    /// This one address, for a container that had it before; `None` when it is taken or not ours.
    pub fn lease_exactly(&self, address: Ipv4Addr) -> Option<AddressLease> {
        let free = self.lock().remove(&address);
        free.then(|| AddressLease { address, pool: self.clone() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<Ipv4Addr>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressLease {
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

impl Drop for AddressLease {
    fn drop(&mut self) {
        self.pool.lock().insert(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_holder_and_comes_back() {
        let pool = AddressPool::new([Ipv4Addr::new(198, 18, 0, 2)]);
        let lease = pool.lease().expect("one is free");
        assert!(pool.lease().is_none());
        assert!(pool.lease_exactly(lease.address()).is_none());
        drop(lease);
        assert!(pool.lease_exactly(Ipv4Addr::new(198, 18, 0, 2)).is_some());
    }
}
