//! Field blocks of one HTTP/2 connection: total, within bounds, harmless once accepted, and the same when sent on.

use bytes::BytesMut;
use weft_core::h1::Limits;
use weft_core::http2::head;
use weft_core::http2::hpack::{Block, BlockLimits, Decoder, Encoder};
use weft_core::message::Asked;

use crate::reading::{TINY, assert_harmless};

/// Each block is a byte of length and so many bytes; together they are one connection's.
pub(crate) fn blocks(data: &[u8]) {
    for limits in [Limits::default(), TINY] {
        connection(data, &limits);
    }
}

fn connection(mut data: &[u8], limits: &Limits) {
    let (mut decoder, mut block) = (Decoder::new(4096), Block::new());
    let mut next = Next { encoder: Encoder::new(), decoder: Decoder::new(4096), block: Block::new() };
    while let Some((len, rest)) = data.split_first() {
        let (bytes, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        data = rest;
        if decoder.decode(bytes, BlockLimits::of(limits), &mut block).is_err() {
            return;
        }
        next.takes_requests(&mut block, limits);
        next.takes_responses(&mut block, limits);
        if let Ok(trailers) = head::trailers(&mut block, limits) {
            assert_harmless(&trailers);
            let again = next.read(|encoder, out| encoder.trailers(&trailers, out));
            assert_eq!(head::trailers(again, &Limits::default()), Ok(trailers));
        }
    }
}

/// The next hop: all that is sent to it goes through one pair of tables.
struct Next {
    encoder: Encoder,
    decoder: Decoder,
    block: Block,
}

impl Next {
    fn takes_requests(&mut self, block: &mut Block, limits: &Limits) {
        let Ok(parsed) = head::request(block, false, limits) else { return };
        let fields = &parsed.head.fields;
        assert_harmless(fields);
        assert!(fields.len() <= limits.fields_max && fields.wire_len() <= limits.head_bytes_max);
        assert!(!parsed.head.target.iter().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()));
        let again = self.read(|encoder, out| encoder.request(&parsed.head, "http", out).unwrap());
        let again = head::request(again, false, &Limits::default()).unwrap();
        assert_eq!(again.head.host(), parsed.head.host());
        // `Host` becomes `:authority`, and of `te` the case of letters is ours.
        if parsed.head.authority.is_some() && !fields.contains("te") {
            assert_eq!(again, parsed);
        }
    }

    fn takes_responses(&mut self, block: &mut Block, limits: &Limits) {
        let asked = Asked { head: false, connect: false, upgrade: false };
        let Ok(parsed) = head::response(block, asked, false, limits) else { return };
        assert_harmless(&parsed.head.fields);
        assert!((100..1000).contains(&parsed.head.status) && parsed.head.status != 101);
        let again = self.read(|encoder, out| encoder.response(&parsed.head, out).unwrap());
        let again = head::response(again, asked, false, &Limits::default()).unwrap();
        if !parsed.head.fields.contains("te") {
            assert_eq!(again, parsed);
        }
    }

    fn read(&mut self, write: impl FnOnce(&mut Encoder, &mut BytesMut)) -> &mut Block {
        let mut out = BytesMut::new();
        write(&mut self.encoder, &mut out);
        // Lower bounds were kept on arrival; only the count of names and values differs.
        let limits = BlockLimits { list_bytes_max: 1 << 20 };
        self.decoder.decode(&out, limits, &mut self.block).unwrap();
        &mut self.block
    }
}
