//! Fuzz targets: what must hold for any bytes that come from the network or a file.
//!
//! Each target is a function over bytes that asserts. [`TARGETS`] names them all; `integration/fuzz.sh` runs them under
//! libFuzzer, and the test of this crate replays their corpora, with some mutation, in every run of the tests. An input
//! that once failed becomes a unit test beside the code that was wrong, and stays in the corpus.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a look-up that fails, or a case that is new, is a finding here: crashing is how a target reports it"
)]

mod body;
mod config;
mod connection;
mod detection;
mod differential;
mod fields;
mod frames;
mod heads;
mod identity;
mod propagation;
mod proxying;
mod reading;
mod snapshots;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As in `targets/` and `corpus/`.
    pub name: &'static str,
    /// Panics where something that must hold does not.
    pub run: fn(&[u8]),
    /// Words of the format, from `dictionaries/`; also what the test mutates with.
    pub dictionary: &'static str,
}

macro_rules! targets {
    ($($name:ident: $run:path, $dictionary:literal;)+) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $run,
            dictionary: include_str!(concat!("../dictionaries/", $dictionary, ".dict")),
        },)+];
    };
}

targets! {
    h1_request: heads::request, "http";
    h1_response: heads::response, "http";
    h1_chunked: body::chunked, "http";
    h1_connection: connection::h1, "http";
    h1_differential_request: differential::request, "http";
    h1_differential_response: differential::response, "http";
    h2_server: frames::server, "http";
    h2_client: frames::client, "http";
    h2_fields: fields::blocks, "http";
    detection: detection::prefix, "http";
    client_hello: detection::client_hello, "tls";
    identity: identity::names, "spiffe";
    static_config: config::static_file, "config";
    resources: config::resources, "config";
    snapshot_apply: snapshots::updates, "config";
    propagation: propagation::fields, "http";
}

/// Runs one target by name; the programs for libFuzzer are made of this.
///
/// # Panics
/// When something that must hold does not, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    (target.run)(data);
}
