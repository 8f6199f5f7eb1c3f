//! Counters in shards: a worker writes only its own, a scrape adds them up.
//!
//! With one writer an increment is a load and a store, both relaxed: no locked instruction on the request path. Labels
//! come from configuration (service, direction) and closed sets (class, fault), never from what a caller sends; the
//! number of services counted apart is bounded (O2).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weft_core::hash::Map;
use weft_core::model::ServiceKey;

use super::names;
use super::record::{AccessRecord, Direction, Kind};

/// Services counted apart on one worker; later ones are counted as `other`.
const SERVICES_MAX: usize = 10_000;

/// Upper bounds of the duration histogram, in microseconds; the last bucket is +Inf.
const BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

macro_rules! closed_set {
    ($(#[$outer:meta])* $name:ident, $kind:literal, { $($variant:ident = $metric:literal, $help:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = $help] $variant,)* }

        impl $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name, type and help of the metric.
            #[must_use]
            pub const fn metric(self) -> names::Metric {
                match self { $(Self::$variant => names::Metric { name: $metric, kind: $kind, help: $help },)* }
            }
        }
    };
}

closed_set!(
    /// Events that have no request of their own.
    Counter, "counter", {
        AccessRecordsDropped = "weft_access_records_dropped_total", "access records lost because the sink is blocked";
        AcceptPaused = "weft_accept_paused_total", "times accepting paused because descriptors ran out";
        ConnectionsRefused = "weft_connections_refused_total", "connections refused because a bound on connections was reached";
        LoopRefused = "weft_loop_refused_total", "connections straight to a capture port, or loops";
        RegistryOnlyRefused = "weft_registry_only_refused_total", "connections to destinations outside the registry that were refused";
        Passthrough = "weft_passthrough_total", "connections passed through to destinations unknown to the mesh";
        DownstreamHandshakeFailed = "weft_downstream_handshake_failures_total", "mesh handshakes from downstream that failed";
        UpstreamHandshakeFailed = "weft_upstream_handshake_failures_total", "mesh handshakes to upstream that failed";
        HandshakeShed = "weft_handshakes_shed_total", "mesh handshakes, either way, given up because too many waited before them";
        PoolReused = "weft_pool_reused_total", "requests sent on a connection that was open already";
        PoolOpened = "weft_pool_opened_total", "upstream connections opened";
        LinksShared = "weft_pool_links_total", "HTTP/1 links to other sidecars opened on connections that they share";
        PoolStale = "weft_pool_stale_total", "idle upstream connections found closed or dirty before use";
        Retried = "weft_retries_total", "attempts beyond the first";
        DetectTimeout = "weft_detect_timeouts_total", "connections whose first bytes did not arrive in time";
        ServerFirst = "weft_server_first_total", "connections on which the server spoke first";
        LateClient = "weft_detection_late_clients_total", "clients that spoke first only after their silence had been taken for waiting";
        HeadRefused = "weft_heads_refused_total", "request heads refused as malformed or too large";
        HandedOver = "weft_handovers_total", "new connections that a crowded worker passed to another before reading from them";
        ConnectionPanicked = "weft_connection_panics_total", "connections ended by a defect of the proxy";
    }
);

closed_set!(
    /// Quantities that go up and down.
    Gauge, "gauge", {
        DownstreamConnections = "weft_downstream_connections", "open connections from downstream";
        RequestsInFlight = "weft_requests_in_flight", "requests that have begun and not ended";
    }
);

/// All shards of the process.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    shards: Arc<Mutex<Vec<Arc<Shard>>>>,
}

#[derive(Debug, Default)]
struct Shard {
    counters: [AtomicU64; Counter::ALL.len()],
    gauges: [AtomicI64; Gauge::ALL.len()],
    series: Mutex<HashMap<SeriesKey, Arc<Series>>>,
    /// By side, group and whether resumed; a handshake costs so much that a lock is nothing beside it.
    handshakes: Mutex<BTreeMap<(Side, &'static str, bool), u64>>,
    detection: Histogram,
}

/// Where the peer of a mesh handshake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// It called us.
    Downstream,
    /// We called it.
    Upstream,
}

impl Side {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
        }
    }
}

/// Durations, written by one thread.
#[derive(Debug, Default)]
struct Histogram {
    /// One more than the bounds: the last is +Inf.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let index = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(index) {
            bump(bucket, 1);
        }
        bump(&self.sum_us, us);
    }
}

/// Sum of histograms.
#[derive(Debug, Default)]
struct Distribution {
    buckets: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Distribution {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        self.sum_us += histogram.sum_us.load(Ordering::Relaxed);
    }

