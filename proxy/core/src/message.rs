//! Request and response heads, the same types for HTTP/1 and HTTP/2.
//!
//! Routing, authorization and propagation see one shape whatever the two sides speak, so no policy can be evaded by
//! changing the protocol. The raw request-target and the written header names are kept: the proxy decides by what it
//! parsed and forwards what it received, and never normalises a path before a policy looks at it (RFC 9110 section
//! 7.7). Parsers put only heads here that passed their checks; see [`crate::h1`] and [`crate::http2`].

use bytes::Bytes;
use http::Method;

use crate::fields::{Fields, Known};

/// HTTP version of the connection a head came from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no `Host` demanded, no chunked coding, closes unless asked otherwise.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As printed in records: `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// How the end of a message body is found (RFC 9112 section 6.3).
///
/// For HTTP/2 the stream says where a body ends; there `Length` means that a `content-length` announced its size (or that
/// a response ended with its head), `Chunked` that a body of unknown size follows, and `None` that none can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body.
    None,
    /// Exactly this many bytes; zero is possible when the head said so.
    Length(u64),
    /// Chunked transfer coding, with a trailer section.
    Chunked,
    /// Everything until the connection closes; responses only.
    UntilClose,
}

impl BodyFraming {
    /// Whether no body byte can follow.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }

    /// How this body is framed toward a peer of that version: HTTP/1.0 knows no chunks, so its responses end with the
    /// connection instead (RFC 9112 section 6.1).
    #[must_use]
    pub fn toward(self, version: Version) -> Self {
        if self == Self::Chunked && version == Version::Http10 { Self::UntilClose } else { self }
    }
}

/// Head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Method, extension methods included; case matters (RFC 9110 section 9.1).
    pub method: Method,
    /// Request-target exactly as received: origin-form, absolute-form, authority-form or `*` (RFC 9112 section 3.2).
    /// For HTTP/2 it is `:path`, and for a plain HTTP/2 CONNECT the authority.
    pub target: Bytes,
    /// Version of the message.
    pub version: Version,
    /// Scheme from `:scheme` or an absolute-form target; HTTP/1 origin-form has none.
    pub scheme: Option<Bytes>,
    /// Authority from `:authority`, an absolute-form target or a CONNECT target. For other HTTP/1 requests it stays
    /// in the `Host` field; [`Self::host`] gives the one that counts.
    pub authority: Option<Bytes>,
    /// `:protocol` of an extended CONNECT (RFC 8441), as `websocket`; HTTP/2 only.
    pub protocol: Option<Bytes>,
    /// Header fields in order, `Host` among them for HTTP/1.
    pub fields: Fields,
}

impl RequestHead {
    /// A head for a request of the proxy's own, HTTP/1.1 with no fields.
    #[must_use]
    pub fn new(method: Method, target: impl Into<Bytes>) -> Self {
        Self {
            method,
            target: target.into(),
            version: Version::Http11,
            scheme: None,
            authority: None,
            protocol: None,
            fields: Fields::new(),
        }
    }

    /// Effective authority, `host` or `host:port` as written: `:authority` or the target's, else `Host`. `None` only
    /// for HTTP/1.0 and for HTTP/2 requests that named none.
    #[must_use]
    pub fn host(&self) -> Option<&[u8]> {
        self.authority.as_deref().or_else(|| self.fields.get(Known::Host))
    }

    /// As [`Self::host`], for who outlives the head.
    #[must_use]
    pub fn host_shared(&self) -> Option<Bytes> {
        self.authority.clone().or_else(|| self.fields.get_shared(Known::Host))
    }

    /// Path and query as sent, raw: the target without scheme and authority. `*` for a server-wide OPTIONS, empty for
    /// CONNECT, and `/` for an absolute-form target without a path.
    #[must_use]
    pub fn path_and_query(&self) -> &[u8] {
        if self.method == Method::CONNECT && self.protocol.is_none() {
            return &[];
        }
        let target: &[u8] = &self.target;
        if matches!(target.first(), Some(b'/' | b'*') | None) {
            return target;
        }
        after_authority(target)
    }

