//! Header fields exactly as they were written: name case, order, duplicates and raw bytes.
//!
//! A transparent proxy must hand on what it received, so this is an ordered list and not a hash map: a message has
//! about a dozen fields, and a linear search over names of different lengths is faster than hashing them. Fields that
//! came from the network are 32-bit spans into the one buffer that held the message head; fields that Weft adds are
//! copied into a second buffer of the same list. A message therefore costs one allocation for the spans and none per
//! field, and cloning it moves no reference count per field.
//!
//! The type upholds one invariant: every name is a token and no value holds a control character but HTAB (RFC 9110
//! section 5.5), so serialising a list can never split a message, and what one proxy writes the next one accepts. Left out on purpose: typed values and knowledge of single fields;
//! those belong to the modules that decide by them.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

/// Marks a span that lies in the buffer of added fields. Both buffers stay below 2 GiB, so the top bit is free.
const ADDED: u32 = 1 << 31;

/// Fields that a proxy adds at most to an ordinary message (ids, trace context, origin), and the bytes of their names and
/// values: room made at once instead of by growing.
const ADDED_FIELDS: usize = 12;
const ADDED_BYTES: usize = 512;

/// Half-open range of bytes in one of the two buffers of a [`Fields`].
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    const EMPTY: Self = Self { start: 0, len: 0 };

    fn new(start: usize, len: usize, tag: u32) -> Option<Self> {
        let end = u32::try_from(start.checked_add(len)?).ok()?;
        let len = u32::try_from(len).ok()?;
        (end < ADDED).then_some(Self { start: (end - len) | tag, len })
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Span,
    value: Span,
}

/// Where fields lie in a buffer that a parser still borrows; see [`Fields::from_received`].
#[derive(Debug)]
pub(crate) struct FieldSpans(Vec<Entry>);

impl FieldSpans {
    pub(crate) fn with_capacity(fields: usize) -> Self {
        Self(Vec::with_capacity(fields + ADDED_FIELDS))
    }

    /// Adds a field whose validated name and value are slices of `buffer`.
    pub(crate) fn push(&mut self, buffer: &[u8], name: &[u8], value: &[u8]) {
        let span = |part: &[u8]| match part {
            [] => Some(Span::EMPTY),
            _ => Span::new(part.as_ptr().addr().checked_sub(buffer.as_ptr().addr())?, part.len(), 0),
        };
        if let (Some(name), Some(value)) = (span(name), span(value)) {
            self.0.push(Entry { name, value });
        }
    }

    /// Adds a field by its positions in the buffer.
    pub(crate) fn push_ranges(&mut self, name: Range<usize>, value: Range<usize>) {
        if let (Some(name), Some(value)) =
            (Span::new(name.start, name.len(), 0), Span::new(value.start, value.len(), 0))
        {
            self.0.push(Entry { name, value });
        }
    }
}

/// An ordered list of header or trailer fields.
///
/// Lookups ignore ASCII case in names (RFC 9110 section 5.1); iteration yields names as they were written. Sizes are
/// bounded by the parser's limits for received fields; added ones are bounded by what the proxy itself adds. A field
/// that would make either buffer pass 2 GiB is not added.
#[derive(Clone, Default)]
pub struct Fields {
    received: Bytes,
    added: Vec<u8>,
    entries: Vec<Entry>,
}

impl Fields {
    /// An empty list; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The fields that a parser found in `received`, which must be the buffer the spans were taken from.
    pub(crate) fn from_received(received: Bytes, spans: FieldSpans) -> Self {
        Self { received, added: Vec::new(), entries: spans.0 }
    }

