//! The proxy's side of the `Discovery` stream as a pure machine: inputs by `handle_*`, `want` and `unwant`, effects by
//! `poll_*`. The shell owns the connection, applies each [`Step`] to the snapshot, swaps, then calls
//! [`Subscriber::handle_applied`].
//!
//! What is held outlives a stream: after a reconnect the server sends only differences. An older version of a held
//! resource is never applied (C5), a refused one is not held, so that a reconnect asks for it again.
//!
//! What no target needs any more is dropped here at once, while the server learns of it a moment later. If the same
//! service is needed again before the server is known to have forgotten it too, the two sides could disagree on what is
//! held; then the machine asks for a new stream, on which both begin with what `Hello` says.

mod held;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use weft_proto::v1::{self, discovery_request::Message as Request, discovery_response::Message as Response};

use crate::model::decode::{self, Refusal, name_of};
use crate::model::{DecodedUpdate, Resource, ResourceId, ServiceKey, Upsert, Verdict};
use crate::snapshot::Snapshot;
use held::Held;

/// Withdrawn addresses remembered for one stream; beyond it a reconnect settles what they were for.
const WITHDRAWN_MAX: usize = 4096;

/// Messages that wait for a server that does not read; beyond it a new stream says the same in one `Hello`.
const OUTBOX_MAX: usize = 4096;

/// What a proxy can subscribe to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Want {
    /// A service with its endpoints.
    Service(ServiceKey),
    /// The answer about an original destination, and what it leads to.
    Address(SocketAddr),
}

impl Want {
    /// IPv4 in IPv6 clothes becomes IPv4: as answers spell it.
    fn canonical(self) -> Self {
        match self {
            Self::Address(address) => Self::Address(SocketAddr::new(address.ip().to_canonical(), address.port())),
            Self::Service(key) => Self::Service(key),
        }
    }
}

/// One consistent step to apply to the snapshot.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What it answers; `None` for what the machine dropped itself.
    nonce: Option<u64>,
    /// To apply.
    pub update: DecodedUpdate,
    /// Refused resources; the last good form of each stays.
    pub refusals: Vec<Refusal>,
    /// The roots, when they changed (and at the start of each stream).
    pub bundle: Option<v1::TrustBundle>,
}

/// Why a stream must be ended and another one opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// The server chose a version that this proxy does not speak.
    #[error("control plane speaks discovery protocol {0}; this proxy speaks 1 to {ours}", ours = weft_proto::DISCOVERY_PROTOCOL_VERSION)]
    Version(u32),
    /// An update came before the welcome, or a second welcome.
    #[error("control plane broke the order of the discovery stream")]
    Order,
    /// Nonces must grow.
    #[error("update with nonce {0} came again or late")]
    Nonce(u64),
    /// The two sides may disagree on what is held (see the module's documentation).
    #[error("a service is needed again that was just withdrawn, or the control plane does not read; asking anew")]
    Resync,
}

/// The machine.
#[derive(Debug)]
pub struct Subscriber {
    instance_id: String,
    build: String,
    wants: BTreeSet<Want>,
    held: Held,
    revision: u64,
    /// Dropped by the machine, not yet taken by [`Subscriber::poll_step`].
    dropped: Vec<ResourceId>,
    stream: Option<Stream>,
}

/// State that dies with the connection.
#[derive(Debug, Default)]
struct Stream {
    welcomed: bool,
    nonce: u64,
    outbox: VecDeque<v1::DiscoveryRequest>,
    /// Counts subscriptions and withdrawals in the order they are sent.
    tick: u64,
    /// The last withdrawal, unless the server is proven to have read it.
    unread_withdrawal: Option<u64>,
    /// Services dropped or ignored here, with the tick of the withdrawal that tells the server; `u64::MAX` where only
    /// a removal or a new stream settles it.
    doubtful: HashMap<ServiceKey, u64>,
    /// Subscriptions whose answer will prove that the server has read all before them.
    unanswered: HashMap<SocketAddr, Question>,
    /// Addresses withdrawn on this stream, with the version of the answer held then: a later one may be an old one still
    /// on its way. `None` for the whole: too many to remember; for one: its answers prove nothing any more.
    withdrawn: Option<HashMap<SocketAddr, Option<u64>>>,
    resync: bool,
}

/// A subscription to an address.
#[derive(Clone, Copy, Debug)]
struct Question {
    tick: u64,
    /// Only an answer up to this version is known to be to this question: a version is sent once per subscription.
    proof_up_to: u64,
}

