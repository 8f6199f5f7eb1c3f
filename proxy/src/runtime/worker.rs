//! What one worker thread has, and shares with nobody but through [`Shared`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use weft_core::model::{AppProtocol, InboundMode};
use weft_core::reuse::PoolLimits;
use weft_core::snapshot::Snapshot;
use weft_core::time::Moment;

use super::drain::Draining;
use super::expiry::Expiries;
use super::loads::Loads;
use crate::application::Application;
use crate::clock::Clock;
use crate::feed::Resolver;
use crate::http::HttpLimits;
use crate::identity::IdentityWatch;
use crate::net::{Admission, Stalls};
use crate::peek::FirstBytes;
use crate::pool::Pools;
use crate::route::Routes;
use crate::tcp::Reserve;
use crate::telemetry::Telemetry;
use crate::tls::{Acceptor, Connector, Turns};

/// A connection that waits for so long gives its task up. Most that are used at all are used again before.
const HAND_BACK_AFTER: Duration = Duration::from_secs(1);

/// Time limits of the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect to another workload: 5 s.
    pub connect: Duration,
    /// TCP connect to the local application: 1 s.
    pub connect_local: Duration,
    /// One mesh handshake: 5 s.
    pub handshake: Duration,
    /// First bytes that have begun must be decisive within: 10 s.
    pub detect: Duration,
    /// A client that is silent for this long may be waiting for its server to speak first: 10 ms.
    pub silence: Duration,
    /// The same for plaintext toward the local application: 200 ms. Sidecars speak at once, so only clients without one
    /// wait for it, and the application is not dialled for a mesh connection that is merely slow.
    pub silence_inbound: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            connect_local: Duration::from_secs(1),
            handshake: Duration::from_secs(5),
            detect: Duration::from_secs(10),
            silence: Duration::from_millis(10),
            silence_inbound: Duration::from_millis(200),
        }
    }
}

/// What the inbound side of a sidecar is told at start.
#[derive(Clone, Debug, Default)]
pub struct InboundRules {
    /// Whether plaintext is accepted.
    pub mode: InboundMode,
    /// Ports whose protocol is declared; others are detected.
    pub protocols: HashMap<u16, AppProtocol>,
}

/// What all workers see.
#[derive(Debug)]
pub struct Shared {
    /// What the proxy knows; swapped whole.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Asks the control plane about destinations.
    pub resolver: Resolver,
    /// Who the proxy is.
    pub identity: IdentityWatch,
    /// How many workers there are.
    pub workers: usize,
    /// Bounds of the pools.
    pub pool: PoolLimits,
    /// Inbound rules of a sidecar.
    pub inbound: InboundRules,
    /// Bounds on connections.
    pub admission: Arc<Admission>,
    /// Pipes that each worker may have open.
    pub pipes: usize,
    /// What each worker carries; of as many workers as are started.
    pub loads: Arc<Loads>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// The local application, as deliveries find it.
    pub application: Arc<Application>,
    /// The clock of the process.
    pub clock: Clock,
}

/// One worker's own things. Lives in an `Rc` on its thread.
#[derive(Debug)]
pub struct Worker {
    /// Shared by all.
    pub shared: Arc<Shared>,
    /// Counters and records.
    pub telemetry: Telemetry,
    /// Answers mesh handshakes.
    pub acceptor: Acceptor,
    /// Begins mesh handshakes.
    pub connector: Connector,
    /// Whose turn it is to take a step of a handshake.
    pub turns: Rc<Turns>,
    /// Idle upstream connections.
    pub pools: Rc<Pools>,
    /// Its sockets, looked at for peers that do not read.
    pub stalls: Stalls,
    /// What its relays share.
    pub reserve: Reserve,
    /// Who speaks first, per destination.
    pub first_bytes: RefCell<FirstBytes>,
    /// When connections end by the certificates of their peers.
    pub expiries: Rc<Expiries>,
    /// Bounds toward strangers.
    pub limits: Rc<HttpLimits>,
    /// Bounds between sidecars.
    pub mesh_limits: Rc<HttpLimits>,
    /// Turns on when connections from others drain.
    pub drain: Draining,
    /// Turns on when the workload's own connections drain, which is last.
    pub egress_drain: Draining,
    routes: Routes,
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
}

impl Worker {
    /// Must be called on the worker's own thread.
    #[must_use]
    pub fn new(shared: Arc<Shared>, telemetry: Telemetry, drain: Draining, egress_drain: Draining) -> Self {
        let (identity, clock, within) = (&shared.identity, shared.clock, shared.timeouts.handshake);
        let turns = Rc::new(Turns::default());
        Self {
            acceptor: Acceptor::new(identity.clone(), clock, within, Rc::clone(&turns)),
            connector: Connector::new(identity.clone(), clock, within, Rc::clone(&turns)),
            turns,
            pools: Rc::new(Pools::new(clock, shared.pool)),
            stalls: Stalls::default(),
            expiries: Rc::default(),
            reserve: Reserve::with_pipes(shared.pipes),
            first_bytes: RefCell::default(),
            limits: Rc::new(HttpLimits { hand_back_after: Some(HAND_BACK_AFTER), ..HttpLimits::default() }),
            mesh_limits: Rc::new(HttpLimits::between_sidecars()),
            routes: Routes::default(),
            snapshot: RefCell::new(Cache::new(Arc::clone(&shared.snapshot))),
            telemetry,
            drain,
            egress_drain,
            shared,
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// What is known at this moment; a decision keeps the one it began with.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.with_snapshot(Arc::clone)
    }

    /// For a decision that is made at once: as [`Self::snapshot`] without counting one more who keeps it, in memory that
    /// all workers share.
    pub fn with_snapshot<T>(&self, decide: impl FnOnce(&Arc<Snapshot>) -> T) -> T {
        self.with_routes(|snapshot, _| decide(snapshot))
    }

    /// As [`Self::with_snapshot`], with the routes that were found in it before.
    pub fn with_routes<T>(&self, decide: impl FnOnce(&Arc<Snapshot>, &Routes) -> T) -> T {
        let mut cache = self.snapshot.borrow_mut();
        let snapshot = cache.load();
        self.routes.follow(snapshot);
        decide(snapshot, &self.routes)
    }
}
