//! Field blocks for a peer.
//!
//! A field of a message is sent either as the index of the same field in the table, or as a literal that goes into the
//! table, or as one that does not. What goes in throws older ones out, so what would never be named again must not:
//! - [`Rule::Vary`]: identifiers and lengths, another for every message; they are there once, for the sake of the name;
//! - [`Rule::Secret`]: what is short enough to be guessed by the length of blocks (RFC 7541 section 7.1.3), or was sent to us
//!   as such; as in nghttp2 `authorization` is always, cookies are below 20 bytes. Longer cookies are not indexed either:
//!   one connection of a mesh has many users';
//! - any other name whose values were new [`MISSES_MAX`] times in a row, whatever it is: it is tried again now and then.

use bytes::BytesMut;

use super::field::{FIELD_BYTES, is_connection_specific};
use super::index::{Index, Key};
use super::{TABLE_BYTES_DEFAULT, fixed};
use crate::fields::{FieldView, Fields, Known};
use crate::h1::{HeadFault, is_forbidden_trailer};
use crate::http2::target::{AUTHORITY, PATH, RequestTarget};
use crate::message::{RequestHead, ResponseHead};

/// So many values of a name in a row that were not in the table make the next ones stay out of it.
const MISSES_MAX: u8 = 8;

/// One of so many is put in nevertheless, in case that the values are no longer new each time.
const RETRY_EVERY: u8 = 64;

/// Cookies below are never indexed.
const COOKIE_BYTES_MIN: usize = 20;

/// A buffer above this is given back when its block is written.
const KEPT_BYTES_MAX: usize = 4096;

/// How a field is sent whose value is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Index,
    Vary,
    Secret,
}

/// Encoder of all field blocks of one connection, in the order in which they are sent. What it has written must be sent.
#[derive(Debug)]
pub struct Encoder {
    index: Index,
    /// The smallest and the latest size that the peer has allowed since the last block.
    resized: Option<(usize, usize)>,
    /// The block that is being written: bytes go one by one into a `Vec` at a tenth of what they cost into a `BytesMut`.
    block: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// With the table that every peer has at first; allocates nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { index: Index::new(TABLE_BYTES_DEFAULT), resized: None, block: Vec::new() }
    }

    /// Takes the peer's `SETTINGS_HEADER_TABLE_SIZE`; the next block tells it what of it is used, never more than
    /// [`TABLE_BYTES_DEFAULT`].
    pub fn set_peer_table_size(&mut self, bytes: u32) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(TABLE_BYTES_DEFAULT);
        let least = self.resized.map_or(bytes, |(least, _)| least.min(bytes));
        self.resized = Some((least, bytes));
    }

    /// Appends the block of a request's head to `out`. `scheme` is `http` or `https`, used when the head has none; it tells
    /// the server whether its client spoke TLS, which is not always what this hop does. `:protocol` of an extended CONNECT is
    /// among it.
    ///
    /// # Errors
    /// `UpgradeOverHttp2` for a request that wants an HTTP/1.1 upgrade, `AuthorityMissing`, `AuthorityInvalid`, `Scheme`,
    /// `TargetNotTranslatable` when the path has a fragment or is longer than peers take. Nothing is written then.
    pub fn request(&mut self, head: &RequestHead, scheme: &str, out: &mut BytesMut) -> Result<(), HeadFault> {
        let target = RequestTarget::of(head, scheme, &self.index)?;
        self.begin();
        match head.method.as_str() {
            "GET" => self.block.push(0x82),
            "POST" => self.block.push(0x83),
            other => self.field(b":method", other.as_bytes(), Rule::Index),
        }
        match target.scheme {
            Some(b"http") => self.block.push(0x86),
            Some(b"https") => self.block.push(0x87),
            Some(other) => self.field(b":scheme", other, Rule::Index),
            None => {}
        }
        self.field(AUTHORITY, target.authority, Rule::Index);
        match target.path.as_deref() {
            Some(b"/") => self.block.push(0x84),
            // Queries vary, and hold tokens.
            Some(path) if path.contains(&b'?') => self.field(PATH, path, Rule::Vary),
            Some(path) => self.field(PATH, path, Rule::Index),
            None => {}
        }
        if let Some(protocol) = &head.protocol {
            self.field(b":protocol", protocol, Rule::Index);
        }
        // `:authority` replaces `Host` (RFC 9113 section 8.3.1).
        self.fields(&head.fields, Some(Known::Host));
        self.end(out);
        Ok(())
    }

    /// Appends the block of a response's head, interim or final, to `out`. The reason phrase is dropped; HTTP/2 has none.
    ///
    /// # Errors
    /// `UpgradeOverHttp2` for 101, `StatusCode` outside 100 to 999. Nothing is written then.
    pub fn response(&mut self, head: &ResponseHead, out: &mut BytesMut) -> Result<(), HeadFault> {
        let digits = match head.status {
            101 => return Err(HeadFault::UpgradeOverHttp2),
            status @ 100..1000 => digits(status),
            _ => return Err(HeadFault::StatusCode),
        };
        self.begin();
        if digits == *b"200" {
            self.block.push(0x88);
        } else {
            self.field(b":status", &digits, Rule::Index);
        }
        self.fields(&head.fields, None);
        self.end(out);
        Ok(())
    }

    /// Appends the block of a trailer section to `out`. Fields that a trailer section must not have are left out.
    pub fn trailers(&mut self, fields: &Fields, out: &mut BytesMut) {
        self.begin();
        for field in fields.views().filter(|field| !is_forbidden_trailer(field.name)) {
            self.field(field.name, field.value, rule_of(field));
        }
        self.end(out);
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> (usize, Vec<(String, String)>) {
        self.index.entries()
    }

    /// Begins a block, and tells the peer the size of its table where that changes.
    fn begin(&mut self) {
        self.block.clear();
        self.index.begin();
        let Some((least, latest)) = self.resized.take() else { return };
        for size in [least, latest] {
            if size != self.index.size_max() {
                self.index.resize(size);
                put_integer(5, 0x20, size, &mut self.block);
            }
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.block);
        if self.block.capacity() > KEPT_BYTES_MAX {
            self.block = Vec::new();
        }
    }

    /// Lower-cases names and leaves out what HTTP/2 forbids, and `without`.
    fn fields(&mut self, fields: &Fields, without: Option<Known>) {
        let mut te_sent = false;
        for field in fields.views() {
            match field.known {
                Some(known) if is_connection_specific(known) || field.known == without => {}
                // Anything but `trailers` is about HTTP/1 transfer codings (RFC 9113 section 8.2.2).
                Some(Known::Te) => {
                    let elements = &mut field.value.split(|byte| *byte == b',');
                    if !te_sent && elements.any(|v| v.trim_ascii().eq_ignore_ascii_case(b"trailers")) {
                        te_sent = true;
                        self.field(b"te", b"trailers", Rule::Index);
                    }
                }
                _ => self.field(field.name, field.value, rule_of(field)),
            }
        }
    }

    #[inline]
    fn field(&mut self, name: &[u8], value: &[u8], rule: Rule) {
        let recent = match rule {
            Rule::Index => self.index.find_recent(name, value),
            Rule::Vary | Rule::Secret => None,
        };
        match recent {
            Some(index) => put_integer(7, 0x80, index, &mut self.block),
            None => self.other_field(name, value, rule),
        }
        self.index.step();
    }

    fn other_field(&mut self, name: &[u8], value: &[u8], rule: Rule) {
        if rule == Rule::Vary
            && let Some(index) = self.index.find_recent_name(name)
        {
            return self.literal((4, 0), Some(index), name, value);
        }
        let (key, fixed) = (Key::of(name, value), fixed::index_of(name));
        if rule == Rule::Index {
            let whole = fixed.and_then(|first| fixed::find(first, name, value));
            if let Some(index) = whole.or_else(|| self.index.find(&key)) {
                return put_integer(7, 0x80, index, &mut self.block);
            }
        }
        let rule = if rule == Rule::Index { rule_of_name(name, value) } else { rule };
        let name_index = fixed.or_else(|| self.index.find_name(&key));
        let size = name.len() + value.len() + FIELD_BYTES;
        let inserted = self.index.is_worth(size) && self.is_new(&key, name_index, rule);
        let representation = match (inserted, rule) {
            (true, _) => (6, 0x40),
            (false, Rule::Secret) => (4, 0x10),
            (false, Rule::Index | Rule::Vary) => (4, 0x00),
        };
        self.literal(representation, name_index, name, value);
        if inserted {
            self.index.insert(&key);
        }
    }

    /// Writes a literal; nothing is coded (see [`super::huffman`]).
    fn literal(&mut self, (prefix_bits, first): (u32, u8), name_index: Option<usize>, name: &[u8], value: &[u8]) {
        put_integer(prefix_bits, first, name_index.unwrap_or_default(), &mut self.block);
        if name_index.is_none() {
            put_integer(7, 0, name.len(), &mut self.block);
            self.block.extend(name.iter().map(u8::to_ascii_lowercase));
        }
        put_integer(7, 0, value.len(), &mut self.block);
        self.block.extend_from_slice(value);
    }

    /// Whether a field that is not in the table goes into it.
    fn is_new(&mut self, key: &Key<'_>, name_index: Option<usize>, rule: Rule) -> bool {
        match rule {
            Rule::Secret => false,
            Rule::Vary => name_index.is_none(),
            Rule::Index => {
                let misses = self.index.missed(key);
                name_index.is_none() || misses < MISSES_MAX || misses.is_multiple_of(RETRY_EVERY)
            }
        }
    }
}

