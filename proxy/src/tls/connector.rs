//! The client side of mesh TLS, one per worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use weft_core::detect::MeshAlpn;
use weft_core::identity::spiffe::SpiffeId;

use super::handshake::Handshake;
use super::leaves::Leaves;
use super::stream::{TlsStream, failed};
use super::turns::{Line, Turns};
use super::verify::{ServerIs, roots};
use super::{MeshPeer, TlsError, judge, provider};
use crate::clock::Clock;
use crate::identity::{Identity, IdentityWatch};

/// Configurations kept at most, one for each identity called and protocol; beyond it all are forgotten, which costs
/// full handshakes and nothing else.
const CONFIGS_MAX: usize = 1024;

/// Sessions remembered for one configuration; tickets are used once.
const TICKETS_MAX: usize = 8;

/// Opens mesh connections with the identity of the moment.
#[derive(Debug)]
pub struct Connector {
    identity: IdentityWatch,
    clock: Clock,
    timeout: Duration,
    turns: Rc<Turns>,
    leaves: Leaves,
    built: RefCell<Built>,
}

#[derive(Debug, Default)]
struct Built {
    of: Option<Arc<Identity>>,
    configs: HashMap<(SpiffeId, MeshAlpn), Arc<ClientConfig>>,
}

impl Connector {
    /// `timeout` bounds one handshake, whose steps are taken in `turns`.
    #[must_use]
    pub fn new(identity: IdentityWatch, clock: Clock, timeout: Duration, turns: Rc<Turns>) -> Self {
        Self { identity, clock, timeout, turns, leaves: Leaves::default(), built: RefCell::default() }
    }

    /// The identity that connections are opened with now.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.borrow().clone()
    }

    /// Shakes hands on `socket` with a peer that must prove `expected`. Cancelling closes.
    ///
    /// # Errors
    /// Any [`TlsError`]. Nothing of the application's was sent then.
    pub async fn connect(
        &self,
        socket: TcpStream,
        expected: &SpiffeId,
        alpn: MeshAlpn,
    ) -> Result<(TlsStream, MeshPeer), TlsError> {
        let config = self.config(expected, alpn)?;
        // The name is the key of the session store and nothing else; verification is by SPIFFE ID, and an address is
        // not sent as SNI.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let handshake = {
            // The first step is taken where the handshake is made.
            let shaking = pin!(async {
                let side = UnbufferedClientConnection::new(config, name).map_err(failed)?;
                Handshake::new(side, socket, b"").shake().await
            });
            self.turns.pace(Line::Dialling, self.timeout, shaking).await?
        };
        let judged = judge(handshake.agreed(), &self.leaves, self.clock.unix_seconds()).and_then(|peer| {
            if peer.id == *expected {
                Ok(peer)
            } else {
                Err(TlsError::Somebody { found: peer.id, expected: expected.to_string() })
            }
        });
        if judged.is_err() {
            // A session that resumes into a refusal must not be tried again.
            self.built.borrow_mut().configs.remove(&(expected.clone(), alpn));
        }
        let peer = judged?;
        if peer.alpn != alpn {
            return Err(TlsError::Alpn);
        }
        Ok((handshake.into_stream().map_err(failed)?, peer))
    }

    fn config(&self, expected: &SpiffeId, alpn: MeshAlpn) -> Result<Arc<ClientConfig>, TlsError> {
        let identity = self.identity.borrow().clone().ok_or(TlsError::NoIdentity)?;
        if self.clock.unix_seconds() > identity.not_after {
            return Err(TlsError::NoIdentity);
        }
        let mut built = self.built.borrow_mut();
        if !built.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &identity)) || built.configs.len() >= CONFIGS_MAX {
            *built = Built { of: Some(Arc::clone(&identity)), configs: HashMap::new() };
        }
        let key = (expected.clone(), alpn);
        if let Some(config) = built.configs.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(client_config(&identity, expected, alpn)?);
        built.configs.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

pub(super) fn client_config(
    identity: &Identity,
    expected: &SpiffeId,
    alpn: MeshAlpn,
) -> Result<ClientConfig, TlsError> {
    if expected.trust_domain() != &identity.bundle.trust_domain {
        // No bundle vouches for another trust domain.
        return Err(TlsError::Somebody {
            found: expected.clone(),
            expected: format!("an identity of {}", identity.bundle.trust_domain),
        });
    }
    let verifier = ServerIs::new(roots(&identity.bundle)?, expected.clone());
    let key = SingleCertAndKey::from(Arc::clone(&identity.certified));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(key));
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
    config.enable_early_data = false;
    // Records are ours once hands are shaken.
    config.enable_secret_extraction = true;
    Ok(config)
}
