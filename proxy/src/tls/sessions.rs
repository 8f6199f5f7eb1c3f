//! Server sessions that end in time: after one hour, or with the own certificate, whichever is first.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use rustls::server::StoresServerSessions;

use crate::clock::Clock;

/// Longest life of a session, in seconds.
const LIFE_SECONDS: i64 = 3600;

/// Sessions kept; the oldest goes first. About 2 KiB each (the client's chain is part of it).
const SESSIONS_MAX: usize = 1024;

/// A session larger than this is not kept: a long chain of certificates is its peer's to pay for, by full handshakes.
const SESSION_BYTES_MAX: usize = 8 * 1024;

/// The store of one server configuration.
pub(super) struct Sessions {
    clock: Clock,
    own_not_after: i64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_id: HashMap<Vec<u8>, (i64, Vec<u8>)>,
    order: VecDeque<Vec<u8>>,
}

impl Sessions {
    pub(super) fn new(clock: Clock, own_not_after: i64) -> Self {
        Self { clock, own_not_after, kept: Mutex::default() }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("own_not_after", &self.own_not_after).finish_non_exhaustive()
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        if value.len() > SESSION_BYTES_MAX {
            return false;
        }
        let ends = self.clock.unix_seconds().saturating_add(LIFE_SECONDS).min(self.own_not_after);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.by_id.insert(key.clone(), (ends, value)).is_none() {
            kept.order.push_back(key);
        }
        while kept.order.len() > SESSIONS_MAX {
            if let Some(oldest) = kept.order.pop_front() {
                kept.by_id.remove(&oldest);
            }
        }
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (ends, value) = kept.by_id.get(key)?;
        (self.clock.unix_seconds() < *ends).then(|| value.clone())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        // The id stays in `order` until it is the oldest; its place is bounded with the others.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (ends, value) = kept.by_id.remove(key)?;
        (self.clock.unix_seconds() < ends).then_some(value)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_end_with_the_certificate_and_are_bounded() {
        let clock = Clock::start();
        let over = Sessions::new(clock, clock.unix_seconds() - 1);
        over.put(vec![1], vec![2]);
        assert_eq!((over.get(&[1]), over.take(&[1])), (None, None));
        let live = Sessions::new(clock, i64::MAX);
        for id in 0..2 * SESSIONS_MAX {
            live.put(id.to_be_bytes().to_vec(), vec![0]);
        }
        assert_eq!(live.get(&0_usize.to_be_bytes()), None);
        let last = (2 * SESSIONS_MAX - 1).to_be_bytes();
        assert_eq!((live.take(&last), live.take(&last)), (Some(vec![0]), None));
        assert!(live.kept.lock().unwrap().by_id.len() <= SESSIONS_MAX);
        assert!(!live.put(vec![1], vec![0; SESSION_BYTES_MAX + 1]), "no peer fills the memory");
    }
}