    /// Path without the query, raw.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        let whole = self.path_and_query();
        whole.split(|b| *b == b'?').next().unwrap_or(whole)
    }

    /// Query without its `?`, raw; `None` if there is no `?`.
    #[must_use]
    pub fn query(&self) -> Option<&[u8]> {
        let whole = self.path_and_query();
        whole.iter().position(|b| *b == b'?').and_then(|at| whole.get(at + 1..))
    }

    /// Whether the content type is `application/grpc`, alone or with a suffix (`+proto`) or parameter.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        is_grpc(&self.fields)
    }

    /// Protocol the client asks to switch to (`Upgrade` named in `Connection`, HTTP/1.1 only; RFC 9110 section 7.8).
    ///
    /// Where `h2c` is offered, nothing counts, whatever else is: the server could choose it, and a tunnel to it would
    /// carry requests past every policy (h2c smuggling). RFC 9113 section 3.1 has withdrawn it.
    #[must_use]
    pub fn wants_upgrade(&self) -> Option<&[u8]> {
        if self.version != Version::Http11 || !self.fields.has_token(Known::Connection, "upgrade") {
            return None;
        }
        if self.fields.list(Known::Upgrade).any(|protocol| protocol.eq_ignore_ascii_case(b"h2c")) {
            return None;
        }
        self.fields.list(Known::Upgrade).next()
    }

    /// Whether the client waits for `100 (Continue)` before it sends the body. HTTP/1.0 cannot (RFC 9110 section
    /// 10.1.1).
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.version != Version::Http10 && self.fields.has_token(Known::Expect, "100-continue")
    }

    /// Whether the client leaves the HTTP/1 connection open after this exchange (RFC 9112 section 9.3).
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(self.version, &self.fields)
    }
}

/// Head of a response, interim (1xx) or final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// Reason phrase as received, possibly empty; HTTP/2 has none.
    pub reason: Bytes,
    /// Version of the message.
    pub version: Version,
    /// Header fields in order.
    pub fields: Fields,
}

impl ResponseHead {
    /// A head for a response of the proxy's own, HTTP/1.1 with the registered reason phrase and no fields.
    #[must_use]
    pub fn new(status: u16) -> Self {
        let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
        Self { status, reason: Bytes::from_static(reason.as_bytes()), version: Version::Http11, fields: Fields::new() }
    }

    /// Whether this is an interim response, after which another one follows. 101 is final: it ends HTTP on the
    /// connection.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Whether the content type is `application/grpc`, alone or with a suffix or parameter.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        is_grpc(&self.fields)
    }

    /// Whether the server leaves the HTTP/1 connection open after this exchange (RFC 9112 section 9.3).
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(self.version, &self.fields)
    }
}

/// What the parser of a response must know of the request that it answers (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request was HEAD: its response has no body whatever its fields say.
    pub head: bool,
    /// The request was CONNECT: a 2xx opens a tunnel.
    pub connect: bool,
    /// The request as sent carried an upgrade, so that 101 is an answer and not an attack.
    pub upgrade: bool,
}

impl Asked {
    /// Reads it from the request head as sent upstream.
    #[must_use]
    pub fn by(request: &RequestHead) -> Self {
        Self {
            head: request.method == Method::HEAD,
            connect: request.method == Method::CONNECT,
            upgrade: request.wants_upgrade().is_some(),
        }
    }
}

/// A request head with the framing its fields imply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedRequest {
    /// The head.
    pub head: RequestHead,
    /// How its body ends.
    pub framing: BodyFraming,
}

/// A response head with the framing that its fields and its request imply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedResponse {
    /// The head, interim or final.
    pub head: ResponseHead,
    /// How its body ends; `None` for interim responses and tunnels.
    pub framing: BodyFraming,
    /// After this head the connection is a tunnel: 101, or 2xx to CONNECT. What follows is not HTTP.
    pub tunnel: bool,
}

fn is_grpc(fields: &Fields) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some((kind, rest)) = fields.get(Known::ContentType).and_then(|v| v.split_at_checked(TYPE.len())) else {
        return false;
    };
    // Not `application/grpc-web`, which is another protocol.
    kind.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

fn keeps_alive(version: Version, fields: &Fields) -> bool {
    match version {
        Version::Http2 => true,
        Version::Http11 => !fields.has_token(Known::Connection, "close"),
        Version::Http10 => {
            fields.has_token(Known::Connection, "keep-alive") && !fields.has_token(Known::Connection, "close")
        }
    }
}

/// Path and query of an absolute-form target: what follows the authority, which `?` may end too.
fn after_authority(target: &[u8]) -> &[u8] {
    let start = target.windows(3).position(|w| w == b"://").map_or(0, |at| at + 3);
    let rest = target.get(start..).unwrap_or_default();
    let path = rest.iter().position(|b| matches!(b, b'/' | b'?')).and_then(|at| rest.get(at..));
    path.unwrap_or(b"/")
}

#[cfg(test)]
mod tests;
