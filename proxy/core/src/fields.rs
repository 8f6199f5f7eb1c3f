//! Header fields exactly as they were written: name case, order, duplicates and raw bytes.
//!
//! A transparent proxy must hand on what it received, so this is an ordered list and not a hash map: a message has
//! about a dozen fields, and a linear search over names of different lengths is faster than hashing them. Fields that
//! came from the network are 32-bit spans into the one buffer that held the message head; fields that Weft adds are
//! copied into a second buffer of the same list, as lines of a head. A message therefore costs one allocation for the
//! spans and none per field, cloning it moves no reference count per field, and what was received in one piece, or added
//! in one, is written in one.
//!
//! The type upholds one invariant: every name is a token and no value holds a control character but HTAB (RFC 9110
//! section 5.5), so serialising a list can never split a message, and what one proxy writes the next one accepts. Left out on purpose: typed values and knowledge of single fields,
//! but for the names of those that others decide by ([`Known`]); the rest belongs to the modules that do.

mod known;
mod spare;

use std::fmt;

use bytes::{Bytes, BytesMut};

pub(crate) use known::Names;
pub use known::{Known, Wanted};

use crate::byte_set::ByteSet;

/// Marks a span that lies in the buffer of added fields. Both buffers stay below 2 GiB, so the top bit is free.
const ADDED: u32 = 1 << 31;

/// Fields that a proxy adds at most to an ordinary message (ids, trace context, origin), and the bytes of their names and
/// values: room made at once instead of by growing.
const ADDED_FIELDS: usize = 12;
const ADDED_BYTES: usize = 768;

/// Half-open range of bytes in one of the two buffers of a [`Fields`].
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    #[inline]
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
    known: Option<Known>,
    /// Name and value stand in their buffer as on the wire: `": "` between them and CRLF after.
    line: bool,
    /// Its sender wants it in no table of a compressor (RFC 7541 section 6.2.3).
    secret: bool,
}

/// What stands between name and value, and after the value.
const COLON: &[u8; 2] = b": ";
const CRLF: &[u8; 2] = b"\r\n";

/// A field as a compressor wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldView<'a> {
    pub(crate) known: Option<Known>,
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    /// It must be in no table of a compressor.
    pub(crate) secret: bool,
}

/// Where fields lie in a buffer that a parser still borrows; see [`Fields::from_received`].
#[derive(Debug)]
pub(crate) struct FieldSpans(Held);

impl Default for FieldSpans {
    fn default() -> Self {
        Self(spare::take())
    }
}

impl FieldSpans {
    pub(crate) fn with_capacity(fields: usize) -> Self {
        let mut held = spare::take();
        held.entries.reserve(fields + ADDED_FIELDS);
        Self(held)
    }

    /// Adds a field whose validated name, at `name_at`, and value are slices of `buffer`. `known`: what [`Known::of`] says
    /// of the name.
    #[inline]
    pub(crate) fn push(&mut self, buffer: &[u8], known: Option<Known>, (name_at, name): (usize, &[u8]), value: &[u8]) {
        let value_at = if value.is_empty() { 0 } else { value.as_ptr().addr().wrapping_sub(buffer.as_ptr().addr()) };
        let (Some(name_span), Some(value_span)) =
            (Span::new(name_at, name.len(), 0), Span::new(value_at, value.len(), 0))
        else {
            return;
        };
        let name_end = name_at + name.len();
        let starts = |at: usize, with: &[u8; 2]| buffer.get(at..).and_then(<[u8]>::first_chunk) == Some(with);
        let line =
            value_at == name_end + COLON.len() && starts(name_end, COLON) && starts(value_at + value.len(), CRLF);
        self.0.names.add(known, name);
        self.0.entries.push(Entry { name: name_span, value: value_span, known, line, secret: false });
    }

    /// Adds the line of a field that stands at the end of `buffer` from `at`; its name has `name_len` bytes.
    #[inline]
    pub(crate) fn push_line(&mut self, buffer: &[u8], at: usize, name_len: u32, known: Option<Known>, secret: bool) {
        let Some(end) = u32::try_from(buffer.len()).ok().filter(|end| *end < ADDED) else { return };
        let Some(line) = buffer.get(at..) else { return };
        let start = end - u32::try_from(line.len()).unwrap_or(end);
        let (name, before) = (Span { start, len: name_len }, name_len + 2);
        let value = Span { start: start + before, len: (end - start).saturating_sub(before + 2) };
        self.0.names.add(known, line.get(..name_len as usize).unwrap_or_default());
        self.0.entries.push(Entry { name, value, known, line: true, secret });
    }