/// By what is known of the name without looking at it.
#[inline]
const fn rule_of(field: FieldView<'_>) -> Rule {
    match field.known {
        _ if field.secret => Rule::Secret,
        Some(
            Known::B3
            | Known::B3ParentSpanId
            | Known::B3SpanId
            | Known::B3TraceId
            | Known::ContentLength
            | Known::RequestId
            | Known::TraceParent,
        ) => Rule::Vary,
        _ => Rule::Index,
    }
}

/// By the name of a field that is not in the table: those that never are.
fn rule_of_name(name: &[u8], value: &[u8]) -> Rule {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match name.len() {
        6 | 10 if is("cookie") || is("set-cookie") => {
            if value.len() < COOKIE_BYTES_MIN {
                Rule::Secret
            } else {
                Rule::Vary
            }
        }
        13 | 19 if is("authorization") || is("proxy-authorization") => Rule::Secret,
        _ => Rule::Index,
    }
}

/// Of a number below 1000.
fn digits(status: u16) -> [u8; 3] {
    [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + u8::try_from(digit).unwrap_or_default())
}

/// An integer whose first byte has so many bits of it below those of `first` (RFC 7541 section 5.1).
#[inline]
fn put_integer(prefix_bits: u32, first: u8, value: usize, out: &mut Vec<u8>) {
    let most = (1_u8 << prefix_bits) - 1;
    match u8::try_from(value) {
        Ok(value) if value < most => out.push(first | value),
        _ => put_long_integer(first | most, value - usize::from(most), out),
    }
}

fn put_long_integer(first: u8, mut rest: usize, out: &mut Vec<u8>) {
    out.push(first);
    loop {
        let seven = u8::try_from(rest & 0x7f).unwrap_or_default();
        rest >>= 7;
        if rest == 0 {
            return out.push(seven);
        }
        out.push(seven | 0x80);
    }
}
