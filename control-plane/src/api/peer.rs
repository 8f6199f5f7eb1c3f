//! Who is on the other end of a connection. The doors put it there; services only read it.
//!
//! Identity comes from the connection (a verified client certificate, or the operators' socket) and from nowhere else:
//! no field of a message and no header can change it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use tonic::{Request, Status};
use weft_core::identity::spiffe::SpiffeId;

/// The caller of a request, an extension of every request that comes through a door.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What its client certificate proved, `None` without one.
    pub svid: Option<PeerSvid>,
    /// It came through the operators' socket, which only its owner can open.
    pub local_operator: bool,
    /// Where from.
    pub addr: PeerAddr,
}

/// A verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSvid {
    /// Its one URI SAN.
    pub spiffe_id: SpiffeId,
    /// When it ends. The door cuts the connection then; calls compare once more.
    pub not_after: SystemTime,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// A TCP client.
    Tcp(SocketAddr),
    /// The operators' socket, with the client's user id as the kernel tells it.
    Socket {
        /// User id of the client.
        uid: Option<u32>,
    },
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Socket { uid: Some(uid) } => write!(f, "operator uid {uid}"),
            Self::Socket { uid: None } => f.write_str("operator"),
        }
    }
}

impl Peer {
    /// The identity that the caller proved; what every service on the TLS door but `Identity` demands first.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without a client certificate, or with one that has expired since the handshake.
    pub fn of<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
        let svid = Self::any(request)?.svid.as_ref();
        let svid = svid.ok_or_else(|| Status::unauthenticated("a client certificate of this mesh is needed"))?;
        if svid.not_after <= SystemTime::now() {
            return Err(Status::unauthenticated("the client certificate has expired"));
        }
        Ok(svid.spiffe_id.clone())
    }

    /// The IP address that the caller's connection comes from, `None` at the operators' socket.
    ///
    /// # Errors
    /// As [`Peer::any`].
    pub fn source<T>(request: &Request<T>) -> Result<Option<IpAddr>, Status> {
        Ok(match Self::any(request)?.addr {
            PeerAddr::Tcp(addr) => Some(addr.ip().to_canonical()),
            PeerAddr::Socket { .. } => None,
        })
    }

    /// That the caller came through the operators' socket.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` otherwise.
    pub fn operator<T>(request: &Request<T>) -> Result<(), Status> {
        if Self::any(request)?.local_operator {
            return Ok(());
        }
        Err(Status::permission_denied("only the operators' socket may do this"))
    }

    /// The caller, whoever it is.
    ///
    /// # Errors
    /// `INTERNAL` when the request came through no door, a bug.
    pub fn any<T>(request: &Request<T>) -> Result<&Self, Status> {
        request.extensions().get::<Self>().ok_or_else(|| Status::internal("the caller of this request is not known"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(svid_left: Option<i64>, local_operator: bool) -> Request<()> {
        let svid = svid_left.map(|left| {
            let by = Duration::from_secs(left.unsigned_abs());
            let not_after = if left > 0 { SystemTime::now() + by } else { SystemTime::now() - by };
            PeerSvid { spiffe_id: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap(), not_after }
        });
        let mut request = Request::new(());
        let addr = PeerAddr::Tcp(([127, 0, 0, 1], 1).into());
        request.extensions_mut().insert(Peer { svid, local_operator, addr });
        request
    }

    #[test]
    fn identity_needs_a_valid_certificate() {
        let check = |request: Request<()>, expected: Result<&str, tonic::Code>| {
            let answer = Peer::of(&request).map(|id| id.to_string()).map_err(|status| status.code());
            assert_eq!(answer, expected.map(str::to_owned));
        };
        check(request(Some(60), false), Ok("spiffe://cluster.local/ns/shop/sa/cart"));
        check(request(Some(-1), false), Err(tonic::Code::Unauthenticated));
        check(request(None, false), Err(tonic::Code::Unauthenticated));
        check(request(None, true), Err(tonic::Code::Unauthenticated));
        check(Request::new(()), Err(tonic::Code::Internal));
    }

    #[test]
    fn operators_come_by_the_socket() {
        assert!(Peer::operator(&request(None, true)).is_ok());
        let refused = Peer::operator(&request(Some(60), false)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    }
}
