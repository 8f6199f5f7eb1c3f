//! HTTP/2 through two sidecars, compared frame by frame with the same exchange between client and server alone.

mod exchanges;
mod rules;
mod script;
mod trace;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use weft_integration::raw::h2::{Event, H2Peer};
use weft_integration::raw::h2_frame::setting;
use weft_integration::raw::{Pair, Plan, Protocol};

use crate::rules::{Both, CLIENT_HASH, RULES};
use crate::script::{perform, request};

/// One exchange and what became of it.
struct Performed {
    name: String,
    both: Both,
}

impl Performed {
    /// Both outcomes without what may differ; `except` is the index of a rule that is left out.
    fn canonical(&self, except: Option<usize>) -> Both {
        let mut both = self.both.clone();
        for (at, rule) in RULES.iter().enumerate() {
            if Some(at) != except && rule.is_for(&self.name) {
                (rule.apply)(&mut both);
            }
        }
        both
    }

    fn same(&self, except: Option<usize>) -> bool {
        let both = self.canonical(except);
        both.direct == both.meshed
    }
}

/// SHA-256 of the first certificate in a file, in hexadecimal.
fn hash_of(path: &Path) -> String {
    let certificate = CertificateDer::from_pem_file(path).expect("a certificate");
    digest(&SHA256, &certificate).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn exchanges_through_the_mesh_are_those_without_it() {
    let protocols = [Protocol::H2c, Protocol::Detected];
    let pair = Pair::start(Plan::mesh(&protocols)).await.unwrap();
    CLIENT_HASH.set(hash_of(&pair.directory.path().join("client.pem"))).unwrap();
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut performed = Vec::new();
    for exchange in exchanges::all() {
        let backend = &pair.doors[0].backend;
        let direct = perform(&exchange, at(backend.port()), backend).await;
        assert!(direct.client.failed.is_none() && direct.server.failed.is_none(), "{}: {direct:#?}", exchange.name);
        for (door, protocol) in pair.doors.iter().zip(protocols) {
            let meshed = perform(&exchange, at(door.port), &door.backend).await;
            let name = format!("{}, {protocol:?}", exchange.name);
            performed.push(Performed { name, both: Both { direct: direct.clone(), meshed } });
        }
    }
    let different: Vec<_> = performed.iter().filter(|exchange| !exchange.same(None)).collect();
    for exchange in &different {
        let Both { direct, meshed } = exchange.canonical(None);
        eprintln!("=== {}", exchange.name);
        for (end, direct, meshed) in
            [("client", direct.client, meshed.client), ("server", direct.server, meshed.server)]
        {
            if direct != meshed {
                eprintln!("--- {end}: direct {direct:#?}\n--- {end}: through the mesh {meshed:#?}");
            }
        }
    }
    let names: Vec<_> = different.iter().map(|exchange| &exchange.name).collect();
    assert!(names.is_empty(), "{} of {} exchanges differ: {names:#?}", names.len(), performed.len());
    for (at, rule) in RULES.iter().enumerate() {
        for beginning in rule.of {
            let needed = performed.iter().any(|one| one.name.starts_with(beginning) && !one.same(Some(at)));
            assert!(needed, "no exchange \"{beginning}...\" needs the rule \"{}\"", rule.name);
        }
    }
}

/// What servers may take and we do not: octets that no URI has cost the request, and the extended CONNECT of RFC 8441, which
/// we do not offer, its stream.
#[tokio::test]
async fn what_is_not_taken_costs_its_stream_only() {
    let pair = Pair::start(Plan::mesh(&[Protocol::H2c])).await.unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, pair.doors[0].port));
    let mut client = H2Peer::connect(to, &[]).await.unwrap();
    let events = client.until(|event| matches!(event, Event::Settings(_))).await.unwrap();
    let Some(Event::Settings(settings)) = events.last() else { panic!("{events:?}") };
    assert!(!settings.iter().any(|(id, _)| *id == setting::ENABLE_CONNECT_PROTOCOL), "{settings:?}");
    for (stream, path) in [(1, "/a<b"), (3, "/a>b"), (5, "/a`b"), (7, "/?a=\"b\"")] {
        client.send([request(stream, "GET", path, &[], true)]).await.unwrap();
        let answer = |event: &Event| matches!(event, Event::Headers { stream: of, .. } if *of == stream);
        let events = client.until(answer).await.unwrap();
        let Some(Event::Headers { fields, .. }) = events.last() else { panic!("{events:?}") };
        assert_eq!(fields[0], (b":status".to_vec(), b"400".to_vec()), "{path}");
    }
    client.synchronise().await.unwrap();
}
