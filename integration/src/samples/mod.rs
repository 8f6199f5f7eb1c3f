//! The applications of the demo: `blog` (REST/JSON) → `user` (gRPC) → `store` (Redis protocol).
//!
//! They are ordinary programs that know nothing of the mesh; all they do for it is to pass trace and request-id
//! headers on, as every application behind a mesh must. They are small on purpose and keep every input bounded.

pub mod blog;
pub mod headers;
pub mod resp;
mod serve;
pub mod store;
pub mod user;

/// The sample API `weft.samples.v1`, documented in `proto/weft/samples/v1/users.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::or_fun_call,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    clippy::large_futures,
    reason = "generated from the documented .proto file"
)]
pub mod v1 {
    tonic::include_proto!("weft.samples.v1");
}

/// Name of this instance as it appears in answers: what `weft dev` (or Kubernetes) calls it, else the host's name.
#[must_use]
pub fn pod_name() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    variable("WEFT_INSTANCE").or_else(|| variable("HOSTNAME")).unwrap_or_else(|| "unknown".to_owned())
}