    /// `labels` is empty or ends in a comma. Nothing is shown of what never happened.
    fn render(&self, out: &mut String, name: &str, labels: &str) {
        if self.buckets.iter().all(|bucket| *bucket == 0) {
            return;
        }
        let mut sum = 0;
        for (bound, count) in BOUNDS_US.iter().zip(&self.buckets) {
            sum += count;
            let bound = Duration::from_micros(*bound).as_secs_f64();
            line(out, format_args!("{name}_bucket{{{labels}le=\"{bound}\"}} {sum}"));
        }
        let all: u64 = self.buckets.iter().sum();
        line(out, format_args!("{name}_bucket{{{labels}le=\"+Inf\"}} {all}"));
        let labels = labels.trim_end_matches(',');
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        line(out, format_args!("{name}_sum{labels} {}", Duration::from_micros(self.sum_us).as_secs_f64()));
        line(out, format_args!("{name}_count{labels} {all}"));
    }
}

type SeriesKey = (Direction, Option<ServiceKey>);

/// What is counted of one service in one direction.
#[derive(Debug, Default)]
struct Series {
    connections: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    duration: Histogram,
    /// By class (index 0 is 1xx) and fault code; only this worker adds entries.
    requests: Mutex<Vec<(u8, &'static str, Arc<AtomicU64>)>>,
    connection_faults: Mutex<Vec<(&'static str, Arc<AtomicU64>)>>,
}

/// A worker's own shard.
#[derive(Debug)]
pub(super) struct WorkerShard {
    shard: Arc<Shard>,
    known: [Known; Direction::ALL.len()],
    services: Cell<usize>,
}

/// A worker's way to what it has counted before in one direction.
#[derive(Debug, Default)]
struct Known {
    without_service: RefCell<Option<Own>>,
    by_service: RefCell<Map<ServiceKey, Own>>,
}

/// A series, and the parts of it that this worker need not ask for under a lock, being the only one who adds any.
#[derive(Debug, Default)]
struct Own {
    series: Arc<Series>,
    requests: Vec<(u8, &'static str, Arc<AtomicU64>)>,
}

impl Hub {
    /// No shards yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn worker(&self) -> WorkerShard {
        let shard = Arc::new(Shard::default());
        lock(&self.shards).push(Arc::clone(&shard));
        WorkerShard { shard, known: Default::default(), services: Cell::new(0) }
    }

    /// Sum of one counter over all workers.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        lock(&self.shards).iter().map(|shard| shard.counter(counter).load(Ordering::Relaxed)).sum()
    }

    /// Sum of one gauge over all workers.
    #[must_use]
    pub fn gauge(&self, gauge: Gauge) -> i64 {
        lock(&self.shards).iter().map(|shard| shard.gauge(gauge).load(Ordering::Relaxed)).sum()
    }

    /// Appends everything in Prometheus' text format (version 0.0.4).
    pub fn render(&self, out: &mut String) {
        for counter in Counter::ALL {
            head(out, counter.metric());
            line(out, format_args!("{} {}", counter.metric().name, self.counter(*counter)));
        }
        for gauge in Gauge::ALL {
            head(out, gauge.metric());
            line(out, format_args!("{} {}", gauge.metric().name, self.gauge(*gauge)));
        }
        self.render_handshakes(out);
        let mut detection = Distribution::default();
        for shard in lock(&self.shards).iter() {
            detection.add(&shard.detection);
        }
        head(out, names::DETECTION);
        detection.render(out, names::DETECTION.name, "");
        self.render_series(out);
    }

    fn render_handshakes(&self, out: &mut String) {
        let mut all: BTreeMap<(Side, &str, bool), u64> = BTreeMap::new();
        for shard in lock(&self.shards).iter() {
            for (kind, count) in lock(&shard.handshakes).iter() {
                *all.entry(*kind).or_default() += count;
            }
        }
        head(out, names::HANDSHAKES);
        for ((side, group, resumed), count) in all {
            let (name, side) = (names::HANDSHAKES.name, side.as_str());
            line(out, format_args!("{name}{{side=\"{side}\",group=\"{group}\",resumed=\"{resumed}\"}} {count}"));
        }
    }

    fn render_series(&self, out: &mut String) {
        let totals = self.totals();
        head(out, names::REQUESTS);
        for ((direction, service), total) in &totals {
            for ((class, fault), count) in &total.requests {
                let labels = labels(*direction, service.as_ref());
                line(
                    out,
                    format_args!("{}{{{labels},class=\"{class}xx\",fault=\"{fault}\"}} {count}", names::REQUESTS.name),
                );
            }
        }
        head(out, names::REQUEST_DURATION);
        for ((direction, service), total) in &totals {
            let labels = format!("{},", labels(*direction, service.as_ref()));
            total.duration.render(out, names::REQUEST_DURATION.name, &labels);
        }
        head(out, names::CONNECTIONS);
        for ((direction, service), total) in &totals {
            for (fault, count) in &total.connections {
                let labels = labels(*direction, service.as_ref());
                line(out, format_args!("{}{{{labels},fault=\"{fault}\"}} {count}", names::CONNECTIONS.name));
            }
        }
        for (metric, bytes) in
            [(names::BYTES_RECEIVED, Total::received as fn(&Total) -> u64), (names::BYTES_SENT, Total::sent)]
        {
            head(out, metric);
            for ((direction, service), total) in &totals {
                let labels = labels(*direction, service.as_ref());
                line(out, format_args!("{}{{{labels}}} {}", metric.name, bytes(total)));
            }
        }
    }

    fn totals(&self) -> Vec<(SeriesKey, Total)> {
        let mut totals: HashMap<SeriesKey, Total> = HashMap::new();
        for shard in lock(&self.shards).iter() {
            for (key, series) in lock(&shard.series).iter() {
                totals.entry(key.clone()).or_default().add(series);
            }
        }
        let mut totals: Vec<_> = totals.into_iter().collect();
        totals.sort_by(|((a, x), _), ((b, y), _)| (a.as_str(), x).cmp(&(b.as_str(), y)));
        totals
    }
}

impl Shard {
    #[allow(clippy::indexing_slicing, reason = "the array has one cell per variant")]
    fn counter(&self, counter: Counter) -> &AtomicU64 {
        &self.counters[counter as usize]
    }

