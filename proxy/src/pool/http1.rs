//! Idle HTTP/1 connections to one place, the most recently used on top.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use weft_core::fields::Fields;
use weft_core::reuse::{Life, PoolLimits, Reuse, ServerIdle, evict, may_reuse};
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
}

#[derive(Debug)]
struct Idle {
    client: H1Client,
    since: Moment,
    lease: Lease,
}

/// What bounds the use of one connection.
#[derive(Clone, Debug)]
pub struct Lease {
    life: Life,
    /// Unix seconds after which the certificates it was opened with are expired.
    expires: i64,
    /// Who is at the other end, over mesh TLS.
    pub peer: Option<Rc<MeshPeer>>,
}

/// Where one exchange's connection returns to: the shelf, with the connection's own lease.
#[derive(Debug)]
struct Return {
    shelf: Rc<Shelf>,
    lease: Lease,
}

impl Home for Return {
    fn give_back(&self, client: H1Client) {
        self.shelf.put(client, self.lease.clone());
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
        })
    }

    /// Whether nothing is idle here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    /// An idle connection that is still good, and how many were found stale before it.
    pub fn take(&self) -> (Option<(H1Client, Lease)>, u32) {
        let now = self.clock.now();
        let mut stale = 0;
        loop {
            let Some(Idle { client, since, lease }) = self.idle.borrow_mut().pop_back() else { return (None, stale) };
            let reuse = may_reuse(&self.limits, &self.server.borrow(), lease.life, since, now);
            if reuse != Reuse::Yes || self.clock.unix_seconds() >= lease.expires {
                continue;
            }
            if client.is_quiet() {
                return (Some((client, lease)), stale);
            }
            stale += 1;
            self.server.borrow_mut().closed_after(now.since(since).saturating_sub(SWEEP), now);
        }
    }

    /// The lease of a connection opened now. `expires`: Unix seconds, when the certificates used expire.
    #[must_use]
    pub fn lease(&self, expires: i64, peer: Option<Rc<MeshPeer>>) -> Lease {
        Lease { life: Life::begin(&self.limits, self.clock.now(), &mut ThreadEntropy), expires, peer }
    }

    /// Where a connection with this lease returns to after its exchange.
    #[must_use]
    pub fn home(&self, lease: Lease) -> Option<Rc<dyn Home>> {
        let shelf = self.me.upgrade()?;
        Some(Rc::new(Return { shelf, lease }))
    }

    /// Learns from a response how long its server keeps idle connections.
    pub fn heard(&self, fields: &Fields) {
        self.server.borrow_mut().heard(fields);
    }

    fn put(&self, client: H1Client, lease: Lease) {
        let now = self.clock.now();
        if lease.life.is_over(now) {
            return;
        }
        self.idle.borrow_mut().push_back(Idle { client, since: now, lease });
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
