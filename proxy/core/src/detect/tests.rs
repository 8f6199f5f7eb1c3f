use proptest::prelude::*;

use super::*;

/// Builds ClientHellos by hand, so that malformed ones can be built too.
#[derive(Clone, Debug)]
struct Hello {
    sni: Option<&'static str>,
    alpn: Vec<&'static [u8]>,
    /// Bytes of key share: 36 is X25519, 1252 adds ML-KEM 768.
    key_share: usize,
    more: Vec<(u16, Vec<u8>)>,
}

fn u16_of(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap().to_be_bytes()
}

impl Hello {
    fn new(sni: Option<&'static str>, alpn: &[&'static [u8]]) -> Self {
        Self { sni, alpn: alpn.to_vec(), key_share: 1252, more: Vec::new() }
    }

    fn body(&self) -> Vec<u8> {
        let mut extensions = vec![(51, vec![7; self.key_share]), (43, vec![2, 3, 4])];
        if let Some(name) = self.sni {
            let entry = [&[0][..], &u16_of(name.len()), name.as_bytes()].concat();
            extensions.push((0, [&u16_of(entry.len())[..], &entry].concat()));
        }
        if !self.alpn.is_empty() {
            let list: Vec<u8> =
                self.alpn.iter().flat_map(|p| [&[u8::try_from(p.len()).unwrap()][..], p].concat()).collect();
            extensions.push((16, [&u16_of(list.len())[..], &list].concat()));
        }
        extensions.extend(self.more.clone());
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &u16_of(data.len()), data].concat())
            .collect();
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.extend([&[32][..], &[1; 32], &[0, 4, 0x13, 1, 0x13, 2], &[1, 0]].concat());
        body.extend(u16_of(extensions.len()));
        body.extend(extensions);
        body
    }

    /// Handshake message in records of at most `fragment` bytes.
    fn wire(&self, fragment: usize) -> Vec<u8> {
        records(&message(&self.body()), fragment)
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &len[1..], body].concat()
}

fn records(message: &[u8], fragment: usize) -> Vec<u8> {
    message.chunks(fragment).flat_map(|part| [&[22, 3, 1][..], &u16_of(part.len()), part].concat()).collect()
}

fn tls(sni: Option<&str>, alpn: &[&[u8]]) -> Detected {
    Detected::Tls(ClientHello { sni: sni.map(Into::into), alpn: alpn.iter().map(|p| (*p).into()).collect() })
}

/// The answer to growing prefixes must be "need more" with a true bound, until it is the answer to the whole for ever.
fn check_bytewise(whole: &[u8]) {
    let answer = detect(whole, false);
    let mut decided_at = None;
    for len in 0..=whole.len() {
        match (detect(&whole[..len], false), decided_at) {
            (Detected::NeedMore(n), None) => {
                assert!(n > 0);
                if matches!(answer, Detected::Tls(_) | Detected::Http2) {
                    assert!(len + n <= whole.len(), "asked for {n} after {len} of {}", whole.len());
                }
            }
            (decided, None) => {
                assert_eq!(decided, answer, "after {len} bytes");
                decided_at = Some(len);
            }
            (decided, Some(at)) => assert_eq!(decided, answer, "decided after {at}, changed after {len}"),
        }
    }
    let with_more = [whole, b" and more \x00\xff\r\n\r\n"].concat();
    if decided_at.is_some() {
        assert_eq!(detect(&with_more, false), answer);
    }
}

