//! Join tokens: how a workload proves for the first time who it is, where no platform vouches for it.
//!
//! A token is 256 random bits shown once to the operator; the store holds only its SHA-256, with the identity it grants,
//! its end and its remaining uses. Redeeming is in two steps, [`Tokens::prove`] and [`Tokens::consume`], with the signing
//! in between, so that a use is spent only on a certificate that exists. A use is spent on a key, not on an answer: who
//! comes again with the same key because the answer was lost gets it again, for [`AGAIN`].

pub mod attempts;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{constant_time, digest};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weft_core::identity::join_token::JoinToken;
use weft_core::identity::spiffe::{SYSTEM_NAMESPACE, SpiffeId, TrustDomain};

use crate::ca::CaError;
use crate::ca::template::random;
use crate::metrics::Counter;
use crate::store::{Expect, Key, Revision, Store, StoreError};
use attempts::Attempts;

/// Prefix of the tokens' keys in the store.
pub const TOKEN_PREFIX: &str = "token/";

/// Life of a token when none is asked for, in seconds.
pub const TTL_SECONDS_DEFAULT: u32 = 3600;

/// Longest life of a token, in seconds: 30 days.
pub const TTL_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// Tokens that may exist at once.
pub const TOKENS_MAX: usize = 10_000;

/// How long a key that a use was spent on may come again.
const AGAIN: Duration = Duration::from_secs(600);

/// Keys remembered for one token.
const REDEEMED_MAX: usize = 64;

/// How often a use is tried again when another caller spent one at the same moment.
const CONSUME_TRIES: usize = 64;

/// A token as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// SHA-256 of the secret's text, hex; also the key's last part.
    sha256: String,
    namespace: String,
    service_account: String,
    expires_at_unix_seconds: u64,
    uses_left: u32,
    /// What uses were spent on lately.
    #[serde(default)]
    redeemed: Vec<Redeemed>,
}

/// A use spent on a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Redeemed {
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER), hex.
    key_sha256: String,
    at_unix_seconds: u64,
}

impl Stored {
    fn redeemed_lately(&self, now: SystemTime) -> impl Iterator<Item = &Redeemed> {
        let oldest = unix_seconds(now).saturating_sub(AGAIN.as_secs());
        self.redeemed.iter().filter(move |redeemed| redeemed.at_unix_seconds >= oldest)
    }

    /// With one use less, spent on a key.
    fn spent_on(&self, key_sha256: String, now: SystemTime) -> Self {
        let mut redeemed: Vec<_> = self.redeemed_lately(now).cloned().collect();
        redeemed.truncate(REDEEMED_MAX - 1);
        redeemed.push(Redeemed { key_sha256, at_unix_seconds: unix_seconds(now) });
        Self { uses_left: self.uses_left.saturating_sub(1), redeemed, ..self.clone() }
    }

    /// Whether it grants nothing any more, to anybody.
    fn is_over(&self, now: SystemTime) -> bool {
        is_expired(self, now) || (self.uses_left == 0 && self.redeemed_lately(now).next().is_none())
    }
}

/// A token that proved an identity, not yet spent.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The identity it grants.
    pub id: SpiffeId,
    key: Key,
    revision: Revision,
    stored: Stored,
}

