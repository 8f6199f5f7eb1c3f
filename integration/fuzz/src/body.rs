//! Chunked bodies: total, the same in pieces, within bounds, and written as they were read.

use bytes::BytesMut;
use weft_core::h1::{BodyEncoder, Limits, TRAILER_BYTES_MAX};
use weft_core::message::BodyFraming;

use crate::reading::{Read, TINY, assert_harmless, read_body};

/// Bytes after a head, read as a body. The first byte is the length of one that has a length.
pub(crate) fn chunked(data: &[u8]) {
    let Some((length, data)) = data.split_first() else { return };
    for limits in [Limits::default(), TINY] {
        for framing in [BodyFraming::Chunked, BodyFraming::Length(u64::from(*length)), BodyFraming::UntilClose] {
            let whole = read_body(framing, limits, data, false);
            let pieces = read_body(framing, limits, data, true);
            agree(&whole, &pieces);
            assert!(whole.data.len() + whole.rest.len() <= data.len(), "nothing is made up");
            if let Some(trailers) = &whole.trailers {
                assert_harmless(trailers);
                assert!(trailers.len() <= limits.fields_max && trailers.wire_len() <= 2 * TRAILER_BYTES_MAX);
                assert!(["host", "content-length", "transfer-encoding"].iter().all(|name| !trailers.contains(*name)));
            }
            if whole.ended && framing == BodyFraming::Chunked {
                written_as_read(&whole);
            }
        }
    }
}

fn agree(whole: &Read, pieces: &Read) {
    match (whole.fault, pieces.fault) {
        // What of a body comes before a fault is given out or not, as it arrives.
        (Some(_), Some(_)) => {}
        // In an unfinished trailer section a fault may show only at its end.
        (Some(_), None) => assert!(!pieces.ended, "whole {whole:?}, in pieces {pieces:?}"),
        (None, _) => assert_eq!(whole, pieces, "whole and in pieces"),
    }
}

fn written_as_read(read: &Read) {
    let (mut encoder, mut wire) = (BodyEncoder::new(BodyFraming::Chunked), BytesMut::new());
    for piece in read.data.chunks(7) {
        let frame = encoder.frame(piece.len()).unwrap();
        for part in [frame.before(), piece, frame.after()] {
            wire.extend_from_slice(part);
        }
    }
    encoder.finish(read.trailers.as_ref(), &mut wire).unwrap();
    wire.extend_from_slice(&read.rest);
    // Each field may have grown by a blank.
    let limits = Limits { trailer_bytes_max: 2 * TRAILER_BYTES_MAX, ..Limits::default() };
    assert_eq!(&read_body(BodyFraming::Chunked, limits, &wire, false), read);
}
