//! An identity from files that has run out: said, and nothing is done with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_cli::binaries::Binaries;
use weft_integration::authority::Authority;

use crate::chain::by_openssl;
use crate::support::{BACKEND, CLIENT, DEADLINE, app, arguments, free_ports, start, wait_for_port};

/// The proxy before an HTTP application, by the example; `ports`: mesh TLS, bytes, application, status.
fn inbound(directory: &Path, ports: [u16; 4]) -> Command {
    let [https, tls, application, status] = ports;
    let replaced = [
        ("127.0.0.1:8443".to_owned(), format!("127.0.0.1:{https}")),
        ("127.0.0.1:7443".to_owned(), format!("127.0.0.1:{tls}")),
        ("127.0.0.1:9001".to_owned(), format!("127.0.0.1:{application}")),
        ("/etc/weft".to_owned(), directory.display().to_string()),
    ];
    let mut command = Command::new(Binaries::locate().unwrap().find("weft-proxy").unwrap());
    arguments(&mut command, directory, "inbound.yaml", &replaced, status);
    command
}

/// A directory with the roots, the proxy's identity that ends `life` from now, and the client's, which is good.
fn files(life: i64) -> (tempfile::TempDir, (PathBuf, PathBuf)) {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new().unwrap());
    std::fs::write(directory.path().join("roots.pem"), &authority.roots).unwrap();
    authority.write(directory.path(), "server", BACKEND, life).unwrap();
    let client = authority.write(directory.path(), "client", CLIENT, 3600).unwrap();
    (directory, client)
}

/// Status and body of the readiness page; nothing while nobody answers.
fn readiness(port: u16) -> String {
    let url = format!("http://127.0.0.1:{port}/ready");
    let output = Command::new("curl").args(["-sS", "--max-time", "5", "-w", " %{http_code}", &url]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn wait_until_readiness(port: u16, is: impl Fn(&str) -> bool) {
    let started = Instant::now();
    loop {
        let said = readiness(port);
        if is(&said) {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "readiness is {said:?}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn an_expired_identity_does_not_start() {
    let (directory, _) = files(-60);
    let mut child = inbound(directory.path(), free_ports().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("it runs");
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("server.pem: certificate is valid from"), "{said}");
}

#[test]
fn an_identity_that_expires_makes_unready_and_serves_nobody() {
    let ports = free_ports().unwrap();
    let [https, _, application, status] = ports;
    // Time enough to start and to be called once.
    let (directory, (certificate, key)) = files(8);
    let _application = app(&["http_app.py", &application.to_string()]);
    wait_for_port(application).unwrap();
    let _proxy = start(&mut inbound(directory.path(), ports)).unwrap();
    wait_until_readiness(status, |said| said.ends_with(" 200"));
    let reply = by_openssl(https, "weft-h1/1", &certificate, &key);
    assert!(reply.contains("HTTP/1.1 200"), "{reply}");
    wait_until_readiness(status, |said| said.contains("the identity has expired") && said.ends_with(" 503"));
    let reply = by_openssl(https, "weft-h1/1", &certificate, &key);
    assert!(!reply.contains("HTTP/1.1"), "{reply}");
}
