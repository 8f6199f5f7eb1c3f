//! One update of the stream: each resource decoded on its own, so that a bad one is refused alone.

use std::net::SocketAddr;

use weft_proto::v1;

use super::{Problem, Problems, endpoint, is_dns_label, mesh, resolution, service};
use crate::model::{DecodedUpdate, Resource, ResourceId, ServiceKey, Upsert};

/// Resources in one update; more are refused as a whole. A hundred times the largest mesh that one proxy is meant to
/// see, so it bounds a defect and not a use.
pub const UPDATE_RESOURCES_MAX: usize = 1_000_000;

/// A resource refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As the server named it.
    pub name: v1::ResourceName,
    /// The refused version.
    pub version: u64,
    /// What is wrong with it; the first one goes into the acknowledgement's `field`, the rest into its reason.
    pub problems: Problems,
}

impl Refusal {
    /// As it is told to the server.
    #[must_use]
    pub fn to_message(&self) -> v1::Rejection {
        let (field, reason) = match self.problems.list() {
            [] => (String::new(), "refused".to_owned()),
            [Problem { field, reason }] => (field.clone(), reason.clone()),
            [Problem { field, reason }, others @ ..] => {
                let others: Vec<String> = others.iter().map(ToString::to_string).collect();
                (field.clone(), format!("{reason}; also {}", others.join("; ")))
            }
        };
        v1::Rejection { name: Some(self.name.clone()), version: self.version, field, reason }
    }
}

/// An update with what was refused of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// To apply.
    pub update: DecodedUpdate,
    /// To tell the server.
    pub refusals: Vec<Refusal>,
}

/// Decodes an update. Resources of unknown kinds are ignored, as the API demands.
#[must_use]
pub fn update(message: &v1::Update) -> Decoded {
    let mut decoded = Decoded::default();
    decoded.update.revision = message.revision;
    if message.upserts.len().saturating_add(message.removals.len()) > UPDATE_RESOURCES_MAX {
        let problems = Problems::one("upserts", format!("more than {UPDATE_RESOURCES_MAX} resources in one update"));
        decoded.refusals.push(Refusal { name: v1::ResourceName::default(), version: 0, problems });
        return decoded;
    }
    for upsert in &message.upserts {
        let name = upsert.name.clone().unwrap_or_default();
        match resource(upsert, &name) {
            Ok(Some(resource)) => decoded.update.upserts.push(Upsert { version: upsert.version, resource }),
            Ok(None) => {}
            Err(problems) => decoded.refusals.push(Refusal { name, version: upsert.version, problems }),
        }
    }
    decoded.update.removals.extend(message.removals.iter().filter_map(id_of));
    decoded
}

/// `Ok(None)`: of a kind this build does not know.
fn resource(message: &v1::Resource, name: &v1::ResourceName) -> Result<Option<Resource>, Problems> {
    let Some(body) = &message.body else {
        return match v1::ResourceKind::try_from(name.kind) {
            Ok(v1::ResourceKind::Unspecified) | Err(_) => Ok(None),
            Ok(
                v1::ResourceKind::Mesh
                | v1::ResourceKind::Service
                | v1::ResourceKind::Endpoint
                | v1::ResourceKind::Resolution,
            ) => Err(Problems::one("body", "is missing")),
        };
    };
    let resource = match body {
        v1::resource::Body::Mesh(body) => Resource::Mesh(mesh(body)?),
        v1::resource::Body::Service(body) => Resource::Service(service(body)?),
        v1::resource::Body::Endpoint(body) => Resource::Endpoint(endpoint(body)?),
        v1::resource::Body::Resolution(body) => Resource::Resolution(resolution(body)?),
    };
    if id_of(name).as_ref() != Some(&resource.id()) {
        return Err(Problems::one("name", format!("does not name its content, {}", resource.id())));
    }
    Ok(Some(resource))
}

/// The typed name; `None` for an unknown kind or a malformed name, which nothing held can have.
fn id_of(name: &v1::ResourceName) -> Option<ResourceId> {
    match v1::ResourceKind::try_from(name.kind).ok()? {
        v1::ResourceKind::Unspecified => None,
        v1::ResourceKind::Mesh => name.name.is_empty().then_some(ResourceId::Mesh),
        v1::ResourceKind::Service => {
            let (namespace, service) = name.name.split_once('/')?;
            key(namespace, service).map(ResourceId::Service)
        }
        v1::ResourceKind::Endpoint => {
            let (namespace, rest) = name.name.split_once('/')?;
            let (service, id) = rest.split_once('/')?;
            Some(ResourceId::Endpoint(key(namespace, service)?, id.into()))
        }
        v1::ResourceKind::Resolution => {
            let address: SocketAddr = name.name.parse().ok()?;
            Some(ResourceId::Resolution(SocketAddr::new(address.ip().to_canonical(), address.port())))
        }
    }
}

fn key(namespace: &str, name: &str) -> Option<ServiceKey> {
    let whole = is_dns_label(namespace) && is_dns_label(name);
    whole.then(|| ServiceKey { namespace: namespace.into(), name: name.into() })
}

/// The API's name of a resource.
#[must_use]
pub fn name_of(id: &ResourceId) -> v1::ResourceName {
    let (kind, name) = match id {
        ResourceId::Mesh => (v1::ResourceKind::Mesh, String::new()),
        ResourceId::Service(key) => (v1::ResourceKind::Service, key.to_string()),
        ResourceId::Endpoint(key, id) => (v1::ResourceKind::Endpoint, format!("{key}/{id}")),
        ResourceId::Resolution(address) => (v1::ResourceKind::Resolution, address.to_string()),
    };
    v1::ResourceName { kind: kind.into(), name }
}
