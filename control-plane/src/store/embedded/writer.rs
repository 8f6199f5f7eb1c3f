//! The writer thread: gathers writes, decides each against what precedes it, commits them as one, then shows them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::disk::{self, Disk};
use super::view::{Head, View, meets};
use crate::store::{Event, Expect, Key, Revision, StoreError, Versioned};

/// Writes gathered into one commit.
const BATCH_MAX: usize = 256;

/// What a write does.
#[derive(Debug)]
pub(crate) enum Change {
    Put(Key, Bytes),
    Delete(Key),
}

/// What the thread is asked for.
#[derive(Debug)]
pub(crate) enum Job {
    /// One write. Its answer comes when it is durable.
    Write { change: Change, expect: Expect, reply: Reply },
    /// End after what came before.
    Stop,
}

type Reply = oneshot::Sender<Result<Revision, StoreError>>;

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    /// `None` after a failed commit: what the file holds is not known until it is opened again.
    disk: Option<Disk>,
    /// Where to open again; `None` for a store in memory.
    directory: Option<PathBuf>,
    /// Opening reads and checks everything, so it is not tried again at once.
    reopening: Reopening,
    /// Whether the last write went to disk, for metrics.
    writable: Arc<AtomicBool>,
    view: Arc<RwLock<View>>,
    jobs: mpsc::Receiver<Job>,
}

/// When a store that failed is opened again.
#[derive(Debug)]
struct Reopening {
    not_before: Instant,
    pause: Duration,
}

impl Reopening {
    const PAUSE_MIN: Duration = Duration::from_secs(1);
    const PAUSE_MAX: Duration = Duration::from_secs(30);

    fn now() -> Self {
        Self { not_before: Instant::now(), pause: Self::PAUSE_MIN }
    }

    fn failed(&mut self) {
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(Self::PAUSE_MAX);
    }
}

/// Writes decided but not yet durable.
struct Batch {
    head: Head,
    events: Vec<(Event, Head)>,
    /// Keys touched by this batch, as they will be.
    overlay: HashMap<Key, Option<Versioned>>,
    replies: Vec<(Reply, Result<Revision, StoreError>)>,
}

impl Writer {
    pub(crate) fn new(
        disk: Disk,
        directory: Option<PathBuf>,
        view: Arc<RwLock<View>>,
        jobs: mpsc::Receiver<Job>,
        writable: Arc<AtomicBool>,
    ) -> Self {
        Self { disk: Some(disk), directory, reopening: Reopening::now(), writable, view, jobs }
    }

    /// Runs until [`Job::Stop`] or until no [`super::Embedded`] is left.
    pub(crate) fn run(mut self) {
        let mut stop = false;
        while !stop {
            let Some(first) = self.jobs.blocking_recv() else { return };
            let mut jobs = vec![first];
            while jobs.len() < BATCH_MAX
                && let Ok(job) = self.jobs.try_recv()
            {
                jobs.push(job);
            }
            let mut writes = Vec::with_capacity(jobs.len());
            for job in jobs {
                match job {
                    Job::Write { change, expect, reply } => writes.push((change, expect, reply)),
                    Job::Stop => {
                        stop = true;
                        break;
                    }
                }
            }
            self.perform(writes);
        }
    }

    fn perform(&mut self, writes: Vec<(Change, Expect, Reply)>) {
        if let Err(error) = self.reopen() {
            for (_, _, reply) in writes {
                answer(reply, Err(error.clone()));
            }
            return;
        }
        let batch = self.decide(writes);
        let failed = if batch.events.is_empty() { None } else { self.commit(&batch) };
        if failed.is_none() && !batch.events.is_empty() {
            self.note(true);
        }
        if failed.is_none() {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            for (event, head) in batch.events {
                view.apply(event, head);
            }
        }
        for (reply, result) in batch.replies {
            answer(reply, failed.clone().map_or(result, Err));
        }
    }

    fn decide(&self, writes: Vec<(Change, Expect, Reply)>) -> Batch {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Batch { head: view.head(), events: Vec::new(), overlay: HashMap::new(), replies: Vec::new() };
        for (change, expect, reply) in writes {
            let result = batch.decide_one(&view, change, expect);
            batch.replies.push((reply, result));
        }
        batch
    }

    fn commit(&mut self, batch: &Batch) -> Option<StoreError> {
        let events: Vec<Event> = batch.events.iter().map(|(event, _)| event.clone()).collect();
        let committed = match &self.disk {
            Some(disk) => disk.commit(&events, batch.head),
            None => Err("the store is closed".to_owned()),
        };
        let detail = committed.err()?;
        self.note(false);
        tracing::debug!(%detail, "a write to the store failed");
        if self.directory.is_some() {
            self.disk = None;
        }
        Some(StoreError::Unavailable { detail })
    }

    /// Says so when writing begins to fail, and when it works again.
    fn note(&mut self, writable: bool) {
        if writable {
            self.reopening = Reopening::now();
        }
        if self.writable.swap(writable, Ordering::Relaxed) != writable {
            if writable {
                tracing::warn!("the store can be written again");
            } else {
                tracing::error!("the store cannot be written (disk full or read-only?); what is known stays in force");
            }
        }
    }

    /// After a failed commit: opens the file again and shows readers what it really holds.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let (None, Some(directory)) = (&self.disk, &self.directory) else { return Ok(()) };
        if Instant::now() < self.reopening.not_before {
            return Err(StoreError::Unavailable {
                detail: "a write failed lately; the store is opened again soon".to_owned(),
            });
        }
        // Should writing fail again right after opening, it is as if opening had failed.
        self.reopening.failed();
        let (disk, fresh) = disk::open(directory).map_err(|error| match error {
            disk::OpenError::Damaged { .. } => StoreError::Corrupt { detail: error.to_string() },
            disk::OpenError::InUse { .. } | disk::OpenError::Io { .. } => {
                StoreError::Unavailable { detail: error.to_string() }
            }
        })?;
        self.disk = Some(disk);
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if fresh.head() != view.head() {
            view.reset(fresh);
        }
        Ok(())
    }
}

impl Batch {
    fn decide_one(&mut self, view: &View, change: Change, expect: Expect) -> Result<Revision, StoreError> {
        let key = match &change {
            Change::Put(key, _) | Change::Delete(key) => key.clone(),
        };
        let found = self.overlay.get(&key).cloned().unwrap_or_else(|| view.get(&key).cloned());
        meets(&key, expect, found.as_ref().map(|record| record.revision))?;
        let revision = Revision(self.head.revision.0 + 1);
        let mut sum = found.as_ref().map_or(self.head.sum, |old| self.head.sum.minus(old));
        let event = match change {
            Change::Put(key, value) => {
                let record = Versioned { key, value, revision };
                sum = sum.plus(&record);
                Event::Put(record)
            }
            Change::Delete(_) if found.is_none() => return Ok(self.head.revision),
            Change::Delete(key) => Event::Delete { key, revision },
        };
        let after = match &event {
            Event::Put(record) => Some(record.clone()),
            Event::Delete { .. } => None,
        };
        self.overlay.insert(key, after);
        self.head = Head { revision, sum };
        self.events.push((event, self.head));
        Ok(revision)
    }
}

/// Answers a caller that may have left.
fn answer(reply: Reply, result: Result<Revision, StoreError>) {
    drop(reply.send(result));
}
