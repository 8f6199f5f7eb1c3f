//! What each door lets through.

use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_proto::v1::StatusRequest;

use futures_util::StreamExt as _;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn each_service_stands_behind_its_own_door() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let held = mesh.join().await;
    let over_tls = mesh.try_connect(Some(&held), [127, 0, 0, 1]).await.unwrap();
    let status = code(OperatorClient::new(over_tls).status(StatusRequest {}).await);
    assert_eq!(status.map(drop), Err(Code::Unimplemented));
    let over_socket = IdentityClient::new(mesh.operators_channel().await).issue(IssueRequest::default()).await;
    assert_eq!(code(over_socket).map(drop), Err(Code::Unimplemented));
    let status = mesh.operator().await.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.trust_domain, "cluster.local");
    assert_eq!(status.build, env!("CARGO_PKG_VERSION"));
    assert_eq!(status.revision, mesh.plane.store.revision().0);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_and_the_keys_are_the_owners() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let state = mesh.plane.args.state.directory();
    let check = |path: &Path, expected: u32| {
        let mode = std::fs::symlink_metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, expected, "{}", path.display());
    };
    check(&mesh.socket, 0o600);
    check(&state, 0o700);
    for file in ["ca/root.pem", "ca/issuing.pem", "store.redb"] {
        check(&state.join(file), 0o600);
    }
    let socket = mesh.socket.clone();
    mesh.stop().await;
    assert!(!socket.exists(), "the socket goes with its owner");
    // What others could read is not used any more.
    std::fs::set_permissions(state.join("ca/root.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Mesh::try_start(directory.path()).await.map(drop).unwrap_err();
    assert!(format!("{refused:#}").contains("others may read it"), "{refused:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tls_1_3_is_spoken() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let mut plain = TcpStream::connect(mesh.listen).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert!(ends(&mut plain).await, "plaintext is cut");
    // A ClientHello of TLS 1.2: no supported_versions extension.
    let mut old = TcpStream::connect(mesh.listen).await.unwrap();
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    old.write_all(&hello).await.unwrap();
    assert!(ends(&mut old).await, "TLS 1.2 is cut");
    mesh.connect(None).await;
    mesh.stop().await;
}

/// Who proved nothing has places of its own, and cannot take those of who did; nor can one address take all of them.
#[tokio::test(flavor = "multi_thread")]
async fn anonymous_callers_are_bounded() {
    use crate::doors::tls::{ANONYMOUS_MAX, ANONYMOUS_PER_SOURCE_MAX};
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let held = mesh.join().await;
    let source = |number: usize| [127, 0, 1, u8::try_from(number / ANONYMOUS_PER_SOURCE_MAX).unwrap()];
    let beyond = || {
        let page = mesh.plane.metrics.render();
        let line = page.lines().find_map(|line| line.strip_prefix("weft_connections_total{event=\"beyond_bound\"} "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let ask = async |credentials: Option<&Credentials>, from: [u8; 4]| {
        let channel = mesh.try_connect(credentials, from).await.map_err(drop)?;
        let csr_der = csr(&KeyPair::generate().unwrap(), &[]);
        let request = IssueRequest { csr_der, join_token: String::new() };
        IdentityClient::new(channel).issue(request).await.map(drop).map_err(drop)
    };
    let open = async |numbers: std::ops::Range<usize>| {
        let opening = futures_util::stream::iter(numbers).map(|number| mesh.try_connect(None, source(number)));
        let opened = opening.buffer_unordered(64).collect::<Vec<_>>().await;
        assert!(opened.iter().all(Result::is_ok));
        opened
    };
    let first = open(0..ANONYMOUS_PER_SOURCE_MAX).await;
    assert_eq!(beyond(), 0);
    assert_eq!(ask(None, source(0)).await, Err(()), "one too many of this address");
    let before = beyond();
    assert!(before > 0);
    let others = open(ANONYMOUS_PER_SOURCE_MAX..ANONYMOUS_MAX).await;
    assert_eq!(beyond(), before);
    assert_eq!(ask(None, [127, 0, 2, 1]).await, Err(()), "one too many of all");
    assert!(beyond() > before);
    assert_eq!(ask(Some(&held), source(0)).await, Ok(()), "a known one comes in");
    drop((first, others));
    mesh.stop().await;
}

/// Connections that say nothing keep nobody else waiting.
#[tokio::test(flavor = "multi_thread")]
async fn silence_of_one_address_does_not_close_the_door() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let held = mesh.join().await;
    let mut silent = Vec::new();
    for _ in 0..crate::doors::tls::HANDSHAKES_PER_SOURCE_MAX + 50 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 3, 1], 0).into()).unwrap();
        silent.push(socket.connect(mesh.listen).await.unwrap());
    }
    let begun = std::time::Instant::now();
    mesh.try_connect(Some(&held), [127, 0, 0, 1]).await.unwrap();
    assert!(begun.elapsed() < crate::doors::tls::HANDSHAKE_TIMEOUT, "it waited for the silent ones");
    assert!(ends(&mut silent.pop().unwrap()).await, "beyond the share of an address");
    mesh.stop().await;
}

