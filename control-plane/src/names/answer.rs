//! What DNS said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Addresses of one family that are taken from one answer.
pub const ADDRESSES_MAX: usize = 256;

/// An answer about a name, with at least one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// From A records, sorted; `None` when asking for them failed.
    pub v4: Option<Vec<Ipv4Addr>>,
    /// From AAAA records, sorted; `None` when asking for them failed.
    pub v6: Option<Vec<Ipv6Addr>>,
    /// How long it may be kept.
    pub ttl: Duration,
}

impl Answer {
    /// All addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().flatten().copied().map(IpAddr::V4);
        v4.chain(self.v6.iter().flatten().copied().map(IpAddr::V6))
    }

    /// Whether there is no address in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses().next().is_none()
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.addresses().any(|held| held == address)
    }
}

/// Why a name stands for nothing now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// DNS says so.
    #[error("DNS knows no address of it")]
    NoAddress,
    /// DNS knows only addresses that lead nowhere, or to the proxy itself.
    #[error("DNS knows only addresses that cannot be endpoints (loopback, unspecified, multicast): {}", listed(.0))]
    Unusable(Vec<IpAddr>),
    /// DNS gave no answer.
    #[error("{0}")]
    Failed(String),
}

fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