    /// Number of fields, duplicates included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the list has no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes the fields take on an HTTP/1 wire: name, `": "`, value and CRLF of each.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.entries.iter().map(|e| e.name.len as usize + e.value.len as usize + 4).sum()
    }

    /// All fields in order, as `(name, value)` with the name as written and the value without outer whitespace.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> + ExactSizeIterator + Clone {
        self.entries.iter().map(|e| (self.bytes(e.name), self.bytes(e.value)))
    }

    /// As [`Self::iter`], but values can outlive the list: received ones share its buffer, added ones are copied.
    pub fn iter_shared(&self) -> impl Iterator<Item = (&[u8], Bytes)> {
        self.entries.iter().map(|e| {
            let value = self.bytes(e.value);
            let shared =
                if e.value.start & ADDED == 0 { self.received.slice_ref(value) } else { Bytes::copy_from_slice(value) };
            (self.bytes(e.name), shared)
        })
    }

    /// Value of the first field with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.position(name).and_then(|i| self.entries.get(i)).map(|e| self.bytes(e.value))
    }

    /// Value of the first field with this name when it is valid UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// Values of all fields with this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.entries.iter().filter(move |e| self.is_named(e, name)).map(|e| self.bytes(e.value))
    }

    /// Elements of a comma-separated list field over all its lines, trimmed, empty elements skipped (RFC 9110
    /// section 5.6.1). For lists whose elements hold no quoted commas, as `connection`, `te` and `trailer`.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).flat_map(|v| v.split(|b| *b == b',')).map(<[u8]>::trim_ascii).filter(|v| !v.is_empty())
    }

    /// Whether the list field `name` has the element `token`, ignoring ASCII case.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether any field has this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Adds a field at the end and keeps others of the same name.
    ///
    /// To uphold the type's invariant control characters in the value become spaces (RFC 9110 section 5.5), outer
    /// whitespace is cut, and a field whose name is not a token is not added.
    pub fn append(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        if let Some(entry) = self.store(name.as_ref(), value.as_ref()) {
            self.entries.push(entry);
        }
    }

    /// As [`Self::append`], but puts the field first. RFC 9110 section 7.2 wants `Host` there.
    pub fn prepend(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        if let Some(entry) = self.store(name.as_ref(), value.as_ref()) {
            self.entries.insert(0, entry);
        }
    }

    /// Replaces the value of the first field with this name in place (its written name stays) and drops the others;
    /// adds the field at the end if there was none. Values are treated as in [`Self::append`].
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref();
        let Some(first) = self.entries.iter().position(|e| self.bytes(e.name).eq_ignore_ascii_case(name)) else {
            self.append(name, value);
            return;
        };
        let Some(value) = self.store_value(value.as_ref()) else { return };
        if let Some(entry) = self.entries.get_mut(first) {
            entry.value = value;
        }
        let mut index = 0;
        self.retain(|n, _| {
            let keep = index == first || !n.eq_ignore_ascii_case(name);
            index += 1;
            keep
        });
    }

    /// Removes every field with this name and says how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.entries.len();
        if self.contains(name) {
            self.retain(|n, _| !n.eq_ignore_ascii_case(name.as_bytes()));
        }
        before - self.entries.len()
    }

    /// Keeps the fields for which `keep(name, value)` is true, in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let (received, added) = (&self.received, &self.added);
        self.entries.retain(|e| keep(resolve(received, added, e.name), resolve(received, added, e.value)));
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|e| self.is_named(e, name))
    }

    fn is_named(&self, entry: &Entry, name: &str) -> bool {
        entry.name.len as usize == name.len() && self.bytes(entry.name).eq_ignore_ascii_case(name.as_bytes())
    }

    fn bytes(&self, span: Span) -> &[u8] {
        resolve(&self.received, &self.added, span)
    }

    fn store(&mut self, name: &[u8], value: &[u8]) -> Option<Entry> {
        if !is_token(name) {
            return None;
        }
        let span = Span::new(self.added.len(), name.len(), ADDED)?;
        self.add(name);
        Some(Entry { name: span, value: self.store_value(value)? })
    }

    /// Copies bytes into the buffer of added ones.
    fn add(&mut self, bytes: &[u8]) {
        if self.added.capacity() == 0 {
            self.added.reserve(ADDED_BYTES.max(bytes.len()));
        }
        self.added.extend_from_slice(bytes);
    }

    fn store_value(&mut self, value: &[u8]) -> Option<Span> {
        let value = trim_ows(value);
        if value.is_empty() {
            return Some(Span::EMPTY);
        }
        let start = self.added.len();
        let span = Span::new(start, value.len(), ADDED)?;
        self.add(value);
        if has_control(value) {
            for byte in self.added.iter_mut().skip(start).filter(|b| is_control(**b)) {
                *byte = b' ';
            }
        }
        Some(span)
    }
}

/// Shows `name: value` pairs, for tests and panics. Values may be secrets: never log it.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()));
        f.debug_list().entries(pairs).finish()
    }
}

/// Equal when names, values and order are, byte for byte; where the bytes live does not matter.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut fields = Self::new();
        fields.extend(pairs);
        fields
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Extend<(N, V)> for Fields {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, pairs: I) {
        for (name, value) in pairs {
            self.append(name, value);
        }
    }
}

fn resolve<'a>(received: &'a [u8], added: &'a [u8], span: Span) -> &'a [u8] {
    let buffer = if span.start & ADDED == 0 { received } else { added };
    let start = (span.start & !ADDED) as usize;
    // Spans are made only by `push_received` and `store`, in range; an empty slice is the panic-free impossible case.
    buffer.get(start..start + span.len as usize).unwrap_or_default()
}

/// Whether `bytes` is a non-empty token (RFC 9110 section 5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_token_byte(*b))
}

/// Whether the byte may stand in a token (RFC 9110 section 5.6.2).
#[allow(clippy::indexing_slicing, reason = "a byte is an index into 256 entries")]
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Looked up, since every byte of every name is asked about.
#[allow(clippy::indexing_slicing, reason = "half of 256; evaluated by the compiler")]
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

/// Whether a value holds a byte that no value may hold: a control character other than HTAB.
pub(crate) fn has_control(value: &[u8]) -> bool {
    // No early exit, so that the compiler vectorises the loop.
    value.iter().fold(false, |bad, b| bad | is_control(*b))
}

const fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Cuts optional whitespace (SP and HTAB, RFC 9110 section 5.6.3) at both ends.
pub(crate) fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests;
