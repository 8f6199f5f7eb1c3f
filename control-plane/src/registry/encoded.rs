//! A resource as proxies are told it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use weft_proto::v1::{Resource, ResourceKind, ResourceName, resource};

/// Encoded when it is made, and shared by all streams that send it.
#[derive(Clone, Debug)]
pub struct Encoded {
    kind: ResourceKind,
    name: Arc<str>,
    version: u64,
    bytes: Bytes,
}

impl Encoded {
    /// Encodes.
    #[must_use]
    pub fn new(kind: ResourceKind, name: &str, version: u64, body: resource::Body) -> Self {
        let resource_name = ResourceName { kind: kind.into(), name: name.to_owned() };
        let resource = Resource { name: Some(resource_name), version, body: Some(body) };
        Self { kind, name: name.into(), version, bytes: resource.encode_to_vec().into() }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// Its name among those of its kind.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The whole [`Resource`] as it goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}
