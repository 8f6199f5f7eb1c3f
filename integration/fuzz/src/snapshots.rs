//! A sequence of updates: the snapshot depends on what is held, not on how it came.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use weft_core::model::decode;
use weft_core::model::{DecodedUpdate, Resource, ResourceId, Upsert};
use weft_core::snapshot::{Snapshot, apply};
use weft_proto::v1;
use weft_proto::v1::resource::Body;

const SERVICES: [&str; 3] = ["cart", "user", "shop"];
const ENDPOINTS: [&str; 4] = ["a", "b", "c/d", "\u{e9}"];
const ADDRESSES: [&str; 6] = ["10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1", "::ffff:10.0.0.1", "10.1.0.9"];
const PORTS: [u32; 3] = [80, 443, 8080];

type Held = BTreeMap<ResourceId, Resource>;

/// Bytes read as a script of updates over a few names.
pub(crate) fn updates(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let (mut held, mut snapshot, mut version) = (Held::new(), Snapshot::empty(), 0);
    let mut before: Option<(Held, Snapshot)> = None;
    while !script.is_empty() {
        let Ok(message) = update(&mut script, &mut version) else { return };
        let decoded = decode::update(&message);
        let next = apply(&snapshot, decoded.update.clone());
        hold(&mut held, &decoded.update);
        assert_eq!(next.revision(), message.revision);
        let seen = look(&next);
        assert_eq!(seen, look(&at_once(&held, message.revision)), "as if it had come at once");
        let again = apply(&next, decoded.update);
        assert_eq!(look(&again), seen, "an update that comes twice");
        assert!(
            next.services().all(|service| {
                again.service(&service.service.key).is_some_and(|other| Arc::ptr_eq(service, other))
            })
        );
        if let Some((past, snapshot)) = before.take_if(|_| version % 3 == 0) {
            assert_eq!(look(&apply(&snapshot, difference(&past, &held, message.revision))), seen, "by the difference");
        }
        before.get_or_insert_with(|| (held.clone(), next.clone()));
        snapshot = next;
    }
}

fn hold(held: &mut Held, update: &DecodedUpdate) {
    for id in &update.removals {
        held.remove(id);
    }
    let mut upserts: Vec<&Upsert> = update.upserts.iter().collect();
    upserts.sort_by_key(|upsert| upsert.version);
    for upsert in upserts {
        held.insert(upsert.resource.id(), upsert.resource.clone());
    }
}

/// All of it in one update, last first.
fn at_once(held: &Held, revision: u64) -> Snapshot {
    let upserts = held.values().rev().map(|resource| Upsert { version: 1, resource: resource.clone() }).collect();
    apply(&Snapshot::empty(), DecodedUpdate { revision, upserts, removals: Vec::new() })
}

fn difference(from: &Held, to: &Held, revision: u64) -> DecodedUpdate {
    let changed = to.iter().filter(|(id, resource)| from.get(*id) != Some(*resource));
    let upserts = changed.map(|(_, resource)| Upsert { version: 1, resource: resource.clone() }).collect();
    DecodedUpdate { revision, upserts, removals: from.keys().filter(|id| !to.contains_key(*id)).cloned().collect() }
}

/// Everything that can be seen of a snapshot, in an order of its own.
fn look(snapshot: &Snapshot) -> Vec<String> {
    let mut seen = vec![format!("{:?} {}", snapshot.mesh(), snapshot.is_ready())];
    for service in snapshot.services() {
        let ports = service.ports.iter().map(|port| {
            let endpoints = port.endpoints.iter().map(|to| {
                assert!(!to.mesh_tls || to.identity.is_some());
                format!("{} {} {:?} {} {:?} {}", to.id, to.address, to.identity, to.mesh_tls, to.weight, to.locality)
            });
            let endpoints: Vec<_> = endpoints.collect();
            assert!(endpoints.is_sorted(), "sorted by id");
            format!("{:?} {endpoints:?}", port.port)
        });
        seen.push(format!("{:?} {:?}", service.service, ports.collect::<Vec<_>>()));
    }
    seen.extend(snapshot.resolutions().map(|resolution| format!("{resolution:?}")));
    seen.extend(snapshot.pending_endpoints().map(|endpoint| format!("pending {endpoint:?}")));
    seen.sort_unstable();
    for (address, port) in ADDRESSES.iter().flat_map(|address| PORTS.map(|port| (address, port))) {
        let at = std::net::SocketAddr::new(address.parse().unwrap(), u16::try_from(port).unwrap());
        let decision = snapshot.explain_target(at);
        let target = format!("{:?}", decision.target);
        // Of a service entry its address in memory and its use would differ; its name does not.
        let target = match decision.target {
            weft_core::snapshot::Target::Service { port, pinned } => {
                format!("{} {:?}", port.label, pinned.map(|to| Arc::clone(&to.id)))
            }
            _ => target,
        };
        seen.push(format!("{at} {target} {}", decision.reason.code()));
    }
    seen
}

