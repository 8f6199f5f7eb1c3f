//! Requests that name two destinations, or one in a way that two readers take for different ones.

use super::lab::{HONEST, Lab};

async fn refuses_heads(heads: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for (name, head) in heads {
        lab.refuses(name, format!("{head}\r\n\r\n").as_bytes(), 400, "bad_request").await?;
    }
    lab.settle().await
}

/// HAProxy passed `#` on in paths, and rules that look at ends of paths saw another one than the server did.
#[tokio::test]
async fn cve_2023_45539_fragments() -> anyhow::Result<()> {
    refuses_heads(&[
        ("in the path", "GET /admin#.png HTTP/1.1\r\nHost: a"),
        ("alone", "GET # HTTP/1.1\r\nHost: a"),
        ("after the query", "GET /?a#b HTTP/1.1\r\nHost: a"),
        ("in absolute-form", "GET http://a/#b HTTP/1.1\r\nHost: a"),
        ("in the authority", "GET http://a#@b/ HTTP/1.1\r\nHost: a"),
        ("in Host", "GET / HTTP/1.1\r\nHost: a#b"),
        ("in CONNECT", "CONNECT a:80#b HTTP/1.1\r\nHost: a"),
        ("in asterisk-form", "OPTIONS *#a HTTP/1.1\r\nHost: a"),
    ])
    .await
}

#[tokio::test]
async fn duplicate_and_malformed_host() -> anyhow::Result<()> {
    let hosts = [
        "",
        " ",
        ",",
        "a,b",
        "a, b",
        "a b",
        "a\tb",
        "user@a",
        "user:password@a",
        "a@",
        "@a",
        "a/",
        "a/b",
        "/a",
        "a?b",
        "?",
        "a\\b",
        "a:",
        "a:0",
        "a:65536",
        "a:99999",
        "a:080808",
        "a:-1",
        "a:+80",
        "a:80:80",
        "a:b",
        ":80",
        "[",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:x",
        "[a]",
        "[::1%25lo]",
        "a%",
        "a%2",
        "a%zz",
        "a\"",
        "<a>",
        "{a}",
        "a|b",
        "a^b",
        "a`b",
        "\u{e9}",
        "http://a",
        "a;b/c",
    ];
    let lines: Vec<String> = hosts.iter().map(|host| format!("GET / HTTP/1.1\r\nHost: {host}")).collect();
    let mut heads: Vec<_> = lines.iter().map(|head| ("bad Host", head.as_str())).collect();
    heads.extend([
        ("none", "GET / HTTP/1.1\r\nX: y"),
        ("twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: b"),
        ("twice the same", "GET / HTTP/1.1\r\nHost: a\r\nhost: a"),
        ("apart", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nHOST: b"),
        ("one empty", "GET / HTTP/1.1\r\nHost:\r\nHost: a"),
        ("twice in 1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b"),
        ("nominated", "GET / HTTP/1.1\r\nConnection: host\r\nHost: a\r\nHost: b"),
        ("space before colon", "GET / HTTP/1.1\r\nHost : a"),
        ("folded", "GET / HTTP/1.1\r\nHost: a\r\n .b"),
        ("before a second, folded", "GET / HTTP/1.1\r\nX: y\r\n Host: b\r\nHost: a"),
    ]);
    refuses_heads(&heads).await
}

/// Target and `Host` disagree: whoever routes by one and serves by the other is confused.
#[tokio::test]
async fn cve_2021_29492_absolute_form_against_host() -> anyhow::Result<()> {
    refuses_heads(&[
        ("another host", "GET http://b/ HTTP/1.1\r\nHost: a"),
        ("another port", "GET http://a:81/ HTTP/1.1\r\nHost: a"),
        ("port of the other scheme", "GET https://a:80/ HTTP/1.1\r\nHost: a"),
        ("userinfo", "GET http://a@b/ HTTP/1.1\r\nHost: a"),
        ("userinfo with the host", "GET http://a@a/ HTTP/1.1\r\nHost: a"),
        ("credentials", "GET http://u:p@a/ HTTP/1.1\r\nHost: a"),
        ("no host", "GET http:///a HTTP/1.1\r\nHost: a"),
        ("no Host", "GET http://a/ HTTP/1.1\r\nX: y"),
        ("one slash", "GET http:/a HTTP/1.1\r\nHost: a"),
        ("backslash", "GET http://a\\b/ HTTP/1.1\r\nHost: a"),
        ("query without path", "GET http://a?b HTTP/1.1\r\nHost: a"),
        ("tab", "GET http://a\t/ HTTP/1.1\r\nHost: a"),
        ("1.0 with another", "GET http://b/ HTTP/1.0\r\nHost: a"),
        ("CONNECT to another", "CONNECT b:80 HTTP/1.1\r\nHost: a:80"),
        ("CONNECT without port", "CONNECT a HTTP/1.1\r\nHost: a"),
        ("CONNECT with a path", "CONNECT /a HTTP/1.1\r\nHost: a"),
    ])
    .await
}

/// Envoy and Istio decided by one spelling of a path and sent another. Here nothing is respelled: what reaches the
/// application is byte for byte what was asked for, so that it and any policy see the same.
#[tokio::test]
async fn cve_2019_9901_paths_are_not_normalised() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let paths = [
        "/a/../b",
        "/a/./b",
        "//a//b",
        "/a/..",
        "/..",
        "/a/%2e%2e/b",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a;x=y/b",
        "/a/..;/b",
        "/%41",
        "/%",
        "/%zz",
        "/%00",
        "/a%0d%0ab",
        "/a%20b",
        "/A/a",
        "/a?b?c",
        "/?",
        "/a?../b",
        "/a/b/",
        "/.",
        "/a//",
        "/\u{e9}",
        "/<>\"{}|^`",
        "/a+b",
        "/a:b@c",
        "/a%23b",
        "/*",
        "http://a/../b?c",
        "http://a",
        "http://a:80//",
    ];
    for path in paths {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut wire = lab.client().await?;
        wire.send(head.as_bytes()).await?;
        wire.read_bytes(HONEST.len()).await?;
        assert_eq!(wire.received(), HONEST);
        assert_eq!(String::from_utf8_lossy(&lab.server.take().concat()), head);
        lab.expect([("", 200)], [("", 200)]);
    }
    lab.settle().await
}
