//! Why a request or connection failed, and the one table of what each failure looks like from outside.
//!
//! Every door (HTTP status, gRPC status, `proxy-status`, access record, metric label) reads this table, so that they
//! cannot disagree, and a new kind does not compile until it is mapped. Features R11, O11; `proxy-status` error types
//! are those of RFC 9209 section 2.3.

use std::fmt;

/// A kind of failure. The code is stable and searchable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The downstream's request head breaks HTTP.
    BadRequest,
    /// The head exceeds its bounds (bytes or fields).
    HeadTooLarge,
    /// The request target exceeds its bound.
    TargetTooLong,
    /// A method, expectation or coding this proxy cannot carry.
    NotImplemented,
    /// An HTTP version this proxy does not speak.
    VersionNotSupported,
    /// The head did not arrive in time.
    HeadTimeout,
    /// CONNECT to another destination than the captured one.
    ConnectRefused,
    /// The body broke its framing.
    BadBody,
    /// The downstream sends more resets, settings, pings or fragments of heads than any honest client does.
    Flood,
    /// The downstream left before the end.
    DownstreamReset,
    /// First bytes or the TLS handshake did not arrive in time.
    DetectTimeout,
    /// The downstream's TLS handshake failed.
    DownstreamTls,
    /// The downstream has no acceptable identity and the listener demands one.
    DownstreamIdentity,
    /// The mesh does not know the destination and the mode is registry-only.
    NotInRegistry,
    /// The control plane denied the destination.
    DestinationDenied,
    /// The control plane did not say in time what a destination inside mesh ranges is.
    DestinationUnknown,
    /// No route matches.
    NoRoute,
    /// The service has no endpoint.
    NoEndpoint,
    /// Connection straight to a capture port, or a loop through this proxy.
    Loop,
    /// The upstream refused the connection or cannot be reached.
    ConnectFailed,
    /// Connecting took too long.
    ConnectTimeout,
    /// The upstream's TLS handshake failed.
    UpstreamTls,
    /// The upstream proved another identity than discovery named.
    UpstreamIdentity,
    /// The upstream closed or reset before a response.
    UpstreamReset,
    /// The upstream's response breaks its protocol.
    UpstreamProtocol,
    /// The upstream's response head exceeds its bounds.
    UpstreamHeadTooLarge,
    /// The upstream ended a body early; the downstream has seen the head already.
    UpstreamTruncated,
    /// The request took longer than allowed.
    RequestTimeout,
    /// Nothing moved for the idle timeout.
    IdleTimeout,
    /// A bound on connections, streams or memory is reached.
    Overload,
    /// The proxy is shutting down.
    Draining,
    /// The proxy has no snapshot yet.
    NotReady,
    /// A defect of this proxy.
    Internal,
}

/// Who caused a fault, as far as the proxy can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The side that called us.
    Downstream,
    /// The side we called.
    Upstream,
    /// This proxy or its configuration.
    Proxy,
}

/// How one kind looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appearance {
    /// Stable code: record, `x-weft-error`, metric label.
    pub code: &'static str,
    /// HTTP status of a response made for it.
    pub status: u16,
    /// gRPC status code of a trailers-only response made for it.
    pub grpc_status: u8,
    /// Short flag in access records.
    pub flag: &'static str,
    /// `error` parameter of `proxy-status` (RFC 9209 section 2.3).
    pub proxy_status: &'static str,
    /// Who caused it.
    pub origin: Origin,
    /// One phrase for a person, with the likely remedy where the cause is usually elsewhere.
    pub phrase: &'static str,
}

const fn look(
    code: &'static str,
    (status, grpc_status): (u16, u8),
    (flag, proxy_status): (&'static str, &'static str),
    origin: Origin,
    phrase: &'static str,
) -> Appearance {
    Appearance { code, status, grpc_status, flag, proxy_status, origin, phrase }
}

