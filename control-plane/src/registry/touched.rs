//! What a change of the index may have changed for those who look.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_core::model::ServiceKey;

/// What proxies can ask about, as far as a change may concern it. May name more than really changed, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything was made anew.
    pub all: bool,
    /// Services whose own resource or endpoints may have changed.
    pub services: BTreeSet<ServiceKey>,
    /// Addresses about which the answer may have changed, on any port.
    pub addresses: BTreeSet<IpAddr>,
}

impl Touched {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.services.is_empty() && self.addresses.is_empty()
    }

    /// Adds what another one names.
    pub fn merge(&mut self, mut other: Self) {
        self.all |= other.all;
        self.services.append(&mut other.services);
        self.addresses.append(&mut other.addresses);
    }
}
