//! Opens one connection upstream: TCP, and mesh TLS where the endpoint has an identity. There is no way from here to
//! plaintext for an endpoint that must be spoken to over TLS.

use std::rc::Rc;

use weft_core::detect::MeshAlpn;
use weft_core::fault::FaultKind;

use crate::io::Stream;
use crate::net;
use crate::pool::LinkKey;
use crate::runtime::worker::Worker;
use crate::telemetry::{Counter, Side};
use crate::tls::MeshPeer;

/// A fresh connection upstream.
#[derive(Debug)]
pub struct Linked {
    /// Its bytes.
    pub stream: Stream,
    /// Who answered, over mesh TLS.
    pub peer: Option<Rc<MeshPeer>>,
    /// Unix seconds after which it must carry nothing new: the earlier end of both certificates.
    pub expires: i64,
}

/// Connects. Cancelling closes.
///
/// # Errors
/// The fault that the request or connection ends in if nobody else can serve it.
pub async fn dial(worker: &Worker, key: &LinkKey, alpn: MeshAlpn) -> Result<Linked, FaultKind> {
    let timeouts = &worker.shared.timeouts;
    let within = if key.delivery { timeouts.connect_local } else { timeouts.connect };
    let connected = net::connect(key.address, key.delivery, within).await;
    if key.delivery {
        match &connected {
            Ok(_) => worker.shared.application.accepted(),
            Err(FaultKind::ConnectFailed) => worker.shared.application.refused(),
            // Too slow, or short of descriptors: it may be there.
            Err(_) => {}
        }
    }
    let socket = connected?;
    worker.telemetry.count(Counter::PoolOpened);
    let watched = worker.stalls.watch(&socket);
    let Some(expected) = &key.identity else {
        return Ok(Linked { stream: Stream::plain(socket).watched(watched), peer: None, expires: i64::MAX });
    };
    match worker.connector.connect(socket, expected, alpn).await {
        Ok((tls, peer)) => {
            worker.telemetry.handshake(Side::Upstream, peer.group, peer.resumed);
            let own = worker.connector.identity().map_or(i64::MAX, |own| own.not_after);
            let expires = own.min(peer.not_after);
            Ok(Linked { stream: Stream::tls_client(tls).watched(watched), peer: Some(Rc::new(peer)), expires })
        }
        Err(error) => {
            worker.telemetry.count(Counter::UpstreamHandshakeFailed);
            tracing::debug!(%error, address = %key.address, "mesh handshake failed");
            Err(error.upstream_fault())
        }
    }
}
