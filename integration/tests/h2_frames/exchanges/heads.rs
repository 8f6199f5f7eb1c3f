//! Field sections: methods, statuses, paths, and fields in all legal shapes.

use weft_integration::raw::h2_frame::Frame;
use weft_integration::raw::h2_hpack::{Indexing, indexed, literal, literal_named_by, table_size};

use crate::script::{AUTHORITY, Exchange, fields_frame, request, response};

pub(crate) fn all() -> Vec<Exchange> {
    [methods(), statuses(), paths(), authorities(), request_fields(), response_fields(), encodings()].concat()
}

fn methods() -> Vec<Exchange> {
    let names = [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "PATCH",
        "OPTIONS",
        "TRACE",
        "PROPFIND",
        "M-SEARCH",
        "get",
        "!#$%&'*+-.^_`|~",
        "A-METHOD-OF-FORTY-LETTERS-AND-MORE-THAN-IT",
    ];
    let exchange = |name: &str| {
        let answer = response(1, "200", &[("x-method", name)], true);
        Exchange::plain(format!("method {name}"), vec![request(1, name, "/m", &[], true)], vec![answer])
    };
    names.into_iter().map(exchange).collect()
}

fn statuses() -> Vec<Exchange> {
    let codes = [
        "200", "201", "202", "203", "206", "207", "226", "299", "300", "301", "304", "307", "400", "401", "404", "407",
        "408", "409", "417", "421", "425", "429", "431", "451", "499", "500", "502", "503", "504", "511", "599", "600",
        "999",
    ];
    let exchange = |code: &str| {
        let fields = [("location", "/elsewhere"), ("www-authenticate", "Basic realm=\"a\""), ("retry-after", "3")];
        let answer = response(1, code, &fields, true);
        Exchange::plain(format!("status {code}"), vec![request(1, "GET", "/s", &[], true)], vec![answer])
    };
    codes.into_iter().map(exchange).collect()
}

fn paths() -> Vec<Exchange> {
    let long = format!("/{}?{}", "p".repeat(7000), "q".repeat(700));
    let paths = [
        ("root with query", "/?"),
        ("server-wide options", "*"),
        ("nothing is normalised", "//a/./b/../c//%2e%2E/%41;x=1?y=%zz&&z=/?"),
        ("delimiters", "/a!$&'()*+,;=:@-._~b?a[0]=1&b={c}|d\\e^f"),
        ("quotes and braces", "/a\"b{c}?{d}"),
        ("very long", &long),
    ];
    let exchange = |(name, path): (&str, &str)| {
        let request = request(1, if path == "*" { "OPTIONS" } else { "GET" }, path, &[], true);
        Exchange::plain(format!("path: {name}"), vec![request], vec![response(1, "200", &[], true)])
    };
    paths.into_iter().map(exchange).collect()
}

fn authorities() -> Vec<Exchange> {
    let (path, get, http) = ((":path", "/a"), (":method", "GET"), (":scheme", "http"));
    let heads: [(&str, Vec<(&str, &str)>); 6] = [
        ("capitals and port", vec![get, http, (":authority", "BackEnd.Default:80"), path]),
        ("address of six", vec![get, http, (":authority", "[::1]:8080"), path]),
        ("host beside it", vec![get, http, (":authority", AUTHORITY), path, ("host", AUTHORITY)]),
        ("host alone", vec![get, http, path, ("host", AUTHORITY)]),
        ("https", vec![get, (":scheme", "https"), (":authority", AUTHORITY), path]),
        ("pseudo-header fields in another order", vec![path, (":authority", AUTHORITY), get, http]),
    ];
    let exchange = |(name, fields): (&str, Vec<(&str, &str)>)| {
        let request = fields_frame(1, &fields, true);
        Exchange::plain(format!("authority: {name}"), vec![request], vec![response(1, "200", &[], true)])
    };
    heads.into_iter().map(exchange).collect()
}

