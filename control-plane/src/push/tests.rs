//! One proxy against one index: whatever happens in whatever order, the proxy ends up knowing what a fresh one would.

use std::collections::HashMap;
use std::net::SocketAddr;

use proptest::prelude::*;
use weft_core::identity::spiffe::TrustDomain;
use weft_core::model::ServiceKey;
use weft_proto::v1::{
    Ack, Held, Hello, OutboundMode, Resource, ResourceKind, ResourceName, ServiceKey as WireKey, SocketAddress, Target,
    Update, resolution, resource, target,
};

use super::subscription::Subscription;
use crate::registry::instance::{Instance, Port};
use crate::registry::{Index, Settings};
use crate::resource::{Stored, service};

const ADDRESSES: [&str; 5] = ["240.0.0.1:80", "240.0.0.9:80", "10.0.0.1:8080", "10.0.0.2:9999", "8.8.8.8:53"];

fn index() -> Index {
    let range = |text: &str| text.parse().unwrap();
    let settings = Settings {
        trust_domain: TrustDomain::new("a").unwrap(),
        virtual_ranges: vec![range("240.0.0.0/24")],
        ranges: vec![range("240.0.0.0/24"), range("10.0.0.0/24")],
        outbound_mode: OutboundMode::Passthrough,
    };
    Index::new(settings, 1)
}

fn key(number: u8) -> ServiceKey {
    ServiceKey { namespace: "n".into(), name: format!("s{number}").as_str().into() }
}

fn put_service(index: &mut Index, number: u8, label: u8, revision: u64) {
    let spec = serde_json::json!({"selector": {"app": label.to_string()}, "ports": [{"port": 80, "targetPort": 8080}]});
    let stored = Stored { spec, ..Stored::default() };
    let address = format!("240.0.0.{}", number + 1).parse().unwrap();
    index.put_service(&key(number), service::read(&stored).unwrap(), vec![address], revision);
}

fn put_instance(index: &mut Index, number: u8, label: u8, ready: bool, revision: u64) {
    let port = Port { port: 8080, name: String::new(), app_protocol: String::new(), captured: true };
    let instance = Instance {
        namespace: "n".to_owned(),
        id: format!("i{number}"),
        service_account: "sa".to_owned(),
        addresses: vec![format!("10.0.0.{}", number + 1).parse().unwrap()],
        ports: vec![port],
        labels: [("app".to_owned(), label.to_string())].into(),
        locality: String::new(),
        ready,
    };
    index.put_instance(instance, revision);
}

fn service_target(number: u8) -> Target {
    let key = key(number);
    let wire = WireKey { namespace: key.namespace.to_string(), name: key.name.to_string() };
    Target { target: Some(target::Target::Service(wire)) }
}

fn address_target(number: u8) -> Target {
    let address: SocketAddr = ADDRESSES[usize::from(number) % ADDRESSES.len()].parse().unwrap();
    let wire = SocketAddress { ip: address.ip().to_string(), port: address.port().into() };
    Target { target: Some(target::Target::Address(wire)) }
}

/// What a proxy holds, and whether it was told by the rules.
#[derive(Debug, Default)]
struct Proxy {
    held: HashMap<(i32, String), Resource>,
    targets: Vec<Target>,
}

impl Proxy {
    fn hello(&self) -> Hello {
        let name = |(kind, name): &(i32, String)| ResourceName { kind: *kind, name: name.clone() };
        let held = self.held.iter().map(|(key, resource)| Held { name: Some(name(key)), version: resource.version });
        Hello { protocol_version: 1, held: held.collect(), targets: self.targets.clone(), ..Hello::default() }
    }

    fn apply(&mut self, update: &Update) {
        for name in &update.removals {
            assert!(
                self.held.remove(&(name.kind, name.name.clone())).is_some(),
                "removal of what is not held: {name:?}"
            );
        }
        for resource in &update.upserts {
            let name = resource.name.clone().unwrap();
            if let Some(held) = self.held.insert((name.kind, name.name.clone()), resource.clone()) {
                assert!(resource.version > held.version, "versions only grow: {held:?} then {resource:?}");
            }
        }
    }

    fn settle(&mut self, subscription: &mut Subscription, index: &Index) {
        while let Some(update) = subscription.update(index) {
            self.apply(&update);
            assert!(subscription.update(index).is_none(), "one update is unacknowledged at a time");
            assert!(!subscription.acknowledge(&Ack { nonce: update.nonce + 7, rejections: Vec::new() }));
            assert!(subscription.acknowledge(&Ack { nonce: update.nonce, rejections: Vec::new() }));
        }
    }

    /// What it says, whatever the versions.
    fn knowledge(&self) -> HashMap<(i32, String), resource::Body> {
        self.held.iter().map(|(name, resource)| (name.clone(), resource.body.clone().unwrap())).collect()
    }

    fn fresh(targets: &[Target], index: &Index) -> Self {
        let mut proxy = Self { targets: targets.to_vec(), ..Self::default() };
        let mut subscription = Subscription::begin(&proxy.hello()).unwrap();
        proxy.settle(&mut subscription, index);
        proxy
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
    Settle,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, 0..2_u8).prop_map(|(number, label)| Step::Service(number, label)),
        (0..3_u8).prop_map(Step::NoService),
        (0..3_u8, 0..2_u8, any::<bool>()).prop_map(|(number, label, ready)| Step::Instance(number, label, ready)),
        (0..3_u8).prop_map(Step::NoInstance),
        (any::<bool>(), 0..5_u8).prop_map(|(service, number)| Step::Want(service, number)),
        (0..6_usize).prop_map(Step::Unwant),
        Just(Step::Settle),
        Just(Step::Reconnect),
    ]
}

