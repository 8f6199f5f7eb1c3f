//! What our encoder writes, our decoder reads.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::fields::Fields;
use crate::http2::head;

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
            prop::sample::select(
                &[
                    "accept",
                    "X-Request-Id",
                    "traceparent",
                    "authorization",
                    "cookie",
                    "Set-Cookie",
                    "date",
                    "x-a",
                    "x-b"
                ][..]
            )
            .prop_map(str::to_owned),
            "[a-zA-Z0-9_^~|-]{1,40}",
        ];
    let value = prop_oneof!["[ab]{0,2}", "[!-~]{0,60}", (1..4_usize).prop_map(|n| "v".repeat(n * 1000))];
    prop::collection::vec((name, value), 0..12)
}

proptest! {
    /// Trailers have no rules but names that are left out, so that they show the codec alone.
    #[test]
    fn sections_of_one_connection(
        sections in prop::collection::vec((fields(), prop::option::weighted(0.2, 0_u32..6000)), 1..12),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        let (mut block, mut out) = (Block::new(), BytesMut::new());
        let limits = Limits { trailer_bytes_max: 1 << 20, ..Limits::default() };
        for (fields, resize) in &sections {
            let sent: Fields = fields.iter().cloned().collect();
            if let Some(size) = resize {
                encoder.set_peer_table_size(*size);
            }
            out.clear();
            encoder.trailers(&sent, &mut out);
            decoder.decode(&out, BlockLimits { list_bytes_max: 1 << 20 }, &mut block).unwrap();
            let got = head::trailers(&mut block, &limits);
            let lower = sent.iter().filter(|(name, _)| !crate::h1::is_forbidden_trailer(name));
            let lower: Fields = lower.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
            prop_assert_eq!(got, Ok(lower));
            prop_assert_eq!(encoder.entries(), decoder.entries());
        }
    }
}
