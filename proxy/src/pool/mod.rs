//! Upstream connections that outlive one exchange, per worker: nothing here is locked or shared.
//!
//! The rules (how long idle, how old, how many) are the core's; here they are applied. A connection is looked at before
//! it is used: one that has ended or says something is not read from but closed (U2, T20).

mod http1;
mod http2;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use weft_core::identity::spiffe::SpiffeId;
use weft_core::reuse::PoolLimits;

use crate::clock::Clock;
pub use http1::{InUse, Link, Shelf, Slot};
pub use http2::{Checkout, Lane, Opened};

/// Endpoints remembered at most; beyond it those without connections are forgotten.
const ENDPOINTS_MAX: usize = 4096;

/// Where an upstream connection leads. Two requests share connections only if all of it is equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinkKey {
    /// Address.
    pub address: SocketAddr,
    /// Mesh TLS with a peer that must prove this; `None`: plaintext.
    pub identity: Option<SpiffeId>,
    /// To the local application, from the delivery address.
    pub delivery: bool,
}

/// All pools of one worker.
#[derive(Debug)]
pub struct Pools {
    clock: Clock,
    limits: PoolLimits,
    shelves: RefCell<HashMap<LinkKey, Rc<Shelf>>>,
    lanes: RefCell<HashMap<LinkKey, Rc<Lane>>>,
}

impl Pools {
    /// Empty pools.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, limits: PoolLimits::default(), shelves: RefCell::default(), lanes: RefCell::default() }
    }

    /// The HTTP/1 connections to one place.
    #[must_use]
    pub fn http1(&self, key: &LinkKey) -> Rc<Shelf> {
        let mut shelves = self.shelves.borrow_mut();
        if let Some(shelf) = shelves.get(key) {
            return Rc::clone(shelf);
        }
        if shelves.len() >= ENDPOINTS_MAX {
            shelves.retain(|_, shelf| Rc::strong_count(shelf) > 1 || !shelf.is_empty());
        }
        let shelf = Shelf::new(self.clock, self.limits);
        shelves.insert(key.clone(), Rc::clone(&shelf));
        shelf
    }

    /// The HTTP/2 connections to one place.
    #[must_use]
    pub fn http2(&self, key: &LinkKey) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        if let Some(lane) = lanes.get(key) {
            return Rc::clone(lane);
        }
        if lanes.len() >= ENDPOINTS_MAX {
            lanes.retain(|_, lane| Rc::strong_count(lane) > 1 || !lane.is_empty());
        }
        let lane = Rc::new(Lane::new(self.clock, self.limits));
        lanes.insert(key.clone(), Rc::clone(&lane));
        lane
    }
}
