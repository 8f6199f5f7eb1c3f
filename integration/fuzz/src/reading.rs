//! How the targets read what Weft reads and writes: in pieces, and once more by simple means of their own.

use bytes::BytesMut;
use weft_core::fields::Fields;
use weft_core::h1::{BodyDecoder, BodyFault, Decoded, Limits};
use weft_core::message::BodyFraming;

/// Bounds small enough for a fuzzer to reach.
pub(crate) const TINY: Limits =
    Limits { head_bytes_max: 256, request_line_bytes_max: 64, fields_max: 4, trailer_bytes_max: 48 };

/// Feeds bytes to `step`, which takes from the front of a buffer, until it has an outcome; all at once, or one by one.
/// Gives what is left too.
pub(crate) fn feed<T, E>(
    bytes: &[u8],
    singly: bool,
    mut step: impl FnMut(&mut BytesMut) -> Result<Option<T>, E>,
) -> (Result<Option<T>, E>, BytesMut) {
    let mut buffer = BytesMut::new();
    let mut pieces = bytes.chunks(if singly { 1 } else { bytes.len().max(1) });
    for piece in pieces.by_ref() {
        buffer.extend_from_slice(piece);
        let outcome = step(&mut buffer);
        if !matches!(outcome, Ok(None)) {
            for later in pieces {
                buffer.extend_from_slice(later);
            }
            return (outcome, buffer);
        }
    }
    (Ok(None), buffer)
}

/// What can be read of a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Option<Fields>,
    pub(crate) ended: bool,
    pub(crate) fault: Option<BodyFault>,
    pub(crate) rest: Vec<u8>,
}

/// Decodes a body, fed all at once or byte by byte.
pub(crate) fn read_body(framing: BodyFraming, limits: Limits, bytes: &[u8], singly: bool) -> Read {
    let mut decoder = BodyDecoder::new(framing, limits);
    let mut read = Read::default();
    let (_, rest) = feed(bytes, singly, |buffer| {
        loop {
            match decoder.decode(buffer) {
                Ok(Decoded::Data(data)) => {
                    assert!(!data.is_empty(), "a piece of body is never empty");
                    read.data.extend_from_slice(&data);
                }
                Ok(Decoded::Trailers(fields)) => {
                    assert!(read.trailers.replace(fields).is_none(), "one trailer section");
                }
                Ok(Decoded::End) => {
                    read.ended = true;
                    return Ok(Some(()));
                }
                Ok(Decoded::NeedMore) => return Ok(None),
                Err(fault) => {
                    assert_eq!(decoder.decode(buffer), Err(fault), "a fault stays");
                    read.fault = Some(fault);
                    return Err(fault);
                }
            }
        }
    });
    assert_eq!(decoder.is_ended(), read.ended || framing.is_empty());
    read.rest = rest.to_vec();
    read
}

/// No field may be able to end its line or its section.
pub(crate) fn assert_harmless(fields: &Fields) {
    for (name, value) in fields.iter() {
        assert!(!name.is_empty() && name.iter().all(|b| b.is_ascii_graphic() && *b != b':'), "{fields:?}");
        assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "{fields:?}");
    }
}
