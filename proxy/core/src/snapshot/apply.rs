//! From one snapshot and one step of knowledge to the next snapshot, sharing whatever did not change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::target::canonical;
use super::{EndpointSet, EndpointTarget, PortEntry, Roster, ServiceEntry, Snapshot};
use crate::model::{DecodedUpdate, Endpoint, EndpointPort, Resource, ResourceId, Service, ServiceKey, ServicePort};

/// A list of endpoints is made anew where more than one in so many of them has changed.
const MADE_ANEW_FROM: usize = 8;

/// The next snapshot. The order of resources inside an update, and their distribution over updates, leaves no trace:
/// endpoints may come before their service and then wait for it.
#[must_use]
pub fn apply(old: &Snapshot, update: DecodedUpdate) -> Snapshot {
    let DecodedUpdate { revision, mut upserts, removals } = update;
    let mut builder = Builder::new(old);
    for id in &removals {
        builder.remove(id);
    }
    upserts.sort_by_key(|upsert| upsert.version);
    for upsert in upserts {
        builder.upsert(upsert.resource);
    }
    builder.finish(revision)
}

/// The next snapshot while it is made. A copy of the old one costs nothing, and a change to it the path to what changes.
struct Builder<'a> {
    old: &'a Snapshot,
    next: Snapshot,
    /// Services declared anew (`Some`) or removed (`None`) by this update.
    declared: HashMap<ServiceKey, Option<Service>>,
    /// Services whose declaration or endpoints changed, with the ids of these endpoints.
    touched: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
}

impl<'a> Builder<'a> {
    fn new(old: &'a Snapshot) -> Self {
        Self { old, next: old.clone(), declared: HashMap::new(), touched: BTreeMap::new() }
    }

    fn remove(&mut self, id: &ResourceId) {
        match id {
            ResourceId::Mesh => self.next.mesh = None,
            ResourceId::Service(key) => {
                self.declared.insert(key.clone(), None);
                self.touched.entry(key.clone()).or_default();
            }
            ResourceId::Endpoint(key, endpoint) => self.remove_endpoint(key, endpoint),
            ResourceId::Resolution(address) => drop(self.next.resolutions.remove_mut(&canonical(*address))),
        }
    }

    fn remove_endpoint(&mut self, key: &ServiceKey, endpoint: &Arc<str>) {
        let Some(set) = self.next.endpoints.get_mut(key).filter(|set| set.contains_key(endpoint)) else { return };
        set.remove_mut(endpoint);
        if set.is_empty() {
            self.next.endpoints.remove_mut(key);
        }
        self.touched.entry(key.clone()).or_default().insert(Arc::clone(endpoint));
    }

    fn upsert(&mut self, resource: Resource) {
        match resource {
            Resource::Mesh(mesh) => {
                if self.next.mesh.as_deref() != Some(&mesh) {
                    self.next.mesh = Some(Arc::new(mesh));
                }
            }
            Resource::Service(service) => {
                self.touched.entry(service.key.clone()).or_default();
                self.declared.insert(service.key.clone(), Some(service));
            }
            Resource::Endpoint(endpoint) => self.upsert_endpoint(endpoint),
            Resource::Resolution(mut resolution) => {
                resolution.address = canonical(resolution.address);
                if self.next.resolutions.get(&resolution.address).is_none_or(|held| **held != resolution) {
                    self.next.resolutions.insert_mut(resolution.address, Arc::new(resolution));
                }
            }
        }
    }

    fn upsert_endpoint(&mut self, endpoint: Endpoint) {
        let (key, id) = (endpoint.service.clone(), Arc::clone(&endpoint.id));
        let sets = &mut self.next.endpoints;
        if sets.get(&key).and_then(|set| set.get(&id)).is_some_and(|held| **held == endpoint) {
            return;
        }
        if !sets.contains_key(&key) {
            sets.insert_mut(key.clone(), EndpointSet::default());
        }
        if let Some(set) = sets.get_mut(&key) {
            set.insert_mut(Arc::clone(&id), Arc::new(endpoint));
        }
        self.touched.entry(key).or_default().insert(id);
    }

    fn finish(mut self, revision: u64) -> Snapshot {
        for (key, ids) in std::mem::take(&mut self.touched) {
            let was = self.old.services.get(&key);
            let now = self.entry(&key, was, &ids);
            if was.map(Arc::as_ptr) == now.as_ref().map(Arc::as_ptr) {
                continue;
            }
            self.next.index.change(was.map(AsRef::as_ref), now.as_deref(), &ids);
            match now {
                Some(entry) => self.next.services.insert_mut(key, entry),
                None => drop(self.next.services.remove_mut(&key)),
            }
        }
        Snapshot { revision, ready: true, ..self.next }
    }

