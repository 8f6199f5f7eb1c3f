//! What 15014 shows to a scraper: text exposition format 0.0.4 of Prometheus.
//!
//! Numbers are read when asked for, from whoever registered a source; nothing is copied in between. Labels come from
//! closed sets only, so the size of the page does not depend on traffic.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// Adds its lines to the page. Called on every scrape; must be quick and must not block.
pub type Source = Box<dyn Fn(&mut Page) + Send + Sync>;

/// Everything that is shown.
#[derive(Default)]
pub struct Metrics {
    sources: RwLock<Vec<Source>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Adds a source for the life of the process.
    pub fn register(&self, source: impl Fn(&mut Page) + Send + Sync + 'static) {
        self.sources.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// The page.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = Page::default();
        page.gauge("weft_build_info", "Build of this binary.", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        for source in self.sources.read().unwrap_or_else(PoisonError::into_inner).iter() {
            source(&mut page);
        }
        page.text
    }
}

/// A page in the making.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    named: std::collections::BTreeSet<&'static str>,
}

impl Page {
    /// One sample of a gauge. Samples of one name must follow each other.
    pub fn gauge(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.sample(name, "gauge", help, labels, value);
    }

    /// One sample of a counter, whose name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], counter: &Counter) {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53, which a counter of ours does not reach")]
        self.sample(name, "counter", help, labels, counter.value() as f64);
    }

    /// All samples of a histogram, whose name ends in `_seconds`.
    pub fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut cumulated = 0;
        for (bound, cell) in histogram.bounds.iter().zip(&histogram.cells) {
            cumulated += cell.value();
            self.write(format_args!("{name}_bucket{{le=\"{}\"}} {cumulated}\n", bound.as_secs_f64()));
        }
        let count = cumulated + histogram.beyond.value();
        let sum = Duration::from_nanos(histogram.nanos.load(Ordering::Relaxed)).as_secs_f64();
        self.write(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n"));
    }

    fn head(&mut self, name: &'static str, kind: &str, help: &str) {
        if self.named.insert(name) {
            self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        }
    }

    fn sample(&mut self, name: &'static str, kind: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.head(name, kind, help);
        self.write(format_args!("{name}"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.write(format_args!("{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' }));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{end} {value}\n"));
    }

    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text.push_str(&arguments.to_string());
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// At zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, in buckets that are fixed when it is made.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One per bound, not cumulated.
    cells: Vec<Counter>,
    beyond: Counter,
    nanos: AtomicU64,
}

impl Histogram {
    /// With these bounds, which grow.
    #[must_use]
    pub fn new(bounds: &'static [Duration]) -> Self {
        let cells = bounds.iter().map(|_| Counter::default()).collect();
        Self { bounds, cells, beyond: Counter::default(), nanos: AtomicU64::new(0) }
    }

    /// It took this long once.
    pub fn observe(&self, took: Duration) {
        let cell = self.bounds.iter().zip(&self.cells).find(|(bound, _)| took <= **bound);
        cell.map_or(&self.beyond, |(_, cell)| cell).increment();
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_well_formed() {
        let metrics = Metrics::default();
        let counter = Counter::default();
        counter.increment();
        metrics.register(move |page| {
            page.counter("weft_x_total", "Things.", &[("kind", "a\"b")], &counter);
            page.counter("weft_x_total", "Things.", &[("kind", "c"), ("why", "d")], &Counter::default());
            page.gauge("weft_y", "A thing.", &[], 1.5);
        });
        let page = metrics.render();
        let expected = "# HELP weft_x_total Things.\n# TYPE weft_x_total counter\nweft_x_total{kind=\"a\\\"b\"} 1\n\
            weft_x_total{kind=\"c\",why=\"d\"} 0\n# HELP weft_y A thing.\n# TYPE weft_y gauge\nweft_y 1.5\n";
        assert!(page.ends_with(expected), "{page}");
        assert!(page.contains("weft_build_info{version=\""));
    }

    #[test]
    fn a_histogram_cumulates() {
        const BOUNDS: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];
        let histogram = Histogram::new(&BOUNDS);
        for millis in [5, 250, 250, 2_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Page::default();
        page.histogram("weft_z_seconds", "Time.", &histogram);
        let expected = "# HELP weft_z_seconds Time.\n# TYPE weft_z_seconds histogram\n\
            weft_z_seconds_bucket{le=\"0.005\"} 1\nweft_z_seconds_bucket{le=\"1\"} 3\n\
            weft_z_seconds_bucket{le=\"+Inf\"} 4\nweft_z_seconds_sum 2.505\nweft_z_seconds_count 4\n";
        assert_eq!(page.text, expected);
    }
}
