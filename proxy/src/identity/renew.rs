//! Keeps the identity fresh for as long as the process lives. Runs on the control thread.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::KeyPair;
use tokio::sync::watch;
use weft_core::identity::join_token::JoinToken;
use weft_core::identity::schedule::renew_at;
use weft_proto::v1::TrustBundle;

use super::issue::{Authorisation, issue, make_key, read_bundle};
use super::store::hash_of;
use super::{ControlPlane, DialError, Identity, IssueError, Kept, Store};
use crate::clock::Clock;
use crate::entropy::ThreadEntropy;

/// Bounds of the full-jitter back-off between failed tries.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// The wall clock is looked at this often while waiting, because it may be stepped (K5).
const LOOK: Duration = Duration::from_secs(30);

/// Between two certificates, whatever the clocks say: with a clock that is ahead, each is past half of its life at once.
const RENEWALS_APART: Duration = Duration::from_secs(60);

/// What proves who we are at the start.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// A join token.
    pub join_token: Option<JoinToken>,
    /// The identity of an earlier run.
    pub kept: Option<Kept>,
    /// One lay there, but was not usable: it lies here, and may be good after all when the clock was wrong at the start.
    pub ignored: Option<Store>,
    /// Where the key lies until the token's certificate for it does: a process that ends in between asks for it again.
    pub joining: Option<Store>,
}

impl Proof {
    /// Whether the token was given since to have another identity than the kept one.
    fn asks_for_another(&self) -> bool {
        let (token, kept) = (self.join_token.as_ref(), self.kept.as_ref());
        token.zip(kept).is_some_and(|(token, kept)| kept.is_of_another_token(token))
    }

    /// What was not usable at the start, if it is now.
    async fn look_again(&self, now: i64) -> Option<Kept> {
        let store = self.ignored.clone()?;
        tokio::task::spawn_blocking(move || store.load(now)).await.ok()?.ok()?
    }
}

/// For metrics: how renewal goes.
#[derive(Debug, Default)]
pub struct RenewalStatus {
    not_after: AtomicI64,
    issued: AtomicU64,
    failed: AtomicU64,
    /// Set by who keeps it.
    pub(super) stored: AtomicBool,
    ignored: AtomicBool,
    held_by: Mutex<Option<String>>,
}

impl RenewalStatus {
    /// By which token the identity is held: SHA-256 of its secret, hexadecimal.
    #[must_use]
    pub fn held_by(&self) -> Option<String> {
        self.held_by.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold_by(&self, token_sha256: Option<String>) {
        *self.held_by.lock().unwrap_or_else(PoisonError::into_inner) = token_sha256;
    }

    /// End of the present leaf's validity (Unix seconds), 0 before the first.
    pub fn not_after(&self) -> i64 {
        self.not_after.load(Ordering::Relaxed)
    }

    /// Certificates obtained.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Tries that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the present identity is on the disk, so that a restart needs no join token.
    pub fn stored(&self) -> bool {
        self.stored.load(Ordering::Relaxed)
    }

    /// Whether what lay on the disk at the start was not usable.
    pub fn ignored(&self) -> bool {
        self.ignored.load(Ordering::Relaxed)
    }
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(
        "there is neither a valid certificate nor a join token: print one with `weft token create` and start again with it"
    )]
    NoProof,
}

impl RenewError {
    /// Whether the control plane said no, for good, or is another one.
    fn is_final(&self) -> bool {
        use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated};
        if matches!(self, Self::Dial(DialError::Stranger { .. })) {
            return true;
        }
        let Self::Issue(IssueError::Refused(status)) = self else { return false };
        matches!(status.code(), InvalidArgument | PermissionDenied | Unauthenticated)
    }
}

/// Obtains the first identity, publishes it, and renews it at half of its life, for ever.
///
/// One kept of an earlier run is the first, and is renewed at once. Another token given since comes before it: it says who
/// this proxy is to be. While the control plane does not answer, the kept one serves, and the token is tried on; once it is
/// refused, or belongs to another mesh, the kept one is renewed too, and only while that fails the token has further tries
/// in turn. One that was not good at the start is looked at again when its token is refused: machines begin with a wrong
/// clock.
///
/// A failed try is repeated with jittered back-off; the old certificate stays in use until it expires (K1), and after that
/// the token is tried again (K2). Roots that the control plane tells meanwhile are believed at once, so that old and new
/// ones overlap before anybody's certificate changes (S5).
pub struct IdentityKeeper {
    control_plane: ControlPlane,
    proof: Proof,
    clock: Clock,
    identity: watch::Sender<Option<Arc<Identity>>>,
    bundles: watch::Receiver<Option<TrustBundle>>,
    status: Arc<RenewalStatus>,
    /// To be signed by renewal; the same until it is.
    key: Option<KeyPair>,
    /// To be signed by the token; the same until it is.
    joining_key: Option<KeyPair>,
    /// The kept identity, while the token comes before it.
    fallback: Option<Kept>,
    /// The token asks for another identity, which was not issued yet.
    another: bool,
    /// That was refused, so that what is held is kept.
    refused: bool,
    /// The next try is by the token, whatever is held.
    by_token: bool,
    due_now: bool,
    backoff: Duration,
}