fn request_fields() -> Vec<Exchange> {
    let many: Vec<(String, String)> = (0..150).map(|n| (format!("x-many-{n}"), format!("value {n}"))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let sets: [(&str, &[(&str, &str)]); 14] = [
        ("cookie crumbs", &[("cookie", "a=b"), ("x-between", "1"), ("cookie", "c=d"), ("cookie", "e=f; g=h")]),
        ("te: trailers", &[("te", "trailers")]),
        ("repeated names", &[("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-b", ""), ("x-a", "1")]),
        ("empty value", &[("x-empty", ""), ("accept-encoding", "")]),
        ("odd names", &[("!#$%&'*+-.^_`|~", "all token characters"), ("0", "digit")]),
        ("tab and quotes in a value", &[("x-tab", "a\tb"), ("x-quoted", "\"a, \\\"b\\\"\""), ("accept", "a;q=0.1,,b")]),
        ("priority", &[("priority", "u=1, i")]),
        ("credentials", &[("authorization", "Bearer a.b.c"), ("proxy-authorization", "Basic Zm9v")]),
        ("forwarding", &[("x-forwarded-for", "192.0.2.1, 192.0.2.2"), ("forwarded", "for=a"), ("via", "1.1 edge")]),
        (
            "conditions and ranges",
            &[("if-none-match", "\"a\", W/\"b\""), ("range", "bytes=0-1,5-"), ("max-forwards", "0")],
        ),
        ("claims of who called", &[("x-forwarded-client-cert", "URI=spiffe://a/b"), ("x-weft-client-id", "me")]),
        ("fields of the mesh", &[("x-weft-error", "made up"), ("x-envoy-attempt-count", "9"), ("l5d-client-id", "x")]),
        ("ids of the caller's", &[("x-request-id", "6d7b5b1e-0000-4000-8000-000000000001"), ("correlation-id", "z")]),
        ("a hundred and fifty", &many),
    ];
    let exchange = |(name, fields): (&str, &[(&str, &str)])| {
        let request = request(1, "GET", "/f", fields, true);
        Exchange::plain(format!("request fields: {name}"), vec![request], vec![response(1, "200", &[], true)])
    };
    let trace = [
        ("trace context of W3C", vec![("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]),
        ("trace context by b3", vec![("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")]),
    ];
    let octets: [(&str, &[u8]); 6] = [
        (":method", b"GET"),
        (":scheme", b"http"),
        (":authority", AUTHORITY.as_bytes()),
        (":path", b"/o"),
        ("x-obs-text", b"caf\xe9 \x80\xff"),
        ("x-utf-8", "Grüße".as_bytes()),
    ];
    let octets = Exchange::plain(
        "request fields: octets beyond ASCII",
        vec![fields_frame(1, &octets, true)],
        vec![response(1, "200", &[], true)],
    );
    let trace = trace.iter().map(|(name, fields)| exchange((name, fields)));
    sets.into_iter().map(exchange).chain(trace).chain([octets]).collect()
}

fn response_fields() -> Vec<Exchange> {
    let sets: [(&str, &[(&str, &str)]); 6] = [
        ("cookies are set one by one", &[("set-cookie", "a=b"), ("x-between", "1"), ("set-cookie", "c=d, e; Path=/")]),
        ("date, server and via are the server's", &[("date", "odd date"), ("server", "mine/1"), ("via", "1.1 x")]),
        ("repeated names", &[("x-a", "1"), ("x-b", ""), ("x-a", "2"), ("link", "</a>"), ("link", "</b>")]),
        (
            "for caches",
            &[("age", "7"), ("vary", "*"), ("cache-control", "no-store, private=\"a\""), ("etag", "W/\"\"")],
        ),
        ("alternatives", &[("alt-svc", "h3=\":443\""), ("upgrade-insecure-requests", "1")]),
        ("security", &[("strict-transport-security", "max-age=1"), ("content-security-policy", "default-src 'none'")]),
    ];
    let exchange = |(name, fields): (&str, &[(&str, &str)])| {
        let answer = response(1, "200", fields, true);
        Exchange::plain(format!("response fields: {name}"), vec![request(1, "GET", "/r", &[], true)], vec![answer])
    };
    sets.into_iter().map(exchange).collect()
}

/// The same fields, written in other ways.
fn encodings() -> Vec<Exchange> {
    let big = "b".repeat(20_000);
    let fields = [("x-big-1", big.as_str()), ("x-big-2", &big), ("x-big-3", &big)];
    let large = request(1, "GET", "/large", &fields, true).fragmented(16_000);
    let answer = response(1, "200", &fields, true).fragmented(16_000);
    let small = request(1, "GET", "/small", &[], true).fragmented(20);
    let mut table = Vec::new();
    table_size(&mut table, 0);
    table_size(&mut table, 4096);
    indexed(&mut table, 2);
    indexed(&mut table, 6);
    literal_named_by(&mut table, Indexing::Added, 1, AUTHORITY.as_bytes());
    literal_named_by(&mut table, Indexing::Without, 4, b"/table");
    literal(&mut table, Indexing::Added, b"x-added", b"1");
    literal(&mut table, Indexing::Never, b"authorization", b"secret");
    indexed(&mut table, 62);
    literal(&mut table, Indexing::Without, b"x-stream", b"1");
    let ok = || vec![response(1, "200", &[], true)];
    let prioritised = request(1, "GET", "/priority", &[], true).with_priority(0x8000_0000, 200).padded(5);
    vec![
        Exchange::plain("head: large, in CONTINUATION frames, both ways", large, answer),
        Exchange::plain("head: small, in CONTINUATION frames", small, ok()),
        Exchange::plain("head: table updates, indexed and never indexed", vec![Frame::headers(1, table, true)], ok()),
        Exchange::plain("head: padding and priority in HEADERS", vec![prioritised], ok()),
    ]
}