/// Whether the other side closes.
async fn ends(stream: &mut TcpStream) -> bool {
    let mut sink = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sink)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_port_answers_three_questions() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    mesh.join().await;
    let check = async |line: &str, status: &str, content: &str| {
        let mut stream = TcpStream::connect(mesh.status).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(content), "{line}: {answer}");
    };
    check("GET /live", "200", "live").await;
    check("GET /ready", "200", "ready").await;
    check("GET /metrics", "200", "weft_build_info{version=").await;
    check("GET /metrics", "200", "weft_svids_total{outcome=\"joined\"} 1\n").await;
    check("GET /metrics", "200", "weft_join_tokens_total{event=\"created\"} 1\n").await;
    check("POST /live", "405", "allow: GET").await;
    check("GET /", "404", "").await;
    check("GET /debug", "404", "").await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_mesh() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let (root, token, held) = (mesh.plane.authority.root_sha256(), mesh.token(1).await, mesh.join().await);
    // Open connections do not hold up the end.
    let _open = mesh.connect(Some(&held)).await;
    mesh.stop().await;
    let mesh = Mesh::start(directory.path()).await;
    assert_eq!(mesh.plane.authority.root_sha256(), root);
    let csr_der = csr(&KeyPair::generate().unwrap(), &[]);
    let joining = IssueRequest { csr_der: csr_der.clone(), join_token: token.secret().to_owned() };
    mesh.connect(None).await.issue(joining).await.unwrap();
    let renewing = IssueRequest { csr_der, join_token: String::new() };
    mesh.connect(Some(&held)).await.issue(renewing).await.unwrap();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_does_not_fit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let check = async |expected: &str| {
        let refused = Mesh::try_start(directory.path()).await.map(drop).unwrap_err();
        assert!(format!("{refused:#}").contains(expected), "{refused:#}");
    };
    check("is in use by another weft-control-plane").await;
    mesh.token(1).await;
    let state = mesh.plane.args.state.directory();
    mesh.stop().await;
    let (shutdown_trigger, shutdown) = shutdown::channel();
    let mut other = args(directory.path());
    other.trust_domain = TrustDomain::new("other.example").unwrap();
    let refused = start(other, shutdown).await.map(drop).unwrap_err();
    assert!(format!("{refused:#}").contains("not of trust domain other.example"), "{refused:#}");
    drop(shutdown_trigger);
    std::fs::rename(state.join("ca/root.pem"), state.join("aside")).unwrap();
    check("the root is missing").await;
    std::fs::write(state.join("ca/root.pem"), "junk").unwrap();
    std::fs::set_permissions(state.join("ca/root.pem"), std::fs::Permissions::from_mode(0o600)).unwrap();
    check("holds no private key").await;
    std::fs::rename(state.join("aside"), state.join("ca/root.pem")).unwrap();
    // A lost issuing key is no loss: the root signs a new one.
    std::fs::remove_file(state.join("ca/issuing.pem")).unwrap();
    let mesh = Mesh::start(directory.path()).await;
    mesh.join().await;
    mesh.stop().await;
}
