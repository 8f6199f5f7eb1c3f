//! What a change of the index may have changed for those who look.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::net::IpAddr;

use weft_core::model::ServiceKey;

/// Endpoints of one service that are remembered one by one; of more, the whole service is looked at.
const ENDPOINTS_MAX: usize = 1000;

/// How much of a service may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Itself and all endpoints.
    Whole,
    /// The endpoints with these ids.
    Endpoints(BTreeSet<String>),
}

impl Extent {
    fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Endpoints(ids), Self::Endpoints(mut others)) if ids.len() + others.len() <= ENDPOINTS_MAX => {
                ids.append(&mut others);
            }
            _ => *self = Self::Whole,
        }
    }
}

/// Services, each with how much of it may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(BTreeMap<ServiceKey, Extent>);

impl Services {
    /// So much of one, beside what is there.
    pub fn insert(&mut self, key: ServiceKey, extent: Extent) {
        match self.0.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(extent)),
            Entry::Occupied(entry) => entry.into_mut().merge(extent),
        }
    }

    /// All of these.
    pub fn insert_whole(&mut self, keys: impl IntoIterator<Item = ServiceKey>) {
        keys.into_iter().for_each(|key| self.insert(key, Extent::Whole));
    }

    /// Not this one.
    pub fn remove(&mut self, key: &ServiceKey) {
        self.0.remove(key);
    }

    /// Takes one.
    pub fn pop_first(&mut self) -> Option<(ServiceKey, Extent)> {
        self.0.pop_first()
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (&ServiceKey, &Extent)> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What proxies can ask about, as far as a change may concern it. May name more than really changed, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything was made anew.
    pub all: bool,
    /// Services whose own resource or endpoints may have changed.
    pub services: Services,
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
        other.services.0.into_iter().for_each(|(key, extent)| self.services.insert(key, extent));
        self.addresses.append(&mut other.addresses);
    }
}
