//! Both ends of the protocol, with messages that cross: whatever happens in whatever order, the proxy ends up knowing
//! what a fresh one would.

use std::collections::{BTreeSet, HashMap, VecDeque};

use proptest::prelude::*;
use weft_core::model::{Resource, ResourceId};
use weft_core::snapshot::Snapshot;
use weft_core::sync::{Step as Applied, Subscriber, Want};
use weft_proto::v1::{DiscoveryRequest, Welcome, discovery_request::Message};

use super::*;
use crate::push::parcel::{RESOURCES_MAX, Room};
use crate::registry::{Concern, Services, Touched};

/// Rounds of everything being delivered after which nothing may be left to say.
const ROUNDS_MAX: usize = 50;

/// A proxy, the control plane's end of its stream, and what is under way between them.
struct Link {
    proxy: Subscriber,
    wants: Vec<Want>,
    known: HashMap<ResourceId, Resource>,
    snapshot: Snapshot,
    server: Subscription,
    concerns: BTreeSet<Concern>,
    up: VecDeque<DiscoveryRequest>,
    down: VecDeque<Update>,
    /// Touched, but the stream has not heard of it.
    unheard: Touched,
    streams: usize,
    room: Room,
}

impl Link {
    fn new(wants: &[Want], room: Room) -> Self {
        let mut link = Self {
            proxy: Subscriber::new("i", "test"),
            wants: Vec::new(),
            known: HashMap::new(),
            snapshot: Snapshot::empty(),
            server: Subscription::default(),
            concerns: BTreeSet::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            unheard: Touched::default(),
            streams: 0,
            room,
        };
        wants.iter().for_each(|want| link.want(want.clone()));
        link.connect();
        link
    }

    fn connect(&mut self) {
        self.streams += 1;
        self.proxy.handle_disconnected();
        self.proxy.handle_connected();
        (self.up, self.down) = Default::default();
        let Some(Message::Hello(hello)) = self.proxy.poll_send().unwrap().message else { panic!("Hello is first") };
        self.server = Subscription::begin(&hello).unwrap();
        self.server.squeeze(self.room);
        self.concerns.clear();
        self.attend();
        let welcome = Welcome { protocol_version: 1, bundle: None };
        let welcome = DiscoveryResponse { message: Some(discovery_response::Message::Welcome(welcome)) };
        assert!(self.proxy.handle_response(welcome).unwrap().is_none());
    }

    fn want(&mut self, want: Want) {
        self.proxy.want(want.clone());
        self.wants.retain(|held| *held != want);
        self.wants.push(want);
    }

    fn unwant(&mut self, at: usize) {
        self.proxy.unwant(&self.wants.remove(at));
        if let Some(step) = self.proxy.poll_step() {
            self.apply(&step);
        }
    }

    fn apply(&mut self, step: &Applied) {
        assert!(step.refusals.is_empty(), "{:?}", step.refusals);
        for id in &step.update.removals {
            self.known.remove(id);
        }
        for upsert in &step.update.upserts {
            self.known.insert(upsert.resource.id(), upsert.resource.clone());
        }
        for upsert in &step.update.upserts {
            self.check(&upsert.resource);
        }
        self.snapshot = weft_core::snapshot::apply(&self.snapshot, step.update.clone());
        self.proxy.handle_applied(step);
    }

    /// What an answer leads to is known with it. Only a withdrawal that is under way can leave a gap, and then the proxy
    /// asks for another stream.
    fn check(&self, resource: &Resource) {
        if let Resource::Resolution(answer) = resource
            && let weft_core::model::Verdict::Found { service, .. } = &answer.verdict
        {
            let known = self.known.contains_key(&ResourceId::Service(service.clone()));
            assert!(known || self.proxy.poll_resync().is_some(), "an answer before its service: {answer:?}");
        }
    }

    /// The proxy's next message reaches the control plane.
    fn deliver_up(&mut self) {
        self.up.extend(std::iter::from_fn(|| self.proxy.poll_send()));
        match self.up.pop_front().and_then(|request| request.message) {
            Some(Message::Subscribe(subscribe)) => self.server.subscribe(&subscribe.targets).unwrap(),
            Some(Message::Unsubscribe(unsubscribe)) => self.server.unsubscribe(&unsubscribe.targets),
            Some(Message::Ack(ack)) => assert!(self.server.acknowledge(&ack)),
            other => assert_eq!(other, None),
        }
        self.attend();
    }

    /// The control plane looks whether there is something to say, after word of what concerns the stream and nothing else.
    fn push(&mut self, index: &Index) {
        let mut touched = std::mem::take(&mut self.unheard);
        let mut heard = Services::default();
        for (key, extent) in touched.services.iter() {
            if self.concerns.contains(&Concern::Service(key.clone())) {
                heard.insert(key.clone(), extent.clone());
            }
        }
        touched.services = heard;
        touched.addresses.retain(|address| self.concerns.contains(&Concern::Address(*address)));
        self.server.notice(&touched);
        self.down.extend(self.server.update(index).map(|push| read(&push.update)));
        self.attend();
    }

    fn attend(&mut self) {
        for (concern, wanted) in self.server.take_concerns() {
            if wanted {
                self.concerns.insert(concern)
            } else {
                self.concerns.remove(&concern)
            };
        }
    }

    /// The control plane's next message reaches the proxy.
    fn deliver_down(&mut self) {
        let Some(update) = self.down.pop_front() else { return };
        let message = DiscoveryResponse { message: Some(discovery_response::Message::Update(update)) };
        if let Some(step) = self.proxy.handle_response(message).unwrap() {
            self.apply(&step);
        }
        if self.proxy.poll_resync().is_some() {
            self.connect();
        }
    }

