//! Worker threads: one current-thread runtime each, the same listeners on all by SO_REUSEPORT, and their orderly end.
//!
//! The end has three steps. Draining: the doors that others come by let nobody else in, what waits at them is accepted,
//! then they are closed (closing a listener resets what still waits in it); connections are told to finish. Stopping: the
//! same for the workload's own door, and each worker waits for its connections, until the deadline. Then the thread ends
//! and what is left is closed.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use weft_core::model::{AppProtocol, InboundMode, ServiceKey};

use super::drain::{DrainSignal, DrainTrigger, drain};
use super::worker::{Shared, Worker};
use crate::boxed::boxed;
use crate::site::Site;
use crate::telemetry::{AccessLog, Counter, Direction, Gauge, Hub, Telemetry};
use crate::{inbound, net, outbound};

/// When descriptors run out a worker rests this long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener that lets nobody else in is closed when nothing has come for this long: handshakes that had begun need one
/// round trip. Clients that are kept out try again after a second, so waiting costs them nothing.
const LAST_QUIET: Duration = Duration::from_millis(300);

/// How often a stopping worker looks whether its connections have ended.
const STOP_POLL: Duration = Duration::from_millis(5);

/// What a listener's connections are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// Captured, going out.
    Outbound,
    /// Captured, coming in.
    Inbound,
    /// For one service, from outside the mesh; `None`: its first port.
    Gateway(ServiceKey, Option<NonZeroU16>),
    /// For one service, from a local client.
    Service(ServiceKey, NonZeroU16),
    /// For one local address, from the mesh.
    Local {
        /// Where the application listens.
        address: SocketAddr,
        /// What it speaks.
        protocol: AppProtocol,
        /// Whether plaintext is accepted.
        mode: InboundMode,
    },
}

impl Door {
    /// Whether its connections are the local workload's own.
    const fn is_egress(&self) -> bool {
        matches!(self, Self::Outbound | Self::Service(..))
    }
}

/// One listener, bound once for each worker.
#[derive(Debug)]
pub struct Listening {
    /// What its connections are.
    pub door: Door,
    /// As many as there are workers.
    pub sockets: Vec<TcpListener>,
}

/// What the workers are started with.
#[derive(Debug)]
pub struct Setup {
    /// Threads, at least one.
    pub workers: usize,
    /// All listeners.
    pub listeners: Vec<Listening>,
    /// What all workers see.
    pub shared: Arc<Shared>,
    /// Where metrics gather.
    pub hub: Hub,
    /// Where access records go; `None`: nowhere.
    pub log: Option<AccessLog>,
    /// Name of this instance in records.
    pub instance_id: Arc<str>,
}

/// The running threads.
#[derive(Debug)]
pub struct Workers {
    drain: DrainTrigger,
    egress_drain: DrainTrigger,
    stop: watch::Sender<Option<Duration>>,
    threads: Vec<JoinHandle<()>>,
    // Dropped last, after the workers have written their records.
    log: Option<AccessLog>,
}

/// Starts the threads.
///
/// # Errors
/// When a thread or its runtime cannot be made; those already started end again.
pub fn start(setup: Setup) -> io::Result<Workers> {
    let (trigger, signal) = drain();
    let (egress_trigger, egress_signal) = drain();
    let (stop, stopping) = watch::channel(None);
    let mut threads = Vec::with_capacity(setup.workers);
    let mut listeners: Vec<_> =
        setup.listeners.into_iter().map(|listening| (listening.door, listening.sockets.into_iter())).collect();
    for index in 0..setup.workers {
        let sockets: Vec<_> =
            listeners.iter_mut().filter_map(|(door, sockets)| Some((door.clone(), sockets.next()?))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let seed = Seed {
            shared: Arc::clone(&setup.shared),
            hub: setup.hub.clone(),
            log: setup.log.as_ref().map(AccessLog::handle),
            instance_id: Arc::clone(&setup.instance_id),
            drain: signal.clone(),
            egress_drain: egress_signal.clone(),
            stopping: stopping.clone(),
        };
        let run = move || {
            let local = LocalSet::new();
            runtime.block_on(local.run_until(work(seed, sockets)));
        };
        threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
    }
    Ok(Workers { drain: trigger, egress_drain: egress_trigger, stop, threads, log: setup.log })
}

impl Workers {
    /// Closes the doors that others come by, once what waits at them is accepted, and tells connections from others to
    /// finish.
    pub fn drain(&self) {
        self.drain.start();
    }

    /// Tells the workload's own connections to finish. Its door stays open until [`Workers::stop`]: what it still has to
    /// do may need others.
    pub fn drain_egress(&self) {
        self.egress_drain.start();
    }

    /// Accepts what waits, closes the listeners, waits at most `grace` for connections, ends the threads and writes the
    /// last records. Blocks.
    pub fn stop(self, grace: Duration) {
        self.drain.start();
        self.egress_drain.start();
        self.stop.send_replace(Some(grace));
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
        drop(self.log);
    }
}

/// What a thread makes its worker of.
struct Seed {
    shared: Arc<Shared>,
    hub: Hub,
    log: Option<crate::telemetry::LogHandle>,
    instance_id: Arc<str>,
    drain: DrainSignal,
    egress_drain: DrainSignal,
    stopping: watch::Receiver<Option<Duration>>,
}

async fn work(seed: Seed, sockets: Vec<(Door, TcpListener)>) {
    let Seed { shared, hub, log, instance_id, drain, egress_drain, mut stopping } = seed;
    let telemetry = Telemetry::new(&hub, log.as_ref(), &instance_id, shared.clock);
    let worker = Rc::new(Worker::new(shared, telemetry, drain.here(), egress_drain.here()));
    let open = Rc::new(Cell::new(0_usize));
    let stalls = worker.stalls.clone();
    spawn_local(async move { stalls.keep_looking().await });
    let mut accepting = Vec::new();
    for (door, socket) in sockets {
        match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => {
                let task = accept_loop(Rc::clone(&worker), listener, door, Rc::clone(&open), stopping.clone());
                accepting.push(spawn_local(task));
            }
            Err(error) => tracing::error!(%error, "listener cannot be used"),
        }
    }
    let grace = stopping.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default();
    let ended = async {
        for task in accepting {
            if task.await.is_err() {
                tracing::error!("an accept loop panicked");
            }
        }
        while open.get() > 0 {
            tokio::time::sleep(STOP_POLL).await;
        }
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(connections = open.get(), "connections cut at the drain deadline");
    }
}

