//! What goes into a peer's table, and what does not.

use bytes::BytesMut;
use http::Method;

use super::*;
use crate::fields::Fields;
use crate::http2::head;
use crate::message::{RequestHead, ResponseHead, Version};

fn section(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encoder.trailers(&fields.iter().copied().collect(), &mut out);
    out.to_vec()
}

fn request(encoder: &mut Encoder, path: &'static str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut head = RequestHead::new(Method::GET, path);
    (head.version, head.authority) = (Version::Http2, Some("a.example:80".into()));
    head.fields = fields.iter().copied().collect();
    let mut out = BytesMut::new();
    encoder.request(&head, "http", &mut out).unwrap();
    out.to_vec()
}

#[test]
fn what_is_sent_again_is_an_index() {
    let mut encoder = Encoder::new();
    let fields =
        [("User-Agent", "x/1.0"), ("accept", "*/*"), ("x-tenant", "blue"), ("accept-encoding", "gzip, deflate")];
    request(&mut encoder, "/a/b", &fields);
    // Method and scheme, then path, authority and the first three from the table: the oldest is the authority.
    assert_eq!(request(&mut encoder, "/a/b", &fields), [0x82, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe, 0x90]);
    assert_eq!(request(&mut encoder, "/", &[])[..4], [0x82, 0x86, 0xc2, 0x84]);
}

#[test]
fn identifiers_go_in_once_for_their_name() {
    let mut encoder = Encoder::new();
    let first = section(&mut encoder, &[("x-request-id", "11112222333344445555")]);
    assert_eq!((first[0], first.len()), (0x40, 1 + 1 + 12 + 1 + 20));
    let second = section(&mut encoder, &[("X-Request-Id", "66667777888899990000")]);
    assert_eq!((&second[..2], second.len()), (&[0x0f, 62 - 15][..], 2 + 1 + 20));
    assert_eq!(encoder.entries().1.len(), 1);
    let with_length = request(&mut encoder, "/", &[("content-length", "5")]);
    assert!(with_length.ends_with(&[0x0f, 28 - 15, 1, b'5']), "{with_length:02x?}");
    assert_eq!(request(&mut encoder, "/a?b", &[])[3..], [0x04, 4, b'/', b'a', b'?', b'b'], "a path with a query");
}

#[test]
fn secrets_are_never_indexed() {
    let mut encoder = Encoder::new();
    assert_eq!(section(&mut encoder, &[("Authorization", "Basic x")])[..2], [0x1f, 23 - 15]);
    assert_eq!(section(&mut encoder, &[("proxy-authorization", "x")])[..2], [0x1f, 49 - 15]);
    assert_eq!(section(&mut encoder, &[("cookie", "a=b")])[..2], [0x1f, 32 - 15]);
    assert_eq!(section(&mut encoder, &[("set-cookie", "a=b")])[..2], [0x1f, 55 - 15]);
    let long = "a=".repeat(20);
    assert_eq!(section(&mut encoder, &[("cookie", &long)])[..2], [0x0f, 32 - 15]);
    assert_eq!(encoder.entries(), (0, vec![]));
}

/// RFC 7541 section 6.2.3: an intermediary sends as never indexed what came as such.
#[test]
fn what_came_as_secret_leaves_as_secret() {
    let (mut decoder, mut block) = (Decoder::new(4096), Block::new());
    let mut secret = literal("x-key", "value");
    secret[0] = 0x10;
    let plain = literal("x-key", "value");
    for (came, marked) in [(secret, true), (plain, false)] {
        decoder.decode(&came, LIMITS, &mut block).unwrap();
        let fields: Fields = head::trailers(&mut block, &Limits::default()).unwrap();
        let mut out = BytesMut::new();
        Encoder::new().trailers(&fields, &mut out);
        assert_eq!(out[0], if marked { 0x10 } else { 0x40 });
    }
}

#[test]
fn names_whose_values_are_always_new_stop_pushing_others_out() {
    let mut encoder = Encoder::new();
    for number in 0..300 {
        section(&mut encoder, &[("x-time", &format!("t{number}"))]);
    }
    let entries = encoder.entries().1.len();
    assert!((9..16).contains(&entries), "{entries} entries");
    // Until a value comes again: within some more it is in, and then the next new ones are too.
    let indexed = (0..300).position(|_| section(&mut encoder, &[("x-time", "same")]) == [0xbe]);
    assert!(indexed.is_some_and(|at| at < 80), "{indexed:?}");
    section(&mut encoder, &[("x-time", "other")]);
    assert_eq!(section(&mut encoder, &[("x-time", "other")]), [0xbe]);
}

#[test]
fn what_would_fill_the_table_stays_out() {
    let mut encoder = Encoder::new();
    section(&mut encoder, &[("x-a", &"v".repeat(3037))]);
    assert_eq!(encoder.entries().1.len(), 1);
    section(&mut encoder, &[("x-b", &"v".repeat(3038))]);
    assert_eq!(encoder.entries().1.len(), 1);
}

#[test]
fn the_peer_is_told_sizes_that_change() {
    let mut encoder = Encoder::new();
    encoder.set_peer_table_size(4096);
    encoder.set_peer_table_size(1 << 20);
    assert_eq!(section(&mut encoder, &[("a", "b")])[0], 0x40, "no more is used than there is");
    encoder.set_peer_table_size(0);
    assert_eq!(section(&mut encoder, &[("a", "b")]), [0x20, 0, 1, b'a', 1, b'b']);
    encoder.set_peer_table_size(100);
    encoder.set_peer_table_size(50);
    encoder.set_peer_table_size(60);
    assert_eq!(section(&mut encoder, &[]), [0x3f, 50 - 31, 0x3f, 60 - 31]);
    assert_eq!(section(&mut encoder, &[]), []);
}

#[test]
fn statuses() {
    let check = |status, expected: &[u8]| {
        let mut out = BytesMut::new();
        Encoder::new()
            .response(&ResponseHead { fields: Fields::new(), ..ResponseHead::new(status) }, &mut out)
            .unwrap();
        assert_eq!(out, expected, "{status}");
    };
    check(200, &[0x88]);
    check(204, &[0x89]);
    check(206, &[0x8a]);
    check(304, &[0x8b]);
    check(400, &[0x8c]);
    check(404, &[0x8d]);
    check(500, &[0x8e]);
    check(503, &[0x48, 3, b'5', b'0', b'3']);
}