    /// The entry of a touched service: the old one if nothing in it changed, `None` if it is not declared.
    fn entry(
        &mut self,
        key: &ServiceKey,
        was: Option<&Arc<ServiceEntry>>,
        ids: &BTreeSet<Arc<str>>,
    ) -> Option<Arc<ServiceEntry>> {
        let service = match self.declared.remove(key) {
            Some(declared) => declared?,
            None => was?.service.clone(),
        };
        let set = self.next.endpoints.get(key);
        let port = |port: &ServicePort| {
            let was = was.and_then(|was| was.port(port.port.get()));
            Ports { key, set, ids }.entry(port, was)
        };
        let ports: Vec<Arc<PortEntry>> = service.ports.iter().map(port).collect();
        match was {
            Some(was) if was.service == service && same_pointers(&was.ports, &ports) => Some(Arc::clone(was)),
            Some(_) | None => Some(Arc::new(ServiceEntry { service, ports })),
        }
    }
}

fn same_pointers<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// What the ports of one service are made of.
struct Ports<'a> {
    key: &'a ServiceKey,
    set: Option<&'a EndpointSet>,
    /// The endpoints that changed.
    ids: &'a BTreeSet<Arc<str>>,
}

impl Ports<'_> {
    fn entry(&self, port: &ServicePort, was: Option<&Arc<PortEntry>>) -> Arc<PortEntry> {
        let endpoints = match was {
            Some(was) if self.ids.len() <= was.endpoints.len() / MADE_ANEW_FROM => self.changed(was),
            Some(_) | None => self.all(port, was),
        };
        match was {
            Some(was) if was.port == *port && was.endpoints.is_same(&endpoints) => Arc::clone(was),
            Some(was) => Arc::new(PortEntry {
                service: was.service.clone(),
                port: port.clone(),
                label: Arc::clone(&was.label),
                endpoints,
                usage: Arc::clone(&was.usage),
            }),
            None => Arc::new(PortEntry {
                service: self.key.clone(),
                port: port.clone(),
                label: format!("{}:{}", self.key, port.port).into(),
                endpoints,
                usage: Arc::default(),
            }),
        }
    }

    fn all(&self, port: &ServicePort, was: Option<&Arc<PortEntry>>) -> Roster {
        let target = |endpoint: &Arc<Endpoint>| {
            let was = was.and_then(|was| was.endpoints.find(&endpoint.id));
            endpoint_target(endpoint, port, was)
        };
        let endpoints: Vec<_> = self.set.into_iter().flat_map(EndpointSet::values).filter_map(target).collect();
        match was {
            Some(was) if was.endpoints.iter().map(Arc::as_ptr).eq(endpoints.iter().map(Arc::as_ptr)) => {
                was.endpoints.clone()
            }
            Some(_) | None => Roster::new(&endpoints),
        }
    }

    fn changed(&self, was: &PortEntry) -> Roster {
        let change = |id: &Arc<str>| {
            let before = was.endpoints.find(id);
            let endpoint = self.set.and_then(|set| set.get(id));
            let after = endpoint.and_then(|endpoint| endpoint_target(endpoint, &was.port, before));
            (before.map(Arc::as_ptr) != after.as_ref().map(Arc::as_ptr)).then_some((Arc::clone(id), after))
        };
        was.endpoints.changed(self.ids.iter().filter_map(change))
    }
}

/// An endpoint as it serves a port: as it was if nothing of that changed, `None` if it does not.
fn endpoint_target(
    endpoint: &Endpoint,
    port: &ServicePort,
    was: Option<&Arc<EndpointTarget>>,
) -> Option<Arc<EndpointTarget>> {
    let serves = endpoint.ports.iter().find(|serves: &&EndpointPort| serves.service_port == port.port)?;
    let address = SocketAddr::new(endpoint.address, serves.target_port.get());
    let mesh_tls = endpoint.identity.is_some() && serves.captured;
    let unchanged = |was: &&Arc<EndpointTarget>| {
        was.address == address
            && was.mesh_tls == mesh_tls
            && was.identity == endpoint.identity
            && was.weight == endpoint.weight
            && was.locality == endpoint.locality
    };
    if let Some(same) = was.filter(unchanged) {
        return Some(Arc::clone(same));
    }
    Some(Arc::new(EndpointTarget {
        id: Arc::clone(&endpoint.id),
        address,
        identity: endpoint.identity.clone(),
        mesh_tls,
        weight: endpoint.weight,
        locality: Arc::clone(&endpoint.locality),
        health: was.map(|was| Arc::clone(&was.health)).unwrap_or_default(),
    }))
}