    /// Joins the values of all fields with this name, written like this, to one at the end of `buffer`; empty ones are left
    /// out.
    pub(crate) fn join(&mut self, name: &[u8], with: &[u8], buffer: &mut Vec<u8>) {
        let start = buffer.len();
        let (mut first, mut secret) = (None, false);
        let mut index = 0;
        self.0.entries.retain(|entry| {
            if resolve(buffer, &[], entry.name) != name {
                index += 1;
                return true;
            }
            if buffer.len() > start && entry.value.len > 0 {
                buffer.extend_from_slice(with);
            }
            let value = entry.value.start as usize;
            buffer.extend_from_within(value..value + entry.value.len as usize);
            secret |= entry.secret;
            first.replace(first.unwrap_or(index)).is_none()
        });
        let value = Span::new(start, buffer.len() - start, 0);
        if let (Some(entry), Some(value)) = (first.and_then(|first| self.0.entries.get_mut(first)), value) {
            (entry.value, entry.line, entry.secret) = (value, false, secret);
        }
    }

    /// Removes all fields with this name.
    pub(crate) fn remove(&mut self, name: Known) {
        let names = Names::of(&[name]);
        if self.0.names.meets(names) {
            self.0.entries.retain(|entry| entry.known != Some(name));
            self.0.names.drop(names);
        }
    }

    /// Forgets all of them, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.0.entries.clear();
        self.0.names = Names::NONE;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// Known names and values in `buffer`, of fields that have one of these names.
    pub(crate) fn known<'a>(&'a self, buffer: &'a [u8], names: Names) -> impl Iterator<Item = (Known, &'a [u8])> {
        let entries: &[Entry] = if self.0.names.meets(names) { &self.0.entries } else { &[] };
        let wanted = move |entry: &'a Entry| entry.known.filter(|known| names.meets(Names::of(&[*known])));
        entries.iter().filter_map(move |entry| Some((wanted(entry)?, resolve(buffer, &[], entry.value))))
    }

    /// Names in `buffer`.
    pub(crate) fn names<'a>(&'a self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.0.entries.iter().map(|entry| resolve(buffer, &[], entry.name))
    }

    /// The same for a list of its own.
    pub(crate) fn to_owned(&self) -> Self {
        let mut held = spare::take();
        held.entries.reserve(self.len() + ADDED_FIELDS);
        held.entries.extend_from_slice(&self.0.entries);
        held.names = self.0.names;
        Self(held)
    }
}

/// A field that many messages get, made once.
#[derive(Debug)]
pub(crate) struct Line {
    /// As on the wire.
    text: Box<[u8]>,
    /// Of name and value.
    lens: [usize; 2],
    known: Option<Known>,
}

impl Line {
    /// As [`Fields::append`] makes it; `None` where that adds nothing.
    pub(crate) fn new(name: &str, value: &str) -> Option<Self> {
        let mut held = Content::new();
        let Entry { name, value, known, .. } =
            held.store(Known::of(name.as_bytes()), name.as_bytes(), value.as_bytes())?;
        Some(Self { text: held.added.into(), lens: [name.len as usize, value.len as usize], known })
    }
}

/// An ordered list of header or trailer fields.
///
/// Lookups ignore ASCII case in names (RFC 9110 section 5.1); iteration yields names as they were written. Sizes are
/// bounded by the parser's limits for received fields; added ones are bounded by what the proxy itself adds. A field
/// that would make either buffer pass 2 GiB is not added.
///
/// It is one pointer, because heads are handed from layer to layer, and what it points to comes from the worker's spare
/// ones ([`spare`]).
#[derive(Default)]
pub struct Fields(Option<Held>);

/// What a list holds, in one place that stays where it is.
type Held = Box<Content>;

#[derive(Debug)]
struct Content {
    received: Bytes,
    added: Vec<u8>,
    entries: Vec<Entry>,
    /// At least the names of the entries.
    names: Names,
}

static EMPTY: Content = Content::new();

