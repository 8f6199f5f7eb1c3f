//! The control plane's own certificate, replaced before it ends without a restart.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::ca::{Authority, CaError};
use crate::shutdown::Shutdown;

/// How often the clock is looked at. Short, because a suspended machine's timers stop and its certificates do not.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What new handshakes present.
#[derive(Debug)]
pub struct OwnCertificate {
    authority: Arc<Authority>,
    present: RwLock<Present>,
}

#[derive(Debug)]
struct Present {
    key: Arc<CertifiedKey>,
    made: SystemTime,
    not_after: SystemTime,
}

impl OwnCertificate {
    /// With a first certificate.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn new(authority: Arc<Authority>, now: SystemTime) -> Result<Self, CaError> {
        let present = make(&authority, now)?;
        Ok(Self { authority, present: RwLock::new(present) })
    }

    /// When it ends, in Unix seconds.
    #[must_use]
    pub fn not_after_unix_seconds(&self) -> u64 {
        let not_after = self.present.read().unwrap_or_else(PoisonError::into_inner).not_after;
        not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// Replaces it at half of its life, and whenever `now` is outside of it. `true`: replaced.
    ///
    /// # Errors
    /// When it cannot be signed; the former one stays.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, CaError> {
        // The present issuing certificate still signs for a long time when its replacement fails.
        if let Err(error) = self.authority.refresh(now) {
            tracing::error!(%error, "the issuing certificate cannot be replaced; the present one stays in use");
        }
        {
            let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
            let life = present.not_after.duration_since(present.made).unwrap_or_default();
            if now >= present.made && now < present.made + life / 2 {
                return Ok(false);
            }
        }
        let fresh = make(&self.authority, now)?;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(true)
    }

    /// Keeps it fresh until shutdown.
    pub async fn keep(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.renew_if_due(SystemTime::now()) {
                Ok(true) => tracing::info!("renewed the control plane's own certificate"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "cannot renew the control plane's own certificate"),
            }
        }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner).key))
    }
}

fn make(authority: &Authority, now: SystemTime) -> Result<Present, CaError> {
    let (key, not_after) = authority.own_certificate(now)?;
    Ok(Present { key: Arc::new(key), made: now, not_after })
}

#[cfg(test)]
mod tests {
    use weft_core::identity::spiffe::TrustDomain;

    use super::*;

    #[test]
    fn renews_at_half_of_its_life() {
        let directory = tempfile::tempdir().unwrap();
        let start = SystemTime::now();
        let hours = |hours: u64| start + Duration::from_secs(hours * 3600);
        let domain = TrustDomain::new("cluster.local").unwrap();
        let authority = Arc::new(Authority::open(directory.path(), &domain, false, start).unwrap());
        let own = OwnCertificate::new(authority, start).unwrap();
        let check = |at: SystemTime, replaced: bool| assert_eq!(own.renew_if_due(at).unwrap(), replaced);
        check(hours(11), false);
        check(hours(12), true);
        check(hours(13), false);
        check(hours(40), true);
        check(hours(1), true); // The clock was set back: the present one is not yet valid.
        assert_eq!(own.not_after_unix_seconds(), hours(25).duration_since(UNIX_EPOCH).unwrap().as_secs());
    }
}
