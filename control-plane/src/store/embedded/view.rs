//! The whole store as readers see it: in memory, always one consistent moment.
//!
//! A mesh's resources are megabytes, so memory is the right place to read from: no read waits for the disk, and damage
//! that happens to the file while it is open cannot reach a reader.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use super::record::Sum;
use crate::store::watch::{WATCH_QUEUE_MAX, Watcher};
use crate::store::{Event, Expect, Key, Listing, Revision, StoreError, Versioned, Watch};

/// Changes kept for watches that start in the past: as many as fit into a new watcher's queue.
const HISTORY_EVENTS_MAX: usize = WATCH_QUEUE_MAX;

/// Bytes of values that the history may hold on to.
const HISTORY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Revision and checksum of a whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Of the last write.
    pub(crate) revision: Revision,
    /// Over all records.
    pub(crate) sum: Sum,
}

/// A store's content.
#[derive(Debug, Default)]
pub(crate) struct View {
    records: BTreeMap<Key, Versioned>,
    head: Head,
    history: VecDeque<Event>,
    history_bytes: usize,
    /// Every change after this revision is in `history`.
    floor: Revision,
    watchers: Vec<Watcher>,
}

impl View {
    /// What was loaded.
    pub(crate) fn new(records: BTreeMap<Key, Versioned>, head: Head) -> Self {
        Self { records, head, floor: head.revision, ..Self::default() }
    }

    pub(crate) fn head(&self) -> Head {
        self.head
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Versioned> {
        self.records.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn list(&self, prefix: &str) -> Listing {
        let from = self.records.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let entries = from.map(|(_, record)| record).take_while(|record| record.key.as_str().starts_with(prefix));
        Listing { entries: entries.cloned().collect(), revision: self.head.revision }
    }

    pub(crate) fn watch(&mut self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        if from < self.floor || from > self.head.revision {
            return Err(StoreError::Compacted { from });
        }
        let (watcher, watch) = Watcher::open(prefix);
        let mut missed = self.history.iter().filter(|event| event.revision() > from);
        if missed.all(|event| watcher.offer(event)) {
            self.watchers.push(watcher);
        }
        Ok(watch)
    }

    /// Takes in a change that is already durable.
    pub(crate) fn apply(&mut self, event: Event, head: Head) {
        match &event {
            Event::Put(record) => drop(self.records.insert(record.key.clone(), record.clone())),
            Event::Delete { key, .. } => drop(self.records.remove(key)),
        }
        self.head = head;
        self.watchers.retain(|watcher| watcher.offer(&event));
        self.history_bytes += weight(&event);
        self.history.push_back(event);
        while self.history.len() > HISTORY_EVENTS_MAX || self.history_bytes > HISTORY_BYTES_MAX {
            let Some(forgotten) = self.history.pop_front() else { break };
            self.history_bytes -= weight(&forgotten);
            self.floor = forgotten.revision();
        }
    }

    /// Starts again from what the disk turned out to hold. Watchers must list again.
    pub(crate) fn reset(&mut self, fresh: Self) {
        for watcher in &self.watchers {
            watcher.cut_off();
        }
        *self = fresh;
    }
}

/// Whether `found`, the present state of `key`, is what the writer expects.
pub(crate) fn meets(key: &Key, expect: Expect, found: Option<Revision>) -> Result<(), StoreError> {
    let met = match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found == Some(revision),
    };
    if met { Ok(()) } else { Err(StoreError::Conflict { key: key.clone(), found }) }
}

fn weight(event: &Event) -> usize {
    match event {
        Event::Put(record) => record.value.len(),
        Event::Delete { .. } => 0,
    }
}
