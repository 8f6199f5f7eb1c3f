//! What one proxy has been told, or said that it holds.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use weft_core::model::ServiceKey;
use weft_proto::v1::{Held, ResourceKind, ResourceName, resource};

use super::parcel::Parcel;
use crate::registry::{Encoded, Extent, Index};

type Name = (ResourceKind, Arc<str>);

/// Versions by name; endpoints beside their service.
#[derive(Debug, Default)]
pub(super) struct Told {
    mesh: Option<u64>,
    /// `None`: the proxy may hold it or not.
    services: HashMap<ServiceKey, HashMap<Name, Option<u64>>>,
    answers: HashMap<SocketAddr, Answer>,
}

/// Answers are compared by what they say: their versions move with every change of the store.
#[derive(Debug)]
struct Answer {
    version: u64,
    /// `None`: told on an earlier stream, or asked for again.
    body: Option<resource::Body>,
}

impl Told {
    /// The proxy holds this from an earlier stream. False when it is nothing that this build can tell.
    pub(super) fn note(&mut self, held: &Held) -> bool {
        let Some(name) = &held.name else { return true };
        match name.kind() {
            ResourceKind::Mesh if name.name.is_empty() => self.mesh = Some(held.version),
            kind @ (ResourceKind::Service | ResourceKind::Endpoint) => {
                let Some(key) = service_of(kind, &name.name) else { return false };
                let service = self.services.entry(key).or_default();
                service.insert((kind, name.name.as_str().into()), Some(held.version));
            }
            ResourceKind::Resolution => {
                let Ok(address) = name.name.parse::<SocketAddr>() else { return false };
                if address.to_string() != name.name {
                    return false;
                }
                self.answers.insert(address, Answer { version: held.version, body: None });
            }
            ResourceKind::Mesh | ResourceKind::Unspecified => return false,
        }
        true
    }

    /// Services of which anything was told.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// Addresses about which an answer was told.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &SocketAddr> {
        self.answers.keys()
    }

    /// The mesh's own resource, if it is new.
    pub(super) fn tell_mesh(&mut self, mesh: &Encoded, parcel: &mut Parcel) {
        if self.mesh.replace(mesh.version()) != Some(mesh.version()) {
            parcel.upsert(mesh);
        }
    }

    /// What is new of a service, so far as it may have changed. Returns what was told and may not be there any more.
    pub(super) fn tell_service(
        &mut self,
        key: &ServiceKey,
        extent: Extent,
        index: &Index,
        parcel: &mut Parcel,
    ) -> Option<Extent> {
        match (extent, self.services.get_mut(key)) {
            (Extent::Endpoints(mut ids), Some(told)) => {
                ids.retain(|id| tell_endpoint(told, (key, id), index, parcel));
                (!ids.is_empty()).then_some(Extent::Endpoints(ids))
            }
            _ => self.tell_whole(key, index, parcel).then_some(Extent::Whole),
        }
    }

    /// True when more was told than there is.
    fn tell_whole(&mut self, key: &ServiceKey, index: &Index, parcel: &mut Parcel) -> bool {
        let told = self.services.entry(key.clone()).or_default();
        let mut there = 0;
        for resource in index.service_resources(key) {
            there += 1;
            let name = (resource.kind(), Arc::clone(resource.name()));
            let version = Some(resource.version());
            if told.insert(name, version).flatten() != version {
                parcel.upsert(resource);
            }
        }
        let surplus = told.len() > there;
        if told.is_empty() {
            self.services.remove(key);
        }
        surplus
    }

    /// Takes back what was told of a service and is not there, so far as that may be; all of it when the service is not
    /// `needed`.
    pub(super) fn take_back_service(
        &mut self,
        key: &ServiceKey,
        (extent, needed): (&Extent, bool),
        index: &Index,
        parcel: &mut Parcel,
    ) {
        let Some(told) = self.services.get_mut(key) else { return };
        if let (Extent::Endpoints(ids), true) = (extent, needed) {
            for id in ids.iter().filter(|id| index.endpoint(key, id).is_none()) {
                let name = endpoint_name(key, id);
                if told.remove(&name).is_some() {
                    parcel.remove(ResourceName { kind: name.0.into(), name: name.1.to_string() });
                }
            }
            return;
        }
        let there = index.service_resources(key).filter(|_| needed);
        let there: HashSet<Name> = there.map(|resource| (resource.kind(), Arc::clone(resource.name()))).collect();
        for ((kind, name), _) in told.extract_if(|name, _| !there.contains(name)) {
            parcel.remove(ResourceName { kind: kind.into(), name: name.to_string() });
        }
        if told.is_empty() {
            self.services.remove(key);
        }
    }

    /// The proxy may have forgotten a service itself, or not.
    pub(super) fn doubt_service(&mut self, key: &ServiceKey) {
        let told = self.services.get_mut(key).into_iter().flat_map(HashMap::values_mut);
        told.for_each(|version| *version = None);
    }

    /// The proxy has itself forgotten a service.
    pub(super) fn forget_service(&mut self, key: &ServiceKey) {
        self.services.remove(key);
    }

    /// The next answer about an address is told even if it says the same. Its version still grows.
    pub(super) fn repeat_answer(&mut self, address: &SocketAddr) {
        if let Some(answer) = self.answers.get_mut(address) {
            answer.body = None;
        }
    }

    /// An answer, if it says something new.
    pub(super) fn tell_answer(&mut self, address: SocketAddr, version: u64, body: resource::Body, parcel: &mut Parcel) {
        let told = self.answers.get(&address);
        if told.is_some_and(|told| told.body.as_ref() == Some(&body)) {
            return;
        }
        // An answer can fall back on something older; its version must not.
        let version = version.max(told.map_or(0, |told| told.version.saturating_add(1)));
        parcel.upsert(&Encoded::new(ResourceKind::Resolution, &address.to_string(), version, body.clone()));
        self.answers.insert(address, Answer { version, body: Some(body) });
    }

    /// Takes back an answer.
    pub(super) fn take_back_answer(&mut self, address: &SocketAddr, parcel: &mut Parcel) {
        if self.answers.remove(address).is_some() {
            parcel.remove(ResourceName { kind: ResourceKind::Resolution.into(), name: address.to_string() });
        }
    }

    /// The proxy has itself forgotten an answer. False when it is not known what it led to.
    pub(super) fn forget_answer(&mut self, address: &SocketAddr) -> bool {
        self.answers.remove(address).is_none_or(|answer| answer.body.is_some())
    }
}

/// Tells one endpoint, if it is new. True when it was told and is not there.
fn tell_endpoint(
    told: &mut HashMap<Name, Option<u64>>,
    (key, id): (&ServiceKey, &str),
    index: &Index,
    parcel: &mut Parcel,
) -> bool {
    let name = endpoint_name(key, id);
    let Some(resource) = index.endpoint(key, id) else { return told.contains_key(&name) };
    let version = Some(resource.version());
    if told.insert(name, version).flatten() != version {
        parcel.upsert(resource);
    }
    false
}

fn endpoint_name(key: &ServiceKey, id: &str) -> Name {
    (ResourceKind::Endpoint, format!("{key}/{id}").into())
}

/// Whose resource this is, by its name.
fn service_of(kind: ResourceKind, name: &str) -> Option<ServiceKey> {
    let (namespace, rest) = name.split_once('/')?;
    let name = match (kind, rest.split_once('/')) {
        (ResourceKind::Service, None) => rest,
        (ResourceKind::Endpoint, Some((name, _))) => name,
        _ => return None,
    };
    Some(ServiceKey { namespace: namespace.into(), name: name.into() })
}
