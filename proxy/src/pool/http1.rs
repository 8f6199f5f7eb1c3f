//! Idle HTTP/1 connections to one place, the most recently used on top.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use weft_core::fields::Fields;
use weft_core::reuse::{Life, PoolLimits, Reuse, ServerIdle, evict, may_open, may_reuse};
use weft_core::share::{Caller, Shares};
use weft_core::time::Moment;

use crate::clock::Clock;
use crate::entropy::ThreadEntropy;
use crate::http::{H1Client, Home};
use crate::tls::MeshPeer;

/// How often idle connections are looked through, while there are any. A close is noticed late by up to this, which is
/// taken off what is learned from it: believing a server to be more patient than it is would let requests race its close.
const SWEEP: Duration = Duration::from_millis(250);

/// The shelf of one place.
#[derive(Debug)]
pub struct Shelf {
    me: Weak<Self>,
    clock: Clock,
    limits: PoolLimits,
    server: RefCell<ServerIdle>,
    idle: RefCell<VecDeque<Idle>>,
    sweeping: Cell<bool>,
    open: Cell<usize>,
    shares: RefCell<Shares>,
}

#[derive(Debug)]
struct Idle {
    client: H1Client,
    since: Moment,
    link: Rc<Link>,
}

/// What is known of one connection from its opening to its end. It is also where each of its exchanges returns it to, so
/// an exchange costs no allocation of its own.
#[derive(Debug)]
pub struct Link {
    me: Weak<Self>,
    slot: Slot,
    life: Life,
    /// Unix seconds after which the certificates it was opened with are expired.
    expires: i64,
    /// Who is at the other end, over mesh TLS.
    pub peer: Option<Rc<MeshPeer>>,
    used: RefCell<Option<InUse>>,
}

impl Link {
    /// An exchange of this use begins on it.
    pub fn begin(&self, used: InUse) {
        self.used.replace(Some(used));
    }
}

impl Home for Link {
    fn give_back(&self, client: H1Client) {
        self.used.take();
        if let (Some(me), Some(shelf)) = (self.me.upgrade(), self.slot.shelf.upgrade()) {
            shelf.put(client, me);
        }
    }
}

/// The place of one connection, opening, in use or idle, among those that the shelf may have.
#[derive(Debug)]
pub struct Slot {
    shelf: Weak<Shelf>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf.upgrade() {
            shelf.open.set(shelf.open.get().saturating_sub(1));
        }
    }
}

/// One connection in use for a caller, wherever it comes from; until it is idle again, or gone.
#[derive(Debug)]
pub struct InUse {
    shelf: Weak<Shelf>,
    caller: Rc<Caller>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf.upgrade() {
            shelf.shares.borrow_mut().give_back(&self.caller);
        }
    }
}

