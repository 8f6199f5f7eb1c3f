use super::*;

fn request(version: Version, fields: &[(&str, &str)]) -> RequestHead {
    RequestHead { version, fields: fields.iter().copied().collect(), ..RequestHead::new(Method::GET, "/") }
}

fn response(version: Version, fields: &[(&str, &str)]) -> ResponseHead {
    ResponseHead { version, fields: fields.iter().copied().collect(), ..ResponseHead::new(200) }
}

#[test]
fn authority_counts_before_host() {
    let mut head = request(Version::Http11, &[("hOsT", "from-host:1")]);
    assert_eq!(head.host(), Some(&b"from-host:1"[..]));
    head.authority = Some(Bytes::from_static(b"from-authority"));
    assert_eq!(head.host(), Some(&b"from-authority"[..]));
    assert_eq!(request(Version::Http10, &[]).host(), None);
}

#[test]
fn splits_targets_without_changing_them() {
    fn check(method: Method, target: &'static str, whole: &str, path: &str, query: Option<&str>) {
        let head = RequestHead::new(method, target);
        assert_eq!(head.path_and_query(), whole.as_bytes(), "{target}");
        assert_eq!(head.path(), path.as_bytes(), "{target}");
        assert_eq!(head.query(), query.map(str::as_bytes), "{target}");
    }
    check(Method::GET, "/", "/", "/", None);
    check(Method::GET, "/a/../%2e/b?c?d", "/a/../%2e/b?c?d", "/a/../%2e/b", Some("c?d"));
    check(Method::GET, "/a?", "/a?", "/a", Some(""));
    check(Method::GET, "/http://b/c", "/http://b/c", "/http://b/c", None);
    check(Method::GET, "http://a", "/", "/", None);
    check(Method::GET, "http://a/b?c", "/b?c", "/b", Some("c"));
    check(Method::GET, "https://a:1//b", "//b", "//b", None);
    check(Method::OPTIONS, "*", "*", "*", None);
    check(Method::CONNECT, "a:443", "", "", None);
    let extended = RequestHead {
        protocol: Some(Bytes::from_static(b"websocket")),
        ..RequestHead::new(Method::CONNECT, "/chat?a")
    };
    assert_eq!(extended.path(), b"/chat");
}

#[test]
fn knows_grpc_from_its_content_type() {
    fn check(content_type: &str, expected: bool) {
        let fields = [("Content-Type", content_type)];
        assert_eq!(request(Version::Http2, &fields).is_grpc(), expected, "{content_type}");
        assert_eq!(response(Version::Http2, &fields).is_grpc(), expected, "{content_type}");
    }
    check("application/grpc", true);
    check("application/grpc+proto", true);
    check("Application/GRPC;charset=utf-8", true);
    check("application/grpc ; a=b", true);
    check("application/grpc-web", false);
    check("application/grpc-web+proto", false);
    check("application/grpcx", false);
    check("application/json", false);
    check("", false);
    assert!(!request(Version::Http2, &[]).is_grpc());
}

#[test]
fn upgrade_needs_both_fields_and_http_11() {
    fn check(version: Version, fields: &[(&str, &str)], expected: Option<&str>) {
        assert_eq!(request(version, fields).wants_upgrade(), expected.map(str::as_bytes), "{fields:?}");
    }
    let (upgrade, connection) = (("Upgrade", "WebSocket"), ("connection", "keep-alive, UPGRADE"));
    check(Version::Http11, &[upgrade, connection], Some("WebSocket"));
    check(Version::Http10, &[upgrade, connection], None);
    check(Version::Http2, &[upgrade, connection], None);
    check(Version::Http11, &[upgrade], None);
    check(Version::Http11, &[connection], None);
    check(Version::Http11, &[("upgrade", "h2c"), connection], None);
    // The server chooses among what is offered, so one h2c spoils all.
    check(Version::Http11, &[("upgrade", "H2C, websocket"), connection], None);
}

#[test]
fn continue_is_expected_from_http_11_on() {
    let expect = [("Expect", "100-Continue")];
    assert!(request(Version::Http11, &expect).expects_continue());
    assert!(request(Version::Http2, &expect).expects_continue());
    assert!(!request(Version::Http10, &expect).expects_continue());
    assert!(!request(Version::Http11, &[]).expects_continue());
}

#[test]
fn persistence_follows_version_and_connection() {
    fn check(version: Version, connection: &[(&str, &str)], expected: bool) {
        assert_eq!(request(version, connection).keeps_alive(), expected, "{version:?} {connection:?}");
        assert_eq!(response(version, connection).keeps_alive(), expected, "{version:?} {connection:?}");
    }
    check(Version::Http11, &[], true);
    check(Version::Http11, &[("Connection", "keep-alive")], true);
    check(Version::Http11, &[("connection", "Upgrade, CLOSE")], false);
    check(Version::Http11, &[("connection", "x"), ("connection", "close")], false);
    check(Version::Http11, &[("proxy-connection", "close")], true);
    check(Version::Http10, &[], false);
    check(Version::Http10, &[("connection", "Keep-Alive")], true);
    check(Version::Http10, &[("connection", "keep-alive, close")], false);
    check(Version::Http10, &[("proxy-connection", "keep-alive")], false);
    check(Version::Http2, &[("connection", "close")], true);
}

#[test]
fn an_exchange_persists_when_both_sides_do() {
    let (open, shut) = (&[][..], &[("connection", "close")][..]);
    for (asked, answered, framing, expected) in [
        (open, open, BodyFraming::Chunked, true),
        (open, open, BodyFraming::Length(3), true),
        (open, open, BodyFraming::None, true),
        (open, open, BodyFraming::UntilClose, false),
        (shut, open, BodyFraming::None, false),
        (open, shut, BodyFraming::None, false),
    ] {
        let (request, response) = (request(Version::Http11, asked), response(Version::Http11, answered));
        assert_eq!(crate::h1::persistent(&request, &response, framing), expected, "{asked:?} {answered:?} {framing:?}");
    }
}

#[test]
fn only_101_is_final_below_200() {
    for (status, interim) in
        [(100, true), (101, false), (102, true), (103, true), (199, true), (200, false), (500, false)]
    {
        assert_eq!(ResponseHead::new(status).is_interim(), interim, "{status}");
    }
}

#[test]
fn chunks_never_go_to_http_10() {
    assert_eq!(BodyFraming::Chunked.toward(Version::Http10), BodyFraming::UntilClose);
    assert_eq!(BodyFraming::Chunked.toward(Version::Http11), BodyFraming::Chunked);
    assert_eq!(BodyFraming::Length(3).toward(Version::Http10), BodyFraming::Length(3));
}

#[test]
fn asked_is_read_from_the_request() {
    let mut head = request(Version::Http11, &[("upgrade", "x"), ("connection", "upgrade")]);
    assert_eq!(Asked::by(&head), Asked { head: false, connect: false, upgrade: true });
    head.method = Method::HEAD;
    head.fields.remove("upgrade");
    assert_eq!(Asked::by(&head), Asked { head: true, connect: false, upgrade: false });
    head.method = Method::CONNECT;
    assert_eq!(Asked::by(&head), Asked { head: false, connect: true, upgrade: false });
}
