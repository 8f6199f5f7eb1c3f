//! Differences too large for one update.

use std::collections::BTreeSet;

use super::*;
use crate::push::parcel::RESOURCES_MAX;
use crate::push::subscription::{TARGETS_MAX, TooMany};
use crate::registry::{Extent, Touched};

const SERVICES: u32 = 40;
const ADDRESSES_PER_SERVICE: u32 = 250;

fn big_key(service: u32) -> ServiceKey {
    ServiceKey { namespace: "n".into(), name: format!("big{service}").as_str().into() }
}

fn wide(service: u32, at: u32) -> SocketAddr {
    let [_, _, high, low] = (service * ADDRESSES_PER_SERVICE + at).to_be_bytes();
    format!("10.{}.{high}.{low}:8080", 1 + u8::from(service >= SERVICES)).parse().unwrap()
}

/// Each service with many endpoints at its own addresses.
fn put_big(index: &mut Index, service: u32, revision: u64) {
    let addresses = (0..ADDRESSES_PER_SERVICE).map(|at| wide(service, at).ip().to_string()).collect::<Vec<_>>();
    let spec =
        serde_json::json!({"selector": {"app": format!("big{service}")}, "ports": [{"port": 80, "targetPort": 8080}]});
    index.put_service(
        &big_key(service),
        service::read(&Stored { spec, ..Stored::default() }).unwrap(),
        vec![],
        revision,
    );
    for (at, address) in addresses.iter().enumerate() {
        let instance = Instance {
            namespace: "n".to_owned(),
            id: format!("big{service}-{at}"),
            service_account: "sa".to_owned(),
            addresses: vec![address.parse().unwrap()],
            ports: vec![Port { port: 8080, name: String::new(), app_protocol: String::new(), captured: true }],
            labels: [("app".to_owned(), format!("big{service}"))].into(),
            locality: String::new(),
            ready: true,
        };
        index.put_instance(instance, revision);
    }
}

fn target_at(address: SocketAddr) -> Target {
    let wire = SocketAddress { ip: address.ip().to_string(), port: address.port().into() };
    Target { target: Some(target::Target::Address(wire)) }
}

/// Sends until nothing is left; in each update every answer's service must be known, and removals must be last.
fn drain(subscription: &mut Subscription, index: &Index, services: &mut BTreeSet<String>) -> Vec<Update> {
    let mut updates = Vec::new();
    while let Some(push) = subscription.update(index) {
        let update = read(&push.update);
        assert!(subscription.update(index).is_none(), "one update is unacknowledged at a time");
        assert!(!subscription.acknowledge(&ack(update.nonce + 7)));
        assert!(subscription.acknowledge(&ack(update.nonce)));
        let unit = usize::try_from(ADDRESSES_PER_SERVICE).unwrap() * 2 + 1;
        assert!(update.upserts.len() + update.removals.len() < RESOURCES_MAX + unit);
        for upsert in &update.upserts {
            if let Some(resource::Body::Service(service)) = &upsert.body {
                services.insert(service.name.clone());
            }
        }
        for upsert in &update.upserts {
            if let Some(resource::Body::Resolution(answer)) = &upsert.body {
                let led = answer.verdict() != resolution::Verdict::Found || services.contains(&answer.service);
                assert!(led, "an answer came before its service: {answer:?}");
            }
        }
        updates.push(update);
    }
    updates
}

fn upserts(updates: &[Update], kind: ResourceKind) -> usize {
    let upserts = updates.iter().flat_map(|update| &update.upserts);
    upserts.filter(|upsert| upsert.name.as_ref().unwrap().kind() == kind).count()
}

