//! The Redis serialization protocol (RESP2), as much as the samples need, with every length bounded.

use std::io;

use bytes::{Buf as _, BytesMut};

/// Arguments of one command.
const ARGUMENTS_MAX: usize = 64;
/// Bytes of one argument or bulk reply.
pub const BULK_MAX: usize = 1 << 20;
/// Bytes of one line (inline command, integer, error).
const LINE_MAX: usize = 8 << 10;

/// A reply of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Simple(String),
    /// `-ERR …`.
    Error(String),
    /// `:1`.
    Integer(i64),
    /// `$3 …`, or nothing.
    Bulk(Option<Vec<u8>>),
}

impl Reply {
    /// Appends the wire form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Self::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Self::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Self::Bulk(None) => out.extend_from_slice(b"$-1\r\n"),
            Self::Bulk(Some(bytes)) => bulk(bytes, out),
        }
    }

    /// Takes one reply from the front of `buffer`; `None` until it is whole.
    ///
    /// # Errors
    /// `InvalidData` for anything that is not RESP2 or is longer than the bounds.
    pub fn decode(buffer: &mut BytesMut) -> io::Result<Option<Self>> {
        let Some((line, used)) = line(buffer, 0)? else { return Ok(None) };
        let Some((kind, rest)) = line.split_at_checked(1) else { return Err(invalid("empty reply")) };
        let (reply, used) = match kind {
            b"+" => (Self::Simple(text(rest)), used),
            b"-" => (Self::Error(text(rest)), used),
            b":" => (Self::Integer(number(rest)?), used),
            b"$" => {
                let length = number(rest)?;
                if length == -1 {
                    (Self::Bulk(None), used)
                } else {
                    let Some((bytes, used)) = sized(buffer, used, length)? else { return Ok(None) };
                    (Self::Bulk(Some(bytes)), used)
                }
            }
            _ => return Err(invalid("unknown kind of reply")),
        };
        buffer.advance(used);
        Ok(Some(reply))
    }
}

/// Appends a command in its wire form.
pub fn encode_command(arguments: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        bulk(argument, out);
    }
}

/// Takes one command from the front of `buffer`; `None` until it is whole. Inline commands (`PING\r\n`) are commands too.
///
/// # Errors
/// `InvalidData` for anything that is not RESP2 or is longer than the bounds.
pub fn decode_command(buffer: &mut BytesMut) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Some((first, mut used)) = line(buffer, 0)? else { return Ok(None) };
    let mut arguments = Vec::new();
    if let Some(count) = first.strip_prefix(b"*") {
        let count = usize::try_from(number(count)?).ok().filter(|&count| count <= ARGUMENTS_MAX);
        for _ in 0..count.ok_or_else(|| invalid("number of arguments out of bounds"))? {
            let Some((header, after)) = line(buffer, used)? else { return Ok(None) };
            let length = header.strip_prefix(b"$").ok_or_else(|| invalid("expected a bulk string"))?;
            let Some((argument, after)) = sized(buffer, after, number(length)?)? else { return Ok(None) };
            arguments.push(argument);
            used = after;
        }
    } else {
        arguments.extend(first.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(<[u8]>::to_vec));
    }
    buffer.advance(used);
    Ok(Some(arguments))
}

fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The line that starts at `from`, without its end, and where the next one starts.
fn line(buffer: &[u8], from: usize) -> io::Result<Option<(&[u8], usize)>> {
    let rest = buffer.get(from..).unwrap_or_default();
    match rest.iter().take(LINE_MAX).position(|&byte| byte == b'\n') {
        Some(end) => {
            let line = rest.get(..end).unwrap_or_default();
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), from + end + 1)))
        }
        None if rest.len() >= LINE_MAX => Err(invalid("line too long")),
        None => Ok(None),
    }
}

/// `length` bytes from `from` with the CRLF after them, and where the next thing starts.
fn sized(buffer: &[u8], from: usize, length: i64) -> io::Result<Option<(Vec<u8>, usize)>> {
    let length = usize::try_from(length).ok().filter(|&length| length <= BULK_MAX);
    let end = from + length.ok_or_else(|| invalid("length of a bulk string out of bounds"))?;
    let Some(terminator) = buffer.get(end..end + 2) else { return Ok(None) };
    if terminator != b"\r\n" {
        return Err(invalid("bulk string without its end"));
    }
    Ok(buffer.get(from..end).map(|bytes| (bytes.to_vec(), end + 2)))
}

fn number(digits: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(|| invalid("not a number"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the cuts between packets, a command comes out once and whole, and `None` before.
    #[test]
    fn commands_survive_any_fragmentation() {
        let check = |wire: &[u8], expected: &[&str]| {
            for cut in 0..wire.len() {
                let mut buffer = BytesMut::from(&wire[..cut]);
                assert_eq!(decode_command(&mut buffer).unwrap(), None, "cut at {cut}");
                buffer.extend_from_slice(&wire[cut..]);
                let command = decode_command(&mut buffer).unwrap().unwrap();
                assert_eq!(command, expected.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>());
                assert!(buffer.is_empty());
            }
        };
        check(b"*2\r\n$3\r\nGET\r\n$4\r\nu\r\n1\r\n", &["GET", "u\r\n1"]);
        check(b"PING\r\n", &["PING"]);
        check(b"*1\r\n$0\r\n\r\n", &[""]);
    }

    #[test]
    fn replies_round_trip() {
        let check = |reply: Reply| {
            let mut wire = Vec::new();
            reply.encode(&mut wire);
            let mut buffer = BytesMut::from(&wire[..]);
            assert_eq!(Reply::decode(&mut buffer).unwrap(), Some(reply));
            assert!(buffer.is_empty());
        };
        check(Reply::Simple("OK".to_owned()));
        check(Reply::Error("ERR no".to_owned()));
        check(Reply::Integer(-7));
        check(Reply::Bulk(None));
        check(Reply::Bulk(Some(b"a\r\nb".to_vec())));
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |wire: &[u8]| {
            assert!(decode_command(&mut BytesMut::from(wire)).is_err(), "{:?}", String::from_utf8_lossy(wire));
        };
        check(b"*65\r\n");
        check(b"*-1\r\n");
        check(b"*1\r\n:3\r\n");
        check(b"*1\r\n$99999999\r\n");
        check(b"*1\r\n$1\r\nabc\r\n");
        check(&vec![b'a'; LINE_MAX]);
    }
}
