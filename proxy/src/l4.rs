//! Connections carried as bytes: opaque protocols, foreign TLS, ports declared `tcp`. Balanced once, when they begin.

use std::rc::Rc;

use weft_core::balance::{InFlight, Outcome};
use weft_core::detect::MeshAlpn;
use weft_core::fault::FaultKind;

use crate::dial::{Linked, dial};
use crate::exchange::{Connection, Upstream, record_connection};
use crate::forward::{Destination, choose};
use crate::io::Stream;
use crate::peek::Speculative;
use crate::route::HealthOf;
use crate::runtime::worker::Worker;
use crate::tcp::{Moved, RelayEnd, relay};
use crate::telemetry::Counter;

/// Endpoints tried for one connection.
const ATTEMPTS_MAX: usize = 3;

/// A way upstream for bytes, with what its record will say.
#[derive(Debug)]
pub struct Way {
    stream: Stream,
    upstream: Upstream,
    in_flight: Option<InFlight<HealthOf>>,
}

impl Speculative for Way {
    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

/// Opens a way to one of the destination's endpoints. Cancelling closes what was opened.
///
/// # Errors
/// The fault of the last endpoint tried, and where it was.
pub async fn open(worker: &Worker, to: &Destination) -> Result<Way, (FaultKind, Upstream)> {
    let mut tried = Vec::new();
    let mut upstream = to.describe();
    let mut last = FaultKind::NoEndpoint;
    while tried.len() < ATTEMPTS_MAX {
        let Some((chosen, index)) = choose(worker.now(), to, &tried) else { break };
        if !tried.is_empty() {
            worker.telemetry.count(Counter::Retried);
        }
        upstream.address = Some(chosen.key().address);
        upstream.place = chosen.place();
        let begun = worker.now();
        let in_flight = chosen.begin(begun);
        let dialed = dial(worker, chosen.key(), MeshAlpn::Tcp).await;
        let took = worker.now().since(begun);
        if let Some(in_flight) = &in_flight {
            let outcome = if dialed.is_ok() { Outcome::Answered(took) } else { Outcome::Failed(took) };
            in_flight.observe(outcome, worker.now());
        }
        match dialed {
            Ok(Linked { stream, peer, .. }) => {
                upstream.peer = peer;
                return Ok(Way { stream, upstream, in_flight });
            }
            Err(fault) => {
                last = fault;
                tried.push(index);
            }
        }
    }
    Err((last, upstream))
}

/// Relays a connection to its end and writes its record. `way` is taken where one is open already.
pub async fn carry(
    worker: &Rc<Worker>,
    connection: &Connection,
    to: &Destination,
    downstream: Stream,
    way: Option<Way>,
    protocol: &'static str,
) {
    let opened = match way {
        Some(way) => Ok(way),
        None => open(worker, to).await,
    };
    match opened {
        Ok(Way { stream, upstream, in_flight }) => {
            let mut ending = Ending { worker, connection, upstream, protocol, moved: Moved::default(), end: None };
            ending.end = Some(relay(&worker.reserve, downstream, stream, &ending.moved).await);
            drop(in_flight);
        }
        Err((fault, upstream)) => refuse(worker, connection, &upstream, downstream, fault, Some(protocol)),
    }
}

/// Writes the record of a relayed connection when it ends, however it ends.
struct Ending<'a> {
    worker: &'a Worker,
    connection: &'a Connection,
    upstream: Upstream,
    protocol: &'static str,
    moved: Moved,
    end: Option<RelayEnd>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let end = self.end.unwrap_or_else(|| {
            // Cut at the deadline of a drain; else only a defect ends a relay from outside.
            let draining = self.connection.drain.is_draining();
            self.moved.ended(Some(if draining { FaultKind::Draining } else { FaultKind::Internal }))
        });
        record_connection(self.worker, self.connection, &self.upstream, Some(self.protocol), end);
    }
}

/// Ends a connection with a reset and a record that says why.
pub fn refuse(
    worker: &Worker,
    connection: &Connection,
    upstream: &Upstream,
    downstream: Stream,
    fault: FaultKind,
    protocol: Option<&'static str>,
) {
    downstream.abort();
    record_connection(worker, connection, upstream, protocol, RelayEnd { fault: Some(fault), ..RelayEnd::default() });
}