impl fmt::Debug for IdentityKeeper {
    // Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityKeeper").field("control_plane", &self.control_plane).finish_non_exhaustive()
    }
}

impl IdentityKeeper {
    /// `identity` is where it is published, `bundles` tells of new roots.
    #[must_use]
    pub fn new(
        control_plane: ControlPlane,
        proof: Proof,
        clock: Clock,
        identity: watch::Sender<Option<Arc<Identity>>>,
        bundles: watch::Receiver<Option<TrustBundle>>,
        status: Arc<RenewalStatus>,
    ) -> Self {
        status.ignored.store(proof.ignored.is_some(), Ordering::Relaxed);
        let another = proof.asks_for_another();
        let mut keeper = Self {
            control_plane,
            clock,
            identity,
            bundles,
            status,
            key: None,
            joining_key: None,
            fallback: None,
            another,
            refused: false,
            by_token: another,
            due_now: false,
            backoff: BACKOFF_MIN,
            proof,
        };
        if let Some(kept) = keeper.proof.kept.clone() {
            tracing::info!(id = %kept.identity.id, not_after = kept.identity.not_after, second = another, "identity of an earlier run");
            if another {
                keeper.fallback = Some(kept);
            } else {
                keeper.go_on_with(kept);
            }
        }
        keeper
    }

    /// Keeps it for as long as it is polled. Cancelling loses at most a certificate that was just issued. It can be run
    /// again, also when a panic ended it.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let held = self.identity.borrow().clone();
            let present = held.filter(|held| self.clock.unix_seconds() <= held.not_after);
            if let Some(held) = &present
                && self.backoff == BACKOFF_MIN
                && !self.due_now
            {
                let due = renew_at(held.not_before, held.not_after, &mut ThreadEntropy);
                let clock = self.clock;
                let waiting = async {
                    tokio::join!(wait_until(due, &clock), tokio::time::sleep(RENEWALS_APART));
                };
                adopt_until(waiting, &mut self.bundles, &self.identity).await;
            }
            let renewing = present.filter(|_| !self.by_token);
            match self.obtain(renewing.as_deref()).await {
                Ok(fresh) => self.issued(fresh, renewing.is_some()),
                Err(error) => self.failed(&error, renewing.is_some()).await,
            }
        }
    }

    fn issued(&mut self, fresh: Identity, renewed: bool) {
        tracing::info!(id = %fresh.id, not_after = fresh.not_after, "identity issued");
        if !renewed {
            self.status.hold_by(self.proof.join_token.as_ref().map(hash_of));
        } else if self.another && self.refused {
            tracing::warn!(id = %fresh.id, "the join token is left alone for this run: the identity of an earlier run was renewed");
        }
        self.key = None;
        self.status.issued.fetch_add(1, Ordering::Relaxed);
        self.publish(fresh);
        // Renewed only to stay, while nobody could say yet whether the token works.
        self.by_token = renewed && self.another && !self.refused;
        if !self.by_token {
            (self.backoff, self.joining_key, self.fallback) = (BACKOFF_MIN, None, None);
            (self.another, self.due_now) = (false, false);
        }
    }

    async fn failed(&mut self, error: &RenewError, renewing: bool) {
        self.status.failed.fetch_add(1, Ordering::Relaxed);
        let pause = self.backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        tracing::warn!(%error, retry_in = ?pause, "identity not issued");
        self.refused |= !renewing && error.is_final();
        if !renewing && self.fallback.is_none() && error.is_final() && self.identity.borrow().is_none() {
            self.fallback = self.proof.look_again(self.clock.unix_seconds()).await;
        }
        let kept = self.fallback.take_if(|kept| self.clock.unix_seconds() <= kept.identity.not_after);
        if let Some(kept) = kept {
            self.go_on_with(kept);
        }
        let now = self.clock.unix_seconds();
        let is_served = self.identity.borrow().as_ref().is_some_and(|held| now <= held.not_after);
        if !renewing && self.another && is_served {
            self.explain();
        }
        self.by_token = self.another && (renewing || !self.refused && !self.is_due());
        tokio::time::sleep(pause).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// Another identity is wanted than the one that serves.
    fn explain(&self) {
        let held = self.identity.borrow().as_ref().map(|held| held.id.to_string()).unwrap_or_default();
        if self.refused {
            tracing::warn!(
                id = held,
                "the join token does not work here; going on with the identity of an earlier run: remove the token, or give one of this mesh and start again"
            );
        } else {
            tracing::warn!(id = held, "going on with the identity of an earlier run until the join token can be used");
        }
    }

    /// Whether what is held is past half of its life.
    fn is_due(&self) -> bool {
        let held = self.identity.borrow();
        let due = |held: &Arc<Identity>| renew_at(held.not_before, held.not_after, &mut ThreadEntropy);
        held.as_ref().is_some_and(|held| due(held) <= self.clock.unix_seconds())
    }

    fn go_on_with(&mut self, kept: Kept) {
        self.status.hold_by(kept.token_sha256);
        self.due_now = true;
        self.publish(kept.identity);
    }

    fn publish(&self, identity: Identity) {
        self.status.not_after.store(identity.not_after, Ordering::Relaxed);
        self.identity.send_replace(Some(Arc::new(identity)));
    }

    /// By the certificate of `present`, or else by the token.
    async fn obtain(&mut self, present: Option<&Identity>) -> Result<Identity, RenewError> {
        let now = self.clock.unix_seconds();
        if let Some(held) = present {
            let slot = &mut self.key;
            let key = match slot {
                Some(key) => key,
                None => slot.insert(make_key()?),
            };
            let channel = self.control_plane.dial(held).await?;
            return Ok(issue(channel, Authorisation::Renewal(&held.id), key, now).await?);
        }
        let token = self.proof.join_token.as_ref().ok_or(RenewError::NoProof)?;
        let slot = &mut self.joining_key;
        let key = match slot {
            Some(key) => key,
            None => slot.insert(joining_key(self.proof.joining.clone()).await?),
        };
        let channel = self.control_plane.dial_pinned(*token.root_sha256()).await?;
        Ok(issue(channel, Authorisation::Token(token.secret()), key, now).await?)
    }
}

