//! Keeps the identity fresh for as long as the process lives. Runs on the control thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
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
}

impl Proof {
    /// By which token the identity is held from now on: SHA-256 of its secret, hexadecimal.
    #[must_use]
    pub fn token_sha256(&self) -> Option<String> {
        let kept = || self.kept.as_ref().and_then(|kept| kept.token_sha256.clone());
        self.join_token.as_ref().map(hash_of).or_else(kept)
    }

    /// The kept identity, and whether the token comes before it: it was given to have another one.
    fn begin(&self) -> Option<(Arc<Identity>, bool)> {
        let kept = self.kept.as_ref()?;
        let anew = self.join_token.as_ref().is_some_and(|token| kept.is_of_another_token(token));
        Some((Arc::new(kept.identity.clone()), anew))
    }

    /// What was not usable at the start, if it is now.
    async fn look_again(&self, now: i64) -> Option<Arc<Identity>> {
        let store = self.ignored.clone()?;
        let loaded = tokio::task::spawn_blocking(move || store.load(now)).await;
        let kept = loaded.ok()?.ok()??;
        Some(Arc::new(kept.identity))
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
}

impl RenewalStatus {
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
    /// Whether the control plane said no, for good.
    fn is_refusal(&self) -> bool {
        use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated};
        let Self::Issue(IssueError::Refused(status)) = self else { return false };
        matches!(status.code(), InvalidArgument | PermissionDenied | Unauthenticated)
    }
}

/// Obtains the first identity, publishes it, and renews it at half of its life, for ever. One kept of an earlier run is
/// the first, and is renewed at once, unless another token was given since: then that token, and only when it is refused
/// what was kept. One that was not good at the start is looked at again then: machines begin with a wrong clock. A failed try is repeated with jittered back-off; the old certificate stays in use until it expires
/// (K1), and after that the token is tried again (K2). Roots that the control plane tells meanwhile by `bundles` are
/// believed at once, so that old and new ones overlap before anybody's certificate changes (S5). Cancelling loses at most
/// a certificate that was just issued.
pub async fn keep_identity(
    control_plane: ControlPlane,
    proof: Proof,
    clock: Clock,
    identity: watch::Sender<Option<Arc<Identity>>>,
    mut bundles: watch::Receiver<Option<TrustBundle>>,
    status: Arc<RenewalStatus>,
) {
    let mut entropy = ThreadEntropy;
    let mut backoff = BACKOFF_MIN;
    let mut key = None;
    let mut due_now = false;
    let mut fallback = None;
    status.ignored.store(proof.ignored.is_some(), Ordering::Relaxed);
    if let Some((kept, anew)) = proof.begin() {
        tracing::info!(id = %kept.id, not_after = kept.not_after, second = anew, "identity of an earlier run");
        if anew {
            fallback = Some(kept);
        } else {
            status.not_after.store(kept.not_after, Ordering::Relaxed);
            identity.send_replace(Some(kept));
            due_now = true;
        }
    }
    loop {
        let held = identity.borrow().clone();
        let present = held.filter(|held| clock.unix_seconds() <= held.not_after);
        if let Some(held) = &present {
            let due = renew_at(held.not_before, held.not_after, &mut entropy);
            if backoff == BACKOFF_MIN && !due_now {
                let waiting = async {
                    tokio::join!(wait_until(due, &clock), tokio::time::sleep(RENEWALS_APART));
                };
                adopt_until(waiting, &mut bundles, &identity).await;
            }
        }
        match obtain(&control_plane, &proof, present.as_deref(), &mut key, &clock).await {
            Ok(fresh) => {
                backoff = BACKOFF_MIN;
                key = None;
                due_now = false;
                fallback = None;
                tracing::info!(id = %fresh.id, not_after = fresh.not_after, "identity issued");
                status.issued.fetch_add(1, Ordering::Relaxed);
                status.not_after.store(fresh.not_after, Ordering::Relaxed);
                identity.send_replace(Some(Arc::new(fresh)));
            }
            Err(error) => {
                status.failed.fetch_add(1, Ordering::Relaxed);
                let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
                tracing::warn!(%error, retry_in = ?pause, "identity not issued");
                let refused = present.is_none() && error.is_refusal();
                if refused && fallback.is_none() {
                    fallback = proof.look_again(clock.unix_seconds()).await;
                }
                if refused && let Some(kept) = fallback.take() {
                    tracing::warn!(id = %kept.id, "the join token is no good; going on with the identity of an earlier run");
                    status.not_after.store(kept.not_after, Ordering::Relaxed);
                    identity.send_replace(Some(kept));
                    due_now = true;
                }
                tokio::time::sleep(pause).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

async fn obtain(
    control_plane: &ControlPlane,
    proof: &Proof,
    present: Option<&Identity>,
    key: &mut Option<KeyPair>,
    clock: &Clock,
) -> Result<Identity, RenewError> {
    let now = clock.unix_seconds();
    // The same until it is signed.
    let key = match key {
        Some(key) => key,
        None => key.insert(make_key()?),
    };
    if let Some(held) = present {
        let channel = control_plane.dial(held).await?;
        return Ok(issue(channel, Authorisation::Renewal(&held.id), key, now).await?);
    }
    let token = proof.join_token.as_ref().ok_or(RenewError::NoProof)?;
    let channel = control_plane.dial_pinned(*token.root_sha256()).await?;
    Ok(issue(channel, Authorisation::Token(token.secret()), key, now).await?)
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