proptest! {
    #[test]
    fn a_proxy_ends_up_knowing_what_a_fresh_one_would(steps in proptest::collection::vec(step(), 1..60)) {
        let mut index = index();
        let mut proxy = Proxy::default();
        let mut subscription = Subscription::begin(&proxy.hello()).unwrap();
        for (number, step) in steps.into_iter().enumerate() {
            let revision = number as u64 + 10;
            match step {
                Step::Service(number, label) => put_service(&mut index, number, label, revision),
                Step::NoService(number) => index.remove_service(&key(number), revision),
                Step::Instance(number, label, ready) => put_instance(&mut index, number, label, ready, revision),
                Step::NoInstance(number) => index.remove_instance(&("n".to_owned(), format!("i{number}")), revision),
                Step::Want(service, number) => {
                    let target = if service { service_target(number % 3) } else { address_target(number) };
                    subscription.subscribe(std::slice::from_ref(&target)).unwrap();
                    proxy.targets.retain(|held| *held != target);
                    proxy.targets.push(target);
                }
                Step::Unwant(at) if at < proxy.targets.len() => {
                    proxy.settle(&mut subscription, &index);
                    let target = proxy.targets.remove(at);
                    subscription.unsubscribe(&[target], &index);
                    let kept = Proxy::fresh(&proxy.targets, &index);
                    proxy.held.retain(|name, _| kept.held.contains_key(name));
                }
                Step::Unwant(_) => {}
                Step::Settle => proxy.settle(&mut subscription, &index),
                Step::Reconnect => subscription = Subscription::begin(&proxy.hello()).unwrap(),
            }
        }
        proxy.settle(&mut subscription, &index);
        prop_assert_eq!(proxy.knowledge(), Proxy::fresh(&proxy.targets, &index).knowledge());
    }
}

fn verdict(index: &Index, address: &str) -> (resolution::Verdict, String, String) {
    let (answer, _) = index.resolve(address.parse().unwrap());
    let Some(resource::Body::Resolution(answer)) = answer.body else { panic!("{answer:?}") };
    (answer.verdict(), answer.service, answer.endpoint_id)
}

#[test]
fn destinations_are_answered() {
    use resolution::Verdict::{Denied, Found, Unknown};
    let mut index = index();
    put_service(&mut index, 0, 1, 10);
    put_instance(&mut index, 0, 1, true, 11);
    let check = |index: &Index, address: &str, expected: resolution::Verdict, service: &str, endpoint: &str| {
        assert_eq!(verdict(index, address), (expected, service.to_owned(), endpoint.to_owned()), "{address}");
    };
    check(&index, "240.0.0.1:80", Found, "s0", "");
    check(&index, "240.0.0.1:81", Denied, "", "");
    check(&index, "240.0.0.200:80", Denied, "", "");
    check(&index, "10.0.0.1:8080", Found, "s0", "i0");
    check(&index, "10.0.0.1:22", Denied, "", "");
    check(&index, "10.0.0.77:8080", Denied, "", "");
    check(&index, "8.8.8.8:53", Unknown, "", "");
    check(&index, "[::ffff:240.0.0.1]:80", Found, "s0", "");
    put_instance(&mut index, 0, 1, false, 12);
    check(&index, "10.0.0.1:8080", Denied, "", "");
    put_instance(&mut index, 0, 0, true, 13);
    check(&index, "10.0.0.1:8080", Denied, "", "");
}

#[test]
fn a_dns_answer_serves_only_the_name_it_was_for() {
    let mut index = index();
    let put = |index: &mut Index, name: &str, revision: u64| {
        let spec = serde_json::json!({"type": "ExternalName", "externalName": name, "ports": [{"port": 80}]});
        let stored = Stored { spec, ..Stored::default() };
        index.put_service(&key(0), service::read(&stored).unwrap(), Vec::new(), revision);
    };
    let endpoints = |index: &Index| index.service_resources(&key(0)).count() - 1;
    // As at a start: the stored answer may come before or after its service.
    index.put_resolved(&key(0), "db.example".to_owned(), vec!["192.0.2.1".parse().unwrap()]);
    put(&mut index, "db.example", 10);
    assert_eq!(endpoints(&index), 1);
    put(&mut index, "other.example", 11);
    assert_eq!(endpoints(&index), 0, "the old name's address must not serve the new one");
    index.put_resolved(&key(0), "other.example".to_owned(), vec!["192.0.2.2".parse().unwrap(), "::2".parse().unwrap()]);
    assert_eq!(endpoints(&index), 2);
}

#[test]
fn the_first_update_comes_even_if_there_is_nothing() {
    let mut subscription = Subscription::begin(&Hello { protocol_version: 1, ..Hello::default() }).unwrap();
    let update = subscription.update(&index()).unwrap();
    let kinds: Vec<_> = update.upserts.iter().map(|resource| resource.name.as_ref().unwrap().kind()).collect();
    assert_eq!((kinds, update.removals.len()), (vec![ResourceKind::Mesh], 0));
}
