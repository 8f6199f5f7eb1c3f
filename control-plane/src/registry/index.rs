//! The index itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use weft_core::identity::spiffe::TrustDomain;
use weft_core::model::ServiceKey;
use weft_proto::v1::{
    Endpoint, EndpointPort, Mesh, OutboundMode, Resolution, Resource, ResourceKind, ResourceName, Service, resolution,
    resource,
};

use super::encoded::Encoded;
use super::instance::{self, Instance};
use super::labels::Labels;
use super::touched::{Extent, Touched};
use crate::resource::service::{Backing, Port, ServiceSpec, Target};

/// What the flags say of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// Ranges of virtual IPs.
    pub virtual_ranges: Vec<IpNet>,
    /// All ranges in which every address must be known, the virtual ones included.
    pub ranges: Vec<IpNet>,
    /// What proxies do with unknown destinations.
    pub outbound_mode: OutboundMode,
}

/// An instance is named by namespace and id.
pub type InstanceName = (String, String);

/// A service with what was made of it.
#[derive(Clone, Debug)]
pub struct Known {
    /// As declared.
    pub spec: ServiceSpec,
    /// Its virtual addresses.
    pub virtual_ips: Vec<IpAddr>,
    /// Revision it was written at.
    pub revision: u64,
    resource: Arc<Encoded>,
    /// By endpoint id.
    endpoints: RedBlackTreeMapSync<String, Arc<Encoded>>,
}

impl Known {
    /// How many serve it now.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.size()
    }
}

/// Everything that exists. A clone shares all that neither changes afterwards, so readers keep one as it was while the
/// next is made.
#[derive(Clone, Debug)]
pub struct Index {
    settings: Settings,
    mesh: Arc<Encoded>,
    revision: u64,
    services: RedBlackTreeMapSync<ServiceKey, Known>,
    instances: RedBlackTreeMapSync<InstanceName, (Instance, u64)>,
    by_virtual_ip: HashTrieMapSync<IpAddr, ServiceKey>,
    by_address: HashTrieMapSync<IpAddr, BTreeSet<InstanceName>>,
    labels: Labels,
    /// How many instances an identity has, by namespace and service account.
    by_identity: HashTrieMapSync<(String, String), usize>,
    /// The DNS name asked for, and its last answer.
    resolved: HashTrieMapSync<ServiceKey, (String, Vec<IpAddr>)>,
    touched: Touched,
}

impl Index {
    /// Knows only the mesh; `mesh_version` is the store revision at which the settings last changed.
    #[must_use]
    pub fn new(settings: Settings, mesh_version: u64) -> Self {
        let mesh = Mesh {
            trust_domain: settings.trust_domain.to_string(),
            ranges: settings.ranges.iter().map(ToString::to_string).collect(),
            outbound_mode: settings.outbound_mode.into(),
        };
        let mesh = encode(ResourceKind::Mesh, "", mesh_version, resource::Body::Mesh(mesh));
        Self {
            settings,
            mesh,
            revision: 0,
            services: RedBlackTreeMapSync::new_sync(),
            instances: RedBlackTreeMapSync::new_sync(),
            by_virtual_ip: HashTrieMapSync::new_sync(),
            by_address: HashTrieMapSync::new_sync(),
            labels: Labels::default(),
            by_identity: HashTrieMapSync::new_sync(),
            resolved: HashTrieMapSync::new_sync(),
            touched: Touched::all(),
        }
    }

