//! Passes a connection from a crowded worker to one that carries less, before anything of it was read.
//!
//! The socket leaves one runtime and joins the other's. It travels in a bounded queue that its receiver sleeps on, so
//! workers which are even cost each other nothing. It is counted as the receiver's from the moment it is sent, so that a
//! burst does not overshoot, and it is never lost: a worker whose queue is full or closed gets nothing.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::mpsc;
use weft_core::handover::{Load, carrier_receiver, receiver};
use weft_core::time::Moment;

use super::accept::Door;
use super::loads::{Carried, Kind, Loads};
use crate::entropy::ThreadEntropy;
use crate::inbound::Heard;
use crate::net::Admitted;

/// Connections that may wait for one worker. A worker that does not come to take so many is not the less crowded one.
const QUEUE_MAX: usize = 128;

/// For how long what workers did is summed up before their shares are reckoned anew.
const SHARES_FOR: Duration = Duration::from_millis(200);

/// For how long connections that ended are remembered, at least; twice that at most.
const ENDED_FOR: Duration = Duration::from_secs(1);

/// A connection between two workers.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) socket: std::net::TcpStream,
    pub(super) from: SocketAddr,
    pub(super) door: Door,
    /// What was read of it, if it is one that many requests share.
    pub(super) carrier: Option<(Heard, Carried)>,
    pub(super) admitted: Admitted,
    pub(super) carried: Carried,
}

/// Where a worker takes what others hand it.
pub(super) type Inbox = mpsc::Receiver<Handed>;

/// A way to each worker's inbox, and the inboxes.
pub(super) fn inboxes(workers: usize) -> (Arc<[mpsc::Sender<Handed>]>, Vec<Inbox>) {
    let (ways, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(QUEUE_MAX)).unzip();
    (ways.into(), inboxes)
}

/// One worker among the others. Stays on its thread.
#[derive(Debug)]
pub(super) struct Member {
    index: usize,
    ways: Arc<[mpsc::Sender<Handed>]>,
    loads: Arc<Loads>,
    shares: RefCell<Shares>,
    ended: Cell<Ended>,
}

impl Member {
    /// The worker `index`, which `runtime` belongs to.
    pub(super) fn new(
        index: usize,
        ways: Arc<[mpsc::Sender<Handed>]>,
        loads: Arc<Loads>,
        runtime: RuntimeMetrics,
    ) -> Self {
        loads.watch(index, runtime);
        Self { index, ways, loads, shares: RefCell::default(), ended: Cell::default() }
    }

    /// Counts a connection as this worker's.
    pub(super) fn carry(&self, is_egress: bool) -> Carried {
        self.loads.carry(self.index, kind(is_egress))
    }

    /// Counts one that many requests share.
    pub(super) fn share(&self) -> Carried {
        self.loads.carry(self.index, Kind::Carrier)
    }

    /// Connections of this worker, those that are on their way to it included.
    pub(super) fn open(&self) -> usize {
        self.loads.connections(self.index)
    }

    /// So many of its connections wait without a task.
    pub(super) fn note_waiting(&self, count: usize) {
        self.loads.note_waiting(self.index, count);
    }

    /// A connection of this worker ended.
    pub(super) fn ended(&self, now: Moment) {
        self.ended.set(self.ended.get().and_one(now));
    }

    /// Who gets the connection that has just come; `None`: it stays.
    pub(super) fn receiver(&self, now: Moment) -> Option<usize> {
        if self.ways.len() < 2 || self.open() == 0 {
            return None;
        }
        let mut shares = self.shares.borrow_mut();
        shares.refresh(&self.loads, now);
        let load = |worker: usize| Load { connections: self.loads.connections(worker), busy: shares.of(worker) };
        receiver(self.index, self.ways.len(), self.ended.get().count(now), load, &mut ThreadEntropy)
    }

    /// Who gets a connection that many requests share; `None`: it stays.
    pub(super) fn carrier_receiver(&self) -> Option<usize> {
        carrier_receiver(self.index, self.ways.len(), |worker| self.loads.carriers(worker))
    }

    /// Sends a connection to worker `to`, or gives it back where that one takes none.
    pub(super) fn pass(
        &self,
        to: usize,
        (socket, from): (TcpStream, SocketAddr),
        (door, heard): (&Door, Option<&Heard>),
        admitted: Admitted,
    ) -> Option<(TcpStream, Admitted)> {
        let Some(place) = self.ways.get(to).and_then(|way| way.try_reserve().ok()) else {
            return Some((socket, admitted));
        };
        match socket.into_std() {
            Ok(socket) => {
                let carried = self.loads.carry(to, kind(door.is_egress()));
                let carrier = heard.map(|heard| (heard.clone(), self.loads.carry(to, Kind::Carrier)));
                place.send(Handed { socket, from, door: door.clone(), carrier, admitted, carried });
            }
            // The kernel does not know a descriptor that is ours: nothing that can be mended here.
            Err(error) => tracing::error!(%error, "a connection could not leave its worker"),
        }
        None
    }
}

