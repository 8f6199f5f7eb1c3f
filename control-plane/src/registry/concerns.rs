//! Who is concerned by what: a change of the index wakes only the streams that asked about what it touched.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use weft_core::model::ServiceKey;

use super::touched::Touched;

/// What a stream can be concerned by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Concern {
    /// A service and its endpoints.
    Service(ServiceKey),
    /// The answers about an address.
    Address(IpAddr),
}

/// Which streams a concern has; pure.
#[derive(Debug, Default)]
pub(super) struct Inverted {
    streams: HashMap<Concern, BTreeSet<u64>>,
}

impl Inverted {
    pub(super) fn insert(&mut self, concern: Concern, stream: u64) {
        self.streams.entry(concern).or_default().insert(stream);
    }

    pub(super) fn remove(&mut self, concern: &Concern, stream: u64) {
        let Some(streams) = self.streams.get_mut(concern) else { return };
        streams.remove(&stream);
        if streams.is_empty() {
            self.streams.remove(concern);
        }
    }

    /// Of what was touched, the part that concerns each stream.
    pub(super) fn concerned(&self, touched: &Touched) -> HashMap<u64, Touched> {
        let mut concerned: HashMap<u64, Touched> = HashMap::new();
        for (key, extent) in touched.services.iter() {
            for stream in self.streams.get(&Concern::Service(key.clone())).into_iter().flatten() {
                concerned.entry(*stream).or_default().services.insert(key.clone(), extent.clone());
            }
        }
        for address in &touched.addresses {
            for stream in self.streams.get(&Concern::Address(*address)).into_iter().flatten() {
                concerned.entry(*stream).or_default().addresses.insert(*address);
            }
        }
        concerned
    }
}

/// All listeners. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Concerns {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    inverted: Inverted,
    mailboxes: HashMap<u64, Arc<Mailbox>>,
    next: u64,
}

/// What a listener has not taken yet; never more than its concerns.
#[derive(Debug, Default)]
struct Mailbox {
    news: Mutex<Option<News>>,
    notify: Notify,
}

/// What was touched, and since when the listener could have known.
#[derive(Clone, Debug)]
pub struct News {
    /// What was touched.
    pub touched: Touched,
    /// When the first of it was.
    pub since: Instant,
}

/// One stream's ear; dropping it ends its concerns.
#[derive(Debug)]
pub struct Listener {
    concerns: Concerns,
    number: u64,
    mailbox: Arc<Mailbox>,
    held: BTreeSet<Concern>,
}

impl Concerns {
    /// A listener without concerns.
    #[must_use]
    pub fn listen(&self) -> Listener {
        let mailbox = Arc::new(Mailbox::default());
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.mailboxes.insert(number, Arc::clone(&mailbox));
        drop(state);
        Listener { concerns: self.clone(), number, mailbox, held: BTreeSet::new() }
    }

    /// Puts an index in force with `publish`, and wakes those whom the change concerns. Who hears finds both done or
    /// neither.
    pub(super) fn notify(&self, touched: &Touched, now: Instant, publish: impl FnOnce()) {
        let state = self.state();
        publish();
        if touched.all {
            state.mailboxes.values().for_each(|mailbox| mailbox.put(Touched::all(), now));
            return;
        }
        for (number, touched) in state.inverted.concerned(touched) {
            if let Some(mailbox) = state.mailboxes.get(&number) {
                mailbox.put(touched, now);
            }
        }
    }

    /// What was touched since the listener last heard, and the index at which that is all.
    pub(super) fn hear<T>(&self, listener: &Listener, index: impl FnOnce() -> T) -> (Option<News>, T) {
        let _state = self.state();
        (listener.take(), index())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    fn put(&self, touched: Touched, now: Instant) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *news {
            Some(news) => news.touched.merge(touched),
            None => *news = Some(News { touched, since: now }),
        }
        drop(news);
        self.notify.notify_one();
    }
}

impl Listener {
    /// Something that concerns the listener was touched since this last returned.
    pub async fn touched(&self) {
        self.mailbox.notify.notified().await;
    }

    fn take(&self) -> Option<News> {
        self.mailbox.news.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Looks again at what could have been touched before the listener was known to be concerned.
    pub fn recall(&self, touched: Touched) {
        self.mailbox.put(touched, Instant::now());
    }

    /// From now on concerned.
    pub fn insert(&mut self, concern: Concern) {
        if self.held.insert(concern.clone()) {
            self.concerns.state().inverted.insert(concern, self.number);
        }
    }

    /// No longer concerned.
    pub fn remove(&mut self, concern: &Concern) {
        if self.held.remove(concern) {
            self.concerns.state().inverted.remove(concern, self.number);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.concerns.state();
        for concern in &self.held {
            state.inverted.remove(concern, self.number);
        }
        state.mailboxes.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
