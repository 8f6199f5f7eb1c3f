//! Mutual TLS as the other sidecar would speak it, on blocking sockets.

use std::net::TcpStream;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use weft_integration::raw::mesh_config;

use super::LoadArgs;

/// A connection that is encrypted once it is used.
pub(super) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// What all connections of the client share. X25519 alone, because not all peers know the hybrid groups; no resumption,
/// because full handshakes are what is measured.
pub(super) fn config(args: &LoadArgs) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
    let mut config = mesh_config(&args.identity, "client", &args.alpn, provider)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

pub(super) fn connect(stream: TcpStream, config: &Arc<ClientConfig>) -> anyhow::Result<TlsStream> {
    let name = ServerName::try_from("bench.default").context("the server's name")?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, stream))
}
