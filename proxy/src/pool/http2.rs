//! Open HTTP/2 connections to one place, shared by all requests, or all HTTP/1 links, of the worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_local;
use weft_core::fault::FaultKind;
use weft_core::reuse::{Life, Multiplexed, Placement, PoolLimits, place, place_link};

use crate::clock::Clock;
use crate::entropy::ThreadEntropy;
use crate::http::H2Client;
use crate::tls::MeshPeer;

/// What the streams of connections are for. Links outlive their requests and would take the room of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// One request each.
    Requests,
    /// An HTTP/1 link each.
    Links,
}

/// The connections to one place.
#[derive(Debug)]
pub struct Lane(Rc<Connections>);

#[derive(Debug)]
struct Connections {
    clock: Clock,
    limits: PoolLimits,
    streams: Streams,
    /// Workers of the far end, as far as it has said.
    workers: Cell<usize>,
    open: RefCell<Vec<Open>>,
    opening: Cell<usize>,
    /// Held while a connection is opened, so that a burst of requests shares it instead of opening one each.
    door: Arc<Mutex<()>>,
    /// How often opening has failed, and how the last time: who waited at the door shares the failure too.
    failed: Cell<(u64, FaultKind)>,
}

#[derive(Clone, Debug)]
struct Open {
    client: H2Client,
    peer: Option<Rc<MeshPeer>>,
    life: Life,
    expires: i64,
}

/// A connection to send one request on.
#[derive(Debug)]
pub struct Checkout {
    /// The connection.
    pub client: H2Client,
    /// Who is at the other end, over mesh TLS.
    pub peer: Option<Rc<MeshPeer>>,
    /// How long it takes streams.
    pub life: Life,
    /// Unix seconds, when the certificates used expire.
    pub expires: i64,
    /// It was open already.
    pub reused: bool,
}

/// A connection that was opened for [`Lane::checkout`].
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub client: H2Client,
    /// Who is at the other end, over mesh TLS.
    pub peer: Option<Rc<MeshPeer>>,
    /// Unix seconds, when the certificates used expire.
    pub expires: i64,
}

impl Lane {
    pub(super) fn new(clock: Clock, limits: PoolLimits, streams: Streams) -> Self {
        Self(Rc::new(Connections {
            clock,
            limits,
            streams,
            workers: Cell::new(1),
            open: RefCell::default(),
            opening: Cell::new(0),
            door: Arc::default(),
            failed: Cell::new((0, FaultKind::Internal)),
        }))
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.open.borrow().is_empty()
    }

    /// The far end has said how many workers it has.
    pub fn has_workers(&self, workers: usize) {
        self.0.workers.set(workers);
    }

    /// Lets go of all connections, if not of their streams.
    pub fn let_go(&self) {
        drop(self.0.open.take());
    }

    /// A connection with room for one more stream, where there is one.
    #[must_use]
    pub fn open(&self) -> Option<Checkout> {
        self.0.placed(self.0.workers.get())
    }

    /// As [`Self::open`]; opens one by `connect` where there is none. Cancelling is safe: a connection that is being opened
    /// is opened for those who wait for it too, and for who comes next.
    ///
    /// # Errors
    /// The fault of `connect` where no other connection has room; `Overload` when every connection is full and no more may
    /// be opened.
    pub async fn checkout<F>(&self, connect: impl FnOnce() -> F) -> Result<Checkout, FaultKind>
    where
        F: Future<Output = Result<Opened, FaultKind>> + 'static,
    {
        if let Some(checkout) = self.open() {
            return Ok(checkout);
        }
        let Self(all) = self;
        let (failures, _) = all.failed.get();
        let door = Arc::clone(&all.door).lock_owned().await;
        // Somebody may have opened one while this request waited at the door.
        match all.place(all.workers.get()) {
            Placement::On(index) => {
                if let Some(checkout) = all.on(index) {
                    return Ok(checkout);
                }
            }
            Placement::Full => return Err(FaultKind::Overload),
            Placement::Open => {}
        }
        if let (count, fault) = all.failed.get()
            && count != failures
        {
            return all.any().ok_or(fault);
        }
        let (kept, connecting) = (Rc::clone(all), connect());
        let opening = spawn_local(async move {
            let _door = door;
            kept.connect(connecting).await
        });
        opening.await.unwrap_or(Err(FaultKind::Internal))
    }
}

impl Connections {
    /// As [`Lane::open`], however many streams the others have: where no other connection can be had.
    fn any(&self) -> Option<Checkout> {
        self.placed(1)
    }

    fn placed(&self, workers: usize) -> Option<Checkout> {
        match self.place(workers) {
            Placement::On(index) => self.on(index),
            Placement::Open | Placement::Full => None,
        }
    }

    /// Opens one more, and keeps it.
    async fn connect(
        &self,
        connecting: impl Future<Output = Result<Opened, FaultKind>>,
    ) -> Result<Checkout, FaultKind> {
        let opening = Opening::begin(&self.opening);
        let opened = connecting.await;
        drop(opening);
        let Opened { client, peer, expires } = match opened {
            Ok(opened) => opened,
            Err(fault) => {
                let (count, _) = self.failed.get();
                self.failed.set((count + 1, fault));
                return self.any().ok_or(fault);
            }
        };
        let life = Life::begin(&self.limits, self.clock.now(), &mut ThreadEntropy);
        self.open.borrow_mut().push(Open { client: client.clone(), peer: peer.clone(), life, expires });
        Ok(Checkout { client, peer, life, expires, reused: false })
    }

    fn on(&self, index: usize) -> Option<Checkout> {
        let open = self.open.borrow();
        let Open { client, peer, life, expires } = open.get(index)?.clone();
        Some(Checkout { client, peer, life, expires, reused: true })
    }

    /// Where the next request goes, for a far end of so many workers. Connections that take no more streams are let go;
    /// their streams go on.
    fn place(&self, workers: usize) -> Placement {
        let (now, unix) = (self.clock.now(), self.clock.unix_seconds());
        let mut open = self.open.borrow_mut();
        open.retain(|open| open.client.is_usable() && !open.life.is_over(now) && unix < open.expires);
        let seen = open.iter().map(|open| Multiplexed {
            in_flight: u32::try_from(open.client.in_flight()).unwrap_or(u32::MAX),
            peer_streams_max: u32::try_from(open.client.streams_max()).unwrap_or(u32::MAX),
            closing: false,
        });
        match self.streams {
            Streams::Requests => place(&self.limits, seen, self.opening.get()),
            Streams::Links => place_link(&self.limits, seen, self.opening.get(), workers),
        }
    }
}

/// Counts a connection being opened, also when opening is cancelled.
struct Opening<'a>(&'a Cell<usize>);

impl<'a> Opening<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_waits_at_the_door_shares_the_failure() {
        let test = async {
            let lane = Lane::new(Clock::start(), PoolLimits::default(), Streams::Requests);
            let tried = Rc::new(Cell::new(0));
            let connect = || {
                tried.set(tried.get() + 1);
                async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err::<Opened, _>(FaultKind::ConnectTimeout)
                }
            };
            let all = futures_util::future::join_all((0..20).map(|_| lane.checkout(connect))).await;
            assert!(all.iter().all(|one| matches!(one, Err(FaultKind::ConnectTimeout))), "{all:?}");
            assert_eq!(tried.get(), 1, "nobody waits for more than one timeout");
            assert!(lane.checkout(connect).await.is_err());
            assert_eq!(tried.get(), 2, "who comes later tries for himself");
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }
}
