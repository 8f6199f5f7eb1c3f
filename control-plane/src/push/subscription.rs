//! What one proxy wants and what it has been told.
//!
//! The machine compares what the proxy should know with what it was told, as far as either may have changed, and makes
//! one update of the difference. At most one update is unacknowledged at a time; changes that come meanwhile gather in
//! the next one. What the proxy refused counts as told: the same version is not sent again, a later one is.
//!
//! **Make before break.** An answer travels with the service that it leads to, or after it. What is gone is taken back
//! when everything that is there has been told. A difference too large for one update goes out in several, by the same
//! rules.
//!
//! **Withdrawals.** A proxy forgets by itself what only a withdrawn target needed. While an answer is on its way to it, it
//! may need more than is seen from here, and keep it; so what was told is in doubt until that answer is acknowledged. If
//! it is needed again before, it is told again, and taken back if it is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_core::model::ServiceKey;
use weft_proto::v1::{Ack, Hello, ResourceName, Target, resource, target};

use super::parcel::{Parcel, Room};
use super::told::Told;
use super::wire::Update;
use crate::registry::{Concern, Extent, Index, Services, Touched};

/// Targets of one proxy. Proxies keep 4,096 addresses, gateways beside them the services that they serve; a proxy that
/// wants more than this is not one of ours.
pub(super) const TARGETS_MAX: usize = 20_000;

/// A proxy wants more than [`TARGETS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {TARGETS_MAX} targets; withdraw some first")]
pub struct TooMany;

/// An update to send, with the names of all that is in it.
#[derive(Debug)]
pub struct Push {
    /// As it goes out.
    pub update: Update,
    /// Upserted and removed.
    pub names: Vec<Arc<str>>,
}

/// State of one stream.
#[derive(Debug, Default)]
pub struct Subscription {
    /// Wanted for themselves.
    services: BTreeSet<ServiceKey>,
    /// Wanted answers, each with the service that it led to when last looked at.
    addresses: BTreeMap<SocketAddr, Option<ServiceKey>>,
    /// Services that the proxy should know, with the number of reasons.
    needs: HashMap<ServiceKey, usize>,
    told: Told,
    /// Services of which something may be new.
    fresh: Services,
    /// Addresses about which the answer may be new; all wanted.
    asked: BTreeSet<SocketAddr>,
    /// Services of which more may have been told than there is.
    stale: Services,
    /// Withdrawn services in doubt, each until the update with this nonce is acknowledged; `None` while answers are
    /// still to be sent.
    doubtful: HashMap<ServiceKey, Option<u64>>,
    /// Answers held from an earlier stream that nobody wants.
    stray_answers: BTreeSet<SocketAddr>,
    /// Held from an earlier stream, and nothing that this build can tell.
    strays: Vec<ResourceName>,
    /// What concerns the stream or no longer does, since this was last asked.
    concerns: Vec<(Concern, bool)>,
    room: Room,
    nonce: u64,
    unacknowledged: Option<u64>,
    begun: bool,
}

/// What the index says about the addresses asked for.
type Answers = BTreeMap<SocketAddr, (u64, resource::Body, Option<ServiceKey>)>;

