//! What a proxy hands on: nothing that ends here, nothing that a peer claims of itself, and what it adds stays.

use bytes::BytesMut;
use weft_core::entropy::Entropy;
use weft_core::fault::FaultKind;
use weft_core::fields::Fields;
use weft_core::h1::{Limits, RequestParser, encode_request_head};
use weft_core::identity::spiffe::SpiffeId;
use weft_core::message::RequestHead;
use weft_core::propagate::forwarded::{Edge, note_origin};
use weft_core::propagate::hop_by_hop::{Upgrade, strip_request};
use weft_core::propagate::own;
use weft_core::propagate::peer::{
    CLIENT_CERT, CLIENT_ID, Introduction, ProvenPeer, drop_between_proxies, drop_client_identity, set_client_identity,
};
use weft_core::propagate::request_id::{REQUEST_ID, REQUEST_ID_BYTES_MAX, Trust, ensure};
use weft_core::propagate::trace::{Sampling, Start, propagate};

use crate::reading::assert_harmless;

/// Fields that nothing a request says may take away from the application.
const KEPT: [&str; 7] = ["authorization", "cookie", "host", "content-type", "baggage", "x-forwarded-for", "range"];

/// Fields that end at a hop, whatever else a request says.
const ENDING: [&str; 5] = ["keep-alive", "proxy-connection", "transfer-encoding", "http2-settings", "upgrade"];

/// A request head; the first byte says which way it goes.
pub(crate) fn fields(data: &[u8]) {
    let Some((way, data)) = data.split_first() else { return };
    let mut buffer: BytesMut = data.into();
    let Ok(Some(parsed)) = RequestParser::new(Limits::default()).parse(&mut buffer) else { return };
    let received = parsed.head;
    let mut head = received.clone();
    hop_by_hop(&received, &mut head);
    match way % 4 {
        0 => inbound(&mut head.fields, None),
        1 => inbound(&mut head.fields, Some("CN=a\"b")),
        2 => edge(&mut head.fields, usize::from(way >> 2) % 3),
        _ => {}
    }
    ids(&mut head.fields, if way % 4 == 2 { Trust::Replace } else { Trust::PassOn });
    assert_harmless(&head.fields);
    let mut out = BytesMut::new();
    encode_request_head(&head, &mut out).unwrap();
    assert!(!out[..out.len() - 4].windows(4).any(|end| end == b"\r\n\r\n"), "one head");
    own_marks();
}

fn count(fields: &Fields, name: &str) -> usize {
    fields.get_all(name).count()
}

fn hop_by_hop(received: &RequestHead, head: &mut RequestHead) {
    strip_request(head, Upgrade::Drop);
    for name in ENDING {
        assert_eq!(count(&head.fields, name), 0, "{name} of {received:?}");
    }
    for name in KEPT {
        assert!(head.fields.get_all(name).eq(received.fields.get_all(name)), "{name} of {received:?}");
    }
    // All that is left of `connection` is `te`, as it was written.
    assert!(head.fields.list("connection").all(|option| option.eq_ignore_ascii_case(b"te")), "{head:?}");
    assert!(head.fields.list("te").all(|coding| coding == b"trailers"), "{head:?}");
    let once = head.clone();
    strip_request(head, Upgrade::Drop);
    assert_eq!(head, &once, "once is enough");
    let mut upgrading = received.clone();
    strip_request(&mut upgrading, Upgrade::Keep);
    assert!(upgrading.fields.get_all("upgrade").eq(received.fields.get_all("upgrade")));
}

fn inbound(fields: &mut Fields, subject: Option<&str>) {
    let id = |account: &str| SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap();
    let (me, caller) = (id("cart"), id("web"));
    set_client_identity(fields, None);
    assert!(nobody_claims(fields), "{fields:?}");
    let peer = ProvenPeer { id: &caller, certificate_sha256: &[7; 32], subject };
    set_client_identity(fields, Some(&Introduction::of(peer, &me)));
    assert_eq!((count(fields, CLIENT_CERT), count(fields, CLIENT_ID)), (1, 1));
    assert_eq!(fields.get_str(CLIENT_ID), Some(caller.to_string().as_str()), "identity is what was proven");
    assert!(fields.get_str(CLIENT_CERT).is_some_and(|cert| cert.ends_with(&format!("URI={caller}"))));
}

