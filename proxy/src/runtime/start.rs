//! Worker threads: one current-thread runtime each, the same listeners on all by SO_REUSEPORT, and their orderly end.
//!
//! The end has three steps. Draining: the doors that others come by let nobody else in, what waits at them is accepted,
//! then they are closed (closing a listener resets what still waits in it); connections are told to finish. Stopping: the
//! same for the workload's own door, and each worker waits for its connections, until the deadline. Then the thread ends
//! and what is left is closed.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::watch;
use tokio::task::spawn_local;

use super::accept::{Door, Hall, keep_accepting, keep_taking};
use super::drain::{DrainSignal, DrainTrigger, drain};
use super::handover::{Inbox, Member, inboxes};
use super::lot::{Lot, keep_lot};
use super::worker::{Shared, Worker};
use crate::supervise::{Supervisor, Task};
use crate::telemetry::{AccessLog, Hub, Telemetry};

/// How often a stopping worker looks whether its connections have ended.
const STOP_POLL: Duration = Duration::from_millis(5);

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
    /// Starts what accepts again where a defect ends it.
    pub supervisor: Supervisor,
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
    let (ways, inboxes) = inboxes(setup.workers);
    let (say, heard) = mpsc::channel();
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let sockets: Vec<_> =
            listeners.iter_mut().filter_map(|(door, sockets)| Some((door.clone(), sockets.next()?))).collect();
        let member = {
            let (ways, loads) = (Arc::clone(&ways), Arc::clone(&setup.shared.loads));
            move |runtime| Member::new(index, ways, loads, runtime)
        };
        let seed = Seed {
            shared: Arc::clone(&setup.shared),
            hub: setup.hub.clone(),
            log: setup.log.as_ref().map(AccessLog::handle),
            instance_id: Arc::clone(&setup.instance_id),
            drain: signal.clone(),
            egress_drain: egress_signal.clone(),
            stopping: stopping.clone(),
            supervisor: setup.supervisor.clone(),
            inbox,
        };
        let say = say.clone();
        let run = move || {
            // A runtime for tasks of one thread is made on it.
            match runtime() {
                Ok((runtime, lot)) => {
                    drop(say);
                    let member = member(runtime.handle().metrics());
                    runtime.block_on(work(seed, member, lot, sockets));
                }
                // Nobody listens any more where another thread could not be made.
                Err(error) => say.send(error).unwrap_or_default(),
            }
        };
        threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
    }
    drop(say);
    // Ends when each runtime is there, or is not.
    if let Some(error) = heard.iter().next() {
        return Err(error);
    }
    Ok(Workers { drain: trigger, egress_drain: egress_trigger, stop, threads, log: setup.log })
}

/// A worker's runtime, and what needs it to be made.
fn runtime() -> io::Result<(LocalRuntime, Lot)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let lot = {
        let _entered = runtime.enter();
        Lot::new()?
    };
    Ok((runtime, lot))
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
    supervisor: Supervisor,
    inbox: Inbox,
}

async fn work(seed: Seed, member: Member, lot: Lot, sockets: Vec<(Door, TcpListener)>) {
    let Seed { shared, hub, log, instance_id, drain, egress_drain, mut stopping, supervisor, inbox } = seed;
    let telemetry = Telemetry::new(&hub, log.as_ref(), &instance_id, shared.clock);
    let worker = Rc::new(Worker::new(shared, telemetry, drain.here(), egress_drain.here()));
    let stalls = worker.stalls.clone();
    spawn_local(async move { stalls.keep_looking().await });
    let (turns, keeper) = (Rc::clone(&worker.turns), supervisor.clone());
    spawn_local(async move { match keeper.keep(Task::Handshakes, || turns.run()).await {} });
    let hall = Rc::new(Hall { worker, member, lot, supervisor, stopping: stopping.clone() });
    spawn_local(keep_lot(Rc::clone(&hall)));
    let mut accepting = vec![spawn_local(keep_taking(Rc::clone(&hall), inbox))];
    for (door, socket) in sockets {
        match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => accepting.push(spawn_local(keep_accepting(Rc::clone(&hall), listener, door))),
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
        while hall.member.open() > 0 {
            tokio::time::sleep(STOP_POLL).await;
        }
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(connections = hall.member.open(), "connections cut at the drain deadline");
    }
}