    #[allow(clippy::indexing_slicing, reason = "the array has one cell per variant")]
    fn gauge(&self, gauge: Gauge) -> &AtomicI64 {
        &self.gauges[gauge as usize]
    }
}

impl WorkerShard {
    pub(super) fn count(&self, counter: Counter) {
        bump(self.shard.counter(counter), 1);
    }

    pub(super) fn gauge(&self, gauge: Gauge, by: i64) {
        let cell = self.shard.gauge(gauge);
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    pub(super) fn handshake(&self, side: Side, group: &'static str, resumed: bool) {
        *lock(&self.shard.handshakes).entry((side, group, resumed)).or_default() += 1;
    }

    pub(super) fn detected(&self, after: Duration) {
        self.shard.detection.observe(after);
    }

    pub(super) fn finish(&self, record: &AccessRecord<'_>) {
        let known = self.known(record.direction);
        let Some(service) = record.service else {
            let own = &mut *known.without_service.borrow_mut();
            return own.get_or_insert_with(|| self.begin(record.direction, None)).count(record);
        };
        let by_service = &mut *known.by_service.borrow_mut();
        if let Some(own) = by_service.get_mut(service) {
            return own.count(record);
        }
        let key = if self.services.get() < SERVICES_MAX { service.clone() } else { other() };
        let own = by_service.entry(key.clone()).or_insert_with(|| self.begin(record.direction, Some(key)));
        own.count(record);
    }

    #[allow(clippy::indexing_slicing, reason = "the array has one cell per variant")]
    const fn known(&self, direction: Direction) -> &Known {
        &self.known[direction as usize]
    }

    fn begin(&self, direction: Direction, service: Option<ServiceKey>) -> Own {
        self.services.set(self.services.get() + 1);
        let own = Own::default();
        lock(&self.shard.series).insert((direction, service), Arc::clone(&own.series));
        own
    }
}

impl Own {
    fn count(&mut self, record: &AccessRecord<'_>) {
        let fault = record.fault.map_or("", weft_core::fault::FaultKind::code);
        bump(&self.series.received, record.bytes_received);
        bump(&self.series.sent, record.bytes_sent);
        match record.kind {
            Kind::Request => {
                let class = record.status.map_or(0, |status| u8::try_from(status / 100).unwrap_or(0));
                self.request(class, fault);
                self.series.duration.observe(record.finished.since(record.started));
            }
            Kind::Connection => self.series.connection(fault),
        }
    }

