//! Ports of services as one worker uses them.
//!
//! What is known of the mesh all workers share, and to count one more who holds a part of it is a write to memory that
//! the others write to as well. So a worker holds each part that it uses once, until something changes, and its requests
//! share that among themselves. What they write to in common is how an endpoint fares, on purpose.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use weft_core::balance::{self, EndpointHealth};
use weft_core::hash::Map;
use weft_core::snapshot::{EndpointTarget, PortEntry, Snapshot};
use weft_core::time::Moment;

use crate::entropy::ThreadEntropy;
use crate::pool::LinkKey;
use crate::site::Site;

/// Routes held. All are let go of when there are more.
const ROUTES_MAX: usize = 1024;

/// A port of a service: balanced, or one endpoint of it.
#[derive(Debug)]
pub struct Route {
    /// Whose policy holds.
    pub port: Arc<PortEntry>,
    /// Exactly this endpoint.
    pinned: Option<Rc<Place>>,
    /// Endpoints chosen so far, by where they stand in the list.
    places: RefCell<Map<usize, Rc<Place>>>,
}

/// An endpoint of a route.
#[derive(Debug)]
pub struct Place {
    /// As it serves the port.
    pub endpoint: Arc<EndpointTarget>,
    /// Where its connections lead.
    pub key: LinkKey,
}

impl Place {
    fn of(endpoint: &Arc<EndpointTarget>) -> Rc<Self> {
        let identity = if endpoint.mesh_tls { endpoint.identity.clone() } else { None };
        let key = LinkKey { address: endpoint.address, identity, delivery: false };
        Rc::new(Self { endpoint: Arc::clone(endpoint), key })
    }
}

/// How the endpoint of a place fares.
#[derive(Debug)]
pub struct HealthOf(pub Rc<Place>);

impl Deref for HealthOf {
    type Target = EndpointHealth;

    fn deref(&self) -> &EndpointHealth {
        &self.0.endpoint.health
    }
}

impl Route {
    /// To a port, or to one endpoint of it.
    #[must_use]
    pub fn new(port: Arc<PortEntry>, pinned: Option<&Arc<EndpointTarget>>) -> Rc<Self> {
        Rc::new(Self { port, pinned: pinned.map(Place::of), places: RefCell::default() })
    }

    /// Chooses at `now`, not again what was tried. `None`: nothing is left.
    pub(crate) fn choose(&self, now: Moment, tried: &[usize]) -> Option<(Rc<Place>, usize)> {
        if let Some(pinned) = &self.pinned {
            return tried.is_empty().then(|| (Rc::clone(pinned), 0));
        }
        let endpoints = &self.port.endpoints;
        let health = |index: usize| {
            let endpoint = endpoints.get(index)?;
            (!tried.contains(&index)).then_some(&*endpoint.health)
        };
        let index = balance::pick(endpoints.shares(), health, now, &mut ThreadEntropy)?;
        if let Some(place) = self.places.borrow().get(&index) {
            return Some((Rc::clone(place), index));
        }
        let place = Place::of(endpoints.get(index)?);
        self.places.borrow_mut().insert(index, Rc::clone(&place));
        Some((place, index))
    }
}

/// The routes that a worker has found in what is known now.
#[derive(Debug)]
pub struct Routes {
    /// Where it was found. Never looked into.
    snapshot: Cell<*const Snapshot>,
    known: RefCell<Map<Site, Rc<Route>>>,
}

impl Default for Routes {
    fn default() -> Self {
        Self { snapshot: Cell::new(ptr::null()), known: RefCell::default() }
    }
}

impl Routes {
    /// Lets go of all where something has changed. The caller has held the snapshot of the last call until this one is
    /// there, so that no two have one address.
    pub(crate) fn follow(&self, snapshot: &Arc<Snapshot>) {
        if self.snapshot.replace(Arc::as_ptr(snapshot)) != Arc::as_ptr(snapshot) {
            // What it had room for may have been much more than will be needed.
            self.known.take();
        }
    }