fn update(script: &mut Unstructured<'_>, version: &mut u64) -> Result<v1::Update> {
    let mut update = v1::Update { revision: *version, ..v1::Update::default() };
    for _ in 0..script.int_in_range(0..=6_u8)? {
        *version += 1;
        let body = body(script)?;
        let name = name(&body);
        if script.ratio(1_u8, 4_u8)? {
            update.removals.push(name);
        } else {
            // Sometimes an older version comes after a newer one of the same update.
            let version = if script.ratio(1_u8, 5_u8)? { version.saturating_sub(3) } else { *version };
            update.upserts.push(v1::Resource { name: Some(name), version, body: Some(body) });
        }
    }
    // Two of one name and version have no order; the API does not send them.
    let mut seen = std::collections::HashSet::new();
    update.upserts.retain(|upsert| seen.insert((format!("{:?}", upsert.name), upsert.version)));
    Ok(update)
}

fn body(script: &mut Unstructured<'_>) -> Result<Body> {
    let word = |script: &mut Unstructured<'_>, words: &[&str]| script.choose(words).map(|word| (*word).to_owned());
    let port = |script: &mut Unstructured<'_>| script.choose(&PORTS).copied();
    Ok(match script.int_in_range(0..=7_u8)? {
        0 => Body::Mesh(v1::Mesh {
            trust_domain: "cluster.local".into(),
            ranges: vec![word(script, &["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"])?],
            outbound_mode: script.int_in_range(0..=2)?,
        }),
        1 | 2 => Body::Service(v1::Service {
            namespace: "shop".into(),
            name: word(script, &SERVICES)?,
            ports: (0..script.int_in_range(0..=3_u8)?)
                .map(|_| {
                    let app_protocol = word(script, &["", "http", "tcp", "h2c"])?;
                    Ok(v1::ServicePort { port: port(script)?, name: String::new(), app_protocol })
                })
                .collect::<Result<_>>()?,
            virtual_ips: (0..script.int_in_range(0..=2_u8)?)
                .map(|_| word(script, &ADDRESSES))
                .collect::<Result<_>>()?,
        }),
        3..=5 => Body::Endpoint(v1::Endpoint {
            namespace: "shop".into(),
            service: word(script, &SERVICES)?,
            id: word(script, &ENDPOINTS)?,
            address: word(script, &ADDRESSES)?,
            ports: (0..script.int_in_range(0..=2_u8)?)
                .map(|_| {
                    let captured = script.arbitrary()?;
                    Ok(v1::EndpointPort { service_port: port(script)?, target_port: port(script)?, captured })
                })
                .collect::<Result<_>>()?,
            spiffe_id: word(script, &["", "spiffe://cluster.local/ns/shop/sa/cart"])?,
            weight: script.int_in_range(0..=3)?,
            locality: word(script, &["", "r/z"])?,
        }),
        _ => Body::Resolution(v1::Resolution {
            address: word(script, &ADDRESSES)?,
            port: port(script)?,
            verdict: script.int_in_range(0..=3)?,
            namespace: "shop".into(),
            service: word(script, &SERVICES)?,
            service_port: port(script)?,
            endpoint_id: word(script, &["", "a", "b"])?,
            reason: "policy".into(),
        }),
    })
}

fn name(body: &Body) -> v1::ResourceName {
    let (kind, name) = match body {
        Body::Mesh(_) => (v1::ResourceKind::Mesh, String::new()),
        Body::Service(service) => (v1::ResourceKind::Service, format!("{}/{}", service.namespace, service.name)),
        Body::Endpoint(to) => (v1::ResourceKind::Endpoint, format!("{}/{}/{}", to.namespace, to.service, to.id)),
        Body::Resolution(answer) => {
            let address = answer.address.parse().map(|ip| std::net::SocketAddr::new(ip, 0)).unwrap();
            let address = std::net::SocketAddr::new(address.ip(), u16::try_from(answer.port).unwrap());
            (v1::ResourceKind::Resolution, address.to_string())
        }
    };
    v1::ResourceName { kind: kind.into(), name }
}