    /// Store revision that the index reflects.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The store has come to this revision.
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Known)> {
        self.services.iter()
    }

    /// All instances.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values().map(|(instance, _)| instance)
    }

    /// One instance.
    #[must_use]
    pub fn instance(&self, namespace: &str, id: &str) -> Option<&Instance> {
        self.instances.get(&(namespace.to_owned(), id.to_owned())).map(|(instance, _)| instance)
    }

    /// The instances that registered an address.
    pub fn instances_at(&self, address: IpAddr) -> impl Iterator<Item = &Instance> {
        let names = self.by_address.get(&address).into_iter().flatten();
        names.filter_map(|name| self.instances.get(name)).map(|(instance, _)| instance)
    }

    /// One instance and the revision it was written at.
    #[must_use]
    pub fn versioned_instance(&self, name: &InstanceName) -> Option<&(Instance, u64)> {
        self.instances.get(name)
    }

    /// One service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Known> {
        self.services.get(key)
    }

    /// How many instances an identity has registered.
    #[must_use]
    pub fn instances_of(&self, namespace: &str, service_account: &str) -> usize {
        self.by_identity.get(&(namespace.to_owned(), service_account.to_owned())).copied().unwrap_or(0)
    }

    /// What the flags say.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What may have changed since this was last asked.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// Which service holds a virtual IP.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.by_virtual_ip.get(&address)
    }

    /// A service was created or changed.
    pub fn put_service(&mut self, key: &ServiceKey, spec: ServiceSpec, virtual_ips: Vec<IpAddr>, revision: u64) {
        self.remove_service(key, revision);
        for address in &virtual_ips {
            // Whoever has it keeps it.
            if !self.by_virtual_ip.contains_key(address) {
                self.by_virtual_ip.insert_mut(*address, key.clone());
            }
        }
        let body = service_message(key, &spec, &virtual_ips);
        let resource = encode(ResourceKind::Service, &key.to_string(), revision, resource::Body::Service(body));
        self.labels.put_service(key, &spec);
        let known = Known { spec, virtual_ips, revision, resource, endpoints: RedBlackTreeMapSync::new_sync() };
        self.services.insert_mut(key.clone(), known);
        self.rebuild(key);
        self.touch_service(key);
        self.advance(revision);
    }

    /// A service was deleted.
    pub fn remove_service(&mut self, key: &ServiceKey, revision: u64) {
        self.touch_service(key);
        if let Some(known) = self.services.get(key) {
            for address in &known.virtual_ips {
                if self.by_virtual_ip.get(address) == Some(key) {
                    self.by_virtual_ip.remove_mut(address);
                }
            }
            self.labels.remove_service(key, &known.spec);
        }
        self.services.remove_mut(key);
        self.advance(revision);
    }

    /// An instance was registered or changed.
    pub fn put_instance(&mut self, instance: Instance, revision: u64) {
        let name = (instance.namespace.clone(), instance.id.clone());
        self.remove_instance(&name, revision);
        self.touched.addresses.extend(&instance.addresses);
        for address in &instance.addresses {
            let mut names = self.by_address.get(address).cloned().unwrap_or_default();
            names.insert(name.clone());
            self.by_address.insert_mut(*address, names);
        }
        self.labels.put_instance(&name, &instance);
        let count = self.instances_of(&instance.namespace, &instance.service_account);
        self.by_identity.insert_mut(identity(&instance), count + 1);
        let ids = endpoint_ids(&instance);
        for key in self.selecting(&instance) {
            if let Some(known) = self.services.get_mut(&key) {
                add_endpoints(known, &key, &instance, revision, &self.settings.trust_domain);
            }
            self.touched.services.insert(key, Extent::Endpoints(ids.clone()));
        }
        self.instances.insert_mut(name, (instance, revision));
    }

    /// An instance is gone.
    pub fn remove_instance(&mut self, name: &InstanceName, revision: u64) {
        self.advance(revision);
        let Some((instance, _)) = self.instances.get(name).cloned() else { return };
        self.instances.remove_mut(name);
        self.touched.addresses.extend(&instance.addresses);
        for address in &instance.addresses {
            let mut names = self.by_address.get(address).cloned().unwrap_or_default();
            names.remove(name);
            if names.is_empty() {
                self.by_address.remove_mut(address);
            } else {
                self.by_address.insert_mut(*address, names);
            }
        }
        self.labels.remove_instance(name, &instance);
        match self.instances_of(&instance.namespace, &instance.service_account) {
            0 | 1 => {
                self.by_identity.remove_mut(&identity(&instance));
            }
            count => self.by_identity.insert_mut(identity(&instance), count - 1),
        }
        let ids = endpoint_ids(&instance);
        for key in self.selecting(&instance) {
            if let Some(known) = self.services.get_mut(&key) {
                for id in &ids {
                    known.endpoints.remove_mut(id);
                }
            }
            self.touched.services.insert(key, Extent::Endpoints(ids.clone()));
        }
    }

    /// DNS answered for a service that is served by `name`. Only ever called with an answer: a failure keeps the last
    /// one. The answer for a name that the service no longer has is not used.
    pub fn put_resolved(&mut self, key: &ServiceKey, name: String, addresses: Vec<IpAddr>) {
        self.resolved.insert_mut(key.clone(), (name, addresses));
        self.rebuild(key);
        self.touched.services.insert(key.clone(), Extent::Whole);
    }

    /// The answer for a deleted service is forgotten.
    pub fn remove_resolved(&mut self, key: &ServiceKey) {
        self.resolved.remove_mut(key);
    }

    /// The DNS name last asked for a service, and its answer.
    #[must_use]
    pub fn resolved(&self, key: &ServiceKey) -> Option<&(String, Vec<IpAddr>)> {
        self.resolved.get(key)
    }

    /// DNS names to resolve.
    #[must_use]
    pub fn dns_names(&self) -> Vec<(ServiceKey, String)> {
        let names = self.services.iter().filter_map(|(key, known)| match &known.spec.backing {
            Backing::Dns(name) => Some((key.clone(), name.clone())),
            Backing::Selector(_) | Backing::Static(_) => None,
        });
        names.collect()
    }

    /// Services for which there is a DNS answer, but which no DNS name serves.
    #[must_use]
    pub fn unwanted_answers(&self) -> Vec<ServiceKey> {
        let wanted = |key: &ServiceKey| {
            self.services.get(key).is_some_and(|known| match &known.spec.backing {
                Backing::Dns(_) => true,
                Backing::Selector(_) | Backing::Static(_) => false,
            })
        };
        self.resolved.keys().filter(|key| !wanted(key)).cloned().collect()
    }

    /// The mesh's own resource.
    #[must_use]
    pub fn mesh(&self) -> &Arc<Encoded> {
        &self.mesh
    }

    /// A service and its endpoints, as proxies are told.
    pub fn service_resources(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Encoded>> {
        let known = self.services.get(key);
        known.into_iter().flat_map(|known| std::iter::once(&known.resource).chain(known.endpoints.values()))
    }

    /// One endpoint of a service, as proxies are told.
    #[must_use]
    pub fn endpoint(&self, key: &ServiceKey, id: &str) -> Option<&Arc<Encoded>> {
        self.services.get(key)?.endpoints.get(id)
    }

    /// The answer about a destination, and the service it leads to.
    #[must_use]
    pub fn resolve(&self, address: SocketAddr) -> (Resource, Option<ServiceKey>) {
        let (found, version) = self.find(address);
        let (key, verdict, reason) = match &found {
            Found::Service { key, .. } => (Some(key.clone()), resolution::Verdict::Found, String::new()),
            Found::Denied(reason) => (None, resolution::Verdict::Denied, (*reason).to_owned()),
            Found::Unknown => (None, resolution::Verdict::Unknown, String::new()),
        };
        let (service_port, endpoint_id) = match found {
            Found::Service { port, endpoint, .. } => (port, endpoint.unwrap_or_default()),
            Found::Denied(_) | Found::Unknown => (0, String::new()),
        };
        let body = Resolution {
            address: address.ip().to_string(),
            port: address.port().into(),
            verdict: verdict.into(),
            namespace: key.as_ref().map(|key| key.namespace.to_string()).unwrap_or_default(),
            service: key.as_ref().map(|key| key.name.to_string()).unwrap_or_default(),
            service_port,
            endpoint_id,
            reason,
        };
        let name = ResourceName { kind: ResourceKind::Resolution.into(), name: address.to_string() };
        (Resource { name: Some(name), version, body: Some(resource::Body::Resolution(body)) }, key)
    }

    /// In order: virtual IP; a workload's own address; else inside mesh ranges denied, outside unknown.
    fn find(&self, address: SocketAddr) -> (Found, u64) {
        let ip = address.ip().to_canonical();
        let number = u32::from(address.port());
        if let Some(key) = self.by_virtual_ip.get(&ip) {
            let known = self.services.get(key);
            return match known.filter(|known| known.spec.ports.iter().any(|port| port.service.port == number)) {
                Some(known) => (Found::Service { key: key.clone(), port: number, endpoint: None }, known.revision),
                None => (Found::Denied("the service has no such port"), self.revision),
            };
        }
        if let Some(found) = self.find_workload(ip, address.port()) {
            return found;
        }
        if self.settings.virtual_ranges.iter().any(|range| range.contains(&ip)) {
            return (Found::Denied("no service holds this virtual address"), self.revision);
        }
        if self.by_address.contains_key(&ip) {
            return (Found::Denied("the workload serves no service on this port"), self.revision);
        }
        if self.settings.ranges.iter().any(|range| range.contains(&ip)) {
            return (Found::Denied("nothing of the mesh has this address"), self.revision);
        }
        (Found::Unknown, self.revision)
    }

    /// The first service, by name, that an instance with this address serves on this port.
    fn find_workload(&self, ip: IpAddr, port: u16) -> Option<(Found, u64)> {
        for name in self.by_address.get(&ip)? {
            let (instance, revision) = self.instances.get(name)?;
            for key in self.selecting(instance) {
                let Some(known) = self.services.get(&key) else { continue };
                let served = known.spec.ports.iter().find(|service| target_port(service, instance) == Some(port));
                let id = endpoint_id(instance, ip);
                if let Some(served) = served
                    && known.endpoints.contains_key(&id)
                {
                    let found = Found::Service { key, port: served.service.port, endpoint: Some(id) };
                    return Some((found, known.revision.max(*revision)));
                }
            }
        }
        None
    }

    /// Services whose selector takes this instance, in order of their names.
    fn selecting(&self, instance: &Instance) -> BTreeSet<ServiceKey> {
        let takes = |key: &&ServiceKey| self.services.get(key).is_some_and(|known| selects(&known.spec, instance));
        self.labels.perhaps_selecting(instance).filter(takes).cloned().collect()
    }

    /// Instances that a selector takes.
    fn selected<'a>(&'a self, key: &ServiceKey, spec: &'a ServiceSpec) -> impl Iterator<Item = &'a (Instance, u64)> {
        let instances = self.labels.perhaps_selected(key, spec).filter_map(|name| self.instances.get(name));
        instances.filter(|(instance, _)| selects(spec, instance))
    }

    /// The service's own resource, and the answers that it gives: about its virtual addresses and those it selects.
    fn touch_service(&mut self, key: &ServiceKey) {
        self.touched.services.insert(key.clone(), Extent::Whole);
        let Some(known) = self.services.get(key) else { return };
        let selected = self.selected(key, &known.spec).flat_map(|(instance, _)| &instance.addresses);
        let addresses: Vec<IpAddr> = known.virtual_ips.iter().chain(selected).copied().collect();
        self.touched.addresses.extend(addresses);
    }

    /// Makes all endpoints of a service anew.
    fn rebuild(&mut self, key: &ServiceKey) {
        let Some(mut known) = self.services.get(key).cloned() else { return };
        known.endpoints = RedBlackTreeMapSync::new_sync();
        let spec = known.spec.clone();
        let addresses = match &spec.backing {
            Backing::Selector(_) => {
                for (instance, revision) in self.selected(key, &spec) {
                    add_endpoints(&mut known, key, instance, *revision, &self.settings.trust_domain);
                }
                Vec::new()
            }
            Backing::Static(addresses) => addresses.clone(),
            Backing::Dns(name) => match self.resolved.get(key) {
                Some((asked, addresses)) if asked == name => addresses.clone(),
                Some(_) | None => Vec::new(),
            },
        };
        for address in addresses {
            let ports = known.spec.ports.iter().filter_map(|port| match port.target {
                Target::Number(number) => Some(endpoint_port(port, number, false)),
                Target::Name(_) => None,
            });
            let id = address.to_string();
            let body = Endpoint { ports: ports.collect(), ..bare_endpoint(key, id.clone(), address) };
            let made = endpoint_resource(key, &id, known.revision, body);
            known.endpoints.insert_mut(id, made);
        }
        self.services.insert_mut(key.clone(), known);
    }
}

