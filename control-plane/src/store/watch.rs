//! The reading end of a watch, the same for every backend.
//!
//! A watcher has a bounded queue. A writer never waits for it: when the queue is full the watcher is cut off and told
//! that it must list again. So one slow reader costs itself a listing and nobody else anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::Event;

/// Changes that a watcher may be behind before it is cut off.
pub const WATCH_QUEUE_MAX: usize = 4096;

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher read too slowly and missed changes: list again, then watch from the listing's revision.
    #[error("watcher fell behind; list again")]
    Lagged,
    /// The store has stopped.
    #[error("store has stopped")]
    Closed,
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Event>,
    lagged: Arc<AtomicBool>,
}

impl Watch {
    /// The next change; waits for one. Cancelling loses nothing.
    ///
    /// # Errors
    /// [`WatchError`]: the watch is over and changes may have been missed.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        match self.events.recv().await {
            Some(event) => Ok(event),
            None if self.lagged.load(Ordering::Acquire) => Err(WatchError::Lagged),
            None => Err(WatchError::Closed),
        }
    }
}

/// The writing end, held by the backend.
#[derive(Debug)]
pub struct Watcher {
    prefix: String,
    events: mpsc::Sender<Event>,
    lagged: Arc<AtomicBool>,
}

impl Watcher {
    /// A watch over keys beginning with `prefix`.
    #[must_use]
    pub fn open(prefix: &str) -> (Self, Watch) {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE_MAX);
        let lagged = Arc::new(AtomicBool::new(false));
        let watcher = Self { prefix: prefix.to_owned(), events: sender, lagged: Arc::clone(&lagged) };
        (watcher, Watch { events: receiver, lagged })
    }

    /// Lets the watch end with [`WatchError::Lagged`] once what is queued has been read.
    pub fn cut_off(&self) {
        self.lagged.store(true, Ordering::Release);
    }

    /// Hands over a change if it is of this watch. `false`: the watcher is gone or was cut off; forget it.
    #[must_use]
    pub fn offer(&self, event: &Event) -> bool {
        if !event.key().as_str().starts_with(&self.prefix) {
            return !self.events.is_closed();
        }
        match self.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.cut_off();
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}
