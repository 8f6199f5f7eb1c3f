//! The built-in backend: one redb file owned by one process, read from memory, written by one thread.
//!
//! One writer thread because a commit waits for the disk: writes that arrive meanwhile are gathered into the next
//! commit, so a thousand registrations cost a handful of disk waits. A change is shown to readers only once durable.

mod disk;
mod record;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{Expect, Key, Listing, Revision, Store, StoreError, StoreFuture, VALUE_BYTES_MAX, Versioned, Watch};
pub(crate) use disk::replace;
pub use disk::{OpenError, STORE_FILE};
use view::View;
use writer::{Change, Job, Writer};

/// Writes that may wait for the writer; more wait outside, in their callers.
const WRITE_QUEUE_MAX: usize = 1024;

/// The built-in store.
#[derive(Debug)]
pub struct Embedded {
    view: Arc<RwLock<View>>,
    writes: mpsc::Sender<Job>,
    writable: Arc<AtomicBool>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens or creates the store in `directory`, which must exist. Reads and checks all of it, so it blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let (disk, view) = disk::open(directory)?;
        Self::start(disk, view, Some(directory.to_owned()))
            .map_err(|source| OpenError::Io { path: directory.to_owned(), source })
    }

    /// A store that ends with the process, for tests.
    ///
    /// # Errors
    /// When no thread or database can be made.
    pub fn in_memory() -> std::io::Result<Self> {
        let (disk, view) = disk::in_memory().map_err(std::io::Error::other)?;
        Self::start(disk, view, None)
    }

    fn start(disk: disk::Disk, view: View, directory: Option<PathBuf>) -> std::io::Result<Self> {
        let view = Arc::new(RwLock::new(view));
        let (writes, jobs) = mpsc::channel(WRITE_QUEUE_MAX);
        let writable = Arc::new(AtomicBool::new(true));
        let writer = Writer::new(disk, directory, Arc::clone(&view), jobs, Arc::clone(&writable));
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run())?;
        Ok(Self { view, writes, writable, thread: std::sync::Mutex::new(Some(thread)) })
    }

    /// Whether the last write went to disk, for metrics.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Number of keys, for metrics.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.read().len()
    }

    /// Finishes what was asked for and closes the file; later writes fail. Blocks until the file is free.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // An error means that the thread has ended already.
        if self.writes.blocking_send(Job::Stop).is_ok() && thread.join().is_err() {
            tracing::error!("the store's writer failed; the next start checks the store");
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, change: Change, expect: Expect) -> Result<Revision, StoreError> {
        let stopped = || StoreError::Unavailable { detail: "the store has stopped".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.writes.send(Job::Write { change, expect, reply }).await.map_err(|_closed| stopped())?;
        answer.await.map_err(|_dropped| stopped())?
    }
}

/// Frees the file before it returns, so that a failed start can be repeated at once.
impl Drop for Embedded {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // With a full queue the thread ends by itself, once it has drained it.
        if self.writes.try_send(Job::Stop).is_ok()
            && let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer failed; the next start checks the store");
        }
    }
}

impl Store for Embedded {
    fn revision(&self) -> Revision {
        self.read().head().revision
    }

    fn get<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Versioned>> {
        Box::pin(async { Ok(self.read().get(key).cloned()) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> StoreFuture<'a, Listing> {
        Box::pin(async { Ok(self.read().list(prefix)) })
    }

    fn put(&self, key: Key, value: Bytes, expect: Expect) -> StoreFuture<'_, Revision> {
        Box::pin(async move {
            if value.len() > VALUE_BYTES_MAX {
                return Err(StoreError::TooLarge { key, bytes: value.len() });
            }
            self.write(Change::Put(key, value), expect).await
        })
    }

    fn delete(&self, key: Key, expect: Expect) -> StoreFuture<'_, Revision> {
        Box::pin(self.write(Change::Delete(key), expect))
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> StoreFuture<'a, Watch> {
        Box::pin(async move { self.view.write().unwrap_or_else(PoisonError::into_inner).watch(prefix, from) })
    }
}
