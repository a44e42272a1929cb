//! Who asks something of the API, and what they may.

use std::net::IpAddr;

use ace_types::TenantName;

use crate::rows::AppRow;

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// By the engine's own socket, which root alone can open.
    Socket,
    /// Over TCP, from this address.
    Address(IpAddr),
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Root on this machine, or whoever has an admin's token.
    Operator,
    /// Somebody of a tenant's: there are no apps for them but its own.
    Member { tenant: TenantName, may_change: bool },
    /// Whoever collects the engine's metrics: there are no apps for them at all.
    Collector,
}

/// What something asked for needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it's the same for everybody.
    Open,
    /// To look at a tenant's apps.
    Read,
    /// To change them, see the secrets of their configuration, or run something in them.
    Deploy,
    /// To read the engine's metrics.
    Metrics,
    /// The engine itself.
    Admin,
}

impl Caller {
    pub fn may(&self, access: Access) -> bool {
        match (self, access) {
            (Self::Operator, _) | (_, Access::Open) => true,
            (Self::Collector, access) => access == Access::Metrics,
            (Self::Member { .. }, Access::Read) => true,
            (Self::Member { may_change, .. }, Access::Deploy) => *may_change,
            (Self::Member { .. }, Access::Metrics | Access::Admin) => false,
        }
    }

    /// The one tenant whose apps there are for them; `None`: every tenant's.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            // What is a tenant's is not to be asked for by a collector: see `may`.
            Self::Operator | Self::Collector => None,
            Self::Member { tenant, .. } => Some(tenant),
        }
    }

    /// Whether there is this app for them.
    pub fn sees(&self, app: &AppRow) -> bool {
        match self {
            Self::Operator => true,
            Self::Member { tenant, .. } => app.tenant == *tenant,
            Self::Collector => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_may_do_what_is_theirs() {
        let member = |may_change| Caller::Member { tenant: TenantName::default(), may_change };
        let may = |caller: Caller| {
            [Access::Open, Access::Read, Access::Deploy, Access::Metrics, Access::Admin]
                .map(|it| caller.may(it))
        };
        assert_eq!(may(Caller::Operator), [true; 5]);
        assert_eq!(may(member(true)), [true, true, true, false, false]);
        assert_eq!(may(member(false)), [true, true, false, false, false]);
        assert_eq!(may(Caller::Collector), [true, false, false, true, false]);
    }
}
