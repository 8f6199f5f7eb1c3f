//! Goal: what is sound is taken, every fault of what is not is named with its path, and nothing panics.

use proptest::prelude::*;
use weft_proto::v1;

use super::*;
use crate::model::ResourceId;

fn check<T: std::fmt::Debug>(decoded: Result<T, Problems>, fields: &[&str]) {
    let found: Vec<String> = match &decoded {
        Ok(_) => Vec::new(),
        Err(problems) => problems.list().iter().map(|problem| problem.field.clone()).collect(),
    };
    assert_eq!(found, fields, "{decoded:?}");
}

fn cart() -> v1::Service {
    v1::Service {
        namespace: "shop".into(),
        name: "cart".into(),
        ports: vec![
            v1::ServicePort { port: 80, name: "web".into(), app_protocol: "http".into() },
            v1::ServicePort { port: 6379, name: String::new(), app_protocol: "tcp".into() },
        ],
        virtual_ips: vec!["10.0.0.1".into(), "fd00::1".into()],
    }
}

fn cart_1() -> v1::Endpoint {
    v1::Endpoint {
        namespace: "shop".into(),
        service: "cart".into(),
        id: "cart-1".into(),
        address: "::ffff:192.0.2.1".into(),
        ports: vec![v1::EndpointPort { service_port: 80, target_port: 8080, captured: true }],
        spiffe_id: "spiffe://cluster.local/ns/shop/sa/cart".into(),
        weight: 0,
        locality: "eu/a".into(),
    }
}

#[test]
fn services() {
    check(service(&cart()), &[]);
    check(service(&v1::Service::default()), &["namespace", "name", "ports"]);
    let mut bad = cart();
    bad.namespace = "Shop".into();
    bad.ports[1].port = 70_000;
    bad.ports.push(v1::ServicePort { port: 80, name: "web".into(), app_protocol: "http".into() });
    bad.ports.push(v1::ServicePort { port: 1, name: "x".repeat(300), app_protocol: "mysql".into() });
    bad.virtual_ips = vec!["10.0.0.256".into(), "0.0.0.0".into(), "10.0.0.1".into()];
    check(
        service(&bad),
        &[
            "namespace",
            "ports[1].port",
            "ports[2].port",
            "ports[2].name",
            "ports[3].name",
            "ports[3].appProtocol",
            "virtualIps[0]",
            "virtualIps[1]",
        ],
    );
    let mut many = cart();
    many.ports = (1..=300).map(|port| v1::ServicePort { port, ..Default::default() }).collect();
    check(service(&many), &["ports"]);
}

#[test]
fn endpoints() {
    let decoded = endpoint(&cart_1()).unwrap();
    assert_eq!(decoded.address, "192.0.2.1".parse::<IpAddr>().unwrap(), "one spelling of an address");
    assert_eq!(decoded.weight, Weight::ONE);
    let bad = v1::Endpoint {
        id: String::new(),
        address: "host".into(),
        ports: vec![
            v1::EndpointPort::default(),
            v1::EndpointPort { service_port: 80, target_port: 65_536, captured: false },
        ],
        spiffe_id: "spiffe://cluster.local".into(),
        weight: 1_000_001,
        locality: "a\nb".into(),
        ..cart_1()
    };
    check(
        endpoint(&bad),
        &[
            "id",
            "address",
            "ports[0].servicePort",
            "ports[0].targetPort",
            "ports[1].targetPort",
            "spiffeId",
            "weight",
            "locality",
        ],
    );
}

#[test]
fn meshes_and_resolutions() {
    let good = v1::Mesh { trust_domain: "cluster.local".into(), ranges: vec!["10.0.0.7/8".into()], outbound_mode: 2 };
    assert_eq!(mesh(&good).unwrap().ranges, ["10.0.0.0/8".parse().unwrap()]);
    let bad = v1::Mesh { trust_domain: String::new(), ranges: vec!["10.0.0.0".into()], outbound_mode: 9 };
    check(mesh(&bad), &["trustDomain", "ranges[0]", "outboundMode"]);
    let found = v1::Resolution { address: "10.0.0.1".into(), port: 80, verdict: 1, ..Default::default() };
    check(resolution(&found), &["namespace", "service", "servicePort"]);
    check(resolution(&v1::Resolution { verdict: 3, ..found.clone() }), &[]);
    check(resolution(&v1::Resolution { verdict: 0, ..found }), &["verdict"]);
}

