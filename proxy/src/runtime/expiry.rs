//! Connections that end when the certificate expires by which their peer proved who it is (K6).
//!
//! One timer for all of a worker's, and none where there are none. It waits in pieces, because the wall clock may be
//! stepped: a worker with mesh connections is woken once a minute.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::drain::Flag;
use crate::clock::Clock;

/// Longest wait at a time, in seconds.
const PIECE_SECONDS: u64 = 60;

/// The connections of one worker, by when they end.
#[derive(Debug, Default)]
pub struct Expiries {
    flags: RefCell<BTreeMap<Key, Rc<Flag>>>,
    numbers: Cell<u64>,
    watched: Cell<bool>,
    /// There is an earlier one.
    sooner: Notify,
}

/// Unix seconds, and a number to tell those of one second apart.
type Key = (i64, u64);

/// Keeps one connection watched while it lives.
#[derive(Debug)]
pub struct Expiring {
    expiries: Rc<Expiries>,
    key: Key,
}

impl Drop for Expiring {
    fn drop(&mut self) {
        self.expiries.flags.borrow_mut().remove(&self.key);
    }
}

impl Expiries {
    /// A flag that is raised when the wall clock says `until` (Unix seconds).
    pub fn watch(self: &Rc<Self>, clock: Clock, until: i64) -> (Rc<Flag>, Expiring) {
        let key = (until, self.numbers.replace(self.numbers.get().wrapping_add(1)));
        let flag = Rc::<Flag>::default();
        let soonest = {
            let mut flags = self.flags.borrow_mut();
            flags.insert(key, Rc::clone(&flag));
            flags.first_key_value().is_some_and(|(first, _)| *first == key)
        };
        if !self.watched.replace(true) {
            spawn_local(Rc::clone(self).keep(clock));
        } else if soonest {
            self.sooner.notify_one();
        }
        (flag, Expiring { expiries: Rc::clone(self), key })
    }

    async fn keep(self: Rc<Self>, clock: Clock) {
        while let Some(first) = self.raise_expired(clock.unix_seconds()) {
            let left = u64::try_from(first.saturating_sub(clock.unix_seconds())).unwrap_or_default();
            let piece = Duration::from_secs(left.clamp(1, PIECE_SECONDS));
            // Over time is the usual end.
            timeout(piece, self.sooner.notified()).await.unwrap_or_default();
        }
        self.watched.set(false);
    }

    /// Raises what is over; says when the next one is.
    fn raise_expired(&self, now: i64) -> Option<i64> {
        let mut flags = self.flags.borrow_mut();
        while let Some(first) = flags.first_entry() {
            let (until, _) = *first.key();
            if until > now {
                return Some(until);
            }
            first.remove().raise();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::runtime::drain::drain;

    #[tokio::test]
    async fn each_connection_ends_with_its_own_certificate() {
        let test = async {
            let (clock, expiries) = (Clock::start(), Rc::<Expiries>::default());
            let (_trigger, signal) = drain();
            let all = signal.here();
            let open = |until| {
                let (flag, expiring) = expiries.watch(clock, until);
                (all.or(flag), expiring)
            };
            let now = clock.unix_seconds();
            let ((late, _late), (soon, _soon), (over, _over)) = (open(now + 86_400), open(now + 2), open(now));
            let closed = open(now + 1);
            drop(closed);
            over.draining().await;
            assert!(over.is_draining() && !late.is_draining(), "the first is not waited for with those of today");
            timeout(Duration::from_secs(60), soon.draining()).await.expect("it ends within seconds, not with a day's");
            assert!(!late.is_draining() && !all.is_draining());
            assert_eq!(expiries.flags.borrow().len(), 1, "what is closed or over is forgotten");
        };
        LocalSet::new().run_until(test).await;
    }
}
