//! Messages of the Weft API, package `weft.v1`. The documentation of every message and field stands in
//! `proto/weft/v1/*.proto`, the single source; this crate only compiles them.
//!
//! Without features it is plain prost messages, which the pure core may use. Feature `grpc` adds tonic clients and
//! servers, feature `json` the canonical protobuf JSON mapping (serde).

/// Package `weft.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::or_fun_call,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "generated from the documented .proto files"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/weft.v1.rs"));
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/weft.v1.serde.rs"));
}

/// Version of the `Discovery` protocol that this build speaks; see `Hello.protocol_version`.
pub const DISCOVERY_PROTOCOL_VERSION: u32 = 1;
