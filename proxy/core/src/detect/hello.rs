//! TLS ClientHello (RFC 8446 section 4.1.2), whole, across records and packets.
//!
//! Reading until it is whole matters: with post-quantum key shares it exceeds one packet, and a proxy that judged by the
//! first packet would miss the names behind the keys. Anything that rustls or OpenSSL would refuse to read is opaque: the
//! application behind may do with it what it likes, and it cannot be a peer of the mesh.

use std::borrow::Cow;

use super::{Detected, PREFIX_BYTES_MAX};

/// Content type of a handshake record (RFC 8446 section 5.1).
pub(super) const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
/// Longest fragment of a plaintext record (RFC 8446 section 5.1).
const FRAGMENT_MAX: usize = 1 << 14;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;

/// ALPN names by which sidecars know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MeshAlpn {
    /// `weft-h2/1`: HTTP/2 inside.
    Http2,
    /// `weft-h1/1`: HTTP/1 inside.
    Http1,
    /// `weft-tcp/1`: bytes inside.
    Tcp,
}

impl MeshAlpn {
    /// The name on the wire.
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"weft-h2/1",
            Self::Http1 => b"weft-h1/1",
            Self::Tcp => b"weft-tcp/1",
        }
    }

    /// By its name on the wire.
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        [Self::Http2, Self::Http1, Self::Tcp].into_iter().find(|alpn| alpn.as_bytes() == name)
    }
}

/// What a ClientHello reveals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Server name in lower case, when there is one that is a DNS name.
    pub sni: Option<Box<str>>,
    /// Protocols offered, in order of preference.
    pub alpn: Vec<Box<[u8]>>,
}

impl ClientHello {
    /// The mesh protocol, when this is a sidecar of the mesh: exactly one protocol is offered and it is one of ours.
    #[must_use]
    pub fn mesh(&self) -> Option<MeshAlpn> {
        match self.alpn.as_slice() {
            [only] => MeshAlpn::from_bytes(only),
            _ => None,
        }
    }
}

/// `prefix` begins with [`RECORD_HANDSHAKE`].
pub(super) fn detect(prefix: &[u8]) -> Detected {
    match message(prefix) {
        Message::Whole(body) => parse(&body).map_or(Detected::Opaque, Detected::Tls),
        Message::Missing(bytes) => Detected::NeedMore(bytes),
        Message::NotHello => Detected::Opaque,
    }
}

enum Message<'a> {
    /// The body, without the handshake header; joined when it lies in several records.
    Whole(Cow<'a, [u8]>),
    /// At least this many bytes are missing.
    Missing(usize),
    NotHello,
}

fn message(prefix: &[u8]) -> Message<'_> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = prefix;
    loop {
        let missing = match missing(&joined) {
            None => return Message::NotHello,
            Some(0) => return Message::Whole(without_header(joined)),
            Some(missing) => missing,
        };
        let header = rest.get(..RECORD_HEADER).unwrap_or(rest);
        if !could_be_record(header) {
            return Message::NotHello;
        }
        let &[_, _, _, high, low] = header else { return Message::Missing(missing) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len == 0 || len > FRAGMENT_MAX {
            return Message::NotHello;
        }
        let payload = rest.get(RECORD_HEADER..).unwrap_or_default();
        // Of an unfinished record what has arrived counts already: the message may end before the record does.
        let fragment = payload.get(..len).unwrap_or(payload);
        rest = payload.get(len..).unwrap_or_default();
        if joined.is_empty() {
            joined = Cow::Borrowed(fragment);
        } else {
            joined.to_mut().extend_from_slice(fragment);
        }
    }
}

/// Handshake bytes missing after these; `None` when they are not the beginning of a ClientHello of tolerable length.
fn missing(joined: &[u8]) -> Option<usize> {
    if joined.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return None;
    }
    let Some(&[_, a, b, c]) = joined.get(..HANDSHAKE_HEADER) else { return Some(HANDSHAKE_HEADER - joined.len()) };
    let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    let whole = HANDSHAKE_HEADER + len;
    (whole <= PREFIX_BYTES_MAX - RECORD_HEADER).then(|| whole.saturating_sub(joined.len()))
}

fn without_header(joined: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match joined {
        Cow::Borrowed(bytes) => Cow::Borrowed(body(bytes)),
        Cow::Owned(bytes) => Cow::Owned(body(&bytes).to_vec()),
    }
}

/// The body that the header announces; what follows it in the record is none of ours.
fn body(message: &[u8]) -> &[u8] {
    let Some(&[_, a, b, c]) = message.get(..HANDSHAKE_HEADER) else { return &[] };
    let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
    let body = message.get(HANDSHAKE_HEADER..).unwrap_or_default();
    body.get(..len).unwrap_or(body)
}

/// Whether these up to five bytes can begin a handshake record. Clients write version 3.1 or 3.3, and RFC 8446 section
/// 5.1 wants it ignored beyond that.
fn could_be_record(header: &[u8]) -> bool {
    header.first().is_none_or(|kind| *kind == RECORD_HANDSHAKE) && header.get(1).is_none_or(|major| *major == 3)
}

/// `None` when it is malformed.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    reader.vector_u8().filter(|session_id| session_id.len() <= 32)?;
    reader.vector_u16().filter(|suites| !suites.is_empty() && suites.len() % 2 == 0)?;
    reader.vector_u8().filter(|compressions| !compressions.is_empty())?;
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        // Extensions may be absent before TLS 1.3.
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector_u16()?);
    if !reader.0.is_empty() {
        return None;
    }
    let (mut names_seen, mut alpn_seen) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = Reader(extensions.vector_u16()?);
        // A repeated extension is illegal (RFC 8446 section 4.2), and two readers could believe different ones.
        match kind {
            EXTENSION_SERVER_NAME if !std::mem::replace(&mut names_seen, true) => hello.sni = server_name(data)?,
            EXTENSION_ALPN if !std::mem::replace(&mut alpn_seen, true) => hello.alpn = protocols(data)?,
            EXTENSION_SERVER_NAME | EXTENSION_ALPN => return None,
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066 section 3. The inner `None` is a name that is no DNS name; it cannot be routed by, and that is all.
#[allow(clippy::option_option, reason = "malformed, and absent: the outer one is for `?`")]
fn server_name(mut data: Reader<'_>) -> Option<Option<Box<str>>> {
    let mut list = Reader(data.vector_u16()?);
    let kind = list.u8()?;
    let name = list.vector_u16()?;
    if !data.0.is_empty() || !list.0.is_empty() || kind != NAME_TYPE_HOST {
        return None;
    }
    let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_name = !name.is_empty() && name.len() <= 255 && name.iter().all(legal);
    let name = std::str::from_utf8(name).ok().filter(|_| is_name);
    Some(name.map(|name| name.to_ascii_lowercase().into_boxed_str()))
}

/// RFC 7301 section 3.1.
fn protocols(mut data: Reader<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut list = Reader(data.vector_u16()?);
    let mut names = Vec::new();
    while !list.0.is_empty() {
        names.push(list.vector_u8().filter(|name| !name.is_empty())?.into());
    }
    (data.0.is_empty() && !names.is_empty()).then_some(names)
}

/// The unread rest of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector_u8(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    fn vector_u16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}
