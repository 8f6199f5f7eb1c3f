//! What one proxy wants and what it has been told.
//!
//! The machine compares what the proxy should know with what it was told and makes one update of the difference. At most
//! one update is unacknowledged at a time; changes that come meanwhile gather in the next one. What the proxy refused
//! counts as told: the same version is not sent again, a later one is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use weft_core::model::ServiceKey;
use weft_proto::v1::{Ack, Hello, Resource, ResourceKind, ResourceName, Target, Update, resource, target};

use crate::registry::Index;

/// Targets of one proxy. A sidecar that talks to more than this is being scanned through.
pub(super) const TARGETS_MAX: usize = 10_000;

/// Resources in one update; a larger difference goes out in several.
const RESOURCES_MAX: usize = 4_000;

/// A proxy wants more than [`TARGETS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {TARGETS_MAX} targets")]
pub struct TooMany;

type Name = (i32, String);

/// State of one stream.
#[derive(Debug, Default)]
pub struct Subscription {
    services: BTreeSet<ServiceKey>,
    addresses: BTreeSet<SocketAddr>,
    told: HashMap<Name, u64>,
    /// Answers told on this stream, compared by what they say: their versions move with every change of the store.
    answers: HashMap<Name, resource::Body>,
    nonce: u64,
    unacknowledged: Option<u64>,
    begun: bool,
}

impl Subscription {
    /// From the first message of a stream.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn begin(hello: &Hello) -> Result<Self, TooMany> {
        let mut subscription = Self::default();
        for held in &hello.held {
            if let Some(name) = &held.name {
                subscription.told.insert((name.kind, name.name.clone()), held.version);
            }
        }
        subscription.subscribe(&hello.targets)?;
        Ok(subscription)
    }

    /// The proxy wants these, too. An address is answered even if the answer was told before.
    ///
    /// # Errors
    /// [`TooMany`]; targets up to the bound are taken.
    pub fn subscribe(&mut self, targets: &[Target]) -> Result<(), TooMany> {
        for target in targets {
            if self.services.len() + self.addresses.len() >= TARGETS_MAX {
                return Err(TooMany);
            }
            match parse(target) {
                Some(Wanted::Service(key)) => {
                    self.services.insert(key);
                }
                Some(Wanted::Address(address)) => {
                    self.answers.remove(&answer_name(address));
                    self.addresses.insert(address);
                }
                // Of a later version of the protocol.
                None => {}
            }
        }
        Ok(())
    }

    /// The proxy no longer wants these, and has itself forgotten what only they needed.
    pub fn unsubscribe(&mut self, targets: &[Target], index: &Index) {
        for target in targets {
            match parse(target) {
                Some(Wanted::Service(key)) => {
                    self.services.remove(&key);
                }
                Some(Wanted::Address(address)) => {
                    self.addresses.remove(&address);
                    self.answers.remove(&answer_name(address));
                }
                None => {}
            }
        }
        let wanted: HashSet<Name> = self.wanted(index).into_iter().filter_map(|resource| name_of(&resource)).collect();
        self.told.retain(|name, _| wanted.contains(name));
    }

    /// The proxy has applied an update. False when it is not the one that was sent.
    pub fn acknowledge(&mut self, ack: &Ack) -> bool {
        if self.unacknowledged != Some(ack.nonce) {
            return false;
        }
        self.unacknowledged = None;
        true
    }

    /// The next update; `None` while one is unacknowledged or nothing is new. The first is sent even if empty: it tells
    /// the proxy that it knows what there is to know.
    pub fn update(&mut self, index: &Index) -> Option<Update> {
        if self.unacknowledged.is_some() {
            return None;
        }
        let wanted = self.wanted(index);
        let names: HashSet<Name> = wanted.iter().filter_map(name_of).collect();
        let mut upserts = Vec::new();
        for resource in wanted {
            if upserts.len() == RESOURCES_MAX {
                break;
            }
            upserts.extend(self.news(resource));
        }
        let gone: Vec<Name> = self.told.keys().filter(|name| !names.contains(*name)).cloned().collect();
        if upserts.is_empty() && gone.is_empty() && self.begun {
            return None;
        }
        for name in &gone {
            self.told.remove(name);
            self.answers.remove(name);
        }
        self.begun = true;
        self.nonce += 1;
        self.unacknowledged = Some(self.nonce);
        let removals = gone.into_iter().map(|(kind, name)| ResourceName { kind, name }).collect();
        Some(Update { nonce: self.nonce, revision: index.revision(), upserts, removals, bundle: None })
    }

    /// The resource as it is to be sent, if the proxy does not have it.
    fn news(&mut self, mut resource: Resource) -> Option<Resource> {
        let name = name_of(&resource)?;
        let told = self.told.get(&name).copied();
        if name.0 == ResourceKind::Resolution as i32 {
            if self.answers.get(&name) == resource.body.as_ref() {
                return None;
            }
            // An answer can fall back on something older; its version must not.
            resource.version = resource.version.max(told.map_or(0, |told| told + 1));
            self.answers.insert(name.clone(), resource.body.clone()?);
        } else if told == Some(resource.version) {
            return None;
        }
        self.told.insert(name, resource.version);
        Some(resource)
    }

    /// All that the proxy should know: services before endpoints before answers.
    fn wanted(&self, index: &Index) -> Vec<Resource> {
        let mut services: BTreeSet<ServiceKey> = self.services.clone();
        let mut answers = Vec::new();
        for address in &self.addresses {
            let (answer, service) = index.resolve(*address);
            services.extend(service);
            answers.push(answer);
        }
        let mut wanted = vec![Resource::clone(index.mesh())];
        for key in &services {
            wanted.extend(index.service_resources(key).map(|resource| Resource::clone(resource)));
        }
        wanted.extend(answers);
        wanted
    }
}

enum Wanted {
    Service(ServiceKey),
    Address(SocketAddr),
}

fn parse(target: &Target) -> Option<Wanted> {
    match target.target.as_ref()? {
        target::Target::Service(key) => Some(Wanted::Service(ServiceKey {
            namespace: key.namespace.as_str().into(),
            name: key.name.as_str().into(),
        })),
        target::Target::Address(address) => {
            let ip: IpAddr = address.ip.parse().ok()?;
            Some(Wanted::Address(SocketAddr::new(ip.to_canonical(), u16::try_from(address.port).ok()?)))
        }
    }
}

fn answer_name(address: SocketAddr) -> Name {
    (ResourceKind::Resolution.into(), address.to_string())
}

fn name_of(resource: &Resource) -> Option<Name> {
    resource.name.as_ref().map(|name| (name.kind, name.name.clone()))
}
