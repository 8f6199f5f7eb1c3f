//! Chains of certificates that were verified before. Sidecars meet the same peers all day, and verifying a chain is a
//! quarter of a handshake.
//!
//! What a verification says depends on the chain, the roots and the time. The roots are the verifier's, whose memory this
//! is; the chain is known again by its SHA-256; and of the time only matters that no certificate has expired and that the
//! clock was not put back behind the verification. So what is remembered is what verifying again would say.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::Error;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Chains remembered. All are forgotten when there are more.
const CHAINS_MAX: usize = 1024;

/// The memory of one verifier.
#[derive(Debug, Default)]
pub(super) struct Verified {
    chains: Mutex<HashMap<[u8; 32], Span>>,
}

/// Unix seconds: when it was verified, and when the first of its certificates expires.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u64,
    until: u64,
}

impl Verified {
    /// What `verify` says, or has said.
    ///
    /// # Errors
    /// Those of `verify`, which are not remembered.
    pub(super) fn or_else(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        verify: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let chain = || std::iter::once(end_entity).chain(intermediates);
        let (key, now) = (digest(chain()), now.as_secs());
        let chains = || self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chains().get(&key).copied();
        if known.is_some_and(|known| (known.from..=known.until).contains(&now)) {
            return Ok(());
        }
        verify()?;
        if let Some(until) = chain().map(not_after).min().flatten() {
            let mut chains = chains();
            if chains.len() >= CHAINS_MAX {
                chains.clear();
            }
            chains.insert(key, Span { from: now, until });
        }
        Ok(())
    }
}

/// Of all certificates, each with its length, so that no two chains have one.
fn digest<'a>(chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for certificate in chain {
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// `None`: it cannot be told.
fn not_after(certificate: &CertificateDer<'_>) -> Option<u64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    u64::try_from(parsed.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn until(seconds: i64) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_chain_is_verified_again_when_that_could_say_something_else() {
        let [leaf, other, issuer] = [2_000_000_100, 2_000_000_100, 2_000_000_050].map(until);
        let (verified, count) = (Verified::default(), Cell::new(0));
        let check = |chain: &[&CertificateDer<'static>], now: u64, says: Result<(), Error>, asked: bool| {
            count.set(0);
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            let rest: Vec<_> = chain[1..].iter().map(|certificate| (*certificate).clone()).collect();
            let verify = || {
                count.set(1);
                says.clone()
            };
            let said = verified.or_else(chain[0], &rest, now, verify);
            assert_eq!(count.get() == 1, asked);
            assert_eq!(said, if asked { says } else { Ok(()) });
        };
        let now = 2_000_000_000;
        let refused = || Err(Error::General("refused".to_owned()));
        check(&[&leaf, &issuer], now, refused(), true);
        check(&[&leaf, &issuer], now, Ok(()), true);
        check(&[&leaf, &issuer], now + 50, refused(), false);
        check(&[&leaf, &issuer], now + 51, refused(), true);
        check(&[&leaf, &issuer], now - 1, refused(), true);
        check(&[&leaf], now, refused(), true);
        check(&[&other, &issuer], now, refused(), true);
        check(&[&issuer, &leaf], now, refused(), true);
        check(&[&leaf, &issuer], now, refused(), false);
    }

    #[test]
    fn memory_is_bounded_and_what_cannot_be_read_is_not_kept() {
        let verified = Verified::default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1));
        verified.or_else(&CertificateDer::from(vec![1]), &[], now, || Ok(())).unwrap();
        assert!(verified.chains.lock().unwrap().is_empty());
        let leaf = until(100);
        for serial in 0..CHAINS_MAX {
            let other = CertificateDer::from(serial.to_be_bytes().to_vec());
            let mut chains = verified.chains.lock().unwrap();
            chains.insert(digest(std::iter::once(&other)), Span { from: 0, until: 1 });
        }
        verified.or_else(&leaf, &[], now, || Ok(())).unwrap();
        assert_eq!(verified.chains.lock().unwrap().len(), 1);
    }
}