enum Found {
    Service { key: ServiceKey, port: u32, endpoint: Option<String> },
    Denied(&'static str),
    Unknown,
}

fn selects(spec: &ServiceSpec, instance: &Instance) -> bool {
    let Backing::Selector(selector) = &spec.backing else { return false };
    let may = spec.accounts.as_ref().is_none_or(|accounts| accounts.contains(&instance.service_account));
    may && !selector.is_empty() && selector.iter().all(|(key, value)| instance.labels.get(key) == Some(value))
}

fn target_port(port: &Port, instance: &Instance) -> Option<u16> {
    let found = instance.ports.iter().find(|candidate| match &port.target {
        Target::Number(number) => candidate.port == *number,
        Target::Name(name) => candidate.name == *name,
    });
    found.map(|found| found.port)
}

/// A service as proxies are told.
#[must_use]
pub fn service_message(key: &ServiceKey, spec: &ServiceSpec, virtual_ips: &[IpAddr]) -> Service {
    Service {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        ports: spec.ports.iter().map(|port| port.service.clone()).collect(),
        virtual_ips: virtual_ips.iter().map(ToString::to_string).collect(),
    }
}

fn identity(instance: &Instance) -> (String, String) {
    (instance.namespace.clone(), instance.service_account.clone())
}

/// An instance with one address is its own endpoint; of two addresses each is one.
fn endpoint_id(instance: &Instance, address: IpAddr) -> String {
    match instance.addresses.as_slice() {
        [_] => instance.id.clone(),
        _ if address.is_ipv4() => format!("{}.v4", instance.id),
        _ => format!("{}.v6", instance.id),
    }
}

fn endpoint_ids(instance: &Instance) -> BTreeSet<String> {
    instance.addresses.iter().map(|address| endpoint_id(instance, *address)).collect()
}

fn add_endpoints(known: &mut Known, key: &ServiceKey, instance: &Instance, revision: u64, domain: &TrustDomain) {
    if !instance.ready {
        return;
    }
    let mut ports = Vec::new();
    for port in &known.spec.ports {
        let Some(number) = target_port(port, instance) else { continue };
        let captured = instance.ports.iter().any(|candidate| candidate.port == number && candidate.captured);
        ports.push(endpoint_port(port, number, captured));
    }
    if ports.is_empty() {
        return;
    }
    for address in &instance.addresses {
        let id = endpoint_id(instance, *address);
        let body = Endpoint {
            ports: ports.clone(),
            spiffe_id: format!("spiffe://{domain}/ns/{}/sa/{}", instance.namespace, instance.service_account),
            locality: instance.locality.clone(),
            ..bare_endpoint(key, id.clone(), *address)
        };
        let made = endpoint_resource(key, &id, known.revision.max(revision), body);
        known.endpoints.insert_mut(id, made);
    }
}

fn bare_endpoint(key: &ServiceKey, id: String, address: IpAddr) -> Endpoint {
    Endpoint {
        namespace: key.namespace.to_string(),
        service: key.name.to_string(),
        id,
        address: address.to_string(),
        weight: 1,
        ..Endpoint::default()
    }
}

fn endpoint_port(port: &Port, target: u16, captured: bool) -> EndpointPort {
    EndpointPort { service_port: port.service.port, target_port: target.into(), captured }
}

fn endpoint_resource(key: &ServiceKey, id: &str, version: u64, body: Endpoint) -> Arc<Encoded> {
    encode(ResourceKind::Endpoint, &format!("{key}/{id}"), version, resource::Body::Endpoint(body))
}

fn encode(kind: ResourceKind, name: &str, version: u64, body: resource::Body) -> Arc<Encoded> {
    Arc::new(Encoded::new(kind, name, version, body))
}

/// Reads the name of an instance from its store key.
#[must_use]
pub(super) fn instance_name(key: &str) -> Option<InstanceName> {
    let (namespace, id) = key.strip_prefix(instance::PREFIX)?.split_once('/')?;
    Some((namespace.to_owned(), id.to_owned()))
}

#[cfg(test)]
mod tests;
