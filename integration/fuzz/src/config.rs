//! Decoders of configuration: total, bounded in what they say, and of one mind with themselves.

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_control_plane::resource::{self, Stored, service};
use weft_core::model::decode::{self, PROBLEMS_MAX, Problems, TEXT_BYTES_MAX};
use weft_core::model::{Resource, ResourceId};
use weft_proto::v1;
use weft_proxy::feed::static_config;

/// The text of a file for static mode.
pub(crate) fn static_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match static_config::decode(text) {
        Ok(setup) => {
            assert!(!setup.listeners.is_empty(), "a proxy without listeners does nothing");
            assert!(setup.snapshot.is_ready() && setup.snapshot.pending_endpoints().next().is_none());
            let secret = setup.snapshot.services().flat_map(|s| &s.ports).flat_map(|p| p.endpoints.iter());
            for endpoint in secret {
                assert!(!endpoint.mesh_tls || endpoint.identity.is_some(), "mutual TLS needs somebody to prove it to");
            }
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(!shown.is_empty() && shown.len() <= 64 * 1024 + 4 * text.len(), "{} bytes", shown.len());
        }
    }
}

/// Messages of the configuration stream, in protobuf and in its JSON, and resources as users write them.
pub(crate) fn resources(data: &[u8]) {
    if let Ok(update) = v1::Update::decode(data) {
        for upsert in &update.upserts {
            if let Some(body) = &upsert.body {
                content(body);
            }
        }
        decoded(&update);
        same_in_json(&update);
    }
    if let Ok(listener) = v1::Listener::decode(data) {
        bounded(decode::listener(&listener));
    }
    if let Ok(user) = v1::UserResource::decode(data) {
        written_by_a_user(&user);
    }
    if let Ok(spec) = std::str::from_utf8(data) {
        let user =
            v1::UserResource { api_version: "v1".into(), kind: "Service".into(), name: "a".into(), ..<_>::default() };
        written_by_a_user(&v1::UserResource { spec_json: spec.to_owned(), ..user });
    }
}

fn decoded(update: &v1::Update) {
    let decoded = decode::update(update);
    assert!(decoded.update.upserts.len() + decoded.refusals.len() <= update.upserts.len().max(1));
    assert_eq!(decode::update(update), decoded, "decoding depends on nothing else");
    for refusal in &decoded.refusals {
        let told = refusal.to_message();
        assert!(!refusal.problems.list().is_empty() && refusal.problems.list().len() <= PROBLEMS_MAX);
        assert!(told.reason.len() <= 64 * 1024, "an acknowledgement stays small");
    }
    for upsert in &decoded.update.upserts {
        let id = upsert.resource.id();
        let name = decode::name_of(&id);
        let alone = v1::Update { removals: vec![name], ..v1::Update::default() };
        assert_eq!(decode::update(&alone).update.removals, [id], "a name names what it is of");
        legal(&upsert.resource);
    }
}

fn content(body: &v1::resource::Body) {
    match body {
        v1::resource::Body::Mesh(mesh) => bounded(decode::mesh(mesh)),
        v1::resource::Body::Service(service) => bounded(decode::service(service)),
        v1::resource::Body::Endpoint(endpoint) => bounded(decode::endpoint(endpoint)),
        v1::resource::Body::Resolution(resolution) => bounded(decode::resolution(resolution)),
    }
}

fn bounded<T>(outcome: Result<T, Problems>) {
    if let Err(problems) = outcome {
        let list = problems.list();
        assert!(!list.is_empty() && list.len() <= PROBLEMS_MAX);
        assert!(list.iter().all(|problem| problem.reason.len() <= 1024 && !problem.reason.is_empty()));
    }
}

/// Model types cannot hold nonsense.
fn legal(resource: &Resource) {
    match resource {
        Resource::Mesh(mesh) => assert!(mesh.ranges.iter().all(|range| *range == range.trunc())),
        Resource::Service(service) => {
            let mut ports: Vec<_> = service.ports.iter().map(|port| port.port).collect();
            ports.sort_unstable();
            ports.dedup();
            assert!(!ports.is_empty() && ports.len() == service.ports.len(), "{service:?}");
        }
        Resource::Endpoint(endpoint) => {
            assert!(!endpoint.id.is_empty() && endpoint.id.len() <= TEXT_BYTES_MAX);
            assert!(!endpoint.address.is_unspecified() && endpoint.address == endpoint.address.to_canonical());
        }
        Resource::Resolution(resolution) => {
            assert!(matches!(resource.id(), ResourceId::Resolution(_)), "{resolution:?}")
        }
    }
}

fn same_in_json<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &M) {
    // Enums that this build does not know have no name in JSON.
    let Ok(json) = serde_json::to_string(message) else { return };
    assert_eq!(&serde_json::from_str::<M>(&json).unwrap(), message);
}

fn written_by_a_user(user: &v1::UserResource) {
    let mut problems = resource::Problems::default();
    let stored = Stored::from_user(user, &mut problems);
    let spec = service::check(&stored, &mut problems);
    let shown = problems.to_string();
    assert!(shown.len() <= 16 * 1024, "an answer fits into headers: {} bytes", shown.len());
    if problems.0.is_empty() {
        assert_eq!(service::read(&stored).as_ref(), Ok(&spec));
        assert_eq!(service::understand(&stored).as_ref(), Ok(&spec), "what was accepted stays understood");
        let mut none = resource::Problems::default();
        let mut shown = stored.to_user(1);
        shown.status_json.clear();
        assert_eq!(Stored::from_user(&shown, &mut none), stored, "what is shown can be applied again");
        assert_eq!(none, resource::Problems::default());
    }
}