#[test]
fn protocols_by_first_bytes() {
    let check = |input: &[u8], expected: Detected| {
        assert_eq!(detect(input, false), expected, "{:?}", String::from_utf8_lossy(input));
        check_bytewise(input);
    };
    let more = Detected::NeedMore(1);
    check(b"", more.clone());
    // Usual requests are certain at their target's first byte.
    check(b"GET", more.clone());
    check(b"GET ", more.clone());
    check(b"GET /", Detected::Http1);
    check(b"POST /a HTTP/1.1\r\n", Detected::Http1);
    check(b"GET http:/", more.clone());
    check(b"GET http://a/ HTTP/1.1\r\n", Detected::Http1);
    check(b"GET HTTPS://", Detected::Http1);
    check(b"GET /old\r\n", Detected::Http1);
    // Others at their version.
    check(b"OPTIONS *", more.clone());
    check(b"OPTIONS * HTTP/1.1\r\n", Detected::Http1);
    check(b"CONNECT a:443 HTTP/1.1\r\n", Detected::Http1);
    check(b"CONNECT a:443 HTTP", more.clone());
    check(b"PROPFIND /dav HTTP/1.1\r\n", Detected::Http1);
    check(b"M-SEARCH * HTTP/1.0\r\n", Detected::Http1);
    check(b"FOO /a HTTP/9.9\r\n", Detected::Http1);
    // What a lenient server could take for a request.
    check(b"\r\nGET / HTTP/1.1\r\n", Detected::Http1);
    check(b"\n\n\nFOO /a HTTP/1.1\n", Detected::Http1);
    check(b"GET  / HTTP/1.1\r\n", Detected::Http1);
    check(b"GET\t/ HTTP/1.1\r\n", Detected::Http1);
    check(b"FOO /a b HTTP/1.1\r\n", Detected::Http1);
    check(b"PRI * HTTP/2.0\r\n\r\nXX", Detected::Http1);
    // HTTP/2.
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n", Detected::NeedMore(2));
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Detected::Http2);
    // Neighbours that are not HTTP.
    check(b"OPTIONS rtsp://a RTSP/1.0\r\n", Detected::Opaque);
    check(b"OPTIONS sip:a SIP/2.0\r\n", Detected::Opaque);
    check(b"GET key\r\n", Detected::Opaque);
    check(b"get key\r\n", Detected::Opaque);
    check(b"*1\r\n$4\r\nPING\r\n", Detected::Opaque);
    check(b"PING\r\n", Detected::Opaque);
    check(b"EHLO mail.example\r\n", Detected::Opaque);
    check(b"CONNECT {\"verbose\": false}\r\n", Detected::Opaque);
    check(b"SSH-2.0-OpenSSH_9.2\r\n", Detected::Opaque);
    check(b" GET / HTTP/1.1\r\n", Detected::Opaque);
    check(&[0, 0, 0, 8, 4, 210, 22, 47], Detected::Opaque);
    // Any number of empty lines, a method of any length.
    check(&[b'\n'; 17], more.clone());
    check(&[b'A'; 33], more);
    check(b"FOO /a\0b HTTP/1.1", Detected::Opaque);
}

#[test]
fn the_end_and_the_bound_settle_everything() {
    for input in [&b""[..], b"GET", b"PRI * ", b"\x16\x03\x01", &Hello::new(None, &[]).wire(1000)[..500]] {
        assert!(matches!(detect(input, false), Detected::NeedMore(_)));
        assert_eq!(detect(input, true), Detected::Opaque);
    }
    assert_eq!(detect(b"GET /", true), Detected::Http1);
    let endless = [b"FOO /".to_vec(), vec![b'a'; PREFIX_BYTES_MAX]].concat();
    assert!(matches!(detect(&endless[..PREFIX_BYTES_MAX - 1], false), Detected::NeedMore(_)));
    assert_eq!(detect(&endless[..PREFIX_BYTES_MAX], false), Detected::Http1, "the parser refuses it in the open");
}

