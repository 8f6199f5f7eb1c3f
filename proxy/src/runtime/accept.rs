//! The doors of one worker: who comes in, at which worker it is served, and its end.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Either, OptionFuture, ready};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_local;
use weft_core::model::{AppProtocol, InboundMode, ServiceKey};

use super::handover::{Handed, Inbox, Member};
use super::loads::Carried;
use super::lot::Lot;
use super::worker::Worker;
use crate::boxed::boxed;
use crate::inbound::{Came, Carrier};
use crate::net::{Admitted, Watched};
use crate::site::Site;
use crate::supervise::{Supervisor, Task};
use crate::telemetry::{Counter, Direction, Gauge};
use crate::waiting::Waiting;
use crate::{inbound, net, outbound};

/// When descriptors run out a worker rests this long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener that lets nobody else in is closed when nothing has come for this long: handshakes that had begun need one
/// round trip. Clients that are kept out try again after a second, so waiting costs them nothing.
const LAST_QUIET: Duration = Duration::from_millis(300);

/// Connections accepted in a row before whoever is being served has a turn: each costs about as much as a request.
const ACCEPTS_IN_A_ROW: u32 = 16;

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
    pub(super) const fn is_egress(&self) -> bool {
        matches!(self, Self::Outbound | Self::Service(..))
    }
}

/// What the doors of one worker share.
#[derive(Debug)]
pub(super) struct Hall {
    pub(super) worker: Rc<Worker>,
    pub(super) member: Member,
    pub(super) lot: Lot,
    pub(super) supervisor: Supervisor,
    pub(super) stopping: watch::Receiver<Option<Duration>>,
}

/// Accepts until the door closes for good, defects of this proxy notwithstanding.
pub(super) async fn keep_accepting(hall: Rc<Hall>, listener: TcpListener, door: Door) {
    let is_shut = Cell::new(false);
    hall.supervisor.keep(Task::Accept, || accept_loop(&hall, &listener, &door, &is_shut)).await;
}