/// No field says who calls, under any name that an application might take for one.
fn nobody_claims(fields: &Fields) -> bool {
    let plain = |name: &[u8]| String::from_utf8_lossy(name).replace('_', "-").to_ascii_lowercase();
    !fields.iter().any(|(name, _)| [CLIENT_CERT, CLIENT_ID].contains(&plain(name).as_str()))
}

fn edge(fields: &mut Fields, trusted_hops: usize) {
    drop_between_proxies(fields);
    drop_client_identity(fields);
    let plain = |name: &[u8]| String::from_utf8_lossy(name).replace('_', "-").to_ascii_lowercase();
    assert!(nobody_claims(fields));
    assert!(!fields.iter().any(|(name, _)| ["x-weft-", "x-envoy-", "l5d-"].iter().any(|p| plain(name).starts_with(p))));
    let peer = "203.0.113.9".parse().unwrap();
    let client = note_origin(fields, Edge { peer, tls: true, host: Some(b"shop.example"), trusted_hops });
    assert_eq!(count(fields, "x-forwarded-for"), 1);
    assert!(fields.get("x-forwarded-for").is_some_and(|chain| chain.ends_with(b"203.0.113.9")), "{fields:?}");
    assert_eq!(count(fields, "x-forwarded-proto"), 1);
    let disguised = |name: &[u8]| name.contains(&b'_') && plain(name).starts_with("x-forwarded-");
    assert!(!fields.iter().any(|(name, _)| disguised(name)), "{fields:?}");
    if trusted_hops == 0 {
        assert_eq!(client, peer, "a stranger is who connects");
        assert_eq!(fields.get_str("x-forwarded-proto"), Some("https"));
        assert_eq!(fields.get_str("x-forwarded-host"), Some("shop.example"));
        assert_eq!(count(fields, "forwarded"), 0);
    }
}

/// Chance that counts.
struct Counting(u64);

impl Entropy for Counting {
    fn next_u64(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

fn ids(fields: &mut Fields, trust: Trust) {
    let brought = fields.get(REQUEST_ID).map(<[u8]>::to_vec);
    let id = ensure(fields, trust, &mut Counting(0));
    assert_eq!(count(fields, REQUEST_ID), 1);
    assert_eq!(fields.get_str(REQUEST_ID), Some(id.as_str()));
    assert!((1..=REQUEST_ID_BYTES_MAX).contains(&id.as_str().len()));
    if trust == Trust::PassOn {
        let again = ensure(fields, trust, &mut Counting(9));
        assert_eq!(again, id, "named once");
    } else if brought.as_deref() == Some(id.as_str().as_bytes()) {
        assert!(id.as_str().starts_with("00000000-0000-4001"), "a stranger names nothing: {id:?}");
    }
    let span = propagate(fields, Sampling::Accept, &mut Counting(0));
    let next = propagate(fields, Sampling::Accept, &mut Counting(100));
    // A bare denial names no trace, because nobody records it.
    if span.is_recorded() || span.start != Start::DecisionOnly {
        assert!(next.trace.same_number(span.trace), "one trace: {span:?} {next:?}");
        assert_eq!(next.parent, Some(span.id), "each hop's parent is the hop before");
    }
    assert_eq!(next.is_recorded(), span.is_recorded(), "the root decides: {span:?} {next:?}");
}

fn own_marks() {
    let mut fields = Fields::new();
    own::mark(&mut fields, FaultKind::BadRequest);
    own::mark(&mut fields, FaultKind::Loop);
    assert_eq!((count(&fields, own::ERROR), count(&fields, own::PROXY_STATUS)), (1, 1));
}