impl Drop for Fields {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            spare::give_back(held);
        }
    }
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        let Some(held) = &self.0 else { return Self(None) };
        let mut copy = spare::take();
        copy.received.clone_from(&held.received);
        copy.added.extend_from_slice(&held.added);
        copy.entries.extend_from_slice(&held.entries);
        copy.names = held.names;
        Self(Some(copy))
    }
}

impl Fields {
    /// An empty list; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The fields that a parser found in `received`, which must be the buffer the spans were taken from.
    pub(crate) fn from_received(received: Bytes, spans: FieldSpans) -> Self {
        let mut held = spans.0;
        held.received = received;
        Self(Some(held))
    }

    #[inline]
    fn held(&self) -> &Content {
        self.0.as_deref().unwrap_or(&EMPTY)
    }

    fn held_mut(&mut self) -> &mut Content {
        self.0.get_or_insert_with(spare::take)
    }

    /// Number of fields, duplicates included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held().entries.len()
    }

    /// Whether the list has no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held().entries.is_empty()
    }

    /// Bytes the fields take on an HTTP/1 wire: name, `": "`, value and CRLF of each.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.held().entries.iter().map(|e| e.name.len as usize + e.value.len as usize + 4).sum()
    }

    /// Never less than [`Self::wire_len`], and known without looking at the fields.
    pub(crate) fn wire_len_max(&self) -> usize {
        let held = self.held();
        held.received.len() + held.added.len() + (COLON.len() + CRLF.len()) * held.entries.len()
    }

    /// Appends all fields as lines to `out`.
    pub(crate) fn write_lines(&self, out: &mut BytesMut) {
        // Lines that follow each other in one buffer are copied together; positions carry the tag of their buffer.
        let (mut start, mut end) = (0, 0);
        for entry in &self.held().entries {
            if entry.line && entry.name.start == end {
                end = entry.line_end();
                continue;
            }
            out.extend_from_slice(self.between(start, end));
            if entry.line {
                (start, end) = (entry.name.start, entry.line_end());
            } else {
                (start, end) = (0, 0);
                out.extend_from_slice(self.bytes(entry.name));
                out.extend_from_slice(COLON);
                out.extend_from_slice(self.bytes(entry.value));
                out.extend_from_slice(CRLF);
            }
        }
        out.extend_from_slice(self.between(start, end));
    }

    /// All fields in order, as `(name, value)` with the name as written and the value without outer whitespace.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> + ExactSizeIterator + Clone {
        self.held().entries.iter().map(|e| (self.bytes(e.name), self.bytes(e.value)))
    }

    /// As [`Self::iter`], with what else is known of each.
    #[inline]
    pub(crate) fn views(&self) -> impl Iterator<Item = FieldView<'_>> {
        let view = |entry: &Entry| FieldView {
            known: entry.known,
            name: self.bytes(entry.name),
            value: self.bytes(entry.value),
            secret: entry.secret,
        };
        self.held().entries.iter().map(view)
    }

    /// As [`Self::iter`], but values can outlive the list: received ones share its buffer, added ones a copy of theirs.
    pub fn iter_shared(&self) -> impl Iterator<Item = (&[u8], Bytes)> {
        let added = Bytes::copy_from_slice(&self.held().added);
        self.held().entries.iter().map(move |e| {
            let buffer = if e.value.start & ADDED == 0 { &self.held().received } else { &added };
            let start = (e.value.start & !ADDED) as usize;
            // In range as in `resolve`.
            let end = buffer.len().min(start + e.value.len as usize);
            (self.bytes(e.name), buffer.slice(start.min(end)..end))
        })
    }

    /// Value of the first field with this name.
    #[must_use]
    #[inline]
    pub fn get<'a>(&self, name: impl Into<Wanted<'a>>) -> Option<&[u8]> {
        self.first(name.into()).map(|e| self.bytes(e.value))
    }

    /// As [`Self::get`], but the value can outlive the list, as with [`Self::iter_shared`].
    #[must_use]
    pub fn get_shared<'a>(&self, name: impl Into<Wanted<'a>>) -> Option<Bytes> {
        self.first(name.into()).map(|e| self.shared(e.value))
    }

    /// Value of the first field with this name when it is valid UTF-8.
    #[must_use]
    #[inline]
    pub fn get_str<'a>(&self, name: impl Into<Wanted<'a>>) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// Values of all fields with this name, in order.
    pub fn get_all<'a>(&'a self, name: impl Into<Wanted<'a>>) -> impl Iterator<Item = &'a [u8]> + Clone {
        let name = name.into();
        self.candidates(name).iter().filter(move |e| self.is_named(e, name)).map(|e| self.bytes(e.value))
    }

    /// Elements of a comma-separated list field over all its lines, trimmed, empty elements skipped (RFC 9110
    /// section 5.6.1). For lists whose elements hold no quoted commas, as `connection`, `te` and `trailer`.
    pub fn list<'a>(&'a self, name: impl Into<Wanted<'a>>) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).flat_map(|v| v.split(|b| *b == b',')).map(<[u8]>::trim_ascii).filter(|v| !v.is_empty())
    }

    /// Whether the list field `name` has the element `token`, ignoring ASCII case.
    #[must_use]
    #[inline]
    pub fn has_token<'a>(&'a self, name: impl Into<Wanted<'a>>, token: &str) -> bool {
        let name = name.into();
        !self.candidates(name).is_empty() && self.lists(name, token)
    }

    fn lists(&self, name: Wanted<'_>, token: &str) -> bool {
        let is = |element: &[u8]| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes());
        !token.is_empty() && self.get_all(name).any(|value| value.split(|b| *b == b',').any(is))
    }

    /// Whether any field has this name.
    #[must_use]
    #[inline]
    pub fn contains<'a>(&self, name: impl Into<Wanted<'a>>) -> bool {
        self.first(name.into()).is_some()
    }

    /// Whether a field may have one of these names. False is certain; true is not, after fields were removed.
    #[inline]
    pub(crate) fn may_have(&self, names: Names) -> bool {
        self.held().names.meets(names)
    }

    /// Adds a field at the end and keeps others of the same name.
    ///
    /// To uphold the type's invariant control characters in the value become spaces (RFC 9110 section 5.5), outer
    /// whitespace is cut, and a field whose name is not a token is not added.
    pub fn append(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref();
        let held = self.held_mut();
        if let Some(entry) = held.store(Known::of(name), name, value.as_ref()) {
            held.entries.push(entry);
        }
    }

    /// As [`Self::append`] for a value that `write` appends to what it is given, and which begins and ends with a visible
    /// character and has no control character.
    pub(crate) fn append_with(&mut self, name: Known, write: impl FnOnce(&mut Vec<u8>)) {
        let held = self.held_mut();
        if let Some(entry) = held.store_line(Some(name), name.as_ref(), write) {
            let value = held.bytes(entry.value);
            debug_assert!(!has_control(value) && trim_ows(value) == value, "{value:?} is no value");
            held.entries.push(entry);
        }
    }

    /// As [`Self::append`] with what was made before.
    pub(crate) fn append_line(&mut self, line: &Line) {
        let held = self.held_mut();
        held.make_room(line.text.len());
        let (start, [name, value]) = (held.added.len(), line.lens);
        held.added.extend_from_slice(&line.text);
        let value = Span::new(start + name + COLON.len(), value, ADDED);
        let (Some(name), Some(value)) = (Span::new(start, name, ADDED), value) else {
            return held.added.truncate(start);
        };
        held.names.add(line.known, line.text.get(..line.lens[0]).unwrap_or_default());
        held.entries.push(Entry { name, value, known: line.known, line: true, secret: false });
    }

    /// Adds the lines that `text` consists of, each of such a name and so long. They must be as [`Self::append`] makes them.
    pub(crate) fn append_lines<const N: usize>(&mut self, text: &[u8], lines: [(Known, usize); N]) {
        let held = self.held_mut();
        held.make_room(text.len());
        let mut start = held.added.len();
        if Span::new(start, text.len(), ADDED).is_none() {
            return;
        }
        held.added.extend_from_slice(text);
        for (known, len) in lines {
            let name_len = known.as_str().len();
            let value_at = start + name_len + COLON.len();
            let value_len = len.saturating_sub(name_len + COLON.len() + CRLF.len());
            if let (Some(name), Some(value)) =
                (Span::new(start, name_len, ADDED), Span::new(value_at, value_len, ADDED))
            {
                held.entries.push(Entry { name, value, known: Some(known), line: true, secret: false });
            }
            held.names.add(Some(known), known.as_ref());
            start += len;
        }
        debug_assert_eq!(start, held.added.len(), "lines are all there is");
    }

    /// As [`Self::set`], for a value as [`Self::append_with`] wants it.
    pub(crate) fn set_with(&mut self, name: Known, write: impl FnOnce(&mut Vec<u8>)) {
        let wanted = Wanted::from(name);
        match self.candidates(wanted).iter().position(|e| self.is_named(e, wanted)) {
            None => self.append_with(name, write),
            Some(first) => {
                if let Some(value) = self.held_mut().store_with(write) {
                    self.replace(first, wanted, value);
                }
            }
        }
    }

    /// As [`Self::append`], but puts the field first. RFC 9110 section 7.2 wants `Host` there.
    pub fn prepend(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref();
        let held = self.held_mut();
        if let Some(entry) = held.store(Known::of(name), name, value.as_ref()) {
            held.entries.insert(0, entry);
        }
    }

    /// Replaces the value of the first field with this name in place (its written name stays) and drops the others;
    /// adds the field at the end if there was none. Values are treated as in [`Self::append`].
    pub fn set<'a>(&mut self, name: impl Into<Wanted<'a>>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.into(), value.as_ref());
        let Some(first) = self.candidates(name).iter().position(|e| self.is_named(e, name)) else {
            let held = self.held_mut();
            if let Some(entry) = held.store(name.known, name.text.as_bytes(), value) {
                held.entries.push(entry);
            }
            return;
        };
        if let Some(value) = self.held_mut().store_value(value) {
            self.replace(first, name, value);
        }
    }

    /// Removes every field with this name and says how many there were.
    pub fn remove<'a>(&mut self, name: impl Into<Wanted<'a>>) -> usize {
        let (name, before) = (name.into(), self.held().entries.len());
        match name.known {
            Some(known) => self.remove_all(Names::of(&[known])),
            None if self.contains(name) => self.retain(|n, _| !n.eq_ignore_ascii_case(name.text.as_bytes())),
            None => {}
        }
        before - self.held().entries.len()
    }

    /// Removes every field with one of these known names.
    pub(crate) fn remove_all(&mut self, names: Names) {
        if self.may_have(names) {
            let held = self.held_mut();
            held.entries.retain(|e| e.known.is_none_or(|known| !names.meets(Names::of(&[known]))));
            held.names.drop(names);
        }
    }

    /// Keeps the fields for which `keep(name, value)` is true, in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        if let Some(held) = &mut self.0 {
            let (received, added) = (&held.received, &held.added);
            held.entries.retain(|e| keep(resolve(received, added, e.name), resolve(received, added, e.value)));
        }
    }

    /// Gives the entry at `first` another value and drops the others of its name.
    fn replace(&mut self, first: usize, name: Wanted<'_>, value: Span) {
        if let Some(entry) = self.held_mut().entries.get_mut(first) {
            (entry.value, entry.line) = (value, false);
        }
        let mut index = 0;
        self.retain(|n, _| {
            let keep = index == first || !n.eq_ignore_ascii_case(name.text.as_bytes());
            index += 1;
            keep
        });
    }

    #[inline]
    fn first(&self, name: Wanted<'_>) -> Option<&Entry> {
        if self.candidates(name).is_empty() { None } else { self.find(name) }
    }

    fn find(&self, name: Wanted<'_>) -> Option<&Entry> {
        self.candidates(name).iter().find(|e| self.is_named(e, name))
    }

    /// The entries, or none where none can have this name.
    #[inline]
    fn candidates(&self, name: Wanted<'_>) -> &[Entry] {
        match name.known {
            Some(known) if !self.held().names.meets(Names::of(&[known])) => &[],
            _ => &self.held().entries,
        }
    }

    #[inline]
    fn is_named(&self, entry: &Entry, name: Wanted<'_>) -> bool {
        match name.known {
            Some(known) => entry.known == Some(known),
            None => {
                entry.name.len as usize == name.text.len()
                    && self.bytes(entry.name).eq_ignore_ascii_case(name.text.as_bytes())
            }
        }
    }

    #[inline]
    fn bytes(&self, span: Span) -> &[u8] {
        self.held().bytes(span)
    }

    /// Bytes from one tagged position to another in the same buffer.
    fn between(&self, start: u32, end: u32) -> &[u8] {
        self.bytes(Span { start, len: end - start })
    }

    fn shared(&self, span: Span) -> Bytes {
        let bytes = self.bytes(span);
        if span.start & ADDED == 0 { self.held().received.slice_ref(bytes) } else { Bytes::copy_from_slice(bytes) }
    }
}

