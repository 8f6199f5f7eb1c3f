//! What each worker carries: others read it when they choose who gets a new connection, a drain and a scrape sum it up.
//!
//! Written when a connection begins or ends and never for a request. Each worker's cells lie apart from the others', so
//! that one's work does not take the line from another's cache.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

use crate::telemetry::{head, line, names};

/// Of all workers of the process.
#[derive(Debug)]
pub struct Loads {
    workers: Box<[Cells]>,
}

/// Of one worker. Processors fetch lines of 64 bytes in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cells {
    ingress: AtomicUsize,
    egress: AtomicUsize,
    carriers: AtomicUsize,
    waiting: AtomicUsize,
    runtime: OnceLock<RuntimeMetrics>,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A connection toward the local workload, or through a gateway.
    Ingress,
    /// One of the workload's own.
    Egress,
    /// One of the former that many requests of another sidecar share; counted as both.
    Carrier,
}

impl Cells {
    const fn of(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Ingress => &self.ingress,
            Kind::Egress => &self.egress,
            Kind::Carrier => &self.carriers,
        }
    }
}

impl Loads {
    /// Of so many workers that carry nothing.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Cells::default()).collect() }
    }

    /// Connections open toward the local workload, or through a gateway.
    #[must_use]
    pub fn ingress(&self) -> usize {
        self.workers.iter().map(|cells| cells.ingress.load(Ordering::Relaxed)).sum()
    }

    /// Connections open of the workload's own.
    #[must_use]
    pub fn egress(&self) -> usize {
        self.workers.iter().map(|cells| cells.egress.load(Ordering::Relaxed)).sum()
    }

    /// Connections open at one worker.
    #[must_use]
    pub fn connections(&self, worker: usize) -> usize {
        self.workers.get(worker).map_or(0, |cells| {
            cells.ingress.load(Ordering::Relaxed).saturating_add(cells.egress.load(Ordering::Relaxed))
        })
    }

    /// Of these, the ones that many requests of another sidecar share.
    #[must_use]
    pub fn carriers(&self, worker: usize) -> usize {
        self.workers.get(worker).map_or(0, |cells| cells.carriers.load(Ordering::Relaxed))
    }

    /// Of these, the ones that wait for their next request without a task.
    #[must_use]
    pub fn waiting(&self, worker: usize) -> usize {
        self.workers.get(worker).map_or(0, |cells| cells.waiting.load(Ordering::Relaxed))
    }

    /// So many of a worker's wait without a task.
    pub(super) fn note_waiting(&self, worker: usize, count: usize) {
        if let Some(cells) = self.workers.get(worker) {
            cells.waiting.store(count, Ordering::Relaxed);
        }
    }

    /// For how long one worker has worked since it began; nothing before [`Loads::watch`].
    #[must_use]
    pub fn busy(&self, worker: usize) -> Duration {
        let runtime = self.workers.get(worker).and_then(|cells| cells.runtime.get());
        runtime.map_or(Duration::ZERO, |runtime| runtime.worker_total_busy_duration(0))
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Reads the work of one worker from its runtime, of which it must be the only thread.
    pub(super) fn watch(&self, worker: usize, runtime: RuntimeMetrics) {
        if let Some(cells) = self.workers.get(worker) {
            cells.runtime.get_or_init(|| runtime);
        }
    }

    /// Counts one connection of a worker until what this gives is dropped, on whatever thread.
    pub(super) fn carry(self: &Arc<Self>, worker: usize, kind: Kind) -> Carried {
        if let Some(cells) = self.workers.get(worker) {
            cells.of(kind).fetch_add(1, Ordering::Relaxed);
        }
        Carried { loads: Arc::clone(self), worker, kind }
    }

    /// Appends the metrics of each worker.
    pub fn render(&self, out: &mut String) {
        head(out, names::WORKER_CONNECTIONS);
        for worker in 0..self.workers() {
            let name = names::WORKER_CONNECTIONS.name;
            line(out, format_args!("{name}{{worker=\"{worker}\"}} {}", self.connections(worker)));
        }
        head(out, names::WORKER_WAITING);
        for worker in 0..self.workers() {
            let name = names::WORKER_WAITING.name;
            line(out, format_args!("{name}{{worker=\"{worker}\"}} {}", self.waiting(worker)));
        }
        head(out, names::WORKER_BUSY);
        for worker in 0..self.workers() {
            let name = names::WORKER_BUSY.name;
            line(out, format_args!("{name}{{worker=\"{worker}\"}} {}", self.busy(worker).as_secs_f64()));
        }
    }
}

/// One connection that a worker has, or is about to get.
#[derive(Debug)]
pub(super) struct Carried {
    loads: Arc<Loads>,
    worker: usize,
    kind: Kind,
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(cells) = self.loads.workers.get(self.worker) {
            cells.of(self.kind).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_is_counted_apart_and_all_are_summed() {
        let loads = Arc::new(Loads::new(2));
        let held = [(0, Kind::Ingress), (1, Kind::Ingress), (1, Kind::Egress), (1, Kind::Carrier)]
            .map(|(worker, kind)| loads.carry(worker, kind));
        assert_eq!((loads.ingress(), loads.egress()), (2, 1));
        assert_eq!((loads.connections(0), loads.connections(1)), (1, 2));
        assert_eq!((loads.carriers(0), loads.carriers(1)), (0, 1));
        assert_eq!(loads.connections(2), 0, "there is no such worker");
        let mut page = String::new();
        loads.render(&mut page);
        assert!(page.contains("weft_worker_connections{worker=\"1\"} 2\n"), "{page}");
        loads.note_waiting(1, 1);
        let mut page = String::new();
        loads.render(&mut page);
        assert!(page.contains("weft_worker_waiting_connections{worker=\"1\"} 1\n"), "{page}");
        drop(held);
        assert_eq!((loads.ingress(), loads.egress()), (0, 0));
    }
}
