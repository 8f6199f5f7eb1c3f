//! From one snapshot and one step of knowledge to the next snapshot, sharing whatever did not change.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::index::Index;
use super::target::canonical;
use super::{EndpointSet, EndpointTarget, PortEntry, ServiceEntry, Snapshot};
use crate::balance::Shares;
use crate::model::{
    DecodedUpdate, Endpoint, EndpointPort, Mesh, Resolution, Resource, ResourceId, Service, ServiceKey, ServicePort,
};

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

/// The parts of the next snapshot. Maps are copied (of pointers) only when first touched.
struct Builder<'a> {
    old: &'a Snapshot,
    mesh: Option<Arc<Mesh>>,
    endpoints: Arc<HashMap<ServiceKey, Arc<EndpointSet>>>,
    resolutions: Arc<HashMap<SocketAddr, Arc<Resolution>>>,
    /// Services declared anew (`Some`) or removed (`None`) by this update.
    declared: HashMap<ServiceKey, Option<Service>>,
    /// Services whose declaration or endpoints changed.
    touched: BTreeSet<ServiceKey>,
}

impl<'a> Builder<'a> {
    fn new(old: &'a Snapshot) -> Self {
        Self {
            old,
            mesh: old.mesh.clone(),
            endpoints: Arc::clone(&old.endpoints),
            resolutions: Arc::clone(&old.resolutions),
            declared: HashMap::new(),
            touched: BTreeSet::new(),
        }
    }

    fn remove(&mut self, id: &ResourceId) {
        match id {
            ResourceId::Mesh => self.mesh = None,
            ResourceId::Service(key) => {
                self.declared.insert(key.clone(), None);
                self.touched.insert(key.clone());
            }
            ResourceId::Endpoint(key, endpoint) => self.remove_endpoint(key, endpoint),
            ResourceId::Resolution(address) => {
                let address = canonical(*address);
                if self.resolutions.contains_key(&address) {
                    Arc::make_mut(&mut self.resolutions).remove(&address);
                }
            }
        }
    }

    fn remove_endpoint(&mut self, key: &ServiceKey, endpoint: &str) {
        if !self.endpoints.get(key).is_some_and(|set| set.contains_key(endpoint)) {
            return;
        }
        let sets = Arc::make_mut(&mut self.endpoints);
        if let Some(set) = sets.get_mut(key) {
            Arc::make_mut(set).remove(endpoint);
            if set.is_empty() {
                sets.remove(key);
            }
        }
        self.touched.insert(key.clone());
    }

    fn upsert(&mut self, resource: Resource) {
        match resource {
            Resource::Mesh(mesh) => {
                if self.mesh.as_deref() != Some(&mesh) {
                    self.mesh = Some(Arc::new(mesh));
                }
            }
            Resource::Service(service) => {
                self.touched.insert(service.key.clone());
                self.declared.insert(service.key.clone(), Some(service));
            }
            Resource::Endpoint(endpoint) => self.upsert_endpoint(endpoint),
            Resource::Resolution(mut resolution) => {
                resolution.address = canonical(resolution.address);
                if self.resolutions.get(&resolution.address).is_none_or(|held| **held != resolution) {
                    Arc::make_mut(&mut self.resolutions).insert(resolution.address, Arc::new(resolution));
                }
            }
        }
    }

    fn upsert_endpoint(&mut self, endpoint: Endpoint) {
        let held = self.endpoints.get(&endpoint.service).and_then(|set| set.get(&endpoint.id));
        if held.is_some_and(|held| **held == endpoint) {
            return;
        }
        self.touched.insert(endpoint.service.clone());
        let set = Arc::make_mut(&mut self.endpoints).entry(endpoint.service.clone()).or_default();
        Arc::make_mut(set).insert(Arc::clone(&endpoint.id), Arc::new(endpoint));
    }

    fn finish(mut self, revision: u64) -> Snapshot {
        let mut services = Arc::clone(&self.old.services);
        for key in std::mem::take(&mut self.touched) {
            let was = self.old.services.get(&key);
            match self.entry(&key, was) {
                Some(entry) if was.is_some_and(|was| Arc::ptr_eq(was, &entry)) => {}
                Some(entry) => drop(Arc::make_mut(&mut services).insert(key, entry)),
                None if was.is_some() => drop(Arc::make_mut(&mut services).remove(&key)),
                None => {}
            }
        }
        let same = Arc::ptr_eq(&services, &self.old.services);
        let index = if same { Arc::clone(&self.old.index) } else { Arc::new(Index::build(&services)) };
        Snapshot {
            revision,
            ready: true,
            complete: self.old.complete,
            mesh: self.mesh,
            services,
            endpoints: self.endpoints,
            resolutions: self.resolutions,
            index,
        }
    }

    /// The entry of a touched service: the old one if nothing in it changed, `None` if it is not declared.
    fn entry(&mut self, key: &ServiceKey, was: Option<&Arc<ServiceEntry>>) -> Option<Arc<ServiceEntry>> {
        let service = match self.declared.remove(key) {
            Some(declared) => declared?,
            None => was?.service.clone(),
        };
        let set = self.endpoints.get(key).map(AsRef::as_ref);
        let ports: Vec<Arc<PortEntry>> = service
            .ports
            .iter()
            .map(|port| port_entry(&service.key, port, set, was.and_then(|was| was.port(port.port.get()))))
            .collect();
        match was {
            Some(was) if was.service == service && same_pointers(&was.ports, &ports) => Some(Arc::clone(was)),
            Some(_) | None => Some(Arc::new(ServiceEntry { service, ports })),
        }
    }
}

fn same_pointers<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn port_entry(
    key: &ServiceKey,
    port: &ServicePort,
    set: Option<&EndpointSet>,
    was: Option<&Arc<PortEntry>>,
) -> Arc<PortEntry> {
    let endpoints: Vec<Arc<EndpointTarget>> = set
        .into_iter()
        .flat_map(EndpointSet::values)
        .filter_map(|endpoint| {
            let serves = endpoint.ports.iter().find(|serves| serves.service_port == port.port)?;
            Some(endpoint_target(endpoint, serves, was))
        })
        .collect();
    match was {
        Some(was) if was.port == *port && same_pointers(&was.endpoints, &endpoints) => Arc::clone(was),
        Some(_) | None => {
            let usage = was.map(|was| Arc::clone(&was.usage)).unwrap_or_default();
            let shares = Shares::new(endpoints.iter().map(|endpoint| endpoint.weight));
            let label = format!("{key}:{}", port.port).into();
            Arc::new(PortEntry { service: key.clone(), port: port.clone(), label, endpoints, shares, usage })
        }
    }
}

fn endpoint_target(endpoint: &Endpoint, serves: &EndpointPort, was: Option<&Arc<PortEntry>>) -> Arc<EndpointTarget> {
    // Both sides are sorted by id.
    let was = was.and_then(|was| {
        let at = was.endpoints.binary_search_by(|candidate| candidate.id.cmp(&endpoint.id)).ok()?;
        was.endpoints.get(at)
    });
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
        return Arc::clone(same);
    }
    Arc::new(EndpointTarget {
        id: Arc::clone(&endpoint.id),
        address,
        identity: endpoint.identity.clone(),
        mesh_tls,
        weight: endpoint.weight,
        locality: Arc::clone(&endpoint.locality),
        health: was.map(|was| Arc::clone(&was.health)).unwrap_or_default(),
    })
}