#[test]
fn listeners() {
    let to = v1::ServiceRef { namespace: "shop".into(), name: "cart".into(), port: 80 };
    let good = v1::Listener {
        name: "web".into(),
        address: "127.0.0.1:0".into(),
        role: Some(v1::listener::Role::ReverseProxy(to.clone())),
    };
    check(listener(&good), &[]);
    let bad_ref = v1::ServiceRef { port: 0, name: String::new(), ..to };
    let role = Some(v1::listener::Role::Outbound(bad_ref));
    check(listener(&v1::Listener { role, ..good.clone() }), &["outbound.name", "outbound.port"]);
    let target = v1::InboundTarget { address: "127.0.0.1:0".into(), app_protocol: "?".into(), mode: 7 };
    let role = Some(v1::listener::Role::Inbound(target));
    check(
        listener(&v1::Listener { role, ..good.clone() }),
        &["inbound.address", "inbound.appProtocol", "inbound.mode"],
    );
    let none = v1::Listener { name: String::new(), address: "8080".into(), role: None };
    check(listener(&none), &["name", "address", ""]);
}

/// A bad resource is refused alone, a foreign kind is ignored, and a name must name its content.
#[test]
fn updates() {
    let named = |id: &ResourceId, body| v1::Resource { name: Some(name_of(id)), version: 7, body: Some(body) };
    let key = ServiceKey { namespace: "shop".into(), name: "cart".into() };
    let good = named(&ResourceId::Service(key.clone()), v1::resource::Body::Service(cart()));
    let bad = named(
        &ResourceId::Service(ServiceKey { name: "other".into(), ..key.clone() }),
        v1::resource::Body::Service(cart()),
    );
    let foreign = v1::Resource { name: Some(v1::ResourceName { kind: 99, name: "x".into() }), version: 1, body: None };
    let empty = v1::Resource { name: Some(name_of(&ResourceId::Mesh)), version: 1, body: None };
    let gone = ResourceId::Endpoint(key, "a/b".into());
    let message = v1::Update {
        nonce: 1,
        revision: 9,
        upserts: vec![good, bad, foreign, empty],
        removals: vec![name_of(&gone), v1::ResourceName { kind: 2, name: "nonsense".into() }],
        bundle: None,
    };
    let decoded = update(&message);
    assert_eq!(decoded.update.revision, 9);
    assert_eq!(decoded.update.upserts.len(), 1);
    assert_eq!(decoded.update.removals, [gone]);
    let fields: Vec<String> = decoded.refusals.iter().map(|refusal| refusal.to_message().field).collect();
    assert_eq!(fields, ["name", "body"]);
}

proptest! {
    #[test]
    fn nothing_panics(a in ".{0,80}", b in ".{0,80}", n in any::<u32>(), v in any::<i32>(), flag in any::<bool>()) {
        let port = v1::ServicePort { port: n, name: a.clone(), app_protocol: b.clone() };
        let message = v1::Service { namespace: a.clone(), name: b.clone(), ports: vec![port], virtual_ips: vec![a.clone()] };
        prop_assert!(service(&message).is_err() || !message.namespace.is_empty());
        let ports = vec![v1::EndpointPort { service_port: n, target_port: n, captured: flag }];
        let message = v1::Endpoint { namespace: a.clone(), service: b.clone(), id: a.clone(), address: b.clone(), ports,
            spiffe_id: a.clone(), weight: n, locality: b.clone() };
        prop_assert!(endpoint(&message).is_err() || n <= 65_535);
        let name = v1::ResourceName { kind: v, name: a.clone() };
        let upsert = v1::Resource { name: Some(name.clone()), version: 1, body: Some(v1::resource::Body::Endpoint(message)) };
        let decoded = update(&v1::Update { upserts: vec![upsert], removals: vec![name], ..Default::default() });
        prop_assert_eq!(decoded.refusals.len() + decoded.update.upserts.len(), 1);
    }
}
