//! Where the control plane keeps what must survive it: user resources, registered instances, join tokens.
//!
//! The trait asks for what etcd and the Kubernetes API can also give: one growing revision for the whole store, writes
//! that name the revision they expect, and a watch that starts at a revision and may answer "too old, list again". It
//! deliberately has no transaction over several keys and no range other than a prefix. Every backend runs
//! `conformance`.
//!
//! Keys are paths such as `config/v1/Service/shop/cart`, `instance/shop/cart-1`, `token/<hash>`.

#[cfg(test)]
pub(crate) mod conformance;
pub mod embedded;
pub mod watch;

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

pub use watch::{Watch, WatchError};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Largest value, in bytes. etcd refuses requests above 1.5 MiB; keeping below it keeps backends interchangeable.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// A key: 1 to [`KEY_BYTES_MAX`] bytes of printable ASCII without spaces, not beginning or ending with `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Checks and takes a key.
    ///
    /// # Errors
    /// [`StoreError::IllegalKey`].
    pub fn new(text: impl Into<String>) -> Result<Self, StoreError> {
        let text = text.into();
        let legal = text.bytes().all(|b| b.is_ascii_graphic()) && !text.starts_with('/') && !text.ends_with('/');
        if text.is_empty() || text.len() > KEY_BYTES_MAX || !legal {
            return Err(StoreError::IllegalKey { key: text.chars().take(64).collect() });
        }
        Ok(Self(text))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that a map of keys can be searched by a prefix.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A moment in the store's history. Every successful write makes exactly one; 0 is the empty store before any write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Its key.
    pub key: Key,
    /// The bytes that were put.
    pub value: Bytes,
    /// Revision of the write that put them.
    pub revision: Revision,
}

/// Everything under a prefix at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by key.
    pub entries: Vec<Versioned>,
    /// The store's revision that the entries show; watch from here to miss nothing.
    pub revision: Revision,
}

/// What a write requires of the present state of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The key must not exist.
    Absent,
    /// The key must exist and have been last written at this revision.
    Revision(Revision),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was created or replaced.
    Put(Versioned),
    /// A key was deleted, at this revision.
    Delete {
        /// The key that is gone.
        key: Key,
        /// Revision of the deletion.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(versioned) => &versioned.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision that the change made.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(versioned) => versioned.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Why the store refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The key is not in the state that the caller expected. Read it again and decide anew.
    #[error("{key} is at {} and not as expected", found.map_or_else(|| "no revision".to_owned(), |r| format!("revision {r}")))]
    Conflict {
        /// The key.
        key: Key,
        /// Its present revision, `None` if it does not exist.
        found: Option<Revision>,
    },
    /// Not a legal key; see [`Key`].
    #[error("illegal store key {key:?}")]
    IllegalKey {
        /// Its first characters.
        key: String,
    },
    /// Larger than [`VALUE_BYTES_MAX`].
    #[error("value of {key} is {bytes} bytes, more than {VALUE_BYTES_MAX}")]
    TooLarge {
        /// The key.
        key: Key,
        /// Size of the value.
        bytes: usize,
    },
    /// The history before this revision is no longer held. List, then watch from the listing's revision.
    #[error("history from revision {from} is no longer held; list again")]
    Compacted {
        /// The revision that was asked for.
        from: Revision,
    },
    /// What was read is not what was written. Never returned as data.
    #[error("store is damaged: {detail}")]
    Corrupt {
        /// What was found, for the operator.
        detail: String,
    },
    /// The disk or the remote store failed; nothing is known to have changed. A later try may succeed.
    #[error("store is unavailable: {detail}")]
    Unavailable {
        /// What failed, for the operator.
        detail: String,
    },
}

/// A pending answer of a [`Store`].
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A backend. Shared as `Arc<dyn Store>`; no call blocks its thread on the disk.
///
/// Cancelling any future is safe: a write whose future was dropped either happened as a whole or did not.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The store's revision as last seen; for showing, not for deciding.
    fn revision(&self) -> Revision;

    /// The value of a key, `None` if absent.
    fn get<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Versioned>>;

    /// All keys that begin with `prefix` (literally; end it with `/` to mean a directory). Empty: everything.
    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing>;

    /// Creates or replaces, durably. Answers the new revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `expect` does not hold.
    fn put(&self, key: Key, value: Bytes, expect: Expect) -> StoreFuture<'_, Revision>;

    /// Deletes, durably. Deleting an absent key with [`Expect::Any`] or [`Expect::Absent`] succeeds, changes nothing
    /// and answers the present revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `expect` does not hold.
    fn delete(&self, key: Key, expect: Expect) -> StoreFuture<'_, Revision>;

    /// Every change under `prefix` after `from`, in order, each once.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the store cannot tell what happened since; list again. A watcher that reads too
    /// slowly gets [`WatchError::Lagged`] from the watch and must do the same.
    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> StoreFuture<'a, Watch>;
}