    /// The route from `site`, or what `find` finds.
    pub(crate) fn or_else<E>(&self, site: &Site, find: impl FnOnce() -> Result<Rc<Route>, E>) -> Result<Rc<Route>, E> {
        if let Some(route) = self.known.borrow().get(site) {
            return Ok(Rc::clone(route));
        }
        let route = find()?;
        let mut known = self.known.borrow_mut();
        if known.len() >= ROUTES_MAX {
            known.clear();
        }
        known.insert(site.clone(), Rc::clone(&route));
        Ok(route)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use weft_core::model::{
        AppProtocol, DecodedUpdate, Endpoint, EndpointPort, Resource, Service, ServiceKey, ServicePort, Upsert, Weight,
    };
    use weft_core::snapshot::apply;

    use super::*;

    const PORT: NonZeroU16 = NonZeroU16::new(80).unwrap();

    fn key() -> ServiceKey {
        ServiceKey { namespace: "shop".into(), name: "cart".into() }
    }

    /// After what is known, a service and its endpoints with these last bytes of an address.
    fn after(known: &Snapshot, endpoints: &[u8]) -> Arc<Snapshot> {
        let ports = vec![ServicePort { port: PORT, name: "".into(), protocol: AppProtocol::Http1 }];
        let service = Resource::Service(Service { key: key(), ports, virtual_ips: Vec::new() });
        let endpoint = |last: &u8| {
            Resource::Endpoint(Endpoint {
                service: key(),
                id: last.to_string().into(),
                address: [127, 0, 0, *last].into(),
                ports: vec![EndpointPort { service_port: PORT, target_port: PORT, captured: false }],
                identity: None,
                weight: Weight::ONE,
                locality: "".into(),
            })
        };
        let upserts = std::iter::once(service).chain(endpoints.iter().map(endpoint));
        let upserts = upserts.map(|resource| Upsert { version: 1, resource }).collect();
        Arc::new(apply(known, DecodedUpdate { revision: 1, upserts, removals: Vec::new() }))
    }

    fn port(snapshot: &Snapshot) -> Arc<PortEntry> {
        Arc::clone(snapshot.service(&key()).unwrap().port(PORT.get()).unwrap())
    }

    #[test]
    fn requests_count_nothing_that_workers_share() {
        let snapshot = after(&Snapshot::empty(), &[1, 2]);
        let route = Route::new(port(&snapshot), None);
        let (now, both) = (Moment::from_nanos(1), [0, 1]);
        let first = both.map(|other| route.choose(now, &[other]).unwrap());
        let count = |(place, _): &(Rc<Place>, usize)| Arc::strong_count(&place.endpoint);
        let before = (Arc::strong_count(&route.port), first.each_ref().map(count));
        for _ in 0..100 {
            let (place, index) = route.choose(now, &[]).unwrap();
            assert!(first.iter().any(|(known, at)| Rc::ptr_eq(known, &place) && *at == index));
            assert_eq!((Arc::strong_count(&route.port), first.each_ref().map(count)), before);
        }
        assert!(route.choose(now, &both).is_none());
        let pinned = Route::new(port(&snapshot), Some(&first[1].0.endpoint));
        assert_eq!(pinned.choose(now, &[]).unwrap().0.key, first[1].0.key);
        assert!(pinned.choose(now, &[0]).is_none());
    }

    #[test]
    fn routes_are_held_until_something_changes_and_no_more_than_so_many() {
        let (routes, site) = (Routes::default(), Site::Service(key(), None));
        let found = |snapshot: &Arc<Snapshot>| {
            routes.follow(snapshot);
            routes.or_else(&site, || Ok::<_, ()>(Route::new(port(snapshot), None))).unwrap()
        };
        let one = after(&Snapshot::empty(), &[1]);
        let first = found(&one);
        assert!(Rc::ptr_eq(&first, &found(&one)));
        let two = after(&one, &[2]);
        assert_eq!(found(&two).port.endpoints.len(), 2);
        assert_eq!(Rc::strong_count(&first), 1, "what is over is let go of");
        assert!(routes.or_else(&Site::Service(key(), Some(PORT)), || Err(())).is_err());
        for number in 0..=u16::try_from(ROUTES_MAX).unwrap() {
            let site = Site::Captured(([127, 0, 0, 1], number).into());
            routes.or_else(&site, || Ok::<_, ()>(Rc::clone(&first))).unwrap();
            assert!(routes.known.borrow().len() <= ROUTES_MAX);
        }
    }
}