    fn request(&mut self, class: u8, fault: &'static str) {
        if let Some((.., count)) = self.requests.iter().find(|(c, f, _)| *c == class && *f == fault) {
            return bump(count, 1);
        }
        let count = Arc::new(AtomicU64::new(1));
        lock(&self.series.requests).push((class, fault, Arc::clone(&count)));
        self.requests.push((class, fault, count));
    }
}

fn other() -> ServiceKey {
    ServiceKey { namespace: "".into(), name: "other".into() }
}

impl Series {
    fn connection(&self, fault: &'static str) {
        bump(&self.connections, 1);
        let mut faults = lock(&self.connection_faults);
        if let Some((_, count)) = faults.iter().find(|(f, _)| *f == fault) {
            bump(count, 1);
            return;
        }
        faults.push((fault, Arc::new(AtomicU64::new(1))));
    }
}

/// Adds to a cell that only this thread writes.
fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

#[derive(Debug, Default)]
struct Total {
    received: u64,
    sent: u64,
    duration: Distribution,
    requests: BTreeMap<(u8, &'static str), u64>,
    connections: BTreeMap<&'static str, u64>,
}

impl Total {
    fn received(&self) -> u64 {
        self.received
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn add(&mut self, series: &Series) {
        self.received += series.received.load(Ordering::Relaxed);
        self.sent += series.sent.load(Ordering::Relaxed);
        self.duration.add(&series.duration);
        for (class, fault, count) in lock(&series.requests).iter() {
            *self.requests.entry((*class, *fault)).or_default() += count.load(Ordering::Relaxed);
        }
        for (fault, count) in lock(&series.connection_faults).iter() {
            *self.connections.entry(*fault).or_default() += count.load(Ordering::Relaxed);
        }
    }
}

fn labels(direction: Direction, service: Option<&ServiceKey>) -> String {
    let service = service.map(ToString::to_string).unwrap_or_default();
    format!("direction=\"{}\",service=\"{service}\"", direction.as_str())
}

/// The two comment lines of a metric.
pub(crate) fn head(out: &mut String, metric: names::Metric) {
    line(out, format_args!("# HELP {} {}", metric.name, metric.help));
    line(out, format_args!("# TYPE {} {}", metric.name, metric.kind));
}

/// One line of the exposition.
pub(crate) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.push_str(&text.to_string());
    out.push('\n');
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::fault::FaultKind;
    use weft_core::time::Moment;

    fn record<'a>(service: Option<&'a ServiceKey>, status: u16, fault: Option<FaultKind>) -> AccessRecord<'a> {
        let mut record =
            AccessRecord::new(Kind::Request, Direction::Outbound, Moment::ORIGIN, Moment::from_nanos(3_000_000));
        record.status = Some(status);
        record.service = service;
        record.fault = fault;
        record.bytes_sent = 7;
        record
    }

    #[test]
    fn shards_are_summed() {
        let hub = Hub::new();
        let cart = ServiceKey { namespace: "shop".into(), name: "cart".into() };
        for _ in 0..2 {
            let worker = hub.worker();
            worker.finish(&record(Some(&cart), 200, None));
            worker.finish(&record(Some(&cart), 503, Some(FaultKind::NoEndpoint)));
            worker.count(Counter::Passthrough);
            worker.gauge(Gauge::RequestsInFlight, 3);
            worker.gauge(Gauge::RequestsInFlight, -1);
            worker.handshake(Side::Upstream, "X25519", false);
            worker.detected(Duration::from_micros(600));
        }
        let mut text = String::new();
        hub.render(&mut text);
        for expected in [
            "weft_requests_total{direction=\"outbound\",service=\"shop/cart\",class=\"2xx\",fault=\"\"} 2",
            "weft_requests_total{direction=\"outbound\",service=\"shop/cart\",class=\"5xx\",fault=\"no_endpoint\"} 2",
            "weft_request_duration_seconds_bucket{direction=\"outbound\",service=\"shop/cart\",le=\"0.0025\"} 0",
            "weft_request_duration_seconds_bucket{direction=\"outbound\",service=\"shop/cart\",le=\"0.005\"} 4",
            "weft_request_duration_seconds_count{direction=\"outbound\",service=\"shop/cart\"} 4",
            "weft_sent_bytes_total{direction=\"outbound\",service=\"shop/cart\"} 28",
            "weft_passthrough_total 2",
            "weft_requests_in_flight 4",
            "weft_mesh_handshakes_total{side=\"upstream\",group=\"X25519\",resumed=\"false\"} 2",
            "weft_detection_seconds_bucket{le=\"0.0005\"} 0",
            "weft_detection_seconds_bucket{le=\"0.001\"} 2",
            "weft_detection_seconds_count 2",
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\nnot in\n{text}");
        }
    }

    #[test]
    fn series_are_bounded() {
        let hub = Hub::new();
        let worker = hub.worker();
        for index in 0..SERVICES_MAX + 50 {
            let key = ServiceKey { namespace: "n".into(), name: index.to_string().into() };
            worker.finish(&record(Some(&key), 200, None));
        }
        assert!(hub.totals().len() <= SERVICES_MAX + 1);
        let other = hub.totals().into_iter().find(|((_, service), _)| service.as_ref() == Some(&other()));
        assert_eq!(other.unwrap().1.requests.values().sum::<u64>(), 50);
    }
}