impl Step {
    /// `false`: it only carries the roots.
    #[must_use]
    pub fn is_update(&self) -> bool {
        self.nonce.is_some() || !self.update.upserts.is_empty() || !self.update.removals.is_empty()
    }
}

impl Subscriber {
    /// Wants nothing, holds nothing. `instance_id` may be empty; `build` is shown to operators.
    #[must_use]
    pub fn new(instance_id: impl Into<String>, build: impl Into<String>) -> Self {
        Self {
            instance_id: instance_id.into(),
            build: build.into(),
            wants: BTreeSet::new(),
            held: Held::default(),
            revision: 0,
            dropped: Vec::new(),
            stream: None,
        }
    }

    /// Subscribes; nothing happens if it is wanted already.
    pub fn want(&mut self, want: Want) {
        let want = want.canonical();
        if !self.wants.insert(want.clone()) {
            return;
        }
        if let Some(stream) = &mut self.stream {
            stream.tick += 1;
            if let Want::Address(address) = &want {
                stream.question(*address);
            }
            stream.subscribe(&want);
        }
        self.collect(None);
    }

    /// Withdraws. What only this needed is dropped: see [`Subscriber::poll_step`].
    pub fn unwant(&mut self, want: &Want) {
        let want = &want.clone().canonical();
        if !self.wants.remove(want) {
            return;
        }
        let mut tick = None;
        if let Some(stream) = &mut self.stream {
            stream.tick += 1;
            tick = Some(stream.tick);
            stream.unread_withdrawal = tick;
            if let Want::Address(address) = want {
                stream.withdraw(*address, self.held.resolution_version(*address));
            }
            stream.unsubscribe(want);
        }
        if let Want::Address(address) = want {
            self.dropped.extend(self.held.remove_resolution(*address));
        }
        if let Want::Service(key) = want {
            self.held.free(key);
        }
        self.collect(tick);
    }

    /// Whether it is subscribed to.
    #[must_use]
    pub fn wants(&self, want: &Want) -> bool {
        self.wants.contains(want)
    }

    /// A stream is open: `Hello` is the first message to send.
    pub fn handle_connected(&mut self) {
        let hello = v1::Hello {
            protocol_version: weft_proto::DISCOVERY_PROTOCOL_VERSION,
            instance_id: self.instance_id.clone(),
            build: self.build.clone(),
            held: self.held.list().map(|(id, version)| v1::Held { name: Some(name_of(&id)), version }).collect(),
            targets: self.wants.iter().map(target).collect(),
        };
        let mut stream = Stream { withdrawn: Some(HashMap::new()), ..Stream::default() };
        stream.push(Request::Hello(hello));
        self.stream = Some(stream);
    }

    /// The stream is gone. What is held stays held.
    pub fn handle_disconnected(&mut self) {
        self.stream = None;
    }

    /// The shell was cut off at an unknown point, between learning something and having it in force: what is in force is
    /// all that is held, at versions unknown, so that the next stream completes and corrects it. What is wanted stays
    /// wanted; what nothing wants is for [`Subscriber::poll_step`].
    pub fn handle_defect(&mut self, in_force: &Snapshot) {
        self.stream = None;
        self.dropped.clear();
        self.held = Held::in_force(in_force);
        self.revision = in_force.revision();
        let unwanted = in_force.resolutions().map(|answer| answer.address);
        for address in unwanted.filter(|address| !self.wants.contains(&Want::Address(*address))) {
            self.dropped.extend(self.held.remove_resolution(address));
        }
        self.collect(None);
    }

    /// A message of the server; `Some` is to be applied. Kinds that this build does not know give `None`.
    ///
    /// # Errors
    /// [`SyncError`]: end the stream, then open another one.
    pub fn handle_response(&mut self, message: v1::DiscoveryResponse) -> Result<Option<Step>, SyncError> {
        let Some(stream) = &mut self.stream else { return Err(SyncError::Order) };
        match message.message {
            None => Ok(None),
            Some(Response::Welcome(welcome)) => {
                if stream.welcomed {
                    return Err(SyncError::Order);
                }
                if !(1..=weft_proto::DISCOVERY_PROTOCOL_VERSION).contains(&welcome.protocol_version) {
                    return Err(SyncError::Version(welcome.protocol_version));
                }
                stream.welcomed = true;
                let update = DecodedUpdate { revision: self.revision, ..DecodedUpdate::default() };
                Ok(welcome.bundle.map(|bundle| Step { update, bundle: Some(bundle), ..Step::default() }))
            }
            Some(Response::Update(update)) => {
                if !stream.welcomed {
                    return Err(SyncError::Order);
                }
                if update.nonce <= stream.nonce {
                    return Err(SyncError::Nonce(update.nonce));
                }
                stream.nonce = update.nonce;
                Ok(Some(self.update(&update)))
            }
        }
    }