impl Content {
    const fn new() -> Self {
        Self { received: Bytes::new(), added: Vec::new(), entries: Vec::new(), names: Names::NONE }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        resolve(&self.received, &self.added, span)
    }

    /// `known`: what [`Known::of`] says of the name.
    fn store(&mut self, known: Option<Known>, name: &[u8], value: &[u8]) -> Option<Entry> {
        if known.is_none() && !is_token(name) {
            return None;
        }
        self.store_line(known, name, |out| push_value(out, value))
    }

    /// Writes a line into the buffer of added ones.
    fn store_line(&mut self, known: Option<Known>, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Option<Entry> {
        let start = self.added.len();
        self.make_room(name.len());
        self.added.extend_from_slice(name);
        self.added.extend_from_slice(COLON);
        let value = self.store_with(write)?;
        self.added.extend_from_slice(CRLF);
        let name_span = Span::new(start, name.len(), ADDED)?;
        self.names.add(known, name);
        Some(Entry { name: name_span, value, known, line: true, secret: false })
    }

    fn store_value(&mut self, value: &[u8]) -> Option<Span> {
        self.make_room(value.len());
        self.store_with(|out| push_value(out, value))
    }

    fn store_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Option<Span> {
        let start = self.added.len();
        write(&mut self.added);
        let span = Span::new(start, self.added.len() - start, ADDED);
        if span.is_none() {
            self.added.truncate(start);
        }
        span
    }

    fn make_room(&mut self, bytes: usize) {
        if self.added.capacity() == 0 {
            self.added.reserve(ADDED_BYTES.max(bytes));
        }
    }
}

impl Entry {
    /// Where the line ends, with the tag of its buffer.
    const fn line_end(&self) -> u32 {
        // A span ends below 2 GiB, and its line two bytes behind it.
        self.value.start.saturating_add(self.value.len).saturating_add(2)
    }
}

/// Appends a value as the type's invariant wants it.
fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    let (start, value) = (out.len(), trim_ows(value));
    out.extend_from_slice(value);
    if has_control(value) {
        for byte in out.iter_mut().skip(start).filter(|b| is_control(**b)) {
            *byte = b' ';
        }
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

#[inline]
fn resolve<'a>(received: &'a [u8], added: &'a [u8], span: Span) -> &'a [u8] {
    let buffer = if span.start & ADDED == 0 { received } else { added };
    let start = (span.start & !ADDED) as usize;
    // Spans are made only of what is in the buffers; an empty slice is the panic-free impossible case.
    buffer.get(start..start + span.len as usize).unwrap_or_default()
}

/// Whether `bytes` is a non-empty token (RFC 9110 section 5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_token_byte(*b))
}

/// Whether the byte may stand in a token (RFC 9110 section 5.6.2).
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    TOKEN.has(byte)
}

const TOKEN: &ByteSet = &ByteSet::alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// Whether a value holds a byte that no value may hold: a control character other than HTAB.
pub(crate) fn has_control(value: &[u8]) -> bool {
    match value.last_chunk() {
        // HTAB looks like one from afar. The last eight bytes overlap with those before.
        Some(last) if value.as_chunks().0.iter().all(|word| is_visible_word(*word)) && is_visible_word(*last) => false,
        _ => value.iter().any(|byte| is_control(*byte)),
    }
}

/// Whether none of eight bytes is a control character, HTAB included (after Mycroft: a byte of a word is zero exactly if
/// subtracting one borrows).
const fn is_visible_word(word: [u8; 8]) -> bool {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    const fn borrows(word: u64, less: u8) -> u64 {
        word.wrapping_sub(all(less)) & !word
    }
    let word = u64::from_ne_bytes(word);
    (borrows(word, b' ') | borrows(word ^ all(0x7f), 1)) & all(0x80) == 0
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
