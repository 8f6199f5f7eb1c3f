//! The machine against indexes: alone, and with a real proxy's machine at the other end.

mod agreement;
mod large;

use std::net::SocketAddr;

use prost::Message as _;
use weft_core::identity::spiffe::TrustDomain;
use weft_core::model::ServiceKey;
use weft_proto::v1::{
    Ack, DiscoveryResponse, Hello, OutboundMode, ResourceKind, ServiceKey as WireKey, SocketAddress, Target, Update,
    discovery_response, resolution, resource, target,
};

use super::subscription::Subscription;
use super::wire;
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

/// A message as a proxy reads it.
fn read(update: &wire::Update) -> Update {
    let response = wire::Response { update: Some(update.clone()), ..wire::Response::default() };
    let response = DiscoveryResponse::decode(response.encode_to_vec().as_slice()).unwrap();
    let Some(discovery_response::Message::Update(update)) = response.message else { panic!("{response:?}") };
    update
}

fn ack(nonce: u64) -> Ack {
    Ack { nonce, rejections: Vec::new() }
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
    let update = read(&subscription.update(&index()).unwrap().update);
    let kinds: Vec<_> = update.upserts.iter().map(|resource| resource.name.as_ref().unwrap().kind()).collect();
    assert_eq!((kinds, update.removals.len()), (vec![ResourceKind::Mesh], 0));
}