async fn accept_loop(
    worker: Rc<Worker>,
    listener: tokio::net::TcpListener,
    door: Door,
    open: Rc<Cell<usize>>,
    mut stopping: watch::Receiver<Option<Duration>>,
) {
    let is_shut = Cell::new(false);
    let pause = async || {
        worker.telemetry.count(Counter::AcceptPaused);
        tokio::time::sleep(ACCEPT_PAUSE).await;
    };
    let accept = async || match listener.accept().await {
        Ok((socket, _)) if is_shut.get() && net::admit(&socket).is_err() => net::reset(socket),
        Ok((socket, from)) => begin(&worker, &door, &open, socket, from),
        Err(error) => {
            tracing::debug!(%error, "cannot accept");
            pause().await;
        }
    };
    let accepting = async {
        loop {
            // Whoever comes now waits in the listener's queue until somebody leaves.
            if worker.shared.admission.has_descriptors(door.is_egress()) {
                accept().await;
            } else {
                pause().await;
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = worker.drain.draining(), if !door.is_egress() => {}
        _ = stopping.wait_for(Option::is_some) => {}
    }
    match net::shut(&listener) {
        Ok(()) => is_shut.set(true),
        Err(error) => tracing::warn!(%error, "connections that begin while the door closes may be reset"),
    }
    while tokio::time::timeout(LAST_QUIET, accept()).await.is_ok() {}
}

fn begin(worker: &Rc<Worker>, door: &Door, open: &Rc<Cell<usize>>, socket: TcpStream, from: SocketAddr) {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let Some(admitted) = worker.shared.admission.admit(from.ip()) else {
        worker.telemetry.count(Counter::ConnectionsRefused);
        return net::reset(socket);
    };
    let watched = worker.stalls.watch(&socket);
    let open = Held::new(worker, open, door.is_egress());
    let (worker, door) = (Rc::clone(worker), door.clone());
    // Boxed, because the runtime moves what it runs several times.
    spawn_local(boxed(move || {
        let serving = contained(Rc::clone(&worker), from, serve(worker, door, socket, from));
        serving.map(move |()| drop((watched, admitted, open)))
    }));
}

/// Serves one connection. A panic ends it alone; its socket is closed and what it held is given back.
///
/// No async function: awaiting a future inside another one would hold room for it twice.
pub(super) fn contained(
    worker: Rc<Worker>,
    from: SocketAddr,
    serving: impl Future<Output = ()>,
) -> impl Future<Output = ()> {
    AssertUnwindSafe(serving).catch_unwind().map(move |ended| {
        if ended.is_err() {
            worker.telemetry.count(Counter::ConnectionPanicked);
            tracing::error!(%from, "a connection was ended by a defect of this proxy; please report it");
        }
    })
}

async fn serve(worker: Rc<Worker>, door: Door, socket: TcpStream, from: SocketAddr) {
    match door {
        Door::Outbound => outbound::serve(worker, socket, from).await,
        Door::Inbound => inbound::serve(worker, socket, from).await,
        Door::Gateway(service, port) => {
            let connection = outbound::open(&worker, from, Direction::Gateway);
            let stream = crate::io::Stream::plain(socket);
            outbound::serve_to(worker, connection, stream, Site::Service(service, port)).await;
        }
        Door::Service(service, port) => {
            let connection = outbound::open(&worker, from, Direction::Outbound);
            let stream = crate::io::Stream::plain(socket);
            outbound::serve_to(worker, connection, stream, Site::Service(service, Some(port))).await;
        }
        Door::Local { address, protocol, mode } => {
            let connection = outbound::open(&worker, from, Direction::Inbound);
            inbound::serve_to(worker, connection, socket, address, protocol, mode).await;
        }
    }
}

/// Counts one open connection, here and in the metrics.
struct Held {
    worker: Rc<Worker>,
    open: Rc<Cell<usize>>,
    egress: bool,
}

impl Held {
    fn new(worker: &Rc<Worker>, open: &Rc<Cell<usize>>, egress: bool) -> Self {
        open.set(open.get() + 1);
        worker.telemetry.gauge(Gauge::DownstreamConnections, 1);
        let held = Self { worker: Rc::clone(worker), open: Rc::clone(open), egress };
        held.shared().fetch_add(1, Ordering::Relaxed);
        held
    }

    fn shared(&self) -> &AtomicUsize {
        let open = &self.worker.shared.open;
        if self.egress { &open.egress } else { &open.ingress }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.shared().fetch_sub(1, Ordering::Relaxed);
        self.worker.telemetry.gauge(Gauge::DownstreamConnections, -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of connections wait for their next request: what they hold then is what they cost.
    #[test]
    fn a_connection_that_waits_holds_little() {
        let size = size(serve);
        assert!(size <= 2304, "{size} bytes for what every connection is");
    }
}
