//! `DiscoveryResponse` as it is sent: the same bytes, but resources go in as they were encoded when they were made.

use bytes::Bytes;
use weft_proto::v1::{ResourceName, Welcome};

/// [`weft_proto::v1::DiscoveryResponse`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// The first message.
    #[prost(message, optional, tag = "1")]
    pub welcome: Option<Welcome>,
    /// Any other.
    #[prost(message, optional, tag = "2")]
    pub update: Option<Update>,
}

/// [`weft_proto::v1::Update`]; a message and its bytes are the same on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Update {
    /// Strictly growing on one stream.
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
    /// The revision that this step leads to.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// Encoded [`weft_proto::v1::Resource`]s.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub upserts: Vec<Bytes>,
    /// What is gone.
    #[prost(message, repeated, tag = "4")]
    pub removals: Vec<ResourceName>,
}
