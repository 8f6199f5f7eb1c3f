//! Requests whose end two readers could see in different places.

use super::lab::{Lab, SMUGGLED};

/// Field lines between a good request line and the end of the head; what follows would be the smuggled request.
async fn refuses_fields(cases: &[(&str, &str, u64, &str)]) -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for (name, lines, status, fault) in cases {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n{SMUGGLED}");
        lab.refuses(name, bytes.as_bytes(), *status, fault).await?;
    }
    lab.settle().await
}

/// Whole first lines, with a good `Host` after them.
async fn refuses_lines(cases: &[(&str, &str, u64, &str)]) -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for (name, line, status, fault) in cases {
        let bytes = format!("{line}\r\nHost: a\r\n\r\n{SMUGGLED}");
        lab.refuses(name, bytes.as_bytes(), *status, fault).await?;
    }
    lab.settle().await
}

#[tokio::test]
async fn cve_2019_20372_length_and_transfer_encoding() -> anyhow::Result<()> {
    refuses_fields(&[
        ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked", 400, "bad_request"),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 6", 400, "bad_request"),
        ("CL 0", "Content-Length: 0\r\nTransfer-Encoding: chunked", 400, "bad_request"),
        ("between others", "Content-Length: 6\r\nX: y\r\ntransfer-encoding: Chunked", 400, "bad_request"),
        ("unknown coding", "Content-Length: 6\r\nTransfer-Encoding: x", 400, "bad_request"),
        (
            "nominated away",
            "Connection: content-length\r\nContent-Length: 6\r\nTransfer-Encoding: chunked",
            400,
            "bad_request",
        ),
        (
            "nominated away too",
            "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: 6",
            400,
            "bad_request",
        ),
    ])
    .await
}

/// HAProxy, and with it what the research on request smuggling has tried since 2019.
#[tokio::test]
async fn cve_2019_18277_transfer_encoding_obfuscated() -> anyhow::Result<()> {
    let bad: &[&str] = &[
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunk",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \x0cchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: \x7fchunked",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: ,",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,,chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked; x=y",
        "Transfer-Encoding: chunked x",
        "Transfer-Encoding: chun ked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: x",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\x0b: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: \r\n\tchunked",
        "Transfer-Encoding: chunked\r\n x",
        "Transfer-Encoding: x\r\n chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\rX: y",
        "Transfer\0-Encoding: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding chunked",
        "\0Transfer-Encoding: chunked",
        "\u{feff}Transfer-Encoding: chunked",
        "Transfer\u{2d0}Encoding: chunked",
    ];
    let mut cases: Vec<_> = bad.iter().map(|lines| ("obfuscated", *lines, 400, "bad_request")).collect();
    cases.push(("a coding before it", "Transfer-Encoding: gzip, chunked", 501, "not_implemented"));
    cases.push((
        "a coding before it, apart",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        501,
        "not_implemented",
    ));
    cases.push(("identity before it", "Transfer-Encoding: identity, chunked", 501, "not_implemented"));
    refuses_fields(&cases).await
}

/// hyper took a sign; HAProxy an empty value (CVE-2023-40225) and a list behind a name of 256 bytes (CVE-2021-40346).
#[tokio::test]
async fn rustsec_2021_0078_odd_content_length() -> anyhow::Result<()> {
    let long = format!("Content-Length0{}: 1\r\nContent-Length: 10, 1", "a".repeat(255));
    let values = [
        "+3",
        "-1",
        "-0",
        "",
        " ",
        "\t",
        "3 ",
        "3,3",
        "3, 3",
        "3,",
        ",3",
        "0x3",
        "0o3",
        "3.0",
        "3e0",
        "1_0",
        "1 0",
        "3;",
        "\"3\"",
        "'3'",
        "3\x0b",
        "\x0c3",
        "3\0",
        "\u{663}",
        "three",
        "NaN",
        "18446744073709551616",
        "99999999999999999999999999",
        "3\r\n 0",
    ];
    let lines: Vec<String> = values.iter().map(|value| format!("Content-Length: {value}")).collect();
    let mut cases = Vec::new();
    for line in &lines {
        // Blanks around a value are no part of it (RFC 9110 section 5.5).
        if line != "Content-Length: 3 " {
            cases.push(("odd length", line.as_str(), 400, "bad_request"));
        }
    }
    cases.push(("CVE-2021-40346", &long, 400, "bad_request"));
    cases.push(("twice", "Content-Length: 3\r\nContent-Length: 4", 400, "bad_request"));
    cases.push(("twice the same", "Content-Length: 3\r\ncontent-length: 3", 400, "bad_request"));
    cases.push(("space before colon", "Content-Length : 3", 400, "bad_request"));
    cases.push(("behind a bare LF", "X: y\nContent-Length: 3", 400, "bad_request"));
    refuses_fields(&cases).await
}

/// Lengths that only look odd: leading zeros are digits (RFC 9110 section 8.6) and pass as they are, framed by their value.
#[tokio::test]
async fn leading_zeros_of_a_length_are_digits() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for length in ["03", "0000000000000000000000000000003"] {
        let bytes = format!(
            "POST /z HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nabcGET /next HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let mut wire = lab.client().await?;
        wire.send(bytes.as_bytes()).await?;
        wire.read_bytes(2 * super::lab::HONEST.len()).await?;
        assert_eq!(lab.server.take().concat(), bytes.as_bytes());
        lab.expect([("", 200), ("", 200)], [("", 200), ("", 200)]);
    }
    lab.settle().await
}

