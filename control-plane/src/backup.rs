//! Backups: everything that cannot be made again, as one checked file.
//!
//! A backup holds the store's content and the authority's keys, since a mesh restored under a new root would not be
//! trusted by any of its proxies. **It is therefore as secret as the state directory.** It is a listing, not a copy of
//! the database file, so it is consistent while writes go on, and it fits every backend.
//!
//! Join tokens are left out: restoring must not give back uses that were spent since.
//!
//! Form: eight bytes `WEFTBKP1`, the body's length (u64, big-endian), its SHA-256, the body (protobuf).
//!
//! Everything that is restored gets a new revision, beyond any that was ever given out: proxies may hold resources of the
//! lost time, take only what is newer than what they hold, and a revision must never mean two different things. The time
//! of the restoration says what is beyond: a store is far from writing a thousand times in a millisecond.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest;
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use crate::ca::authority::{CA_DIRECTORY, ISSUING_FILE, ROOT_FILE};
use crate::ca::state::{make_private_directory, read_secret, write_secret};
use crate::store::embedded::{self, OpenError, STORE_FILE};
use crate::store::{Key, Revision, Store, StoreError, Versioned};
use crate::tokens::TOKEN_PREFIX;

const MAGIC: [u8; 8] = *b"WEFTBKP1";
const HEADER_BYTES: usize = MAGIC.len() + 8 + 32;

/// Largest backup that is read.
const BACKUP_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Revisions set apart for each millisecond since 1970. The sum stays exact in a double, as metrics show it.
const REVISIONS_PER_MILLISECOND: u64 = 1000;

/// Suffix of what `restore --force` puts aside.
const REPLACED: &str = "replaced";

#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(message, repeated, tag = "2")]
    records: Vec<Record>,
    #[prost(message, repeated, tag = "3")]
    authority: Vec<AuthorityFile>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AuthorityFile {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

/// Why a backup was not made or not restored. Unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Not a whole, unaltered backup.
    #[error("{} is not a whole backup of a Weft control plane: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: &'static str,
    },
    /// State exists and `--force` was not given.
    #[error("{} exists; --force replaces it (and keeps it as *.{REPLACED})", path.display())]
    Exists {
        /// What exists.
        path: PathBuf,
    },
    /// A control plane runs on this state directory.
    #[error("{} is in use; stop the control plane first", path.display())]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot access {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The restored store could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a restored backup held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Revision at which it was made.
    pub revision: Revision,
    /// Keys in the store.
    pub records: usize,
}

/// A backup of `store` and of the authority in `state_directory`, as the bytes of the file.
///
/// # Errors
/// [`BackupError::Store`] or [`BackupError::File`].
pub async fn make(store: &dyn Store, state_directory: &Path) -> Result<Bytes, BackupError> {
    let listing = store.list("").await?;
    let kept = listing.entries.into_iter().filter(|entry| !entry.key.as_str().starts_with(TOKEN_PREFIX));
    let records =
        kept.map(|entry| Record { key: entry.key.as_str().to_owned(), revision: entry.revision.0, value: entry.value });
    let mut authority = Vec::new();
    for name in [ROOT_FILE, ISSUING_FILE] {
        let path = state_directory.join(CA_DIRECTORY).join(name);
        let content = read_secret(&path).map_err(|source| BackupError::File { path, source })?;
        authority.push(AuthorityFile { name: name.to_owned(), content });
    }
    let body = Body { revision: listing.revision.0, records: records.collect(), authority };
    Ok(seal(&body.encode_to_vec()))
}

/// Writes the backup `file` into `state_directory`. Blocks.
///
/// # Errors
/// [`BackupError`]. After [`BackupError::File`] in the middle of a forced restore the former files lie beside as
/// `*.replaced`; the call can be repeated.
pub fn restore(file: &Path, state_directory: &Path, force: bool) -> Result<Restored, BackupError> {
    let body = open(file)?;
    let store = state_directory.join(STORE_FILE);
    let access = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::File { path, source }
    };
    make_private_directory(&state_directory.join(CA_DIRECTORY)).map_err(access(state_directory))?;
    let _lock = lock(&store)?;
    let authority = plan_authority(&body, state_directory, force)?;
    if store.exists() && !force {
        return Err(BackupError::Exists { path: store });
    }
    let restored = Restored { revision: Revision(body.revision), records: body.records.len() };
    let damaged = |detail| BackupError::Damaged { path: file.to_owned(), detail };
    let mut revision = body.revision.max(beyond_all(SystemTime::now()));
    let records = body.records.into_iter().map(|record| {
        revision = revision.checked_add(1).ok_or_else(|| damaged("its revision is absurd"))?;
        let key = Key::new(record.key).map_err(|_| damaged("a key is illegal"))?;
        Ok(Versioned { key, value: record.value, revision: Revision(revision) })
    });
    let records = records.collect::<Result<Vec<_>, BackupError>>()?;
    embedded::replace(state_directory, records, Revision(revision), REPLACED)?;
    for (path, content) in authority {
        if path.exists() {
            fs::rename(&path, path.with_extension(format!("pem.{REPLACED}"))).map_err(access(&path))?;
        }
        write_secret(&path, &content).map_err(access(&path))?;
    }
    Ok(restored)
}

fn beyond_all(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_mul(REVISIONS_PER_MILLISECOND)
}

/// The authority's files that differ from the backup's.
fn plan_authority(body: &Body, state_directory: &Path, force: bool) -> Result<Vec<(PathBuf, Vec<u8>)>, BackupError> {
    let mut writes = Vec::new();
    for name in [ROOT_FILE, ISSUING_FILE] {
        let Some(file) = body.authority.iter().find(|file| file.name == name) else { continue };
        let path = state_directory.join(CA_DIRECTORY).join(name);
        match fs::read(&path) {
            Ok(present) if present == file.content => continue,
            // The issuing pair is made anew when it does not fit the root, so only the root is worth asking for.
            Ok(_) if !force && name == ROOT_FILE => return Err(BackupError::Exists { path }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(BackupError::File { path, source }),
        }
        writes.push((path, file.content.clone()));
    }
    Ok(writes)
}

/// The same lock that a running control plane holds on its store, if there is a file to lock.
fn lock(store: &Path) -> Result<Option<fs::File>, BackupError> {
    let file = match fs::File::open(store) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(BackupError::File { path: store.to_owned(), source }),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(BackupError::InUse { path: store.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(BackupError::File { path: store.to_owned(), source }),
    }
}

fn seal(body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + body.len());
    bytes.put_slice(&MAGIC);
    bytes.put_u64(body.len() as u64);
    bytes.put_slice(digest::digest(&digest::SHA256, body).as_ref());
    bytes.put_slice(body);
    bytes.freeze()
}

fn open(path: &Path) -> Result<Body, BackupError> {
    let access = |source| BackupError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(access)?.take(BACKUP_BYTES_MAX).read_to_end(&mut bytes).map_err(access)?;
    unseal(&bytes).map_err(|detail| BackupError::Damaged { path: path.to_owned(), detail })
}

fn unseal(bytes: &[u8]) -> Result<Body, &'static str> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or("it is too short")?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or("it is too short")?;
    let (sha256, body) = rest.split_first_chunk::<32>().ok_or("it is too short")?;
    if *magic != MAGIC {
        return Err("it begins with something else");
    }
    if u64::from_be_bytes(*length) != body.len() as u64 {
        return Err("its length is not what its header says");
    }
    if digest::digest(&digest::SHA256, body).as_ref() != sha256 {
        return Err("its checksum does not match");
    }
    Body::decode(body).map_err(|_| "its content cannot be read")
}