/// The key that a token's certificate is asked for with: that of a run that ended before it had one, else a new one.
async fn joining_key(store: Option<Store>) -> Result<KeyPair, IssueError> {
    let Some(store) = store else { return make_key() };
    match tokio::task::spawn_blocking(move || store.joining_key()).await {
        Ok(Ok(key)) => Ok(key),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the key cannot be kept while it is signed: a crash within that time costs a use of the join token");
            make_key()
        }
        Err(_) => make_key(),
    }
}

/// Takes new roots into the identity while `waiting` is pending.
async fn adopt_until(
    waiting: impl Future<Output = ()>,
    bundles: &mut watch::Receiver<Option<TrustBundle>>,
    identity: &watch::Sender<Option<Arc<Identity>>>,
) {
    tokio::pin!(waiting);
    loop {
        tokio::select! {
            () = &mut waiting => return,
            changed = bundles.changed() => if changed.is_err() {
                // Nobody tells any more.
                return waiting.await;
            }
        }
        let told = bundles.borrow_and_update().clone();
        let held = identity.borrow().clone();
        let (Some(told), Some(held)) = (told, held) else { continue };
        match read_bundle(told) {
            Ok(fresh)
                if fresh.trust_domain == held.bundle.trust_domain && fresh.generation > held.bundle.generation =>
            {
                tracing::info!(generation = fresh.generation, roots = fresh.roots.len(), "trust bundle changed");
                identity.send_replace(Some(Arc::new(Identity { bundle: Arc::new(fresh), ..Identity::clone(&held) })));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "trust bundle refused; the roots of before stay in force"),
        }
    }
}

async fn wait_until(due: i64, clock: &Clock) {
    loop {
        let left = due.saturating_sub(clock.unix_seconds());
        let Ok(left @ 1..) = u64::try_from(left) else { return };
        tokio::time::sleep(Duration::from_secs(left).min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::Authority;

    const SHOP: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    #[tokio::test]
    async fn new_roots_are_believed_at_once_and_nonsense_is_not() {
        let authority = Authority::new("cluster.local");
        let held = authority.identity(SHOP, &[SHOP], 3600);
        let root = held.bundle.roots[0].to_vec();
        let other = Authority::new("cluster.local").identity(SHOP, &[SHOP], 3600).bundle.roots[0].to_vec();
        let (identity, mut seen) = watch::channel(Some(held));
        let (tell, mut bundles) = watch::channel(None);
        let told = |trust_domain: &str, generation, roots: &[&[u8]]| {
            let roots_der = roots.iter().map(|root| root.to_vec()).collect();
            Some(TrustBundle { trust_domain: trust_domain.to_owned(), generation, roots_der })
        };
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let waiting = async { ended.await.unwrap() };
        let telling = async {
            let ignored = [
                told("other.example", 9, &[&other]),
                told("cluster.local", 1, &[&other]),
                told("cluster.local", 9, &[]),
                told("cluster.local", 9, &[b"no certificate"]),
            ];
            for bundle in ignored {
                tell.send_replace(bundle);
                tokio::task::yield_now().await;
                assert!(!seen.has_changed().unwrap());
            }
            tell.send_replace(told("cluster.local", 2, &[&root, &other]));
            let adopted = tokio::time::timeout(Duration::from_secs(5), seen.changed()).await;
            adopted.expect("the new roots").unwrap();
            let adopted = seen.borrow().clone().unwrap();
            assert_eq!((adopted.bundle.generation, adopted.bundle.roots.len()), (2, 2));
            assert_eq!(adopted.id.to_string(), SHOP);
            end.send(()).unwrap();
        };
        tokio::join!(adopt_until(waiting, &mut bundles, &identity), telling);
    }
}
