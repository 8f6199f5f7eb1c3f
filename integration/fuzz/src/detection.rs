//! Protocol detection: total, an answer once given does not change with more bytes, and nothing is asked for in vain.

use weft_core::detect::{Detected, HTTP2_PREFACE, MeshAlpn, PREFIX_BYTES_MAX, ServerFirst, detect, first_server_bytes};
use weft_core::h1::{Limits, RequestParser};

/// First bytes of a client, and of a server.
pub(crate) fn prefix(data: &[u8]) {
    let data = &data[..data.len().min(PREFIX_BYTES_MAX)];
    let decided = settle(data);
    if data.starts_with(HTTP2_PREFACE) {
        assert_eq!(decided, Some(Detected::Http2));
    }
    // What our own parser takes for a request must not pass HTTP policies as opaque.
    let mut buffer = data.into();
    if let Ok(Some(_)) = RequestParser::new(Limits::default()).parse(&mut buffer) {
        assert_eq!(decided, Some(Detected::Http1));
    }
    if let Detected::Tls(hello) = detect(data, true) {
        assert_eq!(hello.mesh().is_some(), hello.alpn.len() == 1 && MeshAlpn::from_bytes(&hello.alpn[0]).is_some());
    }
    server(data);
}

/// Feeds bytes in small pieces; gives what detection settles on, and checks that it stays with it.
fn settle(data: &[u8]) -> Option<Detected> {
    // Long ones in steps: the cost of all prefixes is quadratic.
    let lens = (0..data.len()).step_by(1 + data.len() / 128).chain([data.len()]);
    let mut decided = None;
    for len in lens {
        match detect(&data[..len], false) {
            Detected::NeedMore(more) => {
                assert!(more > 0 && len < PREFIX_BYTES_MAX && more <= PREFIX_BYTES_MAX, "{more} more after {len}");
            }
            settled => {
                decided = Some((settled, len));
                break;
            }
        }
    }
    assert!(!matches!(detect(data, true), Detected::NeedMore(_)), "nothing comes after the end");
    if let Some((decided, len)) = &decided {
        for later in (*len..=data.len()).take(16).chain([data.len()]) {
            assert_eq!(&detect(&data[..later], false), decided, "after {later} bytes");
            assert_eq!(&detect(&data[..later], true), decided, "after {later} bytes and the end");
        }
    }
    decided.map(|(decided, _)| decided)
}

fn server(data: &[u8]) {
    let mut decided = None;
    for len in 0..=data.len().min(32) {
        let now = first_server_bytes(&data[..len]);
        match decided {
            None if now == ServerFirst::NeedMore => {}
            None => decided = Some(now),
            Some(before) => assert_eq!(now, before, "after {len} bytes"),
        }
    }
}

/// A TLS record layer around the bytes: the first one says how it is cut into records, and whether the handshake's own
/// header is right.
pub(crate) fn client_hello(data: &[u8]) {
    prefix(data);
    let Some((cut, body)) = data.split_first() else { return };
    let mut message = vec![1];
    message.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes()[1..]);
    message.extend_from_slice(body);
    let whole = records(&message, message.len());
    let pieces = records(&message, usize::from(*cut).max(1));
    prefix(&whole);
    prefix(&pieces);
    if whole.len() < PREFIX_BYTES_MAX && pieces.len() < PREFIX_BYTES_MAX {
        assert_eq!(detect(&whole, true), detect(&pieces, true), "records do not matter");
    }
}

fn records(message: &[u8], len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for fragment in message.chunks(len.min(1 << 14)) {
        out.extend_from_slice(&[22, 3, 1]);
        out.extend_from_slice(&u16::try_from(fragment.len()).unwrap().to_be_bytes());
        out.extend_from_slice(fragment);
    }
    out
}
