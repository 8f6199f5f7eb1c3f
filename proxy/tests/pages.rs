//! Letting go of the program's pages. Alone in its process, so that nothing else touches them meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must say where")]

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use weft_proxy::identity::leaf::{Leaf, LeafError};
use weft_proxy::pages::release;

/// What is in memory of this process, in KiB.
fn resident() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Goes through much of the program: cryptography, tables, errors with their text.
fn work() -> String {
    let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let certificate: Arc<CertificateDer<'static>> =
        Arc::new(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone());
    let error = Leaf::parse(&certificate).unwrap_err();
    assert_eq!(error, LeafError::UriNames(0));
    error.to_string()
}

#[test]
fn pages_let_go_come_back_as_they_were() {
    let first = work();
    let before = resident();
    release().unwrap();
    let after = resident();
    // More than what any allocation in between can change.
    assert!(after + 1024 < before, "{before} KiB before, {after} KiB after");
    assert_eq!(work(), first);
}