    /// The step is in force: a step of the server is acknowledged.
    pub fn handle_applied(&mut self, step: &Step) {
        let (Some(stream), Some(nonce)) = (&mut self.stream, step.nonce) else { return };
        let rejections = step.refusals.iter().map(Refusal::to_message).collect();
        stream.push(Request::Ack(v1::Ack { nonce, rejections }));
    }

    /// The next message to send.
    pub fn poll_send(&mut self) -> Option<v1::DiscoveryRequest> {
        self.stream.as_mut()?.outbox.pop_front()
    }

    /// What the machine dropped because nothing wants it any more.
    pub fn poll_step(&mut self) -> Option<Step> {
        if self.dropped.is_empty() {
            return None;
        }
        let removals = std::mem::take(&mut self.dropped);
        let update = DecodedUpdate { revision: self.revision, removals, upserts: Vec::new() };
        Some(Step { update, ..Step::default() })
    }

    /// Set when the stream must be ended and another one opened.
    #[must_use]
    pub fn poll_resync(&self) -> Option<SyncError> {
        self.stream.as_ref().filter(|stream| stream.resync).map(|_| SyncError::Resync)
    }

    fn update(&mut self, message: &v1::Update) -> Step {
        let decode::Decoded { update, refusals } = decode::update(message);
        self.revision = update.revision;
        for upsert in &update.upserts {
            self.settle(upsert);
        }
        let mut out = DecodedUpdate { revision: update.revision, ..DecodedUpdate::default() };
        for id in update.removals {
            if let (Some(stream), ResourceId::Service(key)) = (&mut self.stream, &id) {
                stream.doubtful.remove(key);
            }
            if self.held.remove(&id) {
                out.removals.push(id);
            }
        }
        // Answers first: they say which services are needed.
        let (answers, others): (Vec<Upsert>, Vec<Upsert>) =
            update.upserts.into_iter().partition(|upsert| answer_about(&upsert.resource).is_some());
        for upsert in answers {
            let wanted =
                answer_about(&upsert.resource).is_some_and(|address| self.wants.contains(&Want::Address(address)));
            if !wanted {
                self.doubt(&upsert.resource);
            } else if self.held.accept(&upsert) {
                out.upserts.push(upsert);
            }
        }
        let new = others.iter().filter_map(|upsert| service_of(&upsert.resource)).filter(|key| !self.held.holds(key));
        let new: HashSet<ServiceKey> = new.cloned().collect();
        for upsert in others {
            let wanted = service_of(&upsert.resource).is_none_or(|key| self.needs(key));
            let first = service_of(&upsert.resource).is_some_and(|key| new.contains(key));
            let unread = self.stream.as_ref().is_some_and(|stream| stream.unread_withdrawal.is_some());
            if !wanted || (first && unread) {
                // It may have been sent for something withdrawn since, and forgotten there by now.
                self.doubt(&upsert.resource);
            }
            if wanted && self.held.accept(&upsert) {
                out.upserts.push(upsert);
            }
        }
        self.collect(None);
        out.removals.append(&mut self.dropped);
        Step { nonce: Some(message.nonce), update: out, refusals, bundle: message.bundle.clone() }
    }

    /// Nothing needs this any more, but the server did not know when it sent it, and takes it for held.
    fn doubt(&mut self, resource: &Resource) {
        let Some(stream) = &mut self.stream else { return };
        if let Some(key) = service_of(resource) {
            stream.doubtful.insert(key.clone(), u64::MAX);
        }
        if answer_about(resource).is_some() {
            // What a withdrawn answer led to changed before the server read the withdrawal, so that says less.
            stream.doubtful.values_mut().for_each(|tick| *tick = u64::MAX);
        }
    }

