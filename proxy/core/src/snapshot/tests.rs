//! Goal: the same knowledge gives the same snapshot however it arrived, what did not change is the same pointer, and no
//! mesh address ever passes in the clear.

use proptest::prelude::*;

use super::*;
use crate::fault::FaultKind;
use crate::identity::spiffe::TrustDomain;
use crate::model::{AppProtocol, DecodedUpdate, EndpointPort, OutboundMode, Resource, ResourceId, Upsert, Verdict};
use crate::time::Moment;

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: name.into() }
}

fn nz(port: u16) -> std::num::NonZeroU16 {
    port.try_into().unwrap()
}

fn mesh(outbound_mode: OutboundMode) -> Resource {
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    Resource::Mesh(Mesh { trust_domain, ranges: vec!["10.0.0.0/8".parse().unwrap()], outbound_mode })
}

fn service(name: &str, vip: &str, ports: &[u16]) -> Resource {
    let port = |port: &u16| ServicePort { port: nz(*port), name: "".into(), protocol: AppProtocol::Detect };
    let ports = ports.iter().map(port).collect();
    Resource::Service(Service { key: key(name), ports, virtual_ips: vec![vip.parse().unwrap()] })
}

fn endpoint(service: &str, id: &str, address: &str, captured: bool) -> Resource {
    Resource::Endpoint(Endpoint {
        service: key(service),
        id: id.into(),
        address: address.parse().unwrap(),
        ports: vec![EndpointPort { service_port: nz(80), target_port: nz(8080), captured }],
        identity: Some(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()),
        weight: Weight::ONE,
        locality: "".into(),
    })
}

fn answer(address: &str, verdict: Verdict) -> Resource {
    Resource::Resolution(Resolution { address: address.parse().unwrap(), verdict })
}

fn found(service: &str, port: u16, endpoint: Option<&str>) -> Verdict {
    Verdict::Found { service: key(service), port: nz(port), endpoint: endpoint.map(Into::into) }
}

fn update(upserts: Vec<Resource>, removals: Vec<ResourceId>) -> DecodedUpdate {
    let upserts = upserts.into_iter().map(|resource| Upsert { version: 1, resource }).collect();
    DecodedUpdate { revision: 1, upserts, removals }
}

fn known() -> Vec<Resource> {
    vec![
        mesh(OutboundMode::Passthrough),
        service("cart", "10.0.0.1", &[80, 81]),
        endpoint("cart", "a", "10.1.0.1", true),
        endpoint("cart", "b", "192.0.2.2", false),
        answer("10.0.0.9:80", Verdict::Denied { reason: "policy".into() }),
        answer("10.0.0.8:80", Verdict::Unknown),
        answer("10.0.0.7:80", found("cart", 80, Some("gone"))),
        answer("10.0.0.6:80", found("other", 80, None)),
        answer("10.0.0.5:80", found("cart", 80, Some("b"))),
        answer("198.51.100.1:443", Verdict::Unknown),
        answer("198.51.100.2:443", Verdict::Denied { reason: "policy".into() }),
    ]
}

#[test]
fn original_destinations() {
    let open = apply(&Snapshot::empty(), update(known(), Vec::new()));
    let closed = apply(&open, update(vec![mesh(OutboundMode::RegistryOnly)], Vec::new()));
    let check = |snapshot: &Snapshot, address: &str, expected: &str| {
        let Decision { target, reason } = snapshot.explain_target(address.parse().unwrap());
        let target = match target {
            Target::Service { port, pinned } => {
                format!("{} {}", port.label, pinned.map_or_else(|| "balanced".into(), |to| to.id.to_string()))
            }
            Target::Passthrough => "pass".into(),
            Target::Refused(fault) => fault.code().into(),
            Target::Ask { mesh_range } => format!("ask {mesh_range}"),
        };
        assert_eq!(format!("{target}, {}", reason.code()), expected, "{address}");
    };
    for (address, expected) in [
        ("10.0.0.1:80", "shop/cart:80 balanced, virtual_ip"),
        ("[::ffff:10.0.0.1]:81", "shop/cart:81 balanced, virtual_ip"),
        ("10.0.0.1:82", "ask true, not_asked"),
        ("10.1.0.1:8080", "shop/cart:80 a, workload_address"),
        ("192.0.2.2:8080", "shop/cart:80 b, workload_address"),
        ("192.0.2.2:8081", "ask false, not_asked"),
        ("10.0.0.9:80", "destination_denied, denied"),
        ("10.0.0.8:80", "not_in_registry, unknown_in_mesh"),
        ("10.0.0.7:80", "no_endpoint, endpoint_gone"),
        ("10.0.0.6:80", "ask true, service_pending"),
        ("10.0.0.5:80", "shop/cart:80 b, workload_address"),
        ("198.51.100.1:443", "pass, unknown"),
        ("198.51.100.2:443", "destination_denied, denied"),
    ] {
        check(&open, address, expected);
    }
    check(&closed, "198.51.100.1:443", "not_in_registry, registry_only");
    check(&Snapshot::empty(), "198.51.100.1:443", "ask true, not_asked");
    check(&open.clone().into_complete(), "198.51.100.9:1", "pass, unknown");
    check(&open.clone().into_complete(), "10.9.9.9:1", "not_in_registry, unknown_in_mesh");

    assert!(matches!(open.unanswered(true), Target::Refused(FaultKind::DestinationUnknown)));
    assert!(matches!(open.unanswered(false), Target::Passthrough));
    assert!(matches!(closed.unanswered(false), Target::Refused(FaultKind::NotInRegistry)));
}