async fn accept_loop(hall: &Rc<Hall>, listener: &TcpListener, door: &Door, is_shut: &Cell<bool>) {
    let worker = &hall.worker;
    let pause = async || {
        worker.telemetry.count(Counter::AcceptPaused);
        tokio::time::sleep(ACCEPT_PAUSE).await;
    };
    let accept = async || match listener.accept().await {
        Ok((socket, _)) if is_shut.get() && net::admit(&socket).is_err() => net::reset(socket),
        Ok((socket, from)) => hall.arrive(door, socket, from),
        Err(error) => {
            tracing::debug!(%error, "cannot accept");
            pause().await;
        }
    };
    let accepting = async {
        let mut in_a_row = 0;
        loop {
            // Whoever comes now waits in the listener's queue until somebody leaves.
            if worker.shared.admission.has_descriptors(door.is_egress()) {
                accept().await;
            } else {
                pause().await;
            }
            in_a_row += 1;
            if in_a_row == ACCEPTS_IN_A_ROW {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    };
    let mut stopping = hall.stopping.clone();
    tokio::select! {
        () = accepting => {}
        () = worker.drain.draining(), if !door.is_egress() => {}
        _ = stopping.wait_for(Option::is_some) => {}
    }
    match net::shut(listener) {
        Ok(()) => is_shut.set(true),
        Err(error) => tracing::warn!(%error, "connections that begin while the door closes may be reset"),
    }
    while tokio::time::timeout(LAST_QUIET, accept()).await.is_ok() {}
}

/// Takes what other workers hand over, until the worker stops; what has been sent by then is taken still.
pub(super) async fn keep_taking(hall: Rc<Hall>, inbox: Inbox) {
    let inbox = RefCell::new(inbox);
    let take = async || {
        let next = || std::future::poll_fn(|context| inbox.borrow_mut().poll_recv(context));
        let mut stopping = hall.stopping.clone();
        loop {
            tokio::select! {
                handed = next() => match handed {
                    Some(handed) => hall.take(handed),
                    None => return,
                },
                _ = stopping.wait_for(Option::is_some) => break,
            }
        }
        inbox.borrow_mut().close();
        while let Some(handed) = next().await {
            hall.take(handed);
        }
    };
    hall.supervisor.keep(Task::Accept, take).await;
}

impl Hall {
    fn arrive(self: &Rc<Self>, door: &Door, socket: TcpStream, from: SocketAddr) {
        let worker = &self.worker;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let Some(admitted) = worker.shared.admission.admit(from.ip()) else {
            worker.telemetry.count(Counter::ConnectionsRefused);
            return net::reset(socket);
        };
        let stays = match self.member.receiver(worker.now()) {
            Some(to) if !worker.drain.is_draining() => self.member.pass(to, (socket, from), (door, None), admitted),
            Some(_) | None => Some((socket, admitted)),
        };
        match stays {
            Some((socket, admitted)) => {
                self.begin(door.clone(), socket, from, (admitted, self.member.carry(door.is_egress())));
            }
            None => worker.telemetry.count(Counter::HandedOver),
        }
    }

    fn take(self: &Rc<Self>, handed: Handed) {
        let Handed { socket, from, door, carrier, admitted, carried } = handed;
        match (TcpStream::from_std(socket), carrier) {
            (Ok(socket), None) => self.begin(door, socket, from, (admitted, carried)),
            (Ok(socket), Some((heard, shared))) => {
                let carrier = Carrier::joined(&self.worker, (socket, from), heard);
                self.carry(carrier, from, (admitted, carried, shared, Present::begin(self)));
            }
            (Err(error), _) => {
                tracing::warn!(%error, "a connection could not join its worker");
                self.worker.telemetry.count(Counter::ConnectionsRefused);
            }
        }
    }

    fn begin(self: &Rc<Self>, door: Door, socket: TcpStream, from: SocketAddr, held: (Admitted, Carried)) {
        let watched = self.worker.stalls.watch(&socket);
        let present = Present::begin(self);
        let (own, worker) = (Rc::clone(&self.worker), Rc::clone(&self.worker));
        // Boxed, because the runtime moves what it runs several times, and because what it becomes has a box of its own.
        let beginning = boxed(move || serve(own, door, socket, from));
        let serving = beginning.then(|came| match came {
            Came::Goes(going) => Either::Left(OptionFuture::from(going).map(|left| left.flatten().map(Left::Waits))),
            Came::Shared(carrier) => Either::Right(ready(Some(Left::Shared(carrier)))),
        });
        spawn_local(contained(worker, from, serving).map(move |left| match left.flatten() {
            Some(Left::Waits(waiting)) => Parked { waiting, watched, held, present }.enter(),
            Some(Left::Shared(carrier)) => {
                drop(watched);
                Rc::clone(&present.0).place(*carrier, from, held, present);
            }
            None => drop((watched, held, present)),
        }));
    }

    /// Serves a connection on that has waited.
    pub(super) fn resume(self: &Rc<Self>, parked: Parked) {
        let Parked { waiting, watched, held, present } = parked;
        let (from, worker) = (waiting.connection.downstream, Rc::clone(&self.worker));
        match waiting.serve(&worker) {
            Ok(serving) => {
                spawn_local(contained(worker, from, serving).map(move |left| match left.flatten() {
                    Some(waiting) => Parked { waiting, watched, held, present }.enter(),
                    None => drop((watched, held, present)),
                }));
            }
            Err(error) => tracing::warn!(%error, "a connection that waited could not be served on"),
        }
    }

    /// A connection that many requests share goes to whichever worker has the fewest of these.
    fn place(
        self: Rc<Self>,
        carrier: Carrier,
        from: SocketAddr,
        (admitted, carried): (Admitted, Carried),
        at: Present,
    ) {
        let Carrier { socket, heard, .. } = carrier;
        let stays = match self.member.carrier_receiver() {
            Some(to) if !self.worker.drain.is_draining() => {
                self.member.pass(to, (socket, from), (&Door::Inbound, Some(&heard)), admitted)
            }
            Some(_) | None => Some((socket, admitted)),
        };
        match stays {
            Some((socket, admitted)) => {
                let carrier = Carrier::joined(&self.worker, (socket, from), heard);
                self.carry(carrier, from, (admitted, carried, self.member.share(), at));
            }
            None => self.worker.telemetry.count(Counter::HandedOver),
        }
    }

    fn carry(&self, carrier: Carrier, from: SocketAddr, held: (Admitted, Carried, Carried, Present)) {
        let watched = self.worker.stalls.watch(&carrier.socket);
        let worker = Rc::clone(&self.worker);
        spawn_local(boxed(move || {
            let serving = contained(Rc::clone(&worker), from, carrier.serve(worker));
            serving.map(move |_| drop((watched, held)))
        }));
    }
}

/// Serves one connection, and says what came of it. A panic ends it alone, gives nothing; its socket is closed and what it
/// held is given back.
///
/// No async function: awaiting a future inside another one would hold room for it twice.
pub(super) fn contained<T>(
    worker: Rc<Worker>,
    from: SocketAddr,
    serving: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    AssertUnwindSafe(serving).catch_unwind().map(move |ended| {
        if ended.is_err() {
            worker.telemetry.count(Counter::ConnectionPanicked);
            tracing::error!(%from, "a connection was ended by a defect of this proxy; please report it");
        }
        ended.ok()
    })
}

async fn serve(worker: Rc<Worker>, door: Door, socket: TcpStream, from: SocketAddr) -> Came {
    Came::Goes(match door {
        Door::Outbound => outbound::serve(worker, socket, from).await,
        Door::Inbound => return inbound::serve(worker, socket, from).await,
        Door::Gateway(service, port) => {
            let connection = outbound::open(&worker, from, Direction::Gateway);
            let stream = crate::io::Stream::plain(socket);
            outbound::serve_to(worker, connection, stream, Site::Service(service, port)).await
        }
        Door::Service(service, port) => {
            let connection = outbound::open(&worker, from, Direction::Outbound);
            let stream = crate::io::Stream::plain(socket);
            outbound::serve_to(worker, connection, stream, Site::Service(service, Some(port))).await
        }
        Door::Local { address, protocol, mode } => {
            let connection = outbound::open(&worker, from, Direction::Inbound);
            return inbound::serve_to(worker, connection, socket, address, protocol, mode).await;
        }
    })
}

/// What is left of a connection when its task ends.
enum Left {
    /// It waits for its next request.
    Waits(Waiting),
    /// It may be served elsewhere.
    Shared(Box<Carrier>),
}

/// A connection that waits without a task.
pub(super) struct Parked {
    pub(super) waiting: Waiting,
    /// After the socket, so that it ends after it.
    watched: Watched,
    held: (Admitted, Carried),
    present: Present,
}

impl Parked {
    /// Waits with the others of its worker.
    fn enter(self) {
        let hall = Rc::clone(&self.present.0);
        if let Some(parked) = hall.lot.take_in(&hall, self) {
            hall.resume(parked);
        }
    }
}

/// A connection that is served here, in the metrics and in what the next decision goes by.
#[derive(Debug)]
pub(super) struct Present(Rc<Hall>);

impl Present {
    fn begin(hall: &Rc<Hall>) -> Self {
        hall.worker.telemetry.gauge(Gauge::DownstreamConnections, 1);
        Self(Rc::clone(hall))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let Self(hall) = self;
        hall.worker.telemetry.gauge(Gauge::DownstreamConnections, -1);
        hall.member.ended(hall.worker.now());
    }
}
