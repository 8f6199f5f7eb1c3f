//! From addresses to services and endpoints. A pure function of the services, so that no order of updates can leave a
//! trace in it, yet kept by what changes: who claims an address is added and taken away one by one.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use rpds::RedBlackTreeSetSync;

use super::{EndpointTarget, PortEntry, ServiceEntry};
use crate::hash::Trie;
use crate::model::ServiceKey;

/// Where addresses lead. Of several claimants of one address the first by service name (then port, then endpoint id)
/// wins: arbitrary, but the same everywhere and always.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    virtual_ips: Trie<IpAddr, Claims<ServiceKey>>,
    workloads: Trie<SocketAddr, Claims<Workload>>,
}

/// One endpoint as it serves one port. By name: what is known of either may change, and this stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Workload {
    pub(super) service: ServiceKey,
    pub(super) port: NonZeroU16,
    pub(super) id: Arc<str>,
}

impl Workload {
    fn new(port: &PortEntry, endpoint: &EndpointTarget) -> Self {
        Self { service: port.service.clone(), port: port.port.port, id: Arc::clone(&endpoint.id) }
    }
}

/// Who claims one address: at least one.
#[derive(Clone, Debug)]
enum Claims<T: Ord> {
    One(T),
    Many(RedBlackTreeSetSync<T>),
}

impl<T: Clone + Ord> Claims<T> {
    fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Self::One(claim) => (Some(claim), None),
            Self::Many(claims) => (None, Some(claims.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn with(&self, claim: T) -> Self {
        match self {
            Self::One(other) if *other == claim => self.clone(),
            Self::One(other) => Self::Many([other.clone(), claim].into_iter().collect()),
            Self::Many(claims) => Self::Many(claims.insert(claim)),
        }
    }

    /// `None`: nobody claims it any more.
    fn without(&self, claim: &T) -> Option<Self> {
        match self {
            Self::One(other) => (other != claim).then(|| self.clone()),
            Self::Many(claims) => {
                let claims = claims.remove(claim);
                (!claims.is_empty()).then_some(Self::Many(claims))
            }
        }
    }
}

fn add<K: Eq + Hash, T: Clone + Ord>(map: &mut Trie<K, Claims<T>>, key: K, claim: T) {
    let claims = map.get(&key).map(|claims| claims.with(claim.clone()));
    map.insert_mut(key, claims.unwrap_or(Claims::One(claim)));
}

fn remove<K: Eq + Hash, T: Clone + Ord>(map: &mut Trie<K, Claims<T>>, key: K, claim: &T) {
    match map.get(&key).map(|claims| claims.without(claim)) {
        Some(Some(left)) => map.insert_mut(key, left),
        Some(None) => drop(map.remove_mut(&key)),
        None => {}
    }
}

impl Index {
    /// One service as it was and as it is, where endpoints of no other ids than these have changed.
    pub(super) fn change(&mut self, was: Option<&ServiceEntry>, now: Option<&ServiceEntry>, ids: &BTreeSet<Arc<str>>) {
        let ips =
            |entry: Option<&ServiceEntry>| entry.map(|entry| entry.service.virtual_ips.clone()).unwrap_or_default();
        let (old, new) = (ips(was), ips(now));
        if let Some(was) = was {
            let gone = old.iter().filter(|ip| !new.contains(ip));
            gone.for_each(|ip| remove(&mut self.virtual_ips, *ip, &was.service.key));
        }
        if let Some(now) = now {
            let come = new.iter().filter(|ip| !old.contains(ip));
            come.for_each(|ip| add(&mut self.virtual_ips, *ip, now.service.key.clone()));
        }
        let ports = |entry: Option<&ServiceEntry>| {
            let ports = entry.map(|entry| entry.ports.iter()).unwrap_or_default();
            ports.map(|port| port.port.port).collect::<BTreeSet<_>>()
        };
        for number in ports(was).union(&ports(now)) {
            let port = |entry: Option<&ServiceEntry>| entry.and_then(|entry| entry.port(number.get())).map(Arc::clone);
            self.change_port(port(was).as_deref(), port(now).as_deref(), ids);
        }
    }

    fn change_port(&mut self, was: Option<&PortEntry>, now: Option<&PortEntry>, ids: &BTreeSet<Arc<str>>) {
        match (was, now) {
            (None, None) => {}
            (Some(was), None) => was.endpoints.iter().for_each(|endpoint| self.remove_workload(was, endpoint)),
            (None, Some(now)) => now.endpoints.iter().for_each(|endpoint| self.add_workload(now, endpoint)),
            (Some(was), Some(now)) => {
                for id in ids {
                    let (old, new) = (was.endpoints.find(id), now.endpoints.find(id));
                    if old.map(|old| old.address) != new.map(|new| new.address) {
                        old.into_iter().for_each(|old| self.remove_workload(was, old));
                        new.into_iter().for_each(|new| self.add_workload(now, new));
                    }
                }
            }
        }
    }

    fn add_workload(&mut self, port: &PortEntry, endpoint: &EndpointTarget) {
        add(&mut self.workloads, endpoint.address, Workload::new(port, endpoint));
    }

    fn remove_workload(&mut self, port: &PortEntry, endpoint: &EndpointTarget) {
        remove(&mut self.workloads, endpoint.address, &Workload::new(port, endpoint));
    }

    /// The services with this virtual IP, first claimant first.
    pub(super) fn virtual_ip(&self, ip: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.virtual_ips.get(&ip).into_iter().flat_map(Claims::iter)
    }

    /// Some service has this virtual IP, on whatever port.
    pub(super) fn is_virtual_ip(&self, ip: IpAddr) -> bool {
        self.virtual_ips.contains_key(&ip)
    }

    /// The endpoint at a workload's own address.
    pub(super) fn workload(&self, address: SocketAddr) -> Option<&Workload> {
        self.workloads.get(&address)?.iter().next()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.virtual_ips.is_empty() && self.workloads.is_empty()
    }
}
