//! What goes into one update.

use std::sync::Arc;

use bytes::Bytes;
use weft_proto::v1::ResourceName;

use crate::registry::Encoded;

/// One update takes no more once it has this many resources and removals, or bytes; the rest goes out in the next. What
/// belongs together is not torn apart, so it can become larger by one service with its endpoints and answers. Proxies
/// take messages of 64 MiB.
pub(super) const RESOURCES_MAX: usize = 4_000;
const BYTES_MAX: usize = 4 << 20;

/// How many resources and removals fill an update.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room(pub(super) usize);

impl Default for Room {
    fn default() -> Self {
        Self(RESOURCES_MAX)
    }
}

/// An update in the making.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    room: Room,
    pub(super) upserts: Vec<Bytes>,
    pub(super) removals: Vec<ResourceName>,
    /// Of all upserts and removals.
    pub(super) names: Vec<Arc<str>>,
    bytes: usize,
}

impl Parcel {
    pub(super) fn with_room(room: Room) -> Self {
        Self { room, ..Self::default() }
    }

    pub(super) fn upsert(&mut self, resource: &Encoded) {
        self.bytes += resource.bytes().len();
        self.upserts.push(resource.bytes().clone());
        self.names.push(Arc::clone(resource.name()));
    }

    pub(super) fn remove(&mut self, name: ResourceName) {
        self.bytes += name.name.len();
        self.names.push(name.name.as_str().into());
        self.removals.push(name);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.names.len() >= self.room.0 || self.bytes >= BYTES_MAX
    }
}