#[test]
fn ten_thousand_addresses_are_answered_in_several_updates() {
    let mut index = index();
    (0..SERVICES).for_each(|service| put_big(&mut index, service, 10));
    let every =
        (0..SERVICES).flat_map(|service| (0..ADDRESSES_PER_SERVICE).map(move |at| target_at(wide(service, at))));
    let targets: Vec<Target> = every.collect();
    assert_eq!(targets.len(), 10_000);
    let mut subscription = Subscription::begin(&Hello { targets: targets.clone(), ..Hello::default() }).unwrap();
    let mut services = BTreeSet::new();
    let updates = drain(&mut subscription, &index, &mut services);
    assert!(updates.len() > 4, "{} updates", updates.len());
    assert_eq!(upserts(&updates, ResourceKind::Resolution), 10_000);
    assert_eq!(upserts(&updates, ResourceKind::Endpoint), 10_000);
    assert_eq!(upserts(&updates, ResourceKind::Service), 40);

    // Asked again, each is answered again; what they lead to is held.
    subscription.subscribe(&targets).unwrap();
    let updates = drain(&mut subscription, &index, &mut services);
    assert_eq!((upserts(&updates, ResourceKind::Resolution), upserts(&updates, ResourceKind::Endpoint)), (10_000, 0));
}

#[test]
fn what_is_gone_is_taken_back_when_all_that_is_there_was_told() {
    let mut index = index();
    (0..SERVICES).for_each(|service| put_big(&mut index, service, 10));
    let service = |service| Target {
        target: Some(target::Target::Service(WireKey { namespace: "n".into(), name: format!("big{service}") })),
    };
    let targets = (0..2 * SERVICES).map(service).collect();
    let mut subscription = Subscription::begin(&Hello { targets, ..Hello::default() }).unwrap();
    drain(&mut subscription, &index, &mut BTreeSet::new());
    for service in 0..SERVICES {
        index.remove_service(&big_key(service), 20);
        put_big(&mut index, SERVICES + service, 20);
    }
    subscription.notice(&index.take_touched());
    let updates = drain(&mut subscription, &index, &mut BTreeSet::new());
    let last_upsert = updates.iter().rposition(|update| !update.upserts.is_empty()).unwrap();
    let first_removal = updates.iter().position(|update| !update.removals.is_empty()).unwrap();
    assert!(last_upsert >= 2 && first_removal >= last_upsert, "{last_upsert} {first_removal}");
    let removed: usize = updates.iter().map(|update| update.removals.len()).sum();
    assert_eq!(removed, upserts(&updates, ResourceKind::Endpoint) + upserts(&updates, ResourceKind::Service));
}

#[test]
fn only_new_targets_count_against_the_bound() {
    let address = |number: usize| {
        let [_, .., a, b, c] = number.to_be_bytes();
        target_at(format!("10.{a}.{b}.{c}:80").parse().unwrap())
    };
    let mut subscription = Subscription::default();
    let full: Vec<Target> = (0..TARGETS_MAX).map(address).collect();
    assert_eq!(subscription.subscribe(&full), Ok(()));
    assert_eq!(subscription.subscribe(&full), Ok(()), "nothing new in it");
    assert_eq!(subscription.subscribe(&[address(TARGETS_MAX)]), Err(TooMany));
    subscription.unsubscribe(&full[..1]);
    assert_eq!(subscription.subscribe(&[address(TARGETS_MAX)]), Ok(()));
}

#[test]
fn a_change_is_told_alone() {
    let mut index = index();
    (0..4).for_each(|service| put_big(&mut index, service, 10));
    let mut subscription = Subscription::begin(&Hello {
        targets: (0..3).map(|service| target_at(wide(service, 0))).collect(),
        ..Hello::default()
    })
    .unwrap();
    drain(&mut subscription, &index, &mut BTreeSet::new());
    index.take_touched();
    index.remove_instance(&("n".to_owned(), "big1-7".to_owned()), 11);
    let touched = index.take_touched();
    let only = Extent::Endpoints(["big1-7".to_owned()].into());
    assert_eq!(touched.services.iter().collect::<Vec<_>>(), [(&big_key(1), &only)]);
    subscription.notice(&touched);
    let [update] = drain(&mut subscription, &index, &mut BTreeSet::new()).try_into().unwrap();
    assert_eq!((update.upserts.len(), update.removals.len()), (0, 1));
    subscription.notice(&Touched::all());
    assert_eq!(drain(&mut subscription, &index, &mut BTreeSet::new()), [], "nothing is new");
}
