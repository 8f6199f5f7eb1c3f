//! An outbound listener that originates mutual TLS, before an inbound listener that terminates it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use weft_integration::apps::{python, script};
use weft_integration::authority::{Authority, write_self_signed};

use crate::support::{BACKEND, CLIENT, Running, app, curl, free_ports, proxy, said, wait_for_port};

/// Both proxies between an HTTP and a TCP application and their clients.
struct Chain {
    directory: TempDir,
    authority: Authority,
    /// Where clients speak plaintext.
    http: u16,
    tcp: u16,
    /// Where the inbound listener expects mutual TLS for the HTTP application.
    https: u16,
    _running: [Running; 4],
}

impl Chain {
    /// `tcp_app`: what the TCP application does.
    fn start(tcp_app: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let authority = Authority::new().unwrap();
        std::fs::write(path.join("roots.pem"), &authority.roots).unwrap();
        authority.write(path, "client", CLIENT, 3600).unwrap();
        authority.write(path, "server", BACKEND, 3600).unwrap();
        let [http, tcp, https, tls, app_http, app_tcp] = free_ports().unwrap();
        let at = |from: &str, to: u16| (format!("127.0.0.1:{from}"), format!("127.0.0.1:{to}"));
        let folder = ("/etc/weft".to_owned(), path.display().to_string());
        let port = |from: &str, to: u16| (format!("targetPort: {from}"), format!("targetPort: {to}"));
        let inbound = [at("8443", https), at("7443", tls), at("9001", app_http), at("6379", app_tcp), folder.clone()];
        let outbound = [at("8080", http), at("6379", tcp), port("8443", https), port("7443", tls), folder];
        let running = [
            app(&["http_app.py", &app_http.to_string()]),
            app(&["tcp_app.py", tcp_app, &app_tcp.to_string()]),
            proxy(path, "inbound.yaml", &inbound),
            proxy(path, "outbound.yaml", &outbound),
        ];
        [app_http, app_tcp, https, tls, http, tcp].into_iter().for_each(|port| wait_for_port(port).unwrap());
        Self { directory, authority, http, tcp, https, _running: running }
    }

    /// A client of the TCP application, through both proxies.
    fn call_tcp(&self, verb: &str, argument: &str) -> Output {
        let mut client = Command::new(python().unwrap());
        client.arg(script("tcp_app.py").unwrap()).args([verb, "127.0.0.1", &self.tcp.to_string(), argument]);
        client.output().unwrap()
    }

    fn write(&self, by: &Authority, name: &str, id: &str, life: i64) -> (PathBuf, PathBuf) {
        by.write(self.directory.path(), name, id, life).unwrap()
    }
}

#[test]
fn ten_mebibytes_pass_both_ways_unchanged_and_a_half_close_too() {
    let chain = Chain::start("echo");
    let said = chain.call_tcp("exchange", "10485760");
    assert!(said.status.success(), "{said:?}");
    let chain = Chain::start("sink");
    let said = chain.call_tcp("send", "10485760");
    assert!(said.status.success(), "the server answers after the client's end: {said:?}");
}

#[test]
fn outbound_and_inbound_speak_mutual_tls_and_nothing_else_is_let_in() {
    let (chain, stranger) = (Chain::start("greet"), Authority::new().unwrap());
    let (http, https, authority) = (chain.http, chain.https, &chain.authority);
    let url = format!("http://127.0.0.1:{http}/echo");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let reply = said(&[version, "-H", "x-forwarded-client-cert: spoofed", "-d", "hello", &url]);
        assert!(reply.contains(&format!("URI={CLIENT}")) && !reply.contains("spoofed"), "{version}: {reply}");
    }
    let first = chain.call_tcp("greeted", "3");
    assert!(first.status.success(), "server speaks first through both: {first:?}");

    assert!(!curl(&[&format!("http://127.0.0.1:{https}/echo")]).status.success(), "strict takes no plaintext");
    let check = |by: &Authority, name: &str, id: &str, life: i64, let_in: bool| {
        let (certificate, key) = chain.write(by, name, id, life);
        let reply = by_openssl(https, "weft-h1/1", &certificate, &key);
        assert_eq!(reply.contains("HTTP/1.1 200"), let_in, "{name}: {reply}");
    };
    check(authority, "right", "spiffe://cluster.local/ns/shop/sa/web", 3600, true);
    // HTTP inside the mesh's protocol for bytes does not get past what is done to HTTP: the caller is still named.
    let (certificate, key) = chain.write(authority, "bytes", "spiffe://cluster.local/ns/shop/sa/web", 3600);
    let reply = by_openssl(https, "weft-tcp/1", &certificate, &key);
    assert!(reply.contains("URI=spiffe://cluster.local/ns/shop/sa/web"), "{reply}");
    let id = "spiffe://cluster.local/ns/shop/sa/web";
    let (certificate, key) = write_self_signed(chain.directory.path(), "self-signed", id).unwrap();
    let reply = by_openssl(https, "weft-h1/1", &certificate, &key);
    assert!(!reply.contains("HTTP/1.1"), "self-signed: {reply}");
    check(&stranger, "unknown-root", "spiffe://cluster.local/ns/shop/sa/web", 3600, false);
    check(authority, "other-trust-domain", "spiffe://other.example/ns/shop/sa/web", 3600, false);
    check(authority, "expired", "spiffe://cluster.local/ns/shop/sa/web", -60, false);
    check(authority, "no-spiffe-id", "https://cluster.local/", 3600, false);
}

/// One request over mesh TLS by somebody else's TLS library.
pub(crate) fn by_openssl(port: u16, alpn: &str, certificate: &Path, key: &Path) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-alpn", alpn, "-connect", &format!("127.0.0.1:{port}"), "-cert"])
        .arg(certificate)
        .arg("-key")
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A server that refuses may be gone before everything is written.
    stdin.write_all(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap_or_default();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
