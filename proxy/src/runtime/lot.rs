//! The connections of one worker that wait for their next request without a task, all watched by one task.
//!
//! Whatever happens to a connection that waits, the next request, its end, the end of its time, a drain, it leaves the lot
//! and is served on by a task of its own, which finds out what it was.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep_until;
use weft_core::time::Moment;

use super::accept::{Hall, Parked};
use super::drain::Draining;
use crate::net::SocketSet;
use crate::supervise::Task;

/// Connections that leave in a row before others of the worker have a turn. What their requests cost comes after.
const LEAVE_IN_A_ROW: usize = SocketSet::HEARD_MAX;

/// See the module. What is in it holds its [`Hall`], and so it is emptied when the worker ends ([`keep_lot`]).
pub(super) struct Lot {
    sockets: SocketSet,
    /// By when their time is over, in nanoseconds of the clock, and one more where two have the same: also their name among
    /// the sockets.
    parked: RefCell<BTreeMap<u64, Box<Parked>>>,
    /// The first of them is another one.
    sooner: Notify,
}

impl fmt::Debug for Lot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Lot").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl Lot {
    /// An empty one, on the worker's runtime.
    ///
    /// # Errors
    /// For want of descriptors or memory.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { sockets: SocketSet::new()?, parked: RefCell::default(), sooner: Notify::new() })
    }

    /// Has one more wait here, or gives it back where the kernel cannot watch it.
    pub(super) fn take_in(&self, hall: &Hall, one: Parked) -> Option<Parked> {
        let mut parked = self.parked.borrow_mut();
        let mut name = hall.worker.shared.clock.moment(one.waiting.until(&hall.worker)).as_nanos();
        while parked.contains_key(&name) {
            name = name.wrapping_add(1);
        }
        if let Err(error) = self.sockets.add(&one.waiting, name) {
            tracing::debug!(%error, "a connection that waits keeps its task");
            return Some(one);
        }
        parked.insert(name, Box::new(one));
        if parked.first_key_value().is_some_and(|(first, _)| *first == name) {
            self.sooner.notify_one();
        }
        hall.member.note_waiting(parked.len());
        None
    }

    fn take_out(&self, hall: &Hall, name: u64) -> Option<Parked> {
        let one = {
            let mut parked = self.parked.borrow_mut();
            let one = parked.remove(&name)?;
            hall.member.note_waiting(parked.len());
            one
        };
        if let Err(error) = self.sockets.remove(&one.waiting) {
            tracing::error!(%error, "a connection that waited was not watched");
        }
        Some(*one)
    }

    /// All of these that are here are served on, some at a time. How many were.
    async fn serve_on(&self, hall: &Rc<Hall>, names: impl IntoIterator<Item = u64>) -> usize {
        let mut served = 0;
        for name in names {
            let Some(one) = self.take_out(hall, name) else { continue };
            hall.resume(one);
            served += 1;
            if served % LEAVE_IN_A_ROW == 0 {
                yield_now().await;
            }
        }
        served
    }

    /// Those of which something is heard are served on.
    async fn keep_listening(&self, hall: &Rc<Hall>) -> Infallible {
        loop {
            if self.sockets.readable().await.is_err() {
                // The runtime ends.
                return pending().await;
            }
            loop {
                let served = match self.sockets.heard() {
                    Ok(names) => self.serve_on(hall, names).await,
                    Err(error) => {
                        tracing::error!(%error, "connections that wait cannot be listened to");
                        0
                    }
                };
                if served < SocketSet::HEARD_MAX {
                    break;
                }
            }
        }
    }

    /// Those whose time is over are served on, and end.
    async fn keep_time(&self, hall: &Rc<Hall>) -> Infallible {
        let clock = hall.worker.shared.clock;
        loop {
            let first = self.parked.borrow().first_key_value().map(|(name, _)| *name);
            let over = async {
                match first {
                    Some(first) => sleep_until(clock.instant(Moment::from_nanos(first))).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = self.sooner.notified() => {}
            }
            let now = clock.now().as_nanos();
            let over: Vec<_> = self.parked.borrow().range(..=now).map(|(name, _)| *name).collect();
            self.serve_on(hall, over).await;
        }
    }

    /// When a drain begins, those that it concerns are served on.
    async fn heed(&self, hall: &Rc<Hall>, drain: &Draining) -> Infallible {
        drain.draining().await;
        let concerned = |one: &Parked| one.waiting.connection.drain.is_draining();
        let all: Vec<_> =
            self.parked.borrow().iter().filter(|(_, one)| concerned(one)).map(|(name, _)| *name).collect();
        self.serve_on(hall, all).await;
        pending().await
    }
}

/// Keeps the lot of a worker until its runtime ends, defects of this proxy notwithstanding.
pub(super) async fn keep_lot(hall: Rc<Hall>) {
    let emptied = Emptied(hall);
    let Emptied(hall) = &emptied;
    let (lot, worker) = (&hall.lot, &hall.worker);
    let keep = async || {
        tokio::select! {
            never = lot.keep_listening(hall) => match never {},
            never = lot.keep_time(hall) => match never {},
            never = lot.heed(hall, &worker.drain) => match never {},
            never = lot.heed(hall, &worker.egress_drain) => match never {},
        }
    };
    hall.supervisor.keep(Task::Accept, keep).await
}

/// Closes what still waits.
struct Emptied(Rc<Hall>);

impl Drop for Emptied {
    fn drop(&mut self) {
        let left = self.0.lot.parked.take();
        self.0.member.note_waiting(0);
        drop(left);
    }
}
