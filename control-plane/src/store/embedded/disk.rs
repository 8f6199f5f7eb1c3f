//! The redb file: opening it only when everything in it is as it was written, and committing to it.
//!
//! Beside the file `store.redb` lies `store.revision`, rewritten after each commit. Damage to a redb header can bring
//! an older, consistent tree back, and a file cut to nothing is a new database; the mark tells both from the truth. It
//! may be older than the store (a crash in between) but never newer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::record::{self, Sum};
use super::view::{Head, View};
use crate::store::{Event, Revision, Versioned};

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const HEAD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("head");
const HEAD_KEY: &str = "head";

/// Name of the database file in the state directory.
pub const STORE_FILE: &str = "store.redb";
const MARK_FILE: &str = "store.revision";

/// redb's page cache. Readers use memory of our own, so this only serves commits.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another weft-control-plane; stop that one first, or choose another --state-dir", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It does not hold what was written. None of it is used.
    #[error(
        "{} is damaged ({detail}). Restore a backup:\n  weft-control-plane restore BACKUP-FILE --state-dir {} --force",
        path.display(),
        path.parent().unwrap_or_else(|| Path::new(".")).display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// It could not be read or created.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open database.
pub(crate) struct Disk {
    db: Database,
    mark: Option<PathBuf>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("mark", &self.mark).finish_non_exhaustive()
    }
}

/// Opens or creates the store in `directory`, checks all of it, and reads it.
pub(crate) fn open(directory: &Path) -> Result<(Disk, View), OpenError> {
    let path = directory.join(STORE_FILE);
    let mark = directory.join(MARK_FILE);
    let known = read_mark(&mark);
    if known.is_some_and(|revision| revision > Revision(0)) && !path.exists() {
        let detail = "the file is missing although the store was in use".to_owned();
        return Err(OpenError::Damaged { path, detail });
    }
    let file = open_options().open(&path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    // redb may panic on damage that its checks did not foresee; that is damage, too.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        check(builder.create_file(file)?)
    }));
    let damaged = |detail: String| OpenError::Damaged { path: path.clone(), detail };
    let (db, view) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(Unsound::InUse)) => return Err(OpenError::InUse { path }),
        Ok(Err(Unsound::Io(source))) => return Err(OpenError::Io { path, source }),
        Ok(Err(Unsound::Damaged(detail))) => return Err(damaged(detail)),
        Err(_panic) => return Err(damaged("its structure makes no sense".to_owned())),
    };
    if let Some(known) = known.filter(|known| *known > view.head().revision) {
        let found = view.head().revision;
        return Err(damaged(format!("it is at revision {found} although {known} was written")));
    }
    Ok((Disk { db, mark: Some(mark) }, view))
}

/// A store that ends with the process, for tests.
pub(crate) fn in_memory() -> Result<(Disk, View), String> {
    let backend = redb::backends::InMemoryBackend::new();
    let db = Database::builder().create_with_backend(backend).map_err(|error| error.to_string())?;
    Ok((Disk { db, mark: None }, View::default()))
}

impl Disk {
    /// Over a database of a test.
    #[cfg(test)]
    pub(crate) fn of(db: Database) -> Self {
        Self { db, mark: None }
    }

    /// Writes all changes and the head they lead to, durably, as one.
    ///
    /// # Errors
    /// What failed. Whether the changes were written is not known; open again to see.
    pub(crate) fn commit(&self, changes: &[Event], head: Head) -> Result<(), String> {
        let committed = catch_unwind(AssertUnwindSafe(|| self.try_commit(changes, head)));
        committed.unwrap_or_else(|_panic| Err("the database failed inside".to_owned()))?;
        if let Some(mark) = &self.mark
            && let Err(error) = write_mark(mark, head.revision)
        {
            tracing::warn!(file = %mark.display(), %error, "cannot note the store's revision");
        }
        Ok(())
    }

    fn try_commit(&self, changes: &[Event], head: Head) -> Result<(), String> {
        let text = |error: redb::Error| error.to_string();
        let transaction = self.db.begin_write().map_err(|error| text(error.into()))?;
        {
            let mut records = transaction.open_table(RECORDS).map_err(|error| text(error.into()))?;
            for change in changes {
                let done = match change {
                    Event::Put(put) => records.insert(put.key.as_str(), record::encode(put).as_slice()).map(drop),
                    Event::Delete { key, .. } => records.remove(key.as_str()).map(drop),
                };
                done.map_err(|error| text(error.into()))?;
            }
            let mut heads = transaction.open_table(HEAD).map_err(|error| text(error.into()))?;
            heads.insert(HEAD_KEY, encode_head(head).as_slice()).map_err(|error| text(error.into()))?;
        }
        transaction.commit().map_err(|error| text(error.into()))
    }
}