#[test]
fn client_hellos() {
    let check = |hello: &Hello, expected: Detected| {
        for fragment in [16_000, 500, 3] {
            let wire = hello.wire(fragment);
            if wire.len() > PREFIX_BYTES_MAX {
                continue;
            }
            assert_eq!(detect(&wire, false), expected, "{hello:?} in fragments of {fragment}");
            check_bytewise(&wire);
        }
    };
    check(&Hello::new(None, &[]), tls(None, &[]));
    check(&Hello::new(Some("Shop.Example"), &[b"h2", b"http/1.1"]), tls(Some("shop.example"), &[b"h2", b"http/1.1"]));
    check(&Hello::new(Some("a"), &[b"weft-h2/1"]), tls(Some("a"), &[b"weft-h2/1"]));
    check(&Hello { key_share: 12_000, ..Hello::new(None, &[b"x"]) }, tls(None, &[b"x"]));
    // A name that is no DNS name is no name to route by.
    check(&Hello::new(Some("a b"), &[]), tls(None, &[]));
    // A sender that repeats an extension wants two readers to disagree.
    let twice = |kind: u16, data: &[u8]| Hello { more: vec![(kind, data.to_vec())], ..Hello::new(Some("a"), &[b"h2"]) };
    check(&twice(16, b"\0\x03\x02h3"), Detected::Opaque);
    check(&twice(0, b"\0\x04\0\0\x01b"), Detected::Opaque);
    let broken = |kind, data: &[u8]| Hello { more: vec![(kind, data.to_vec())], ..Hello::new(None, &[]) };
    check(&broken(16, b""), Detected::Opaque);
    check(&broken(16, b"\0\0"), Detected::Opaque);
    check(&broken(16, b"\0\x01\0"), Detected::Opaque);
    check(&broken(16, b"\0\x03\x02h"), Detected::Opaque);
    check(&broken(0, b"\0\x04\x01\0\x01b"), Detected::Opaque);
}

#[test]
fn only_one_offer_of_ours_is_the_mesh() {
    let check = |alpn: &[&'static [u8]], expected: Option<MeshAlpn>| {
        let Detected::Tls(hello) = detect(&Hello::new(Some("a"), alpn).wire(9_000), false) else { panic!("not TLS") };
        assert_eq!(hello.mesh(), expected, "{alpn:?}");
    };
    check(&[b"weft-h2/1"], Some(MeshAlpn::Http2));
    check(&[b"weft-h1/1"], Some(MeshAlpn::Http1));
    check(&[b"weft-tcp/1"], Some(MeshAlpn::Tcp));
    check(&[], None);
    check(&[b"h2"], None);
    check(&[b"weft-h2/2"], None);
    check(&[b"WEFT-H2/1"], None);
    check(&[b"weft-h2/1", b"weft-h1/1"], None);
    check(&[b"h2", b"weft-h2/1"], None);
}

#[test]
fn not_quite_tls() {
    let good = Hello::new(None, &[]).wire(9_000);
    let with = |at: usize, byte: u8| {
        let mut wire = good.clone();
        wire[at] = byte;
        wire
    };
    let check = |input: &[u8]| {
        assert_eq!(detect(input, false), Detected::Opaque, "{:?}", &input[..input.len().min(12)]);
        check_bytewise(input);
    };
    check(&with(1, 2));
    check(&with(5, 2));
    check(&with(3, 0xff));
    // Announces more than any hello has.
    check(&with(6, 1));
    check(&[22, 3, 1, 0, 0]);
    // A hello whose second record is none.
    let mut split = Hello::new(None, &[]).wire(800);
    split[805] = 23;
    check(&split);
    check(&records(&message(&[]), 100));
    let body = Hello::new(None, &[]).body();
    check(&records(&message(&[&body[..], b"x"].concat()), 9_000));
    // Hidden behind the hello in the same record: none of detection's business.
    let trailing = records(&[message(&body), vec![1, 2, 3]].concat(), 9_000);
    assert_eq!(detect(&trailing, false), tls(None, &[]));
}

