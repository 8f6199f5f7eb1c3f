//! Which resources are in force, at which version, and what answers lead to.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{Resolution, Resource, ResourceId, ServiceKey, Upsert, Verdict};
use crate::snapshot::Snapshot;

/// Of what is in force at a version that is not known: older than any.
const UNKNOWN: u64 = 0;

/// Versions in force.
#[derive(Debug, Default)]
pub(super) struct Held {
    mesh: Option<u64>,
    services: HashMap<ServiceKey, HeldService>,
    resolutions: HashMap<SocketAddr, (u64, Option<ServiceKey>)>,
    /// How many answers lead to a service.
    led_to: HashMap<ServiceKey, usize>,
    /// Services that perhaps nothing needs any more, to be looked at.
    freed: BTreeSet<ServiceKey>,
}

/// A service, its endpoints, or both.
#[derive(Debug, Default)]
struct HeldService {
    version: Option<u64>,
    endpoints: HashMap<Arc<str>, u64>,
}

impl Held {
    /// All that a snapshot has, at versions unknown.
    pub(super) fn in_force(snapshot: &Snapshot) -> Self {
        let mut held = Self { mesh: snapshot.mesh().map(|_| UNKNOWN), ..Self::default() };
        for service in snapshot.services() {
            held.services.entry(service.service.key.clone()).or_default().version = Some(UNKNOWN);
        }
        for endpoint in snapshot.endpoints() {
            let service = held.services.entry(endpoint.service.clone()).or_default();
            service.endpoints.insert(Arc::clone(&endpoint.id), UNKNOWN);
        }
        for answer in snapshot.resolutions() {
            held.put_resolution(UNKNOWN, answer);
        }
        held.freed = held.services.keys().cloned().collect();
        held
    }

    /// Takes a resource into force; `false` if this version or a newer one is in force already.
    pub(super) fn accept(&mut self, upsert: &Upsert) -> bool {
        let version = upsert.version;
        let newer = |held: Option<u64>| held.is_none_or(|held| held < version);
        match &upsert.resource {
            Resource::Mesh(_) => newer(self.mesh) && self.mesh.replace(version) != Some(version),
            Resource::Service(service) => {
                let held = self.services.entry(service.key.clone()).or_default();
                newer(held.version) && held.version.replace(version) != Some(version)
            }
            Resource::Endpoint(endpoint) => {
                let held = self.services.entry(endpoint.service.clone()).or_default();
                let accepted = newer(held.endpoints.get(&endpoint.id).copied());
                if accepted {
                    held.endpoints.insert(Arc::clone(&endpoint.id), version);
                }
                accepted
            }
            Resource::Resolution(resolution) => {
                let accepted = newer(self.resolutions.get(&resolution.address).map(|(version, _)| *version));
                if accepted {
                    self.put_resolution(version, resolution);
                }
                accepted
            }
        }
    }

    /// `false` if it was not held.
    pub(super) fn remove(&mut self, id: &ResourceId) -> bool {
        match id {
            ResourceId::Mesh => self.mesh.take().is_some(),
            ResourceId::Service(key) => self.change(key, |held| held.version.take().is_some()),
            ResourceId::Endpoint(key, id) => self.change(key, |held| held.endpoints.remove(id).is_some()),
            ResourceId::Resolution(address) => self.remove_resolution(*address).is_some(),
        }
    }

    fn change(&mut self, key: &ServiceKey, change: impl FnOnce(&mut HeldService) -> bool) -> bool {
        let Some(held) = self.services.get_mut(key) else { return false };
        let changed = change(held);
        if held.version.is_none() && held.endpoints.is_empty() {
            self.services.remove(key);
        }
        changed
    }

    pub(super) fn remove_resolution(&mut self, address: SocketAddr) -> Option<ResourceId> {
        let (_, leads_to) = self.resolutions.remove(&address)?;
        self.lead_away(leads_to);
        Some(ResourceId::Resolution(address))
    }

    fn put_resolution(&mut self, version: u64, resolution: &Resolution) {
        let leads_to = leads_to(resolution);
        if let Some(key) = &leads_to {
            *self.led_to.entry(key.clone()).or_default() += 1;
        }
        if let Some((_, led_to)) = self.resolutions.insert(resolution.address, (version, leads_to)) {
            self.lead_away(led_to);
        }
    }

    /// One answer less leads there.
    fn lead_away(&mut self, from: Option<ServiceKey>) {
        let Some(key) = from else { return };
        let Some(count) = self.led_to.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            self.led_to.remove(&key);
            self.freed.insert(key);
        }
    }

    /// Whether an answer leads to this service.
    pub(super) fn leads_to(&self, key: &ServiceKey) -> bool {
        self.led_to.contains_key(key)
    }

    /// It is perhaps not needed any more.
    pub(super) fn free(&mut self, key: &ServiceKey) {
        self.freed.insert(key.clone());
    }

    /// Services of which something is held and that perhaps nothing needs any more; each is named once.
    pub(super) fn take_freed(&mut self) -> Vec<ServiceKey> {
        let freed = std::mem::take(&mut self.freed);
        freed.into_iter().filter(|key| self.holds(key)).collect()
    }

    /// Lets go of a service and its endpoints, and names them.
    pub(super) fn remove_service(&mut self, key: &ServiceKey) -> Vec<ResourceId> {
        let Some((key, held)) = self.services.remove_entry(key) else { return Vec::new() };
        names(&key, &held).map(|(id, _)| id).collect()
    }

    pub(super) fn resolution_version(&self, address: SocketAddr) -> Option<u64> {
        self.resolutions.get(&address).map(|(version, _)| *version)
    }

    /// Whether anything is held of this service.
    pub(super) fn holds(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(key)
    }

    /// All that is held, with versions.
    pub(super) fn list(&self) -> impl Iterator<Item = (ResourceId, u64)> {
        let mesh = self.mesh.map(|version| (ResourceId::Mesh, version));
        let services = self.services.iter().flat_map(|(key, held)| names(key, held));
        let resolutions =
            self.resolutions.iter().map(|(address, (version, _))| (ResourceId::Resolution(*address), *version));
        mesh.into_iter().chain(services).chain(resolutions)
    }
}

fn leads_to(resolution: &Resolution) -> Option<ServiceKey> {
    match &resolution.verdict {
        Verdict::Found { service, .. } => Some(service.clone()),
        Verdict::Denied { .. } | Verdict::Unknown => None,
    }
}

fn names<'a>(key: &'a ServiceKey, held: &'a HeldService) -> impl Iterator<Item = (ResourceId, u64)> + use<'a> {
    let service = held.version.map(|version| (ResourceId::Service(key.clone()), version));
    let endpoint = |(id, version): (&Arc<str>, &u64)| (ResourceId::Endpoint(key.clone(), Arc::clone(id)), *version);
    service.into_iter().chain(held.endpoints.iter().map(endpoint))
}
