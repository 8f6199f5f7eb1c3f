//! Names of metrics and what each means: the exposition and the documentation read the same table.

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// One phrase.
    pub help: &'static str,
}

const fn metric(name: &'static str, kind: &'static str, help: &'static str) -> Metric {
    Metric { name, kind, help }
}

/// Finished requests by direction, service, class and fault.
pub const REQUESTS: Metric =
    metric("weft_requests_total", "counter", "finished requests; class is 1xx-5xx, fault empty where none");
/// Time from head to end by direction and service.
pub const REQUEST_DURATION: Metric =
    metric("weft_request_duration_seconds", "histogram", "time from request head to the end of the response");
/// Finished connections relayed as bytes.
pub const CONNECTIONS: Metric = metric(
    "weft_connections_total",
    "counter",
    "finished connections that were relayed as bytes or ended before a request",
);
/// Mesh handshakes by side, group and resumption.
pub const HANDSHAKES: Metric = metric(
    "weft_mesh_handshakes_total",
    "counter",
    "mesh handshakes that succeeded, by side, key exchange group and whether a session was resumed",
);
/// Time until it is known what a connection speaks.
pub const DETECTION: Metric =
    metric("weft_detection_seconds", "histogram", "time from accepting a connection to knowing what it speaks");
/// Bytes from downstream.
pub const BYTES_RECEIVED: Metric =
    metric("weft_received_bytes_total", "counter", "body and stream bytes from downstream");
/// Bytes to downstream.
pub const BYTES_SENT: Metric = metric("weft_sent_bytes_total", "counter", "body and stream bytes to downstream");
/// Panics, whatever they ended.
pub const PANICS: Metric =
    metric("weft_panics_total", "counter", "defects of the proxy, each of which ended one connection, stream or task");
/// Control tasks started again, by task.
pub const TASK_RESTARTS: Metric = metric(
    "weft_task_restarts_total",
    "counter",
    "tasks other than connections that a defect ended and that were started again",
);
/// Open connections by worker.
pub const WORKER_CONNECTIONS: Metric =
    metric("weft_worker_connections", "gauge", "open connections from downstream at each worker");
/// Open connections without a task, by worker.
pub const WORKER_WAITING: Metric = metric(
    "weft_worker_waiting_connections",
    "gauge",
    "of the open connections those that have waited for their next request for more than a second",
);
/// Work by worker.
pub const WORKER_BUSY: Metric =
    metric("weft_worker_busy_seconds_total", "counter", "time in which each worker did not wait for something to do");
/// Questions to the resolver, by what became of them.
pub const DNS_QUERIES: Metric = metric(
    "weft_dns_queries_total",
    "counter",
    "questions to the resolver; answered and no_such_name are the mesh's own, the rest says why not",
);
/// Datagrams that pretend to be an upstream's answer.
pub const DNS_STRAYS: Metric = metric(
    "weft_dns_stray_answers_total",
    "counter",
    "datagrams dropped because they answer no question that was sent to an upstream",
);
/// Version of this build.
pub const BUILD_INFO: Metric = metric("weft_build_info", "gauge", "always 1; the labels say what is running");
