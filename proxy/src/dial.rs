//! Opens one connection upstream: TCP, and mesh TLS where the endpoint has an identity. There is no way from here to
//! plaintext for an endpoint that must be spoken to over TLS. An HTTP/1 link to a sidecar may be a stream of a connection
//! instead; where that does not come about, it has a connection of its own.

use std::rc::Rc;

use weft_core::detect::MeshAlpn;
use weft_core::fault::FaultKind;
use weft_core::reuse::Carrier;

use crate::http::{H1Client, H2Client, NoLink};
use crate::io::Stream;
use crate::net;
use crate::pool::{Checkout, Link, LinkKey, Opened, Shelf, Slot};
use crate::runtime::worker::Worker;
use crate::telemetry::{Counter, Side};
use crate::tls::{MeshPeer, TlsError};

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
            Ok(Linked { stream: Stream::tls(tls).watched(watched), peer: Some(Rc::new(peer)), expires })
        }
        Err(error) => {
            worker.telemetry.count(Counter::UpstreamHandshakeFailed);
            if matches!(error, TlsError::Busy) {
                worker.telemetry.count(Counter::HandshakeShed);
            }
            tracing::debug!(%error, address = %key.address, "mesh handshake failed");
            Err(error.upstream_fault())
        }
    }
}

/// As [`dial`], for HTTP/2 requests or shared links.
///
/// # Errors
/// As [`dial`], and those of [`H2Client::connect`].
pub async fn dial_http2(worker: &Worker, key: &LinkKey) -> Result<Opened, FaultKind> {
    let Linked { stream, peer, expires } = dial(worker, key, MeshAlpn::Http2).await?;
    let limits = if key.identity.is_some() { &worker.mesh_limits } else { &worker.limits };
    let client = H2Client::connect(stream, limits, "http").await?;
    Ok(Opened { client, peer, expires })
}

/// Opens a link for HTTP/1 requests. Cancelling closes.
///
/// # Errors
/// As [`dial`].
pub async fn dial_http1(
    worker: &Rc<Worker>,
    key: &LinkKey,
    (shelf, slot): (&Shelf, Slot),
    carrier: Carrier,
) -> Result<(H1Client, Rc<Link>), FaultKind> {
    let limits = if key.identity.is_some() { worker.mesh_limits.message } else { worker.limits.message };
    let shared = match carrier {
        // Boxed: rare, and in the future of every request.
        Carrier::Shared => Box::pin(share(worker, key, shelf)).await?,
        Carrier::Own => None,
    };
    if let Some((stream, Checkout { client, peer, life, expires, .. })) = shared {
        worker.telemetry.count(Counter::LinksShared);
        // What is spoken on it.
        let peer = peer.map(|peer| Rc::new(MeshPeer { alpn: MeshAlpn::Http1, ..MeshPeer::clone(&peer) }));
        return Ok((H1Client::new(stream, limits), shelf.opened_shared(slot, client, (life, expires), peer)));
    }
    let Linked { stream, peer, expires } = dial(worker, key, MeshAlpn::Http1).await?;
    Ok((H1Client::new(stream, limits), shelf.opened(slot, expires, peer)))
}

/// Opens a stream for a link on a shared connection, and that first where there is none with room. `None`: the far end
/// takes none, or not now. Nothing of a request is sent before the stream is accepted, so nothing is lost then.
async fn share(worker: &Rc<Worker>, key: &LinkKey, shelf: &Shelf) -> Result<Option<(Stream, Checkout)>, FaultKind> {
    let lane = shelf.lane();
    let connect = || {
        // Somebody may have heard that no links are taken while this request waited for his connection.
        let (may_share, worker, key) = (shelf.may_share(), Rc::clone(worker), key.clone());
        async move { if may_share { dial_http2(&worker, &key).await } else { Err(FaultKind::UpstreamProtocol) } }
    };
    let checkout = match lane.checkout(connect).await {
        Ok(checkout) => checkout,
        Err(fault) if own_may_do(fault) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let within = worker.shared.timeouts.connect;
    match tokio::time::timeout(within, checkout.client.open_link()).await {
        Ok(Ok((stream, workers))) => {
            lane.has_workers(workers);
            Ok(Some((stream, checkout)))
        }
        Ok(Err(NoLink::Refused)) => {
            shelf.refuses_sharing();
            Ok(None)
        }
        Ok(Err(NoLink::Gone)) => Ok(None),
        Err(_) => Err(FaultKind::ConnectTimeout),
    }
}

/// Whether a connection of one's own may be had where none to share was: not where it is work that is too much, ours or the
/// machine's. All who waited for the one would open one each then, and make it more.
const fn own_may_do(fault: FaultKind) -> bool {
    matches!(fault, FaultKind::UpstreamProtocol | FaultKind::UpstreamReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: under overload nobody adds to it.
    #[test]
    fn a_connection_of_ones_own_is_no_way_out_of_overload() {
        assert!(own_may_do(FaultKind::UpstreamReset) && own_may_do(FaultKind::UpstreamProtocol));
        for fault in [FaultKind::Overload, FaultKind::ConnectTimeout, FaultKind::UpstreamTls, FaultKind::NotReady] {
            assert!(!own_may_do(fault), "{fault:?}");
        }
    }
}