impl FaultKind {
    /// The table.
    #[must_use]
    pub const fn appearance(self) -> Appearance {
        use Origin::{Downstream, Proxy, Upstream};
        match self {
            Self::BadRequest => {
                look("bad_request", (400, 13), ("DPE", "http_request_error"), Downstream, "malformed request")
            }
            Self::HeadTooLarge => look(
                "head_too_large",
                (431, 8),
                ("DPE", "http_request_error"),
                Downstream,
                "request header fields exceed the bound",
            ),
            Self::TargetTooLong => look(
                "target_too_long",
                (414, 8),
                ("DPE", "http_request_error"),
                Downstream,
                "request target exceeds the bound",
            ),
            Self::NotImplemented => look(
                "not_implemented",
                (501, 12),
                ("DPE", "http_request_error"),
                Downstream,
                "request needs something this proxy does not implement",
            ),
            Self::VersionNotSupported => look(
                "version_not_supported",
                (505, 12),
                ("DPE", "http_request_error"),
                Downstream,
                "HTTP version not supported",
            ),
            Self::HeadTimeout => look(
                "head_timeout",
                (408, 4),
                ("DT", "http_request_error"),
                Downstream,
                "request head did not arrive in time",
            ),
            Self::ConnectRefused => look(
                "connect_refused",
                (403, 7),
                ("DPE", "http_request_denied"),
                Downstream,
                "CONNECT names another destination than the connection's",
            ),
            Self::BadBody => look(
                "bad_body",
                (400, 13),
                ("DPE", "http_request_error"),
                Downstream,
                "request body breaks its framing",
            ),
            Self::Flood => look(
                "flood",
                (429, 8),
                ("DPE", "connection_limit_reached"),
                Downstream,
                "HTTP/2 frames that carry nothing exceed their bound",
            ),
            Self::DownstreamReset => look(
                "downstream_reset",
                (499, 1),
                ("DC", "connection_terminated"),
                Downstream,
                "caller left before the end",
            ),
            Self::DetectTimeout => look(
                "detect_timeout",
                (408, 4),
                ("DT", "http_request_error"),
                Downstream,
                "first bytes did not arrive in time",
            ),
            Self::DownstreamTls => look(
                "downstream_tls",
                (400, 16),
                ("DTLS", "tls_alert_received"),
                Downstream,
                "caller's TLS handshake failed",
            ),
            Self::DownstreamIdentity => look(
                "downstream_identity",
                (403, 16),
                ("DID", "http_request_denied"),
                Downstream,
                "caller has no acceptable mesh identity; is its sidecar running?",
            ),
            Self::NotInRegistry => look(
                "not_in_registry",
                (502, 14),
                ("NR", "destination_not_found"),
                Proxy,
                "destination is not in the registry and must be (outbound mode registry-only, or inside mesh ranges)",
            ),
            Self::DestinationDenied => look(
                "destination_denied",
                (403, 7),
                ("DD", "destination_ip_prohibited"),
                Proxy,
                "control plane denies this destination",
            ),
            Self::DestinationUnknown => look(
                "destination_unknown",
                (503, 14),
                ("NC", "destination_unavailable"),
                Proxy,
                "control plane did not say in time what this mesh address is",
            ),
            Self::NoRoute => look("no_route", (404, 12), ("NR", "destination_not_found"), Proxy, "no route matches"),
            Self::NoEndpoint => look(
                "no_endpoint",
                (503, 14),
                ("UH", "destination_unavailable"),
                Proxy,
                "service has no ready endpoint",
            ),
            Self::Loop => look(
                "loop",
                (508, 10),
                ("LOOP", "proxy_loop_detected"),
                Proxy,
                "connection straight to a capture port, or a loop through this proxy",
            ),
            Self::ConnectFailed => look(
                "connect_failed",
                (502, 14),
                ("UF", "connection_refused"),
                Upstream,
                "upstream refused the connection or is unreachable",
            ),
            Self::ConnectTimeout => look(
                "connect_timeout",
                (504, 14),
                ("UF", "connection_timeout"),
                Upstream,
                "connecting upstream took too long",
            ),
            Self::UpstreamTls => look(
                "upstream_tls",
                (502, 14),
                ("UTLS", "tls_protocol_error"),
                Upstream,
                "upstream's TLS handshake failed",
            ),
            Self::UpstreamIdentity => look(
                "upstream_identity",
                (502, 14),
                ("UID", "tls_certificate_error"),
                Upstream,
                "upstream proved another identity than discovery named",
            ),
            Self::UpstreamReset => look(
                "upstream_reset",
                (502, 14),
                ("UC", "connection_terminated"),
                Upstream,
                "upstream closed before a response",
            ),
            Self::UpstreamProtocol => look(
                "upstream_protocol",
                (502, 14),
                ("UPE", "http_protocol_error"),
                Upstream,
                "upstream's response breaks its protocol",
            ),
            Self::UpstreamHeadTooLarge => look(
                "upstream_head_too_large",
                (502, 14),
                ("UPE", "http_response_header_section_size"),
                Upstream,
                "upstream's response head exceeds the bound",
            ),
            Self::UpstreamTruncated => look(
                "upstream_truncated",
                (502, 14),
                ("UC", "http_response_incomplete"),
                Upstream,
                "upstream ended the response early",
            ),
            Self::RequestTimeout => look(
                "request_timeout",
                (504, 4),
                ("UT", "http_response_timeout"),
                Upstream,
                "request took longer than allowed",
            ),
            Self::IdleTimeout => look(
                "idle_timeout",
                (504, 4),
                ("SI", "http_response_timeout"),
                Upstream,
                "nothing moved for the idle timeout",
            ),
            Self::Overload => look(
                "overload",
                (503, 14),
                ("UO", "connection_limit_reached"),
                Proxy,
                "a bound of this proxy is reached",
            ),
            Self::Draining => {
                look("draining", (503, 14), ("DR", "destination_unavailable"), Proxy, "proxy is shutting down")
            }
            Self::NotReady => look(
                "not_ready",
                (503, 14),
                ("NC", "destination_unavailable"),
                Proxy,
                "proxy has no configuration yet; is the control plane reachable?",
            ),
            Self::Internal => {
                look("internal", (500, 13), ("IE", "proxy_internal_error"), Proxy, "defect of the proxy; please report")
            }
        }
    }

    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.appearance().code
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.appearance().phrase)
    }
}

impl std::error::Error for FaultKind {}
