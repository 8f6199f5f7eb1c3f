//! Open HTTP/2 connections to one place, shared by all requests of the worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Mutex;
use weft_core::fault::FaultKind;
use weft_core::reuse::{Life, Multiplexed, Placement, PoolLimits, place};

use crate::clock::Clock;
use crate::entropy::ThreadEntropy;
use crate::http::H2Client;
use crate::tls::MeshPeer;

/// The connections to one place.
#[derive(Debug)]
pub struct Lane {
    clock: Clock,
    limits: PoolLimits,
    open: RefCell<Vec<Open>>,
    opening: Cell<usize>,
    /// Held while a connection is opened, so that a burst of requests shares it instead of opening one each.
    door: Mutex<()>,
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
    pub(super) fn new(clock: Clock, limits: PoolLimits) -> Self {
        Self {
            clock,
            limits,
            open: RefCell::default(),
            opening: Cell::new(0),
            door: Mutex::new(()),
            failed: Cell::new((0, FaultKind::Internal)),
        }
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// A connection with room for one more stream; opens one by `connect` where there is none. Cancelling is safe.
    ///
    /// # Errors
    /// The fault of `connect`; `Overload` when every connection is full and no more may be opened.
    pub async fn checkout<F>(&self, connect: impl FnOnce() -> F) -> Result<Checkout, FaultKind>
    where
        F: Future<Output = Result<Opened, FaultKind>>,
    {
        if let Placement::On(index) = self.place()
            && let Some(checkout) = self.on(index)
        {
            return Ok(checkout);
        }
        let (failures, _) = self.failed.get();
        let _door = self.door.lock().await;
        // Somebody may have opened one while this request waited at the door.
        match self.place() {
            Placement::On(index) => {
                if let Some(checkout) = self.on(index) {
                    return Ok(checkout);
                }
            }
            Placement::Full => return Err(FaultKind::Overload),
            Placement::Open => {}
        }
        if let (count, fault) = self.failed.get()
            && count != failures
        {
            return Err(fault);
        }
        let opening = Opening::begin(&self.opening);
        let opened = connect().await;
        drop(opening);
        let Opened { client, peer, expires } = opened.inspect_err(|fault| {
            let (count, _) = self.failed.get();
            self.failed.set((count + 1, *fault));
        })?;
        let life = Life::begin(&self.limits, self.clock.now(), &mut ThreadEntropy);
        self.open.borrow_mut().push(Open { client: client.clone(), peer: peer.clone(), life, expires });
        Ok(Checkout { client, peer, reused: false })
    }

    fn on(&self, index: usize) -> Option<Checkout> {
        let open = self.open.borrow();
        let found = open.get(index)?;
        Some(Checkout { client: found.client.clone(), peer: found.peer.clone(), reused: true })
    }

    /// Where the next request goes. Connections that take no more streams are let go; their streams go on.
    fn place(&self) -> Placement {
        let (now, unix) = (self.clock.now(), self.clock.unix_seconds());
        let mut open = self.open.borrow_mut();
        open.retain(|open| open.client.is_usable() && !open.life.is_over(now) && unix < open.expires);
        let seen = open.iter().map(|open| Multiplexed {
            in_flight: u32::try_from(open.client.in_flight()).unwrap_or(u32::MAX),
            peer_streams_max: u32::try_from(open.client.streams_max()).unwrap_or(u32::MAX),
            closing: false,
        });
        place(&self.limits, seen, self.opening.get())
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
        let lane = Lane::new(Clock::start(), PoolLimits::default());
        let tried = Cell::new(0);
        let connect = || async {
            tried.set(tried.get() + 1);
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err::<Opened, _>(FaultKind::ConnectTimeout)
        };
        let all = futures_util::future::join_all((0..20).map(|_| lane.checkout(connect))).await;
        assert!(all.iter().all(|one| matches!(one, Err(FaultKind::ConnectTimeout))), "{all:?}");
        assert_eq!(tried.get(), 1, "nobody waits for more than one timeout");
        assert!(lane.checkout(connect).await.is_err());
        assert_eq!(tried.get(), 2, "who comes later tries for himself");
    }
}
