//! Upstream connections that outlive one exchange, per worker: nothing here is locked or shared.
//!
//! HTTP/1 links to a sidecar are connections while few requests are under way, and streams of one connection beyond that.
//! The rules (how long idle, how old, how many, which of the two) are the core's; here they are applied. A connection is looked at before
//! it is used: one that has ended or says something is not read from but closed (U2, T20).

mod http1;
mod http2;
#[cfg(test)]
mod links_tests;
mod watch;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use weft_core::hash::Map;
use weft_core::identity::spiffe::SpiffeId;
use weft_core::reuse::PoolLimits;

use crate::clock::Clock;
pub use http1::{InUse, Link, Shelf, Slot, Taken};
pub use http2::{Checkout, Lane, Opened, Streams};

/// From so many endpoints on, those without connections are forgotten now and then.
const ENDPOINTS_MANY: usize = 4096;

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
    shelves: RefCell<Places<Shelf>>,
    lanes: RefCell<Places<Lane>>,
}

/// Endpoints with what is known of each.
#[derive(Debug)]
struct Places<T> {
    known: Map<LinkKey, Rc<T>>,
    /// There were so many when all were last looked at, or fewer than [`ENDPOINTS_MANY`].
    looked_at: usize,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { known: Map::default(), looked_at: ENDPOINTS_MANY / 2 }
    }
}

impl<T> Places<T> {
    fn get(&mut self, key: &LinkKey, new: impl FnOnce() -> Rc<T>, is_empty: impl Fn(&T) -> bool) -> Rc<T> {
        if let Some(place) = self.known.get(key) {
            return Rc::clone(place);
        }
        // Only when they have doubled: else, where as many have connections, each new one would cost a look at all.
        if self.known.len() >= 2 * self.looked_at {
            self.known.retain(|_, place| Rc::strong_count(place) > 1 || !is_empty(place));
            self.looked_at = self.known.len().max(ENDPOINTS_MANY / 2);
        }
        let place = new();
        self.known.insert(key.clone(), Rc::clone(&place));
        place
    }
}

impl Pools {
    /// Empty pools.
    #[must_use]
    pub fn new(clock: Clock, limits: PoolLimits) -> Self {
        Self { clock, limits, shelves: RefCell::default(), lanes: RefCell::default() }
    }

    /// The HTTP/1 connections to one place.
    #[must_use]
    pub fn http1(&self, key: &LinkKey) -> Rc<Shelf> {
        self.shelves.borrow_mut().get(key, || Shelf::new(self.clock, self.limits), Shelf::is_empty)
    }

    /// The HTTP/2 connections to one place.
    #[must_use]
    pub fn http2(&self, key: &LinkKey) -> Rc<Lane> {
        self.lanes.borrow_mut().get(
            key,
            || Rc::new(Lane::new(self.clock, self.limits, Streams::Requests)),
            Lane::is_empty,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> LinkKey {
        let address = SocketAddr::from((n.to_be_bytes(), 80));
        LinkKey { address, identity: None, delivery: false }
    }

    /// Goal: what is empty goes; what is not stays, without a look at all for each that comes.
    #[test]
    fn endpoints_without_connections_are_forgotten_and_the_others_cost_nothing() {
        let looks = std::cell::Cell::new(0);
        let is_empty = |empty: &bool| {
            looks.set(looks.get() + 1);
            *empty
        };
        let many = u32::try_from(ENDPOINTS_MANY).unwrap();
        let mut places = Places::default();
        for n in 0..10 * many {
            places.get(&key(n), || Rc::new(true), is_empty);
            assert!(places.known.len() <= ENDPOINTS_MANY);
        }
        looks.set(0);
        let mut places = Places::default();
        for n in 0..10 * many {
            places.get(&key(n), || Rc::new(false), is_empty);
        }
        assert_eq!(places.known.len(), 10 * ENDPOINTS_MANY);
        assert!(looks.get() <= 20 * ENDPOINTS_MANY, "{}", looks.get());
    }
}