    /// The first answer about an address proves that the server has read everything sent before the question.
    fn settle(&mut self, upsert: &Upsert) {
        let (Some(stream), Some(address)) = (&mut self.stream, answer_about(&upsert.resource)) else { return };
        let proven = |question: &&Question| upsert.version <= question.proof_up_to;
        let Some(Question { tick, .. }) = stream.unanswered.get(&address).filter(proven).copied() else { return };
        stream.unanswered.remove(&address);
        stream.doubtful.retain(|_, dropped| *dropped > tick);
        stream.unread_withdrawal = stream.unread_withdrawal.filter(|withdrawal| *withdrawal > tick);
    }

    fn needs(&self, key: &ServiceKey) -> bool {
        self.held.leads_to(key) || self.wants.contains(&Want::Service(key.clone()))
    }

    /// Drops services that nothing needs, and notices needed ones that are in doubt. `tick`: of the withdrawal sent.
    fn collect(&mut self, tick: Option<u64>) {
        for key in self.held.take_freed() {
            if self.needs(&key) {
                continue;
            }
            self.dropped.extend(self.held.remove_service(&key));
            if let Some(stream) = &mut self.stream {
                let doubt = stream.doubtful.entry(key).or_default();
                *doubt = tick.unwrap_or(u64::MAX).max(*doubt);
            }
        }
        let in_doubt = self.stream.as_ref().is_some_and(|stream| stream.doubtful.keys().any(|key| self.needs(key)));
        if let Some(stream) = &mut self.stream {
            stream.resync |= in_doubt;
        }
    }
}

impl Stream {
    fn push(&mut self, message: Request) {
        self.outbox.push_back(v1::DiscoveryRequest { message: Some(message) });
        self.resync |= self.outbox.len() > OUTBOX_MAX;
    }

    fn subscribe(&mut self, want: &Want) {
        if let Some(v1::DiscoveryRequest { message: Some(Request::Subscribe(last)) }) = self.outbox.back_mut() {
            last.targets.push(target(want));
            return;
        }
        self.push(Request::Subscribe(v1::Subscribe { targets: vec![target(want)] }));
    }

    fn unsubscribe(&mut self, want: &Want) {
        if let Some(v1::DiscoveryRequest { message: Some(Request::Unsubscribe(last)) }) = self.outbox.back_mut() {
            last.targets.push(target(want));
            return;
        }
        self.push(Request::Unsubscribe(v1::Unsubscribe { targets: vec![target(want)] }));
    }

    /// Notes a subscription to an address.
    fn question(&mut self, address: SocketAddr) {
        let Some(withdrawn) = &self.withdrawn else { return };
        let proof_up_to = match withdrawn.get(&address) {
            None => u64::MAX,
            Some(Some(version)) => *version,
            Some(None) => return,
        };
        self.unanswered.insert(address, Question { tick: self.tick, proof_up_to });
    }

    /// Notes a withdrawal. `version`: of the answer held.
    fn withdraw(&mut self, address: SocketAddr, version: Option<u64>) {
        let answered = self.unanswered.remove(&address).is_none();
        let Some(withdrawn) = &mut self.withdrawn else { return };
        let was_proof = withdrawn.get(&address).is_none_or(Option::is_some);
        withdrawn.insert(address, version.filter(|_| answered && was_proof));
        if withdrawn.len() > WITHDRAWN_MAX {
            self.withdrawn = None;
        }
    }
}

fn target(want: &Want) -> v1::Target {
    let target = match want {
        Want::Service(key) => v1::target::Target::Service(v1::ServiceKey {
            namespace: key.namespace.as_ref().into(),
            name: key.name.as_ref().into(),
        }),
        Want::Address(address) => {
            v1::target::Target::Address(v1::SocketAddress { ip: address.ip().to_string(), port: address.port().into() })
        }
    };
    v1::Target { target: Some(target) }
}

/// The service that a resource is part of or leads to; `None` for those that are nobody's.
fn service_of(resource: &Resource) -> Option<&ServiceKey> {
    match resource {
        Resource::Service(service) => Some(&service.key),
        Resource::Endpoint(endpoint) => Some(&endpoint.service),
        Resource::Resolution(resolution) => match &resolution.verdict {
            Verdict::Found { service, .. } => Some(service),
            Verdict::Denied { .. } | Verdict::Unknown => None,
        },
        Resource::Mesh(_) => None,
    }
}

/// The address that a resource answers about, if it is an answer.
fn answer_about(resource: &Resource) -> Option<SocketAddr> {
    match resource {
        Resource::Resolution(resolution) => Some(resolution.address),
        Resource::Mesh(_) | Resource::Service(_) | Resource::Endpoint(_) => None,
    }
}