impl Shelf {
    pub(super) fn new(clock: Clock, limits: PoolLimits) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            clock,
            limits,
            server: RefCell::default(),
            idle: RefCell::default(),
            sweeping: Cell::new(false),
            open: Cell::new(0),
            shares: RefCell::default(),
        })
    }

    /// Whether nothing is idle here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    /// An idle connection that is still good, and how many were found stale before it.
    pub fn take(&self) -> (Option<(H1Client, Rc<Link>)>, u32) {
        let now = self.clock.now();
        let mut stale = 0;
        loop {
            let Some(Idle { client, since, link }) = self.idle.borrow_mut().pop_back() else { return (None, stale) };
            let reuse = may_reuse(&self.limits, &self.server.borrow(), link.life, since, now);
            if reuse != Reuse::Yes || self.clock.unix_seconds() >= link.expires {
                continue;
            }
            if client.is_quiet() {
                return (Some((client, link)), stale);
            }
            stale += 1;
            self.server.borrow_mut().closed_after(now.since(since).saturating_sub(SWEEP), now);
        }
    }

    /// The use of one connection for this caller; `None` when he has his share of them.
    #[must_use]
    pub fn admit(&self, caller: &Rc<Caller>) -> Option<InUse> {
        let admitted = self.shares.borrow_mut().take(caller, self.limits.connections_max);
        admitted.then(|| InUse { shelf: Weak::clone(&self.me), caller: Rc::clone(caller) })
    }

    /// A place for one more connection; `None` when there are as many as may be.
    #[must_use]
    pub fn reserve(&self) -> Option<Slot> {
        if !may_open(&self.limits, self.open.get(), 0) {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(Slot { shelf: Weak::clone(&self.me) })
    }

    /// A connection opened now. `expires`: Unix seconds, when the certificates used expire.
    #[must_use]
    pub fn opened(&self, slot: Slot, expires: i64, peer: Option<Rc<MeshPeer>>) -> Rc<Link> {
        let life = Life::begin(&self.limits, self.clock.now(), &mut ThreadEntropy);
        Rc::new_cyclic(|me| Link { me: Weak::clone(me), slot, life, expires, peer, used: RefCell::default() })
    }

    /// Learns from a response how long its server keeps idle connections.
    pub fn heard(&self, fields: &Fields) {
        self.server.borrow_mut().heard(fields);
    }

    fn put(&self, client: H1Client, link: Rc<Link>) {
        let now = self.clock.now();
        if link.life.is_over(now) {
            return;
        }
        self.idle.borrow_mut().push_back(Idle { client, since: now, link });
        self.evict(now);
        if !self.sweeping.replace(true)
            && let Some(me) = self.me.upgrade()
        {
            tokio::task::spawn_local(async move {
                while !me.is_empty() {
                    tokio::time::sleep(SWEEP).await;
                    me.evict(me.clock.now());
                    me.drop_ended();
                }
                me.sweeping.set(false);
            });
        }
    }

    fn evict(&self, now: Moment) {
        let count = {
            let idle = self.idle.borrow();
            evict(&self.limits, &self.server.borrow(), idle.iter().map(|idle| idle.since), now)
        };
        let evicted: Vec<_> = self.idle.borrow_mut().drain(..count).collect();
        drop(evicted);
    }

    /// Closes what the server has closed, so that no descriptor waits for a request to notice.
    fn drop_ended(&self) {
        let now = self.clock.now();
        let kept: VecDeque<_> = self.idle.take();
        let kept = kept.into_iter().filter(|idle| {
            let quiet = idle.client.is_quiet();
            if !quiet {
                self.server.borrow_mut().closed_after(now.since(idle.since).saturating_sub(SWEEP), now);
            }
            quiet
        });
        let kept: VecDeque<_> = kept.collect();
        let newer = self.idle.replace(kept);
        self.idle.borrow_mut().extend(newer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_one_place_are_bounded() {
        let limits = PoolLimits { connections_max: 2, ..PoolLimits::default() };
        let shelf = Shelf::new(Clock::start(), limits);
        let link = shelf.opened(shelf.reserve().unwrap(), i64::MAX, None);
        let slot = shelf.reserve().unwrap();
        assert!(shelf.reserve().is_none(), "one in use and one being opened are all");
        drop(slot);
        let again = shelf.reserve().unwrap();
        drop((link, again));
        assert_eq!(shelf.open.get(), 0);
    }

    #[test]
    fn a_caller_has_a_share_of_the_connections_in_use() {
        let limits = PoolLimits { connections_max: 4, ..PoolLimits::default() };
        let shelf = Shelf::new(Clock::start(), limits);
        let [one, other] = [1, 2].map(|n| Rc::new(Caller::stranger([192, 0, 2, n].into())));
        let link = shelf.opened(shelf.reserve().unwrap(), i64::MAX, None);
        link.begin(shelf.admit(&one).unwrap());
        let second = shelf.admit(&one).unwrap();
        assert!(shelf.admit(&one).is_none(), "half is all he gets");
        let others = shelf.admit(&other).unwrap();
        assert!(shelf.admit(&one).is_none());
        drop((link, others));
        let again = shelf.admit(&one).unwrap();
        drop((second, again));
        assert!(shelf.shares.borrow_mut().take(&other, 1), "all is given back");
    }
}
