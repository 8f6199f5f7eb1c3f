//! The server side of mesh TLS, one per worker.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use weft_core::detect::MeshAlpn;

use super::handshake::Handshake;
use super::leaves::Leaves;
use super::sessions::Sessions;
use super::stream::{TlsStream, failed};
use super::turns::{Line, Turns};
use super::verify::{ClientOf, roots};
use super::{MeshPeer, TlsError, judge, provider};
use crate::clock::Clock;
use crate::identity::{Identity, IdentityWatch};

/// Accepts mesh handshakes with the identity of the moment.
#[derive(Debug)]
pub struct Acceptor {
    identity: IdentityWatch,
    clock: Clock,
    timeout: Duration,
    turns: Rc<Turns>,
    leaves: Leaves,
    built: RefCell<Option<(Arc<Identity>, Arc<ServerConfig>)>>,
}

impl Acceptor {
    /// `timeout` bounds one handshake, whose steps are taken in `turns`.
    #[must_use]
    pub fn new(identity: IdentityWatch, clock: Clock, timeout: Duration, turns: Rc<Turns>) -> Self {
        Self { identity, clock, timeout, turns, leaves: Leaves::default(), built: RefCell::new(None) }
    }

    /// Answers the handshake whose first bytes are `hello` and whose rest comes from `socket`. Cancelling closes.
    ///
    /// # Errors
    /// Any [`TlsError`]; the peer has then seen an alert or the end of the connection.
    pub async fn accept(&self, socket: TcpStream, hello: &[u8]) -> Result<(TlsStream, MeshPeer), TlsError> {
        let config = self.config()?;
        let handshake = {
            // The first step is taken where the handshake is made.
            let shaking = pin!(async {
                let side = UnbufferedServerConnection::new(config).map_err(failed)?;
                Handshake::new(side, socket, hello).shake().await
            });
            self.turns.pace(Line::Accepting, self.timeout, shaking).await?
        };
        let peer = judge(handshake.agreed(), &self.leaves, self.clock.unix_seconds())?;
        Ok((handshake.into_stream().map_err(failed)?, peer))
    }

    fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let identity = self.identity.borrow().clone().ok_or(TlsError::NoIdentity)?;
        if self.clock.unix_seconds() > identity.not_after {
            return Err(TlsError::NoIdentity);
        }
        let mut built = self.built.borrow_mut();
        if let Some((of, config)) = &*built
            && Arc::ptr_eq(of, &identity)
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(server_config(&identity, self.clock)?);
        *built = Some((identity, Arc::clone(&config)));
        Ok(config)
    }
}

pub(super) fn server_config(identity: &Identity, clock: Clock) -> Result<ServerConfig, rustls::Error> {
    let verifier = ClientOf::new(roots(&identity.bundle)?, identity.bundle.trust_domain.clone())?;
    let key = SingleCertAndKey::from(Arc::clone(&identity.certified));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(key));
    config.alpn_protocols =
        [MeshAlpn::Http2, MeshAlpn::Http1, MeshAlpn::Tcp].map(|alpn| alpn.as_bytes().to_vec()).to_vec();
    config.session_storage = Arc::new(Sessions::new(clock, identity.not_after));
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    // Records are ours once hands are shaken.
    config.enable_secret_extraction = true;
    // Ours; see `provider`.
    config.ignore_client_order = true;
    Ok(config)
}