#[test]
fn servers_that_speak_first() {
    let check = |input: &[u8], expected: ServerFirst| assert_eq!(first_server_bytes(input), expected, "{input:?}");
    check(b"", ServerFirst::NeedMore);
    check(b"H", ServerFirst::NeedMore);
    check(b"HTTP/1", ServerFirst::NeedMore);
    check(b"HTTP/1.1 408 Request Timeout\r\n", ServerFirst::Http1);
    check(b"HTTP/2", ServerFirst::Opaque);
    check(b"Hello", ServerFirst::Opaque);
    check(b"2", ServerFirst::Opaque);
    check(b"220 mail.example ESMTP\r\n", ServerFirst::Opaque);
    check(b"SSH-2.0-x\r\n", ServerFirst::Opaque);
    check(b"\x4a\0\0\0\x0a8.0.36\0", ServerFirst::Opaque);
    check(b"\0\0\0\x04\0\0\0\0\0", ServerFirst::Http2Settings);
    check(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64", ServerFirst::Http2Settings);
    check(b"\0\0\x12\x04\0\0\0\0", ServerFirst::NeedMore);
    check(b"\0\x01", ServerFirst::NeedMore);
    check(b"\0\x02", ServerFirst::Opaque);
    check(b"\0\0\x13\x04\0\0\0\0\0", ServerFirst::Opaque);
    check(b"\0\0\x12\x04\x01\0\0\0\0", ServerFirst::Opaque);
    check(b"\0\0\x12\x05\0\0\0\0\0", ServerFirst::Opaque);
    check(b"\0\0\x12\x04\0\0\0\0\x01", ServerFirst::Opaque);
}

/// Bytes that come close to a protocol: a good start, spoiled in places.
fn near_misses() -> impl Strategy<Value = Vec<u8>> {
    let starts = prop_oneof![
        Just(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        Just(b"\r\nM-SEARCH * HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"OPTIONS http://a/b HTTP/1.1\r\n".to_vec()),
        Just([HTTP2_PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat()),
        (1_usize..2_000)
            .prop_map(|fragment| Hello { key_share: 36, ..Hello::new(Some("a.b"), &[b"weft-h1/1"]) }.wire(fragment)),
        proptest::collection::vec(any::<u8>(), 0..80),
    ];
    let spoils = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (starts, spoils, any::<prop::sample::Index>()).prop_map(|(mut bytes, spoils, cut)| {
        for (at, byte) in spoils {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
        bytes
    })
}

proptest! {
    #[test]
    fn an_answer_never_changes_with_more_bytes(bytes in near_misses()) {
        check_bytewise(&bytes);
    }

    #[test]
    fn a_servers_answer_never_changes_with_more_bytes(bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(4), Just(6), any::<u8>()], 0..14)) {
        let answer = first_server_bytes(&bytes);
        for len in 0..bytes.len() {
            let partial = first_server_bytes(&bytes[..len]);
            prop_assert!(partial == answer || partial == ServerFirst::NeedMore);
            prop_assert!(len < 9 || partial != ServerFirst::NeedMore);
        }
    }
}

proptest! {
    /// Servers skip empty lines and take any token for a method: whatever they could read as a request, of whatever
    /// length, is not carried past what is done to HTTP.
    #[test]
    fn what_a_server_could_take_for_a_request_is_never_opaque(
        blank in "[\r\n]{0,40}", method in "[A-Za-z!#$%&'*+.^_`|~0-9-]{1,80}", long in 0_usize..3, cut in any::<prop::sample::Index>(),
    ) {
        let filler = "a".repeat([0, 300, PREFIX_BYTES_MAX][long]);
        let text = format!("{blank}{method} /{filler} HTTP/1.1\r\nHost: a\r\n\r\n");
        let cut = cut.index(text.len()) + 1;
        let detected = detect(&text.as_bytes()[..cut], false);
        prop_assert!(!matches!(detected, Detected::Opaque | Detected::Tls(_)), "{detected:?}");
        prop_assert!(cut < PREFIX_BYTES_MAX || detected == Detected::Http1, "{detected:?}");
    }
}