enum Unsound {
    InUse,
    Io(io::Error),
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for Unsound {
    #[allow(clippy::wildcard_enum_match_arm, reason = "whatever else redb reports on opening is damage to us")]
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            // Short reads mean a file that was cut; redb reports them as I/O errors.
            redb::Error::Io(error) if damage(&error) => Self::Damaged(error.to_string()),
            redb::Error::Io(error) => Self::Io(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

fn damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

fn check(mut db: Database) -> Result<(Database, View), Unsound> {
    let clean: Result<bool, DatabaseError> = db.check_integrity();
    if !clean? {
        tracing::warn!("the store was repaired; checking that nothing is missing");
    }
    let view = load(&db)?;
    Ok((db, view))
}

fn load(db: &Database) -> Result<View, Unsound> {
    let transaction = db.begin_read()?;
    let head = match transaction.open_table(HEAD) {
        Ok(table) => table.get(HEAD_KEY)?.map(|bytes| decode_head(bytes.value())),
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let head = match head {
        Some(Some(head)) => head,
        Some(None) => return Err(Unsound::Damaged("its head does not match its checksum".to_owned())),
        None => Head::default(),
    };
    let mut records = BTreeMap::new();
    let mut sum = Sum::default();
    match transaction.open_table(RECORDS) {
        Ok(table) => {
            for entry in table.iter()? {
                let (key, value): (_, _) = entry?;
                let Some(record) = record::decode(key.value(), value.value()) else {
                    return Err(Unsound::Damaged("a record does not match its checksum".to_owned()));
                };
                sum = sum.plus(&record);
                records.insert(record.key.clone(), record);
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    if sum != head.sum {
        return Err(Unsound::Damaged("records are missing or left over".to_owned()));
    }
    Ok(View::new(records, head))
}

fn encode_head(head: Head) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend_from_slice(&head.revision.0.to_be_bytes());
    bytes.extend_from_slice(&head.sum.0.to_be_bytes());
    bytes.extend_from_slice(&record::checksum(&bytes));
    bytes
}

fn decode_head(bytes: &[u8]) -> Option<Head> {
    let (revision, rest) = bytes.split_first_chunk::<8>()?;
    let (sum, checksum) = rest.split_first_chunk::<16>()?;
    if checksum != record::checksum(bytes.get(..24)?) {
        return None;
    }
    Some(Head { revision: Revision(u64::from_be_bytes(*revision)), sum: Sum(u128::from_be_bytes(*sum)) })
}

/// The revision that was last noted; `None` when there is no note or it is damaged (the store then speaks for itself).
fn read_mark(path: &Path) -> Option<Revision> {
    let bytes = fs::read(path).ok()?;
    let (revision, checksum) = bytes.split_first_chunk::<8>()?;
    (checksum == record::checksum(revision)).then(|| Revision(u64::from_be_bytes(*revision)))
}

fn write_mark(path: &Path, revision: Revision) -> io::Result<()> {
    let mut bytes = revision.0.to_be_bytes().to_vec();
    let checksum = record::checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    fs::write(path, bytes)
}

fn open_options() -> fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

/// Puts a new store with this content in place of the one in `directory`, which nobody may have open. The former file
/// stays beside it with `suffix`.
///
/// # Errors
/// [`OpenError`]; before the last rename nothing has changed.
pub(crate) fn replace(
    directory: &Path,
    records: Vec<Versioned>,
    revision: Revision,
    suffix: &str,
) -> Result<(), OpenError> {
    let path = directory.join(STORE_FILE);
    let mark = directory.join(MARK_FILE);
    let fresh = directory.join(format!("{STORE_FILE}.new"));
    let io = |source| OpenError::Io { path: path.clone(), source };
    let failed = |detail: String| io(io::Error::other(detail));
    remove(&fresh).map_err(io)?;
    let file = open_options().open(&fresh).map_err(io)?;
    let db = Database::builder().create_file(file).map_err(|error| failed(error.to_string()))?;
    let sum = records.iter().fold(Sum::default(), Sum::plus);
    let head = Head { revision, sum };
    let puts: Vec<Event> = records.into_iter().map(Event::Put).collect();
    let disk = Disk { db, mark: None };
    disk.commit(&puts, head).map_err(failed)?;
    drop(disk);
    // The mark goes first: it may be missing, but must not be ahead of the store.
    remove(&mark).map_err(io)?;
    if path.exists() {
        fs::rename(&path, directory.join(format!("{STORE_FILE}.{suffix}"))).map_err(io)?;
    }
    fs::rename(&fresh, &path).map_err(io)?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    write_mark(&mark, revision).map_err(io)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
