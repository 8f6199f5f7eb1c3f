//! Bounds of HTTP connections.

use std::rc::Rc;
use std::time::Duration;

use weft_core::h1::Limits;
use weft_core::http2::connection::{CONNECTION_SURPLUS_MAX, Surplus};

/// Most bytes read ahead of what is consumed, apart from a message head. Two TLS records.
pub const READ_BYTES_MAX: usize = 32 * 1024;

/// Output that waits for the peer; a body is not polled for more until it is below this.
pub const OUT_BYTES_MAX: usize = 64 * 1024;

/// Body bytes that one message may move before the others of its worker have their turn. Where both sides are fast a body
/// would else go on for megabytes, and a hundred of them would let everybody else wait for hundreds of megabytes.
pub(crate) const TURN_BYTES_MAX: u64 = 256 * 1024;

/// What one proxy adds to a head: ids, trace context, who called, where from.
const ADDED_BYTES_MAX: usize = 4 * 1024;
const ADDED_FIELDS_MAX: usize = 16;

/// Interim responses relayed for one request. A handful is normal (one 100, some 103); more is an upstream gone wild.
pub(crate) const INTERIM_MAX: u32 = 32;

/// Streams that we may reset on a connection to a server before new requests go on another one. Peers count resets and end
/// connections with too many, ours included; whoever cancels must not end a connection that others share.
pub(crate) const RESETS_SENT_MAX: usize = 1000;

/// Streams that we have reset toward a server and remember: all of them, with those that were open meanwhile.
pub(crate) const RESETS_REMEMBERED_MAX: usize = 2 * RESETS_SENT_MAX;

/// By how much the receive windows of a worker's HTTP/2 streams may be larger than at first: what is at stake where many that
/// had kept up cease to read at once.
const WINDOWS_SURPLUS_MAX: u32 = 16 * 1024 * 1024;

thread_local! {
    static SURPLUS: Rc<Surplus> = Rc::new(Surplus::new(WINDOWS_SURPLUS_MAX));
}

/// What all HTTP/2 connections of the worker share to grow their windows.
pub(crate) fn surplus() -> Rc<Surplus> {
    SURPLUS.with(Rc::clone)
}

/// Bounds that apply to one HTTP connection, each with its default.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Heads and trailers: 96 KiB, 200 fields.
    pub message: Limits,
    /// From the first byte of a head (for the first request: from the start) to its end: 10 s. Then 408.
    pub head_timeout: Duration,
    /// Between requests on a kept-alive connection: 10 min.
    pub idle_timeout: Duration,
    /// A plain connection that has waited so long for its next request is handed back to whoever had it served
    /// ([`super::ServeEnd::Waits`]); `None`: never.
    pub hand_back_after: Option<Duration>,
    /// Body bytes of a request nobody read that are read and dropped to keep the connection: 64 KiB. Beyond it closes.
    pub drain_bytes_max: u64,
    /// How long such a body, or the peer's end of a connection we close, is waited for: 2 s.
    pub linger_timeout: Duration,
    /// What is left of a request after the whole response may stand still for so long: 60 s, what servers give a body by
    /// default (nginx `client_body_timeout`).
    pub rest_timeout: Duration,
    /// Concurrent streams a downstream may open: 100.
    pub streams_max: u32,
    /// Resets of streams not accepted yet before the connection is closed for rapid reset: 20.
    pub pending_resets_max: usize,
    /// Streams reset as soon as they are open, beyond as many that were not, before the connection is closed: 500.
    pub premature_resets_max: usize,
    /// Streams of a downstream that were answered before their request had come, and are remembered: the last 200. What still
    /// comes for others counts as an error of the client's.
    pub resets_remembered_max: usize,
    /// Receive window that an HTTP/2 stream begins with: 128 KiB. That of its connection is as large as those of all its
    /// streams together, however they grow, so that streams nobody reads never hold up the others.
    pub stream_window: u32,
    /// PING this often while streams are open: 10 s, 5 s between sidecars.
    pub ping_interval: Duration,
    /// PING servers too. Between sidecars only: gRPC servers close connections on which they get more PINGs than one in
    /// five minutes while nothing is sent. A host of theirs that is gone is found by TCP.
    pub ping_servers: bool,
    /// After a PING something must be heard within: 20 s from strangers and applications, which may be busy. Between sidecars
    /// 9 s: a connection that a hundred requests share survives a packet that is lost twice, and with [`Self::ping_interval`] a
    /// host that is gone is noticed within 14 s.
    pub ping_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            message: Limits::default(),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            hand_back_after: None,
            drain_bytes_max: 64 * 1024,
            linger_timeout: Duration::from_secs(2),
            rest_timeout: Duration::from_secs(60),
            streams_max: 100,
            pending_resets_max: 20,
            premature_resets_max: 500,
            resets_remembered_max: 200,
            stream_window: 128 * 1024,
            ping_interval: Duration::from_secs(10),
            ping_servers: false,
            ping_timeout: Duration::from_secs(20),
        }
    }
}

impl HttpLimits {
    /// For links between sidecars, which share one connection among many clients: clients that cancel all they asked for,
    /// each within its own bounds, must not close the connection of everyone. So resets are borne as fast as they can be
    /// read in one turn, and eight times as many in vain.
    #[must_use]
    pub fn between_sidecars() -> Self {
        let base = Self::default();
        let (pending_resets_max, premature_resets_max) = (1000, base.premature_resets_max * 8);
        // A head that the first proxy let in must not be refused by the second for what the first has added.
        let mut message = base.message;
        message.head_bytes_max += ADDED_BYTES_MAX;
        message.fields_max += ADDED_FIELDS_MAX;
        // Each line may grow by the blank after its colon.
        message.trailer_bytes_max += message.fields_max;
        Self {
            pending_resets_max,
            premature_resets_max,
            resets_remembered_max: RESETS_REMEMBERED_MAX,
            message,
            ping_servers: true,
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(9),
            ..base
        }
    }

    /// Receive window of an HTTP/2 connection.
    pub(crate) const fn connection_window(&self) -> u32 {
        self.stream_window.saturating_mul(self.streams_max).saturating_add(CONNECTION_SURPLUS_MAX)
    }
}
