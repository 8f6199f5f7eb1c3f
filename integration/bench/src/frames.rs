//! As much of HTTP/2 (RFC 9113) as a generator and its backend need: whole frames in, bytes out.
//!
//! Header blocks of the other side are not decoded. What matters of an answer, its `:status 200`, is by RFC 7541 always
//! the one byte `0x88` at the start of the block, and every encoder writes it so.

use anyhow::Context as _;

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;

/// END_STREAM of DATA and HEADERS.
pub const END_STREAM: u8 = 0x1;
/// ACK of SETTINGS and PING.
pub const ACK: u8 = 0x1;
/// END_HEADERS.
pub const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Window of a connection and of a stream until something else is said.
pub const DEFAULT_WINDOW: i64 = 65_535;

const HEAD: usize = 9;
/// So large that no run of ours uses it up.
const WINDOW: u32 = 1 << 30;
const SETTINGS_TABLE_SIZE: u16 = 1;
const SETTINGS_ENABLE_PUSH: u16 = 2;
const SETTINGS_INITIAL_WINDOW: u16 = 4;
/// Our encoders count on a table of the size that holds until something else is said.
const TABLE_SIZE: u32 = 4096;

/// A frame as it came.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0: the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `input` and what follows it; none if it is not whole.
    #[must_use]
    pub fn split(input: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let ([a, b, c, kind, flags, d, e, f, g], rest) = input.split_first_chunk::<HEAD>()?;
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).ok()?;
        let (payload, rest) = rest.split_at_checked(length)?;
        let stream = u32::from_be_bytes([*d, *e, *f, *g]) & (u32::MAX >> 1);
        Some((Self { kind: *kind, flags: *flags, stream, payload }, rest))
    }

    /// Whether it is the last of its stream.
    #[must_use]
    pub const fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// DATA or HEADERS without padding and priority.
    #[must_use]
    pub fn content(&self) -> Option<&'a [u8]> {
        let mut content = self.payload;
        let mut padding = 0;
        if self.flags & PADDED != 0 {
            let (first, rest) = content.split_first()?;
            (padding, content) = (usize::from(*first), rest);
        }
        if self.kind == HEADERS && self.flags & PRIORITY != 0 {
            content = content.get(5..)?;
        }
        content.get(..content.len().checked_sub(padding)?)
    }

    /// Whether this is a head with `:status 200`.
    #[must_use]
    pub fn is_200(&self) -> bool {
        // Changes of the table's size may come before the first field.
        let block = self.content().unwrap_or_default();
        block.iter().find(|byte| *byte & 0xe0 != 0x20) == Some(&0x88)
    }

    fn number(&self) -> Option<u32> {
        self.payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

/// Appends a frame.
pub fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends what each side says first: no push, and windows that never close.
pub fn put_settings(out: &mut Vec<u8>) {
    let mut settings = Vec::new();
    for (name, value) in [(SETTINGS_ENABLE_PUSH, 0), (SETTINGS_INITIAL_WINDOW, WINDOW)] {
        settings.extend_from_slice(&name.to_be_bytes());
        settings.extend_from_slice(&value.to_be_bytes());
    }
    put(out, SETTINGS, 0, 0, &settings);
    put(out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
}

/// Keeps a connection alive: answers what is not of a stream, and keeps account of the windows.
#[derive(Debug)]
pub struct Link {
    /// Bytes of DATA that may still be sent.
    pub window: i64,
    /// Whether the other side wants heads that are spelt out, having a smaller HPACK table than is usual.
    pub spelt: bool,
    received: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self { window: DEFAULT_WINDOW, spelt: false, received: 0 }
    }
}

impl Link {
    /// Takes any frame; what it asks for is appended to `out`.
    ///
    /// # Errors
    /// The other side ends the connection, breaks a stream, or wants what we cannot.
    pub fn take(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> anyhow::Result<()> {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                self.spelt |= has_small_table(frame.payload);
                put(out, SETTINGS, ACK, 0, &[]);
            }
            PING if frame.flags & ACK == 0 => put(out, PING, ACK, 0, frame.payload),
            WINDOW_UPDATE if frame.stream == 0 => {
                self.window += i64::from(frame.number().context("a WINDOW_UPDATE without number")?);
            }
            DATA => {
                self.received += u32::try_from(frame.payload.len())?;
                if self.received > WINDOW / 2 {
                    put(out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
                    self.received = 0;
                }
            }
            RST_STREAM => anyhow::bail!("stream {} was reset, code {:?}", frame.stream, frame.number()),
            GOAWAY => {
                let code = frame.payload.get(4..8).unwrap_or_default();
                let text = String::from_utf8_lossy(frame.payload.get(8..).unwrap_or_default());
                anyhow::bail!("GOAWAY, code {code:?} {text}");
            }
            CONTINUATION => anyhow::bail!("a head of more than one frame"),
            _ => {}
        }
        Ok(())
    }
}

fn has_small_table(settings: &[u8]) -> bool {
    settings.as_chunks::<6>().0.iter().any(|[a, b, value @ ..]| {
        u16::from_be_bytes([*a, *b]) == SETTINGS_TABLE_SIZE && u32::from_be_bytes(*value) < TABLE_SIZE
    })
}

/// A head that is sent again and again on one connection: spelt out the first time, and by the table's index from then on,
/// as real clients and servers do.
#[derive(Debug)]
pub struct Head {
    first: Vec<u8>,
    again: Vec<u8>,
    spelt: bool,
}

impl Head {
    /// `indexed` are whole entries of the static table, `fields` are names and values. At most 60 of them, each shorter
    /// than 127 bytes, and before any other such head of the connection.
    #[must_use]
    pub fn new(indexed: &[u8], fields: &[(&str, &str)]) -> Self {
        let (mut first, mut again) = (Vec::new(), Vec::new());
        for index in indexed {
            first.push(0x80 | index);
            again.push(0x80 | index);
        }
        // The newest entry has index 62; these are looked up when all are in.
        let mut index = 61 + u8::try_from(fields.len()).unwrap_or(0);
        for (name, value) in fields {
            first.push(0x40);
            put_texts(&mut first, name, value);
            again.push(0x80 | index);
            index -= 1;
        }
        Self { first, again, spelt: false }
    }

    /// Spelt out every time, so that any number of them goes with one made by [`Self::new`].
    #[must_use]
    pub fn literal(indexed: &[u8], fields: &[(&str, &str)]) -> Self {
        let mut spelt: Vec<u8> = indexed.iter().map(|index| 0x80 | index).collect();
        for (name, value) in fields {
            spelt.push(0);
            put_texts(&mut spelt, name, value);
        }
        Self { first: spelt.clone(), again: spelt, spelt: true }
    }

    /// The block to send now.
    pub fn block(&mut self) -> &[u8] {
        if std::mem::replace(&mut self.spelt, true) { &self.again } else { &self.first }
    }
}

fn put_texts(out: &mut Vec<u8>, name: &str, value: &str) {
    for text in [name, value] {
        out.push(u8::try_from(text.len()).unwrap_or(0) & 0x7f);
        out.extend_from_slice(text.as_bytes());
    }
}

/// A gRPC message of so many bytes.
#[must_use]
pub fn grpc_message(bytes: usize) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(bytes).unwrap_or(0).to_be_bytes());
    message.resize(message.len() + bytes, b'x');
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_written() {
        let mut bytes = Vec::new();
        put(&mut bytes, DATA, END_STREAM, 7, b"abc");
        put(&mut bytes, PING, 0, 0, b"12345678");
        for cut in 0..12 {
            assert!(Frame::split(bytes.get(..cut).unwrap()).is_none());
        }
        let (data, rest) = Frame::split(&bytes).unwrap();
        assert_eq!((data.kind, data.stream, data.payload, data.ends_stream()), (DATA, 7, b"abc".as_slice(), true));
        let (ping, rest) = Frame::split(rest).unwrap();
        assert!(rest.is_empty());
        let mut out = Vec::new();
        Link::default().take(&ping, &mut out).unwrap();
        let mut expected = Vec::new();
        put(&mut expected, PING, ACK, 0, b"12345678");
        assert_eq!(out, expected);
    }

    #[test]
    fn status_is_seen_through_padding_priority_and_table_sizes() {
        let check = |flags, payload: &[u8], expected| {
            let frame = Frame { kind: HEADERS, flags, stream: 1, payload };
            assert_eq!(frame.is_200(), expected, "{flags:x} {payload:x?}");
        };
        check(0, &[0x88, 0x5c], true);
        check(0, &[0x20, 0x88], true);
        check(0, &[0x8d], false);
        check(PADDED, &[2, 0x88, 0, 0], true);
        check(PADDED | PRIORITY, &[1, 0, 0, 0, 0, 9, 0x88, 0], true);
        check(PADDED, &[9, 0x88], false);
        check(0, &[], false);
    }

    #[test]
    fn an_end_of_stream_or_connection_is_an_error() {
        let check = |kind, payload: &[u8]| {
            let frame = Frame { kind, flags: 0, stream: 0, payload };
            assert!(Link::default().take(&frame, &mut Vec::new()).is_err());
        };
        check(RST_STREAM, &[0, 0, 0, 8]);
        check(GOAWAY, &[0; 8]);
        check(CONTINUATION, &[]);
    }

    #[test]
    fn a_small_table_is_respected() {
        let check = |payload: &[u8], expected| {
            let frame = Frame { kind: SETTINGS, flags: 0, stream: 0, payload };
            let mut link = Link::default();
            link.take(&frame, &mut Vec::new()).unwrap();
            assert_eq!(link.spelt, expected, "{payload:x?}");
        };
        check(&[], false);
        check(&[0, 1, 0, 0, 0x10, 0], false);
        check(&[0, 3, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0], true);
        assert_eq!(Head::literal(&[8], &[("a", "b")]).block(), b"\x88\x00\x01a\x01b");
    }

    #[test]
    fn a_head_is_spelt_once() {
        // RFC 7541, 6.2.1 and 6.1: the first entry that went in is the last of two in the table.
        let mut head = Head::new(&[2], &[("a", "b"), ("cd", "e")]);
        assert_eq!(head.block(), b"\x82\x40\x01a\x01b\x40\x02cd\x01e");
        assert_eq!(head.block(), [0x82, 0x80 | 63, 0x80 | 62]);
        assert_eq!(head.block(), [0x82, 0x80 | 63, 0x80 | 62]);
    }

    #[test]
    fn a_message_has_its_length_before_it() {
        assert_eq!(grpc_message(3), b"\0\0\0\0\x03xxx");
    }
}
