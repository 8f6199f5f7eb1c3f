//! Idle HTTP/1 links to one place, the most recently used on top: connections, and between sidecars also streams that share
//! connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use weft_core::fields::Fields;
use weft_core::reuse::{
    Carrier, Life, Links, NextLink, PoolLimits, Reuse, ServerIdle, Sharing, evict, may_open, may_reuse, next_link,
};
use weft_core::share::{Caller, Shares};
use weft_core::time::Moment;

use crate::clock::{Clock, WallClock};
use crate::entropy::ThreadEntropy;
use crate::http::{H1Client, H2Client, Home};
use crate::tls::MeshPeer;

use super::http2::{Lane, Streams};

/// How often idle connections are looked through, while there are any. A close is noticed late by up to this, which is
/// taken off what is learned from it: believing a server to be more patient than it is would let requests race its close.
const SWEEP: Duration = Duration::from_millis(250);

/// The shelf of one place.
#[derive(Debug)]
pub struct Shelf {
    me: Weak<Self>,
    clock: Clock,
    wall: WallClock,
    /// When something was last heard of one of its connections.
    heard: Cell<Moment>,
    limits: PoolLimits,
    server: RefCell<ServerIdle>,
    idle_own: RefCell<VecDeque<Idle>>,
    idle_shared: RefCell<VecDeque<Idle>>,
    /// Connections that carry the shared ones.
    lane: Lane,
    sharing: Cell<Sharing>,
    sweeping: Cell<bool>,
    open: Cell<usize>,
    in_use: Cell<usize>,
    shares: RefCell<Shares>,
}

#[derive(Debug)]
struct Idle {
    client: H1Client,
    since: Moment,
    link: Rc<Link>,
}

/// The link for one request.
#[derive(Debug)]
pub enum Taken {
    /// An idle one.
    Idle(H1Client, Rc<Link>),
    /// None: one is to be opened.
    Open(Carrier),
}

/// What is known of one connection from its opening to its end. It is also where each of its exchanges returns it to, so
/// an exchange costs no allocation of its own.
#[derive(Debug)]
pub struct Link {
    me: Weak<Self>,
    slot: Slot,
    /// The connection that carries it, if it shares one.
    on: Option<H2Client>,
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

    const fn carrier(&self) -> Carrier {
        if self.on.is_some() { Carrier::Shared } else { Carrier::Own }
    }

    /// Its connection has said that it ends: an idle link on it may be ending just now.
    fn is_leaving(&self) -> bool {
        self.on.as_ref().is_some_and(|on| !on.is_usable())
    }
}

impl Home for Link {
    fn give_back(&self, client: H1Client, at_once: bool) {
        self.used.take();
        if let (Some(me), Some(shelf)) = (self.me.upgrade(), self.slot.shelf.upgrade()) {
            // The head was heard just now, and all that followed it was there already.
            let now = if at_once { shelf.heard.get() } else { shelf.clock.now() };
            shelf.put(client, me, now);
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
            shelf.in_use.set(shelf.in_use.get().saturating_sub(1));
            shelf.shares.borrow_mut().give_back(&self.caller);
        }
    }
}