#[test]
fn mutual_tls_needs_identity_and_capture() {
    let snapshot = apply(&Snapshot::empty(), update(known(), Vec::new()));
    let port = snapshot.service(&key("cart")).unwrap().port(80).unwrap();
    let tls: Vec<bool> = port.endpoints.iter().map(|endpoint| endpoint.mesh_tls).collect();
    assert_eq!(tls, [true, false]);
}

#[test]
fn unchanged_parts_are_the_same_pointers_and_health_survives() {
    let old = apply(&Snapshot::empty(), update(known(), Vec::new()));
    let same = apply(&old, update(known(), Vec::new()));
    assert!(Arc::ptr_eq(old.service(&key("cart")).unwrap(), same.service(&key("cart")).unwrap()));
    assert!(old.endpoints().zip(same.endpoints()).all(|(old, new)| Arc::ptr_eq(old, new)));
    assert!(old.resolutions.iter().all(|(address, answer)| Arc::ptr_eq(answer, &same.resolutions[address])));

    let port = |snapshot: &Snapshot, port| Arc::clone(snapshot.service(&key("cart")).unwrap().port(port).unwrap());
    let at = |snapshot: &Snapshot, index| Arc::clone(port(snapshot, 80).endpoints.get(index).unwrap());
    port(&old, 80).usage.touch(Moment::from_nanos(5_000_000_000));
    let new = apply(&old, update(vec![endpoint("cart", "a", "10.1.0.7", true)], Vec::new()));
    assert!(Arc::ptr_eq(&port(&old, 81), &port(&new, 81)), "the other port");
    assert!(!Arc::ptr_eq(&port(&old, 80), &port(&new, 80)));
    assert!(Arc::ptr_eq(&at(&old, 1), &at(&new, 1)), "the other endpoint");
    assert!(Arc::ptr_eq(&at(&old, 0).health, &at(&new, 0).health));
    assert_eq!(port(&new, 80).usage.last(), Some(Moment::from_nanos(5_000_000_000)));
    assert_eq!(new.last_use("10.0.0.1:80".parse().unwrap()), Some(Moment::from_nanos(5_000_000_000)));
}

#[test]
fn endpoints_wait_for_their_service() {
    let early = apply(&Snapshot::empty(), update(vec![endpoint("cart", "a", "10.1.0.1", true)], Vec::new()));
    assert!(early.is_ready() && early.service(&key("cart")).is_none() && early.pending_endpoints().count() == 1);
    let whole = apply(&early, update(vec![service("cart", "10.0.0.1", &[80])], Vec::new()));
    assert_eq!(whole.service(&key("cart")).unwrap().ports[0].endpoints.len(), 1);
    assert_eq!(whole.pending_endpoints().count(), 0);
}

/// Everything that decisions can see, as text.
fn view(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = vec![format!("{:?}", snapshot.mesh())];
    for entry in snapshot.services() {
        lines.push(format!("{:?}", entry.service));
        for port in &entry.ports {
            for to in port.endpoints.iter() {
                lines.push(format!("{} {} {} {} {:?}", port.label, to.id, to.address, to.mesh_tls, to.weight));
            }
        }
    }
    lines.extend(snapshot.resolutions().map(|answer| format!("{answer:?}")));
    lines.extend(snapshot.pending_endpoints().map(|endpoint| format!("{endpoint:?}")));
    for last in 0..6 {
        for address in [format!("10.0.0.{last}:80"), format!("10.1.0.{last}:8080"), format!("10.0.0.{last}:81")] {
            let Decision { target, reason } = snapshot.explain_target(address.parse().unwrap());
            let to = match target {
                Target::Service { port, pinned } => format!("{} {:?}", port.label, pinned.map(|to| Arc::clone(&to.id))),
                other @ (Target::Passthrough | Target::Refused(_) | Target::Ask { .. }) => format!("{other:?}"),
            };
            lines.push(format!("{address} {to} {reason:?}"));
        }
    }
    lines.sort();
    lines
}