impl Subscription {
    /// From the first message of a stream.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn begin(hello: &Hello) -> Result<Self, TooMany> {
        let mut subscription = Self::default();
        for held in &hello.held {
            if !subscription.told.note(held) {
                subscription.strays.extend(held.name.clone());
            }
        }
        subscription.stale.insert_whole(subscription.told.services().cloned());
        subscription.stray_answers.extend(subscription.told.addresses());
        subscription.subscribe(&hello.targets)?;
        Ok(subscription)
    }

    /// The proxy wants these, too. An address is answered even if the answer was told before.
    ///
    /// # Errors
    /// [`TooMany`]; targets up to the bound are taken.
    pub fn subscribe(&mut self, targets: &[Target]) -> Result<(), TooMany> {
        for target in targets {
            match parse(target) {
                Some(Wanted::Service(key)) => self.want_service(key)?,
                Some(Wanted::Address(address)) => self.want_address(address)?,
                // Of a later version of the protocol.
                None => {}
            }
        }
        Ok(())
    }

    /// The proxy no longer wants these, and has itself forgotten what only they needed.
    pub fn unsubscribe(&mut self, targets: &[Target]) {
        for target in targets {
            let needed = match parse(target) {
                Some(Wanted::Service(key)) => self.services.take(&key),
                Some(Wanted::Address(address)) => self.unwant_address(address),
                None => None,
            };
            if let Some(key) = needed
                && self.unneed(&key)
            {
                self.stale.remove(&key);
                self.forget(key);
            }
        }
    }

    /// The index may have changed in this. It must be said before the index is shown to [`Subscription::update`].
    pub fn notice(&mut self, touched: &Touched) {
        if touched.all {
            self.fresh.insert_whole(self.needs.keys().cloned());
            self.asked.extend(self.addresses.keys());
        }
        for (key, extent) in touched.services.iter().filter(|(key, _)| self.needs.contains_key(*key)) {
            self.fresh.insert(key.clone(), extent.clone());
        }
        for address in &touched.addresses {
            let wanted = self.addresses.range(all_ports(*address));
            self.asked.extend(wanted.map(|(address, _)| *address));
        }
    }

    /// What concerns the stream from now on (true), or no longer does, since this was last asked.
    pub fn take_concerns(&mut self) -> Vec<(Concern, bool)> {
        std::mem::take(&mut self.concerns)
    }

    /// The proxy has applied an update. False when it is not the one that was sent.
    pub fn acknowledge(&mut self, ack: &Ack) -> bool {
        if self.unacknowledged != Some(ack.nonce) {
            return false;
        }
        self.unacknowledged = None;
        self.settle_doubts();
        true
    }

    /// Nonce of the update that waits to be acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> Option<u64> {
        self.unacknowledged
    }

    /// Whether there may be more to tell than went into the last update.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !(self.fresh.is_empty() && self.asked.is_empty() && self.stale.is_empty())
    }

    /// The next update; `None` while one is unacknowledged or nothing is new. The first is sent even if empty: it tells
    /// the proxy that it knows what there is to know.
    pub fn update(&mut self, index: &Index) -> Option<Push> {
        if self.unacknowledged.is_some() {
            return None;
        }
        let mut parcel = Parcel::with_room(self.room);
        let answers = self.resolve(index);
        self.told.tell_mesh(index.mesh(), &mut parcel);
        self.tell_services(index, &answers, &mut parcel);
        if self.fresh.is_empty() {
            self.tell_answers(answers, &mut parcel);
        }
        if self.fresh.is_empty() && self.asked.is_empty() {
            self.take_back(index, &mut parcel);
        }
        let silent = parcel.is_empty() && self.begun;
        if !silent {
            self.begun = true;
            self.nonce += 1;
            self.unacknowledged = Some(self.nonce);
        }
        self.settle_doubts();
        if silent {
            return None;
        }
        let Parcel { upserts, removals, names, .. } = parcel;
        let update = Update { nonce: self.nonce, revision: index.revision(), upserts, removals };
        Some(Push { update, names })
    }

    /// Makes updates smaller, so that small differences need several.
    #[cfg(test)]
    pub(super) fn squeeze(&mut self, room: Room) {
        self.room = room;
    }

    /// Looks up what may have changed about addresses, and which services that makes needed or needless.
    fn resolve(&mut self, index: &Index) -> Answers {
        let mut answers = Answers::new();
        for address in self.asked.clone() {
            let (answer, service) = index.resolve(address);
            let before = self.addresses.insert(address, service.clone()).flatten();
            if before != service {
                service.iter().for_each(|key| self.need(key));
                let needless = before.filter(|key| self.unneed(key));
                self.stale.insert_whole(needless);
            }
            if let Some(body) = answer.body {
                answers.insert(address, (answer.version, body, service));
            }
        }
        answers
    }

    /// Each service with its endpoints and the answers that lead to it.
    fn tell_services(&mut self, index: &Index, answers: &Answers, parcel: &mut Parcel) {
        let mut leading: HashMap<&ServiceKey, Vec<SocketAddr>> = HashMap::new();
        for (address, (_, _, service)) in answers {
            if let Some(key) = service {
                leading.entry(key).or_default().push(*address);
            }
        }
        while !parcel.is_full()
            && let Some((key, extent)) = self.fresh.pop_first()
        {
            if let Some(surplus) = self.told.tell_service(&key, extent, index, parcel) {
                self.stale.insert(key.clone(), surplus);
            }
            for address in leading.remove(&key).into_iter().flatten() {
                if let Some((version, body, _)) = answers.get(&address) {
                    self.told.tell_answer(address, *version, body.clone(), parcel);
                    self.asked.remove(&address);
                }
            }
        }
    }

    /// Answers that did not go with a service: they lead nowhere, or to what was told before.
    fn tell_answers(&mut self, answers: Answers, parcel: &mut Parcel) {
        for (address, (version, body, _)) in answers {
            if parcel.is_full() {
                return;
            }
            if self.asked.remove(&address) {
                self.told.tell_answer(address, version, body, parcel);
            }
        }
    }

    fn take_back(&mut self, index: &Index, parcel: &mut Parcel) {
        for name in self.strays.drain(..) {
            parcel.remove(name);
        }
        for address in std::mem::take(&mut self.stray_answers) {
            self.told.take_back_answer(&address, parcel);
        }
        while !parcel.is_full()
            && let Some((key, extent)) = self.stale.pop_first()
        {
            self.told.take_back_service(&key, (&extent, self.needs.contains_key(&key)), index, parcel);
        }
    }

    /// The proxy withdrew an answer of an earlier stream, and forgot what only that led to: any service but those that it
    /// wants for themselves.
    fn doubt_all(&mut self) {
        let keys: Vec<ServiceKey> = self.told.services().filter(|key| !self.services.contains(*key)).cloned().collect();
        for key in keys {
            self.told.doubt_service(&key);
            if self.needs.contains_key(&key) {
                self.fresh.insert(key, Extent::Whole);
            }
        }
    }

    /// What was told of a withdrawn service no longer counts.
    fn forget(&mut self, key: ServiceKey) {
        self.told.doubt_service(&key);
        self.doubtful.insert(key, None);
        self.settle_doubts();
    }

    /// Forgets withdrawn services once the proxy has acknowledged all answers that it lacked when it withdrew them.
    fn settle_doubts(&mut self) {
        if self.asked.is_empty() {
            self.doubtful.values_mut().for_each(|until| _ = until.get_or_insert(self.nonce));
        }
        let acknowledged = if self.unacknowledged.is_some() { self.nonce - 1 } else { self.nonce };
        for (key, _) in self.doubtful.extract_if(|_, until| until.is_some_and(|until| until <= acknowledged)) {
            self.told.forget_service(&key);
        }
    }

    fn want_service(&mut self, key: ServiceKey) -> Result<(), TooMany> {
        if !self.services.contains(&key) {
            self.make_room()?;
            self.need(&key);
            self.services.insert(key);
        }
        Ok(())
    }

    fn want_address(&mut self, address: SocketAddr) -> Result<(), TooMany> {
        if !self.addresses.contains_key(&address) {
            self.make_room()?;
            self.addresses.insert(address, None);
            self.concerns.push((Concern::Address(address.ip()), true));
        }
        self.told.repeat_answer(&address);
        self.stray_answers.remove(&address);
        self.asked.insert(address);
        Ok(())
    }

    /// The service that the answer led to.
    fn unwant_address(&mut self, address: SocketAddr) -> Option<ServiceKey> {
        let service = self.addresses.remove(&address)?;
        self.asked.remove(&address);
        if !self.told.forget_answer(&address) {
            self.doubt_all();
        }
        if self.addresses.range(all_ports(address.ip())).next().is_none() {
            self.concerns.push((Concern::Address(address.ip()), false));
        }
        service
    }

    fn make_room(&self) -> Result<(), TooMany> {
        if self.services.len() + self.addresses.len() >= TARGETS_MAX { Err(TooMany) } else { Ok(()) }
    }

    /// One more reason to know a service.
    fn need(&mut self, key: &ServiceKey) {
        let reasons = self.needs.entry(key.clone()).or_default();
        *reasons += 1;
        if *reasons == 1 {
            self.concerns.push((Concern::Service(key.clone()), true));
            self.fresh.insert(key.clone(), Extent::Whole);
            self.doubtful.remove(key);
        }
    }

    /// One reason less; true when it was the last.
    fn unneed(&mut self, key: &ServiceKey) -> bool {
        let Some(reasons) = self.needs.get_mut(key) else { return false };
        *reasons -= 1;
        if *reasons > 0 {
            return false;
        }
        self.needs.remove(key);
        self.fresh.remove(key);
        self.concerns.push((Concern::Service(key.clone()), false));
        true
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

fn all_ports(address: IpAddr) -> std::ops::RangeInclusive<SocketAddr> {
    SocketAddr::new(address, 0)..=SocketAddr::new(address, u16::MAX)
}