impl Shelf {
    pub(super) fn new(clock: Clock, limits: PoolLimits) -> Rc<Self> {
        let now = clock.now();
        Rc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            clock,
            wall: WallClock::read(now),
            heard: Cell::new(now),
            limits,
            server: RefCell::default(),
            idle_own: RefCell::default(),
            idle_shared: RefCell::default(),
            lane: Lane::new(clock, limits, Streams::Links),
            sharing: Cell::default(),
            sweeping: Cell::new(false),
            open: Cell::new(0),
            in_use: Cell::new(0),
            shares: RefCell::default(),
        })
    }

    /// Whether nothing is idle here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.idle_own.borrow().is_empty() && self.idle_shared.borrow().is_empty()
    }

    /// The link for a request that was admitted: an idle one that is still good, or else what to open. And how many were
    /// found stale before it. `fresh`: not an idle one; `mesh`: to a sidecar, which may take links on shared connections.
    pub fn take(&self, now: Moment, mesh: bool, fresh: bool) -> (Taken, u32) {
        let mut stale = 0;
        loop {
            let links = Links {
                in_use: self.in_use.get().saturating_sub(1),
                idle_own: !fresh && !self.idle_own.borrow().is_empty(),
                idle_shared: !fresh && !self.idle_shared.borrow().is_empty(),
                // Where no other may be opened, those of the other sort are better than none.
                may_share: mesh && self.sharing.get().is_possible(now) && may_open(&self.limits, self.open.get(), 0),
            };
            let carrier = match next_link(&self.limits, links) {
                NextLink::Open(carrier) => return (Taken::Open(carrier), stale),
                NextLink::Idle(carrier) => carrier,
            };
            let Some(Idle { client, since, link }) = self.idle(carrier).borrow_mut().pop_back() else { continue };
            let reuse = may_reuse(&self.limits, &self.server.borrow(), link.life, since, now);
            if reuse != Reuse::Yes || self.wall.unix_seconds(now) >= link.expires || link.is_leaving() {
                continue;
            }
            if client.is_quiet() {
                return (Taken::Idle(client, link), stale);
            }
            stale += 1;
            self.closed_after(carrier, since, now);
        }
    }

    /// The use of one connection for this caller; `None` when he has his share of them.
    #[must_use]
    pub fn admit(&self, caller: &Rc<Caller>) -> Option<InUse> {
        let admitted = self.shares.borrow_mut().take(caller, self.limits.connections_max);
        admitted.then(|| {
            self.in_use.set(self.in_use.get() + 1);
            InUse { shelf: Weak::clone(&self.me), caller: Rc::clone(caller) }
        })
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

    /// The connections that carry shared links.
    #[must_use]
    pub const fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Whether the far end takes shared links, as far as is known.
    #[must_use]
    pub fn may_share(&self) -> bool {
        self.sharing.get().is_possible(self.clock.now())
    }

    /// The far end takes no shared links.
    pub fn refuses_sharing(&self) {
        let mut sharing = self.sharing.get();
        sharing.refused(self.clock.now());
        self.sharing.set(sharing);
        self.lane.let_go();
    }

    /// A connection opened now. `expires`: Unix seconds, when the certificates used expire.
    #[must_use]
    pub fn opened(&self, slot: Slot, expires: i64, peer: Option<Rc<MeshPeer>>) -> Rc<Link> {
        let life = Life::begin(&self.limits, self.clock.now(), &mut ThreadEntropy);
        Self::link(slot, None, (life, expires), peer)
    }

    /// A link opened now on a shared connection, whose life and certificates are its own.
    #[must_use]
    pub fn opened_shared(
        &self,
        slot: Slot,
        on: H2Client,
        (life, expires): (Life, i64),
        peer: Option<Rc<MeshPeer>>,
    ) -> Rc<Link> {
        Self::link(slot, Some(on), (life, expires), peer)
    }

    fn link(slot: Slot, on: Option<H2Client>, (life, expires): (Life, i64), peer: Option<Rc<MeshPeer>>) -> Rc<Link> {
        Rc::new_cyclic(|me| Link { me: Weak::clone(me), slot, on, life, expires, peer, used: RefCell::default() })
    }

    const fn idle(&self, carrier: Carrier) -> &RefCell<VecDeque<Idle>> {
        match carrier {
            Carrier::Own => &self.idle_own,
            Carrier::Shared => &self.idle_shared,
        }
    }

    /// Learns from a response how long its server keeps idle connections.
    pub fn heard(&self, fields: &Fields, now: Moment) {
        self.heard.set(now);
        self.server.borrow_mut().heard(fields);
    }

    fn put(&self, client: H1Client, link: Rc<Link>, now: Moment) {
        if link.life.is_over(now) {
            return;
        }
        let carrier = link.carrier();
        self.idle(carrier).borrow_mut().push_back(Idle { client, since: now, link });
        self.evict(carrier, now);
        if !self.sweeping.replace(true)
            && let Some(me) = self.me.upgrade()
        {
            tokio::task::spawn_local(async move {
                while !me.is_empty() {
                    tokio::time::sleep(SWEEP).await;
                    for carrier in [Carrier::Own, Carrier::Shared] {
                        me.evict(carrier, me.clock.now());
                        me.drop_ended(carrier);
                    }
                }
                me.sweeping.set(false);
            });
        }
    }

    fn evict(&self, carrier: Carrier, now: Moment) {
        let count = {
            let idle = self.idle(carrier).borrow();
            evict(&self.limits, &self.server.borrow(), idle.iter().map(|idle| idle.since), now)
        };
        let evicted: Vec<_> = self.idle(carrier).borrow_mut().drain(..count).collect();
        drop(evicted);
    }

    /// One that was idle has ended. Shared ones end with their connection, all at once and for whatever reason: that says
    /// nothing of how long the server keeps idle ones.
    fn closed_after(&self, carrier: Carrier, since: Moment, now: Moment) {
        if carrier == Carrier::Own {
            self.server.borrow_mut().closed_after(now.since(since).saturating_sub(SWEEP), now);
        }
    }

    /// Closes what the server has closed, so that no descriptor waits for a request to notice.
    fn drop_ended(&self, carrier: Carrier) {
        let now = self.clock.now();
        let kept: VecDeque<_> = self.idle(carrier).take();
        let kept = kept.into_iter().filter(|idle| {
            let quiet = idle.client.is_quiet();
            if !quiet {
                self.closed_after(carrier, idle.since, now);
            }
            quiet
        });
        let kept: VecDeque<_> = kept.collect();
        let newer = self.idle(carrier).replace(kept);
        self.idle(carrier).borrow_mut().extend(newer);
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