/// Why a token is not made or not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Unknown, expired or used up; which one is for the log only.
    #[error("join token is unknown, expired or used up; make one with `weft token create`")]
    Invalid {
        /// For the log: `unknown`, `expired`, `used_up` or `malformed`.
        why: &'static str,
    },
    /// Too many wrong ones lately.
    #[error("too many failed attempts; try again in a minute")]
    TooManyAttempts,
    /// A field of the request cannot be granted.
    #[error("{field}: {reason}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it must be.
        reason: String,
    },
    /// Namespace weft-system.
    #[error("no token is made for namespace {SYSTEM_NAMESPACE}: it is the mesh's own")]
    SystemNamespace,
    /// [`TOKENS_MAX`] exist.
    #[error("there are {TOKENS_MAX} unexpired join tokens already")]
    TooMany,
    /// No random numbers.
    #[error("cannot make a token: {0}")]
    Random(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CaError> for TokenError {
    fn from(error: CaError) -> Self {
        Self::Random(error.to_string())
    }
}

/// What happened to tokens so far.
#[derive(Debug, Default)]
pub struct TokenCounts {
    /// Made.
    pub created: Counter,
    /// Spent on a certificate.
    pub consumed: Counter,
    /// Refused as unknown, expired or used up.
    pub refused: Counter,
    /// Refused unread because of too many failures.
    pub limited: Counter,
}

/// Makes and redeems tokens.
#[derive(Debug)]
pub struct Tokens {
    store: Arc<dyn Store>,
    domain: TrustDomain,
    attempts: Mutex<Attempts>,
    /// Counts for metrics.
    pub counts: TokenCounts,
}

impl Tokens {
    /// Over `store`, for identities of `domain`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, domain: TrustDomain) -> Self {
        Self { store, domain, attempts: Mutex::new(Attempts::new(Instant::now())), counts: TokenCounts::default() }
    }

    /// Makes a token for one identity. `ttl_seconds` and `uses` 0 mean the defaults (an hour, once). Answers the token
    /// and when it ends.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn create(
        &self,
        namespace: &str,
        service_account: &str,
        ttl_seconds: u32,
        uses: u32,
        root_sha256: [u8; 32],
    ) -> Result<(JoinToken, SystemTime), TokenError> {
        check_label("namespace", namespace)?;
        check_label("service_account", service_account)?;
        if namespace == SYSTEM_NAMESPACE {
            return Err(TokenError::SystemNamespace);
        }
        if ttl_seconds > TTL_SECONDS_MAX {
            let reason = format!("must be at most {TTL_SECONDS_MAX} (30 days)");
            return Err(TokenError::Field { field: "ttl_seconds", reason });
        }
        if self.store.list(TOKEN_PREFIX).await?.entries.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let token = JoinToken::new(&random::<32>()?, root_sha256);
        let ttl = if ttl_seconds == 0 { TTL_SECONDS_DEFAULT } else { ttl_seconds };
        let expires_at_unix_seconds = unix_seconds(SystemTime::now()) + u64::from(ttl);
        let sha256 = hash(token.secret());
        let stored = Stored {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            expires_at_unix_seconds,
            uses_left: uses.max(1),
            redeemed: Vec::new(),
            sha256,
        };
        self.store.put(key(&stored.sha256)?, encode(&stored)?, Expect::Absent).await?;
        self.counts.created.increment();
        Ok((token, UNIX_EPOCH + Duration::from_secs(expires_at_unix_seconds)))
    }

    /// Which identity a secret grants. `source` is who tries, for the limit on failures; a right token is never refused
    /// for others' wrong ones.
    ///
    /// # Errors
    /// [`TokenError::Invalid`], [`TokenError::TooManyAttempts`] or [`TokenError::Store`].
    pub async fn prove(&self, secret: &str, source: IpAddr) -> Result<Proof, TokenError> {
        let proved = self.look_up(secret).await;
        if let Err(TokenError::Invalid { .. }) = proved {
            let mut attempts = self.attempts();
            if !attempts.may_try(source, Instant::now()) {
                self.counts.limited.increment();
                return Err(TokenError::TooManyAttempts);
            }
            self.counts.refused.increment();
            attempts.failed(source, Instant::now());
        }
        proved
    }

    /// Spends one use on a public key (SubjectPublicKeyInfo, DER), or none where one was spent on it lately. Of several
    /// callers with the last use, one succeeds.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when the last use was spent, or [`TokenError::Store`].
    pub async fn consume(&self, proof: Proof, spki_der: &[u8]) -> Result<(), TokenError> {
        let key_sha256 = hex(digest::digest(&digest::SHA256, spki_der).as_ref());
        let mut proof = proof;
        for _ in 0..CONSUME_TRIES {
            let now = SystemTime::now();
            if proof.stored.redeemed_lately(now).any(|redeemed| redeemed.key_sha256 == key_sha256) {
                return Ok(());
            }
            if proof.stored.uses_left == 0 {
                return Err(TokenError::Invalid { why: "used_up" });
            }
            let left = proof.stored.spent_on(key_sha256.clone(), now);
            let expect = Expect::Revision(proof.revision);
            match self.store.put(proof.key.clone(), encode(&left)?, expect).await {
                Ok(_revision) => {
                    self.counts.consumed.increment();
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => proof = self.read(proof.key).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Unavailable { detail: "too many callers use this join token at once".to_owned() }.into())
    }

    /// Deletes tokens that are expired or used up; answers how many.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self, now: SystemTime) -> Result<usize, StoreError> {
        let mut swept = 0;
        for entry in self.store.list(TOKEN_PREFIX).await?.entries {
            let over = decode(&entry.value).is_none_or(|stored| stored.is_over(now));
            if over && self.store.delete(entry.key, Expect::Revision(entry.revision)).await.is_ok() {
                swept += 1;
            }
        }
        Ok(swept)
    }

    async fn look_up(&self, secret: &str) -> Result<Proof, TokenError> {
        // The secret's text as proxies send it: 64 hex digits.
        if secret.len() != 64 || !secret.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TokenError::Invalid { why: "malformed" });
        }
        let sha256 = hash(secret);
        let proof = self.read(key(&sha256)?).await?;
        // Found by its hash, so timing tells nothing about a secret; comparing once more keeps that independent of how
        // a backend looks keys up.
        constant_time::verify_slices_are_equal(proof.stored.sha256.as_bytes(), sha256.as_bytes())
            .map_err(|_unspecified| TokenError::Invalid { why: "unknown" })?;
        Ok(proof)
    }

    async fn read(&self, key: Key) -> Result<Proof, TokenError> {
        let found = self.store.get(&key).await?.ok_or(TokenError::Invalid { why: "unknown" })?;
        let stored = decode(&found.value).ok_or(TokenError::Invalid { why: "malformed" })?;
        let now = SystemTime::now();
        if is_expired(&stored, now) {
            return Err(TokenError::Invalid { why: "expired" });
        }
        if stored.is_over(now) {
            return Err(TokenError::Invalid { why: "used_up" });
        }
        let id = SpiffeId::new(self.domain.clone(), &stored.namespace, &stored.service_account);
        let id = id.map_err(|_| TokenError::Invalid { why: "malformed" })?;
        if id.namespace() == SYSTEM_NAMESPACE {
            return Err(TokenError::SystemNamespace);
        }
        Ok(Proof { id, key, revision: found.revision, stored })
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A DNS label (RFC 1123): Kubernetes names namespaces so, and service accounts here follow.
fn check_label(field: &'static str, text: &str) -> Result<(), TokenError> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(legal) || text.starts_with('-') || text.ends_with('-') {
        let reason = "must be 1-63 of a-z 0-9 -, beginning and ending with a letter or digit".to_owned();
        return Err(TokenError::Field { field, reason });
    }
    Ok(())
}

fn key(sha256: &str) -> Result<Key, StoreError> {
    Key::new(format!("{TOKEN_PREFIX}{sha256}"))
}

fn hash(secret: &str) -> String {
    hex(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode(stored: &Stored) -> Result<Bytes, StoreError> {
    let json = serde_json::to_vec(stored);
    json.map(Bytes::from).map_err(|error| StoreError::Unavailable { detail: error.to_string() })
}

fn decode(bytes: &[u8]) -> Option<Stored> {
    serde_json::from_slice(bytes).ok()
}

fn is_expired(stored: &Stored, now: SystemTime) -> bool {
    stored.expires_at_unix_seconds <= unix_seconds(now)
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
