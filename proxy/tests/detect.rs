//! Detection against ClientHellos that rustls really sends, post-quantum key share included.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must say where")]

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use weft_core::detect::{Detected, MeshAlpn, detect};

fn client_hello(alpn: &[&[u8]], fragment: Option<usize>) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.max_fragment_size = fragment;
    let name = ServerName::try_from("Cart.Shop.example").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    wire
}

#[test]
fn client_hellos_of_rustls() {
    let check = |alpn: &[&[u8]], mesh: Option<MeshAlpn>| {
        for fragment in [None, Some(600)] {
            let wire = client_hello(alpn, fragment);
            assert!(wire.len() > 1_300, "{} bytes hold no post-quantum key share", wire.len());
            // One byte at a time: needs more until it is whole, then never changes.
            for len in 0..wire.len() {
                let Detected::NeedMore(more) = detect(&wire[..len], false) else { panic!("decided after {len} bytes") };
                assert!(len + more <= wire.len());
            }
            let Detected::Tls(hello) = detect(&wire, false) else { panic!("not TLS") };
            assert_eq!(hello.sni.as_deref(), Some("cart.shop.example"));
            assert_eq!(hello.alpn.iter().map(|name| &**name).collect::<Vec<_>>(), alpn);
            assert_eq!(hello.mesh(), mesh);
        }
    };
    check(&[], None);
    check(&[b"h2", b"http/1.1"], None);
    check(&[b"weft-h2/1"], Some(MeshAlpn::Http2));
    check(&[b"weft-h1/1"], Some(MeshAlpn::Http1));
    check(&[b"weft-tcp/1"], Some(MeshAlpn::Tcp));
    check(&[b"weft-tcp/1", b"h2"], None);
}
