//! What the proxy tells about its work: one access record per request or connection, and counters.
//!
//! Each worker owns a [`Telemetry`]; it writes to memory that only it writes, and the control thread reads that memory
//! when it is scraped. A blocked log sink therefore never delays a request (R7): records are dropped and counted.

mod access_log;
mod line;
mod metrics;
pub mod names;
mod record;

use std::rc::Rc;
use std::time::Duration;

pub use access_log::{AccessLog, LogHandle, LogTarget};
pub use metrics::{Counter, Gauge, Hub, Side};
pub(crate) use metrics::{head, line};
pub use record::{AccessRecord, Direction, Kind};

use crate::clock::Clock;

/// A worker's handle. Clones share one shard; it stays on its thread.
#[derive(Clone, Debug)]
pub struct Telemetry {
    shard: Rc<metrics::WorkerShard>,
    log: Option<access_log::Writer>,
    lines: Rc<line::Lines>,
    clock: Clock,
}

impl Telemetry {
    /// The handle of one worker. `log` is `None` where access records are off.
    #[must_use]
    pub fn new(hub: &Hub, log: Option<&LogHandle>, instance_id: &str, clock: Clock) -> Self {
        let lines = Rc::new(line::Lines::new(instance_id));
        Self { shard: Rc::new(hub.worker()), log: log.map(LogHandle::writer), lines, clock }
    }

    /// The clock that records are stamped with.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Counts one finished request or connection and writes its record. Called exactly once for each, at its end.
    pub fn finish(&self, record: &AccessRecord<'_>) {
        self.shard.finish(record);
        if let Some(log) = &self.log {
            let wall = self.clock.wall(record.finished);
            if !log.write(|out| self.lines.write(out, record, wall)) {
                self.count(Counter::AccessRecordsDropped);
            }
        }
    }

    /// Counts a mesh handshake that succeeded. `group`: of its key exchange.
    pub fn handshake(&self, side: Side, group: &'static str, resumed: bool) {
        self.shard.handshake(side, group, resumed);
    }

    /// It took this long to know what a connection speaks.
    pub fn detected(&self, after: Duration) {
        self.shard.detected(after);
    }

    /// Adds one to a counter.
    pub fn count(&self, counter: Counter) {
        self.shard.count(counter);
    }

    /// Moves a gauge.
    pub fn gauge(&self, gauge: Gauge, by: i64) {
        self.shard.gauge(gauge, by);
    }
}