fn resource() -> impl Strategy<Value = Resource> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let mode = prop::sample::select(vec![OutboundMode::Passthrough, OutboundMode::RegistryOnly]);
    prop_oneof![
        mode.prop_map(mesh),
        (name.clone(), 0..4, prop::sample::subsequence(vec![80, 81], 1..=2)).prop_map(|(name, vip, ports)| service(
            name,
            &format!("10.0.0.{vip}"),
            &ports
        )),
        (name.clone(), 0_u8..3, 0_u8..4, any::<bool>()).prop_map(|(name, id, ip, captured)| endpoint(
            name,
            &id.to_string(),
            &format!("10.1.0.{ip}"),
            captured
        )),
        (name, 0..6, 0..4).prop_map(|(name, ip, kind)| {
            let verdict = match kind {
                0 => Verdict::Unknown,
                1 => Verdict::Denied { reason: "no".into() },
                2 => found(name, 80, None),
                _ => found(name, 80, Some("1")),
            };
            answer(&format!("10.0.0.{ip}:80"), verdict)
        }),
    ]
}

/// Resources with different names, so that their order must not matter.
fn distinct(resources: Vec<Resource>) -> Vec<Resource> {
    let mut seen = std::collections::HashSet::new();
    resources.into_iter().filter(|resource| seen.insert(resource.id())).collect()
}

proptest! {
    #[test]
    fn order_and_distribution_leave_no_trace(
        resources in prop::collection::vec(resource(), 0..16).prop_map(distinct),
        shuffled in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<bool>(), 16),
    ) {
        let whole = apply(&Snapshot::empty(), update(resources.clone(), Vec::new()));
        let mut other = resources;
        if !other.is_empty() {
            let by = shuffled.index(other.len());
            other.rotate_left(by);
            other.reverse();
        }
        let mut parts = apply(&Snapshot::empty(), update(Vec::new(), Vec::new()));
        let mut part = Vec::new();
        for (resource, cut) in other.into_iter().zip(cuts) {
            part.push(resource);
            if cut {
                parts = apply(&parts, update(std::mem::take(&mut part), Vec::new()));
            }
        }
        parts = apply(&parts, update(part, Vec::new()));
        prop_assert_eq!(view(&whole), view(&parts));
    }

    #[test]
    fn difference_leads_from_one_to_the_other(
        a in prop::collection::vec(resource(), 0..16).prop_map(distinct),
        b in prop::collection::vec(resource(), 0..16).prop_map(distinct),
    ) {
        let from = apply(&Snapshot::empty(), update(a.clone(), Vec::new()));
        let to = apply(&Snapshot::empty(), update(b.clone(), Vec::new()));
        let removals = a.iter().map(Resource::id).filter(|id| b.iter().all(|kept| kept.id() != *id)).collect();
        let upserts = b.into_iter().filter(|resource| !a.contains(resource)).collect();
        prop_assert_eq!(view(&apply(&from, update(upserts, removals))), view(&to));
    }

    #[test]
    fn removal_of_all_leaves_nothing(resources in prop::collection::vec(resource(), 0..16)) {
        let full = apply(&Snapshot::empty(), update(resources.clone(), Vec::new()));
        let empty = apply(&full, update(Vec::new(), resources.iter().map(Resource::id).collect()));
        prop_assert!(empty.index.is_empty() && empty.services.is_empty() && empty.mesh().is_none());
        prop_assert!(empty.endpoints.is_empty() && empty.resolutions.is_empty());
    }

    #[test]
    fn no_mesh_address_passes_in_the_clear(
        updates in prop::collection::vec((prop::collection::vec(resource(), 0..4), prop::collection::vec(resource(), 0..2)), 0..12),
        ip in 0_u8..8, port in prop::sample::select(vec![80_u16, 81, 8080]),
    ) {
        let mut snapshot = Snapshot::empty();
        for (upserts, removals) in updates {
            snapshot = apply(&snapshot, update(upserts, removals.iter().map(Resource::id).collect()));
            let target = snapshot.outbound_target(SocketAddr::from(([10, 0, 0, ip], port)));
            prop_assert!(!matches!(target, Target::Passthrough | Target::Ask { mesh_range: false }), "{:?}", target);
        }
    }
}