/// HAProxy ended the head at a field with an empty name, and what came after was the next request to it.
#[tokio::test]
async fn cve_2023_25725_empty_header_name() -> anyhow::Result<()> {
    refuses_fields(&[
        ("empty name", ": x", 400, "bad_request"),
        ("empty name and value", ":", 400, "bad_request"),
        ("before framing", ":\r\nContent-Length: 5", 400, "bad_request"),
        ("after framing", "Transfer-Encoding: chunked\r\n:x", 400, "bad_request"),
        ("blank for a name", " : x", 400, "bad_request"),
        ("pseudo-header", ":path: /admin", 400, "bad_request"),
    ])
    .await
}

/// Envoy let NUL, and the white space of CVE-2019-18802, through in values.
#[tokio::test]
async fn cve_2019_9900_forbidden_bytes_in_fields() -> anyhow::Result<()> {
    let lines: Vec<String> = (0_u8..32)
        .chain([127])
        .filter(|byte| !matches!(byte, b'\t'))
        .flat_map(|byte| {
            let byte = char::from(byte);
            [format!("X: a{byte}b"), format!("X{byte}Y: a")]
        })
        .chain(["X[: a", "X]: a", "X(: a", "X/: a", "X@: a", "X\\: a", "X{: a", "X=: a", "X\u{e9}: a"].map(Into::into))
        .chain(["X: a\r\n b", "X: a\r\n\tb", "X: a\r\n \r\nY: b", "X:\r\n", "X", "X a", "X\tY: a"].map(Into::into))
        .collect();
    // An empty value is none of these.
    let cases: Vec<_> =
        lines.iter().filter(|l| *l != "X:\r\n").map(|lines| ("field", lines.as_str(), 400, "bad_request")).collect();
    refuses_fields(&cases).await
}

/// Line ends that some readers take and others do not; httparse takes a bare LF everywhere.
#[tokio::test]
async fn http_garden_bare_line_ends_in_heads() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\rHost: a\r\r",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n",
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\n\rHost: a\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        " \r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        lab.refuses("line end", format!("{head}{SMUGGLED}").as_bytes(), 400, "bad_request").await?;
    }
    lab.settle().await
}

#[tokio::test]
async fn http_garden_request_lines() -> anyhow::Result<()> {
    refuses_lines(&[
        ("HTTP/0.9", "GET /", 400, "bad_request"),
        ("method alone", "GET", 400, "bad_request"),
        ("no method", " / HTTP/1.1", 400, "bad_request"),
        ("two blanks", "GET  / HTTP/1.1", 400, "bad_request"),
        ("tab", "GET\t/\tHTTP/1.1", 400, "bad_request"),
        ("blank in target", "GET /a HTTP/1.1 /b HTTP/1.1", 400, "bad_request"),
        ("trailing blank", "GET / HTTP/1.1 ", 400, "bad_request"),
        ("form feed", "GET /\x0cHTTP/1.1", 400, "bad_request"),
        ("NUL in target", "GET /a\0b HTTP/1.1", 400, "bad_request"),
        ("DEL in target", "GET /\x7f HTTP/1.1", 400, "bad_request"),
        ("bracket in method", "GE[T / HTTP/1.1", 400, "bad_request"),
        ("colon in method", "GET: / HTTP/1.1", 400, "bad_request"),
        ("no slash", "GET a HTTP/1.1", 400, "bad_request"),
        ("query alone", "GET ?a HTTP/1.1", 400, "bad_request"),
        ("backslash", "GET \\a HTTP/1.1", 400, "bad_request"),
        ("asterisk", "GET * HTTP/1.1", 400, "bad_request"),
        ("other scheme", "GET gopher://a/ HTTP/1.1", 400, "bad_request"),
        ("version 2", "GET / HTTP/2.0", 505, "version_not_supported"),
        ("version 1.2", "GET / HTTP/1.2", 505, "version_not_supported"),
        ("version 9.9", "GET / HTTP/9.9", 505, "version_not_supported"),
        ("version 0.9", "GET / HTTP/0.9", 505, "version_not_supported"),
        ("version 1.10", "GET / HTTP/1.10", 400, "bad_request"),
        ("version 01.1", "GET / HTTP/01.1", 400, "bad_request"),
        ("version 1,1", "GET / HTTP/1,1", 400, "bad_request"),
        ("version +1.1", "GET / HTTP/+1.1", 400, "bad_request"),
        ("version in lower case", "GET / http/1.1", 400, "bad_request"),
        ("version of RTSP", "GET / RTSP/1.0", 400, "bad_request"),
        ("no version number", "GET / HTTP/", 400, "bad_request"),
        ("TE in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked", 400, "bad_request"),
        ("a body with CONNECT", "CONNECT a:80 HTTP/1.1\r\nContent-Length: 3", 400, "bad_request"),
    ])
    .await
}

/// Heads beyond every bound are answered while they still come.
#[tokio::test]
async fn cve_2019_18801_heads_without_end() -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let head = |rest: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}");
    let cases = [
        ("one huge value", head(&format!("X: {}", "x".repeat(1 << 20))), 431, "head_too_large"),
        ("one huge name", head(&"x".repeat(1 << 20)), 431, "head_too_large"),
        ("fields without end", head(&"a: b\r\n".repeat(1 << 17)), 431, "head_too_large"),
        ("a few too many fields", head(&format!("{}\r\n", "a: b\r\n".repeat(200))), 431, "head_too_large"),
        ("a request line without end", format!("GET /{}", "x".repeat(1 << 20)), 414, "target_too_long"),
        ("a method without end", "X".repeat(1 << 20), 414, "target_too_long"),
        ("a cookie of 1 MiB", head(&format!("Cookie: {}", "a=b; ".repeat(1 << 18))), 431, "head_too_large"),
    ];
    for (name, bytes, status, fault) in cases {
        lab.refuses(name, bytes.as_bytes(), status, fault).await?;
    }
    lab.settle().await
}
