//! A client that speaks one version of HTTP, a server that speaks another, and one plain proxy between them.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use weft_integration::apps::{python, script};

use crate::support::{Running, app, curl, free_ports, proxy, said, start, wait_for_port};

/// One server behind a reverse proxy.
struct Translated {
    listen: u16,
    _running: [Running; 2],
    directory: TempDir,
}

impl Translated {
    /// `server` starts one on the port it is given; `protocol` is what the service declares.
    fn start(server: impl Fn(u16) -> Running, protocol: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [listen, port] = free_ports().unwrap();
        let replaced = [
            ("127.0.0.1:8080", format!("127.0.0.1:{listen}")),
            ("9001", port.to_string()),
            ("9002", port.to_string()),
            ("appProtocol: http", format!("appProtocol: {protocol}")),
        ]
        .map(|(from, to)| (from.to_owned(), to));
        let running = [server(port), proxy(directory.path(), "reverse-proxy.yaml", &replaced)];
        [port, listen].into_iter().for_each(|port| wait_for_port(port).unwrap());
        Self { listen, _running: running, directory }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.listen)
    }

    /// What the server says it has received.
    fn echo(&self, arguments: &[&str]) -> Value {
        let reply = said(&[arguments, &[&self.url("/echo?a=b")]].concat());
        serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{error}: {reply}"))
    }
}

fn by_node(port: u16) -> Running {
    start(Command::new("node").arg(script("h2c_app.js").unwrap()).arg(port.to_string())).unwrap()
}

#[test]
fn an_http1_client_reaches_an_h2c_server() {
    let server = Translated::start(by_node, "kubernetes.io/h2c");
    let megabyte = "@".to_owned() + &write_megabyte(server.directory.path());
    let chunked = ["-H", "Transfer-Encoding: chunked", "--data-binary", &megabyte];
    for version in ["--http1.0", "--http1.1"] {
        let echo = server.echo(&[version, "-H", "X-Odd-Case: Kept", "-H", "Connection: x-drop", "-H", "X-Drop: 1"]);
        assert_eq!(echo["version"], "HTTP/2");
        assert_eq!(echo["headers"][":path"], "/echo?a=b");
        assert_eq!(echo["headers"][":authority"], format!("127.0.0.1:{}", server.listen));
        assert_eq!(echo["headers"]["x-odd-case"], "Kept", "{echo}");
        assert!(echo["headers"]["x-drop"].is_null() && echo["headers"]["connection"].is_null(), "{echo}");
        let echo = server.echo(&[version, "--data-binary", &megabyte]);
        assert_eq!((&echo["headers"][":method"], &echo["length"]), (&"POST".into(), &MEGABYTE.into()), "{version}");
        assert_eq!(said(&[version, &server.url("/size/1000000")]).len(), 1_000_000);
        assert_eq!(said(&[version, &server.url("/stream/3/20")]), "chunk 0\nchunk 1\nchunk 2\n");
        assert_eq!(status(&[version, "-I", &server.url("/size/7")]), "200");
        assert_eq!(status(&[version, &server.url("/status/204")]), "204");
        assert!(!curl(&[version, &server.url("/cut")]).status.success(), "a cut answer must not look whole");
    }
    assert_eq!(server.echo(&chunked)["length"], MEGABYTE);
    let raw = said(&["--raw", "-i", &server.url("/echo")]);
    assert!(raw.ends_with("\r\n0\r\nx-checksum: 5d41\r\n\r\n"), "the trailer: {raw}");
    let early = said(&["-i", &server.url("/early")]);
    assert!(early.starts_with("HTTP/1.1 103 ") && early.ends_with("after hints"), "{early}");
    let early = said(&["--http1.0", "-i", &server.url("/early")]);
    assert!(early.starts_with("HTTP/1.1 200 ") && early.ends_with("after hints"), "1.0 has no 1xx: {early}");
}

#[test]
fn an_h2c_client_reaches_an_http1_server() {
    let server = Translated::start(|port| app(&["http_app.py", &port.to_string()]), "http");
    let ask = |path: &str, more: &[&str]| said(&[&["--http2-prior-knowledge"], more, &[&server.url(path)]].concat());
    let megabyte = "@".to_owned() + &write_megabyte(server.directory.path());
    let echo = server.echo(&["--http2-prior-knowledge", "--data-binary", &megabyte]);
    assert_eq!((&echo["line"], &echo["length"]), (&"POST /echo?a=b HTTP/1.1".into(), &MEGABYTE.into()));
    let headers: Vec<&str> = echo["headers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let host = headers.iter().filter(|line| line.to_lowercase().starts_with("host:")).collect::<Vec<_>>();
    assert_eq!(host.len(), 1, "{headers:?}");
    assert!(host[0].ends_with(&server.listen.to_string()) && !headers.iter().any(|line| line.starts_with(':')));
    assert_eq!(ask("/size/1000000", &[]).len(), 1_000_000);
    assert_eq!(ask("/stream/3/20", &[]), "chunk 0\nchunk 1\nchunk 2\n");
    let trailers = ask("/trailers", &["-i"]);
    assert!(trailers.starts_with("HTTP/2 200") && trailers.contains("x-checksum: 5d41"), "{trailers}");
    let early = ask("/early", &["-i"]);
    assert!(early.starts_with("HTTP/2 103") && early.ends_with("after hints"), "{early}");
    assert!(ask("/reason", &["-i"]).contains("x-odd-case: Yes\r\nx-second: 2\r\nx-odd-case: Again\r\n"));
    assert_eq!(ask("/status/204", &["-w", "%{http_code}"]), "204");
    assert!(ask("/size/7", &["-I"]).contains("content-length: 7"), "HEAD");
    let cut = curl(&["--http2-prior-knowledge", &server.url("/truncate")]);
    assert!(!cut.status.success(), "a cut answer must not look whole: {cut:?}");
}

#[test]
fn grpc_passes_a_reverse_proxy() {
    let serve = |port: u16| app(&["grpc_app.py", "serve", &port.to_string()]);
    let server = Translated::start(serve, "kubernetes.io/h2c");
    let target = format!("127.0.0.1:{}", server.listen);
    let mut client = Command::new(python().unwrap());
    let output = client.arg(script("grpc_app.py").unwrap()).args(["call", &target, "all"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

const MEGABYTE: usize = 1 << 20;

fn write_megabyte(directory: &std::path::Path) -> String {
    let file = directory.join("megabyte");
    std::fs::write(&file, vec![b'm'; MEGABYTE]).unwrap();
    file.display().to_string()
}

fn status(arguments: &[&str]) -> String {
    said(&[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat())
}
