//! Idle HTTP/1 links to one place, the most recently used on top: connections, and between sidecars also streams that share
//! connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::Context;

use tokio::task::spawn_local;
use weft_core::fields::Fields;
use weft_core::reuse::{
    Carrier, Life, Links, NextLink, PoolLimits, Reuse, ServerIdle, Sharing, evict, idle_deadline, may_open, may_reuse,
    next_link,
};
use weft_core::share::{Caller, Shares};
use weft_core::time::Moment;

use crate::clock::{Clock, WallClock};
use crate::entropy::ThreadEntropy;
use crate::http::{H1Client, H2Client, Home};
use crate::tls::MeshPeer;

use super::http2::{Lane, Streams};
use super::watch::Watch;

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
    watch: Watch,
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
            watch: Watch::default(),
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
            self.watch.wake();
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
        let mut server = self.server.borrow_mut();
        let before = *server;
        server.heard(fields);
        if *server != before {
            self.watch.wake();
        }
    }

    fn put(&self, client: H1Client, link: Rc<Link>, now: Moment) {
        if link.life.is_over(now) {
            return;
        }
        let carrier = link.carrier();
        self.idle(carrier).borrow_mut().push_back(Idle { client, since: now, link });
        self.evict(carrier, now);
        if self.watch.add()
            && let Some(me) = self.me.upgrade()
        {
            spawn_local(async move { me.watch.run(me.clock, |cx| me.look(cx)).await });
        }
    }

    /// Closes what has ended or been idle for too long; says when something will have been.
    fn look(&self, cx: &mut Context<'_>) -> Option<Moment> {
        let now = self.clock.now();
        for carrier in [Carrier::Own, Carrier::Shared] {
            self.drop_ended(carrier, now, cx);
            self.evict(carrier, now);
        }
        let oldest = [Carrier::Own, Carrier::Shared].map(|carrier| Some(self.idle(carrier).borrow().front()?.since));
        let oldest = oldest.into_iter().flatten().min()?;
        Some(idle_deadline(&self.limits, &self.server.borrow(), oldest, now))
    }

    fn evict(&self, carrier: Carrier, now: Moment) {
        let count = {
            let idle = self.idle(carrier).borrow();
            evict(&self.limits, &self.server.borrow(), idle.iter().map(|idle| idle.since), now)
        };
        if count > 0 {
            let evicted: Vec<_> = self.idle(carrier).borrow_mut().drain(..count).collect();
            drop(evicted);
        }
    }

    /// One that was idle has ended. What may be noticed late is taken off what is learned: believing a server to be more
    /// patient than it is would let requests race its close. Shared ones end with their connection, all at once and for
    /// whatever reason: that says nothing of how long the server keeps idle ones.
    fn closed_after(&self, carrier: Carrier, since: Moment, now: Moment) {
        if carrier == Carrier::Own {
            self.server.borrow_mut().closed_after(now.since(since).saturating_sub(self.watch.late()), now);
        }
    }

    /// Closes what the server has closed, so that no descriptor waits for a request to notice.
    fn drop_ended(&self, carrier: Carrier, now: Moment, cx: &mut Context<'_>) {
        let all = self.idle(carrier).take();
        let (kept, ended): (VecDeque<_>, VecDeque<_>) =
            all.into_iter().partition(|idle| idle.client.poll_idle(cx).is_pending());
        self.idle(carrier).replace(kept);
        for idle in &ended {
            self.closed_after(carrier, idle.since, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::Handle;
    use tokio::task::{LocalSet, yield_now};
    use weft_core::h1::Limits;

    use super::*;
    use crate::io::Stream;

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

    /// `count` idle connections on a shelf, and their servers' ends.
    async fn idle(count: usize) -> (Rc<Shelf>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shelf = Shelf::new(Clock::start(), PoolLimits { idle_max: count, ..PoolLimits::default() });
        let mut servers = Vec::new();
        for _ in 0..count {
            let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            servers.push(listener.accept().await.unwrap().0);
            let link = shelf.opened(shelf.reserve().unwrap(), i64::MAX, None);
            link.give_back(H1Client::new(Stream::plain(socket), Limits::default()), false);
        }
        (shelf, servers)
    }

    /// Lets the runtime look at its sockets until it is so. It is never idle, so its paused clock stands still.
    async fn seen(so: impl Fn() -> bool) -> bool {
        for _ in 0..30_000 {
            if so() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
            yield_now().await;
        }
        false
    }

    /// Until new ones are watched.
    async fn settled() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_wake_nobody_until_their_time_is_over() {
        let test = async {
            // More than a task's budget.
            let (shelf, _servers) = idle(150).await;
            settled().await;
            let parks = || Handle::current().metrics().worker_park_count(0);
            let before = parks();
            tokio::time::sleep(Duration::from_secs(55)).await;
            assert!(parks() - before <= 5, "{} wakes in 55 s", parks() - before);
            assert_eq!(shelf.idle_own.borrow().len(), 150);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_closed_leaves_at_once_and_the_others_stay() {
        let test = async {
            let (shelf, mut servers) = idle(3).await;
            let left = |count| shelf.idle_own.borrow().len() == count;
            settled().await;
            drop(servers.remove(1));
            assert!(seen(|| left(2)).await);
            // One that was in use is watched again.
            let (Taken::Idle(client, link), 0) = shelf.take(shelf.clock.now(), false, false) else { panic!("none") };
            link.give_back(client, false);
            drop(link);
            settled().await;
            servers.clear();
            assert!(seen(|| left(0)).await);
            assert_eq!(shelf.open.get(), 0);
        };
        LocalSet::new().run_until(test).await;
    }
}