const fn kind(is_egress: bool) -> Kind {
    if is_egress { Kind::Egress } else { Kind::Ingress }
}

/// How busy each worker has been of late.
#[derive(Debug, Default)]
struct Shares {
    since: Option<Moment>,
    /// By worker: its work when the time began, and its share of the time before that in thousandths.
    workers: Vec<(Duration, u16)>,
}

impl Shares {
    fn of(&self, worker: usize) -> u16 {
        self.workers.get(worker).map_or(0, |(_, share)| *share)
    }

    fn refresh(&mut self, loads: &Loads, now: Moment) {
        let passed = self.since.map(|since| now.since(since));
        if passed.is_some_and(|passed| passed < SHARES_FOR) {
            return;
        }
        self.workers.resize(loads.workers(), (Duration::ZERO, 0));
        for (worker, (before, share)) in self.workers.iter_mut().enumerate() {
            let busy = loads.busy(worker);
            *share = passed.map_or(0, |passed| thousandths(busy.saturating_sub(*before), passed));
            *before = busy;
        }
        self.since = Some(now);
    }
}

fn thousandths(part: Duration, whole: Duration) -> u16 {
    let share = part.as_micros().saturating_mul(1000) / whole.as_micros().max(1);
    u16::try_from(share.min(1000)).unwrap_or(1000)
}

/// Connections that ended within the last moments.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    since: Option<Moment>,
    now: usize,
    before: usize,
}

impl Ended {
    fn and_one(self, now: Moment) -> Self {
        let current = self.at(now);
        Self { now: current.now.saturating_add(1), ..current }
    }

    fn count(self, now: Moment) -> usize {
        let current = self.at(now);
        current.now.saturating_add(current.before)
    }

    /// The same, seen at `now`: what is too long ago is forgotten.
    fn at(self, now: Moment) -> Self {
        match self.since.map(|since| now.since(since)) {
            Some(passed) if passed < ENDED_FOR => self,
            Some(passed) if passed < ENDED_FOR * 2 => Self { since: Some(now), now: 0, before: self.now },
            Some(_) | None => Self { since: Some(now), now: 0, before: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::Admission;

    fn at(milliseconds: u64) -> Moment {
        Moment::ORIGIN + Duration::from_millis(milliseconds)
    }

    #[test]
    fn what_ended_is_forgotten() {
        let mut ended = Ended::default();
        for end in [0, 10, 999, 1000] {
            ended = ended.and_one(at(end));
        }
        assert_eq!((ended.count(at(1000)), ended.count(at(1999)), ended.count(at(2001))), (4, 4, 1));
        assert_eq!(ended.count(at(3001)), 0);
    }

    #[test]
    fn shares_are_of_the_time_that_passed() {
        let tenth = Duration::from_millis(20);
        assert_eq!(thousandths(tenth, SHARES_FOR), 100);
        assert_eq!(thousandths(SHARES_FOR * 2, SHARES_FOR), 1000);
        assert_eq!(thousandths(tenth, Duration::ZERO), 1000);
    }

    /// Goal: whoever cannot take a connection does not get it, and it stays whole and counted where it is.
    #[tokio::test]
    async fn a_worker_that_takes_none_gets_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admission = Arc::new(Admission::new(QUEUE_MAX + 9, QUEUE_MAX + 9));
        let loads = Arc::new(Loads::new(2));
        let (ways, mut inboxes) = inboxes(2);
        let member = Member::new(0, ways, Arc::clone(&loads), tokio::runtime::Handle::current().metrics());
        let mut clients = Vec::new();
        let mut pass = async || {
            let (client, accepted) =
                tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
            clients.push(client.unwrap());
            let arrival = accepted.unwrap();
            let admitted = admission.admit(arrival.1.ip()).unwrap();
            member.pass(1, arrival, (&Door::Outbound, None), admitted)
        };
        for _ in 0..QUEUE_MAX {
            assert!(pass().await.is_none(), "it is handed over");
        }
        assert_eq!((loads.egress(), loads.connections(1)), (QUEUE_MAX, QUEUE_MAX));
        assert!(pass().await.is_some(), "the queue is full");
        let inbox = inboxes.last_mut().unwrap();
        inbox.recv().await.unwrap();
        assert!(pass().await.is_none(), "there is room again");
        inbox.close();
        assert!(pass().await.is_some(), "the worker ends");
        let mut left = 0;
        while inbox.recv().await.is_some() {
            left += 1;
        }
        assert_eq!(left, QUEUE_MAX, "what it has been sent it still gets");
        assert_eq!((loads.connections(1), admission.open()), (0, 0));
    }
}