    /// The proxy is cut off between a message and having it in force, and begins again with what is in force.
    fn defect(&mut self) {
        if let Some(update) = self.down.pop_front() {
            let message = DiscoveryResponse { message: Some(discovery_response::Message::Update(update)) };
            drop(self.proxy.handle_response(message));
        }
        self.proxy.handle_defect(&self.snapshot);
        if let Some(step) = self.proxy.poll_step() {
            self.apply(&step);
        }
        self.connect();
    }

    fn settle(&mut self, index: &Index) {
        for _ in 0..ROUNDS_MAX {
            if self.proxy.poll_resync().is_some() {
                self.connect();
            }
            self.deliver_up();
            self.push(index);
            let quiet = self.up.is_empty() && self.down.is_empty() && self.server.unacknowledged().is_none();
            if quiet && self.proxy.poll_resync().is_none() {
                return;
            }
            self.deliver_down();
        }
        panic!("they never come to an end: {} streams", self.streams);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Service(u8, u8),
    NoService(u8),
    Instance(u8, u8, bool),
    NoInstance(u8),
    Want(bool, u8),
    Unwant(usize),
    Up,
    Push,
    Down,
    Settle,
    Reconnect,
    Defect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, 0..2_u8).prop_map(|(number, label)| Step::Service(number, label)),
        (0..3_u8).prop_map(Step::NoService),
        (0..3_u8, 0..2_u8, any::<bool>()).prop_map(|(number, label, ready)| Step::Instance(number, label, ready)),
        (0..3_u8).prop_map(Step::NoInstance),
        (any::<bool>(), 0..5_u8).prop_map(|(service, number)| Step::Want(service, number)),
        (0..6_usize).prop_map(Step::Unwant),
        Just(Step::Up),
        Just(Step::Up),
        Just(Step::Push),
        Just(Step::Push),
        Just(Step::Down),
        Just(Step::Down),
        Just(Step::Settle),
        Just(Step::Reconnect),
        Just(Step::Defect),
    ]
}

fn wanted(service: bool, number: u8) -> Want {
    if service {
        Want::Service(key(number % 3))
    } else {
        Want::Address(ADDRESSES[usize::from(number)].parse().unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_proxy_ends_up_knowing_what_a_fresh_one_would(
        steps in proptest::collection::vec(step(), 1..80),
        room in prop_oneof![1..4_usize, Just(RESOURCES_MAX)],
    ) {
        let mut index = index();
        let mut link = Link::new(&[], Room(room));
        for (number, step) in steps.into_iter().enumerate() {
            let revision = number as u64 + 10;
            match step {
                Step::Service(number, label) => put_service(&mut index, number, label, revision),
                Step::NoService(number) => index.remove_service(&key(number), revision),
                Step::Instance(number, label, ready) => put_instance(&mut index, number, label, ready, revision),
                Step::NoInstance(number) => index.remove_instance(&("n".to_owned(), format!("i{number}")), revision),
                Step::Want(service, number) => link.want(wanted(service, number)),
                Step::Unwant(at) if at < link.wants.len() => link.unwant(at),
                Step::Unwant(_) => {}
                Step::Up => link.deliver_up(),
                Step::Push => link.push(&index),
                Step::Down => link.deliver_down(),
                Step::Settle => link.settle(&index),
                Step::Reconnect => link.connect(),
                Step::Defect => link.defect(),
            }
            link.unheard.merge(index.take_touched());
        }
        link.settle(&index);
        let mut fresh = Link::new(&link.wants, link.room);
        fresh.settle(&index);
        prop_assert_eq!(&link.known, &fresh.known);
    }
}

#[test]
fn what_was_withdrawn_is_told_again_on_the_same_stream() {
    let mut index = index();
    put_service(&mut index, 0, 1, 10);
    put_instance(&mut index, 0, 1, true, 11);
    let mut link = Link::new(&[wanted(true, 0)], Room::default());
    link.settle(&index);
    link.unwant(0);
    // Its answer proves that the control plane has read the withdrawal.
    link.want(wanted(false, 4));
    link.settle(&index);
    let service = ResourceId::Service(key(0));
    assert!(!link.known.contains_key(&service));
    link.want(wanted(true, 0));
    link.settle(&index);
    assert!(link.known.contains_key(&service));
    assert_eq!(link.streams, 1);
}

/// The proxy keeps what an answer leads to that it does not know to be outdated.
#[test]
fn what_was_withdrawn_beside_an_outdated_answer_is_taken_back() {
    let mut index = index();
    put_service(&mut index, 0, 1, 10);
    let mut link = Link::new(&[wanted(false, 0), wanted(true, 0)], Room::default());
    link.settle(&index);
    index.remove_service(&key(0), 11);
    link.connect();
    link.unwant(1);
    link.want(wanted(true, 0));
    link.deliver_up();
    link.deliver_up();
    link.settle(&index);
    assert_eq!(link.known.keys().filter(|id| matches!(id, ResourceId::Service(_))).count(), 0, "{:?}", link.known);
}

/// Not even the control plane knows what the proxy has forgotten.
#[test]
fn what_an_answer_of_an_earlier_stream_led_to_is_told_again() {
    let mut index = index();
    put_service(&mut index, 0, 1, 10);
    let mut link = Link::new(&[wanted(false, 0)], Room::default());
    link.settle(&index);
    link.connect();
    link.unwant(0);
    link.want(wanted(false, 0));
    link.deliver_up();
    link.deliver_up();
    link.settle(&index);
    assert!(link.known.contains_key(&ResourceId::Service(key(0))), "{:?}", link.known);
}
