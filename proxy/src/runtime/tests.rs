//! Two proxies over loopback, as in static mode: what an application says reaches the other application, or is refused.

mod spread;
mod waiting;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use weft_core::detect::MeshAlpn;
use weft_core::fault::FaultKind;
use weft_core::identity::spiffe::SpiffeId;
use weft_core::model::{
    AppProtocol, DecodedUpdate, Endpoint, EndpointPort, InboundMode, Resource, Service, ServiceKey, ServicePort,
    Upsert, Weight,
};
use weft_core::reuse::PoolLimits;
use weft_core::snapshot::{Snapshot, apply};

use super::accept::contained;
use super::drain::drain;
use super::worker::{InboundRules, Shared, Timeouts, Worker};
use super::{Door, Listening, Loads, Setup, Workers, start};
use crate::clock::Clock;
use crate::feed::Resolver;
use crate::identity::Identity;
use crate::net::{self, Admission};
use crate::supervise::Supervisor;
use crate::telemetry::{AccessLog, Counter, Hub, LogTarget, Telemetry};
use crate::tls::tests::{Authority, CART, WEB};

const CONNECTIONS_MAX: usize = 20;
const PATIENCE: Duration = Duration::from_secs(10);
const PORT: NonZeroU16 = NonZeroU16::new(80).unwrap();

struct Proxy {
    workers: Workers,
    address: SocketAddr,
    hub: Hub,
    loads: Arc<Loads>,
}

impl Proxy {
    fn start(door: Door, snapshot: Snapshot, identity: Option<Arc<Identity>>) -> Self {
        Self::start_with(door, shared(snapshot, identity), None)
    }

    fn start_with(door: Door, shared: Shared, log: Option<AccessLog>) -> Self {
        Self::of_workers(1, door, shared, log)
    }

    /// All connections come to the door of the first worker, as the kernel's hash may have it: the others' are elsewhere.
    fn of_workers(workers: usize, door: Door, shared: Shared, log: Option<AccessLog>) -> Self {
        let (hub, supervisor) = (Hub::new(), Supervisor::default());
        let sockets: Vec<_> =
            (0..workers).flat_map(|_| net::listen("127.0.0.1:0".parse().unwrap(), 1).unwrap()).collect();
        let address = sockets[0].local_addr().unwrap();
        let loads = Arc::new(Loads::new(workers));
        let setup = Setup {
            workers,
            listeners: vec![Listening { door, sockets }],
            shared: Arc::new(Shared { loads: Arc::clone(&loads), ..shared }),
            hub: hub.clone(),
            log,
            instance_id: "test".into(),
            supervisor,
        };
        Self { workers: start(setup).unwrap(), address, hub, loads }
    }

    const fn address(&self) -> SocketAddr {
        self.address
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn end(self) {
        let stopping = tokio::task::spawn_blocking(move || self.workers.stop(PATIENCE));
        timeout(PATIENCE, stopping).await.unwrap().unwrap();
    }
}

fn shared(snapshot: Snapshot, identity: Option<Arc<Identity>>) -> Shared {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot.into_complete()));
    Shared {
        application: Arc::default(),
        resolver: Resolver::offline(Arc::clone(&snapshot)),
        snapshot,
        identity: tokio::sync::watch::channel(identity).1,
        workers: 1,
        pool: PoolLimits::default(),
        inbound: InboundRules::default(),
        loads: Arc::new(Loads::new(1)),
        admission: Arc::new(Admission::new(CONNECTIONS_MAX, CONNECTIONS_MAX)),
        pipes: 8,
        timeouts: Timeouts::default(),
        clock: Clock::start(),
    }
}

/// A service of one endpoint; with `identity` it must prove that.
fn snapshot(endpoint: SocketAddr, protocol: AppProtocol, identity: Option<&str>) -> Snapshot {
    let service = Service {
        key: key(),
        ports: vec![ServicePort { port: PORT, name: "".into(), protocol }],
        virtual_ips: Vec::new(),
    };
    let target_port = NonZeroU16::new(endpoint.port()).unwrap();
    let endpoint = Endpoint {
        service: key(),
        id: "one".into(),
        address: endpoint.ip(),
        ports: vec![EndpointPort { service_port: PORT, target_port, captured: true }],
        identity: identity.map(|id| SpiffeId::parse(id).unwrap()),
        weight: Weight::ONE,
        locality: "".into(),
    };
    let upserts = [Resource::Service(service), Resource::Endpoint(endpoint)];
    let upserts = upserts.into_iter().map(|resource| Upsert { version: 1, resource }).collect();
    apply(&Snapshot::empty(), DecodedUpdate { revision: 1, upserts, removals: Vec::new() })
}

fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: "cart".into() }
}

/// A (WEB) sends to B (CART), which delivers to `app`; `expected` is whom A demands.
fn mesh(app: SocketAddr, protocol: AppProtocol, expected: &str) -> (Proxy, Proxy) {
    let authority = Authority::new("a");
    let door = Door::Local { address: app, protocol, mode: InboundMode::Strict };
    let b = Proxy::start(door, Snapshot::empty(), Some(authority.identity(CART, &[CART], 600)));
    let known = snapshot(b.address(), protocol, Some(expected));
    let a = Proxy::start(Door::Service(key(), PORT), known, Some(authority.identity(WEB, &[WEB], 600)));
    (a, b)
}

async fn head(socket: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8(text).unwrap())
}

/// Answers each request with `hello`; after `per_connection` requests it reads one more and closes.
async fn http_app(per_connection: usize) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                for count in 0.. {
                    let Some(request) = head(&mut socket).await else { return };
                    seen.send(request).ok();
                    if count == per_connection {
                        return;
                    }
                    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.ok();
                }
            });
        }
    });
    (address, requests)
}

async fn ask(socket: &mut TcpStream, request: &str) -> String {
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = timeout(PATIENCE, head(socket)).await.unwrap().unwrap();
    let length =
        answer.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.unwrap();
    answer.push_str(std::str::from_utf8(&body).unwrap());
    answer
}

const GET: &str =
    "GET /a?b HTTP/1.1\r\nhost: cart\r\nx-forwarded-client-cert: spoofed\r\nX_Forwarded_Client_Cert: spoofed\r\n\r\n";

#[tokio::test]
async fn http1_reaches_the_application_with_the_callers_identity() {
    let (app, mut requests) = http_app(usize::MAX).await;
    let (a, b) = mesh(app, AppProtocol::Detect, CART);
    let mut client = a.client().await;
    for _ in 0..3 {
        assert!(ask(&mut client, GET).await.ends_with("\r\n\r\nhello"));
        let seen = requests.recv().await.unwrap();
        assert!(seen.starts_with("GET /a?b HTTP/1.1\r\n"), "{seen}");
        let cert = seen.lines().find(|line| line.starts_with("x-forwarded-client-cert:")).unwrap();
        assert!(cert.contains(&format!("By={CART}")) && cert.ends_with(&format!("URI={WEB}")), "{cert}");
        assert!(
            !seen.contains("spoofed") && seen.contains("x-request-id: ") && seen.contains("traceparent: "),
            "{seen}"
        );
    }
    assert_eq!((a.hub.counter(Counter::PoolOpened), a.hub.counter(Counter::PoolReused)), (1, 2));
    assert_eq!((b.hub.counter(Counter::PoolOpened), b.hub.counter(Counter::PoolReused)), (1, 2));
    drop(client);
    a.end().await;
    b.end().await;
}

/// A sends to a sidecar at `to`, and every link shares a connection where that is taken.
fn sharing(to: SocketAddr, identity: Arc<Identity>) -> Proxy {
    let known = shared(snapshot(to, AppProtocol::Http1, Some(CART)), Some(identity));
    let pool = PoolLimits { own_links_max: 0, ..PoolLimits::default() };
    Proxy::start_with(Door::Service(key(), PORT), Shared { pool, ..known }, None)
}

#[tokio::test]
async fn links_that_share_a_connection_are_what_connections_are() {
    let (app, mut requests) = http_app(usize::MAX).await;
    let authority = Authority::new("a");
    let door = Door::Local { address: app, protocol: AppProtocol::Http1, mode: InboundMode::Strict };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access");
    let log = AccessLog::start(&LogTarget::File(path.clone())).unwrap();
    let identity = Some(authority.identity(CART, &[CART], 600));
    let b = Proxy::start_with(door, shared(Snapshot::empty(), identity), Some(log));
    let a = sharing(b.address(), authority.identity(WEB, &[WEB], 600));
    let mut clients = [a.client().await, a.client().await, a.client().await];
    for _ in 0..2 {
        for client in &mut clients {
            client.write_all(GET.as_bytes()).await.unwrap();
        }
        for client in &mut clients {
            assert!(ask(client, "").await.ends_with("\r\n\r\nhello"));
            let seen = requests.recv().await.unwrap();
            let cert = seen.lines().find(|line| line.starts_with("x-forwarded-client-cert:")).unwrap();
            assert!(cert.contains(&format!("By={CART}")) && cert.ends_with(&format!("URI={WEB}")), "{cert}");
        }
    }
    let counted =
        [Counter::PoolOpened, Counter::LinksShared, Counter::PoolReused].map(|counter| a.hub.counter(counter));
    assert_eq!(counted, [1, 3, 3], "one connection, a link for each client, and then the same ones");
    drop(clients);
    a.end().await;
    b.end().await;
    let records = std::fs::read_to_string(path).unwrap();
    assert_eq!(records.lines().count(), 6, "{records}");
    for record in records.lines() {
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        assert_eq!(
            (&record["alpn"], &record["protocol"]),
            (&serde_json::json!("weft-h1/1"), &serde_json::json!("HTTP/1.1")),
            "{record}"
        );
        assert_eq!(
            (&record["peer_id"], &record["status"]),
            (&serde_json::json!(WEB), &serde_json::json!(200)),
            "{record}"
        );
    }
}

/// A sidecar of a version that knows no links.
async fn without_links(identity: Arc<Identity>) -> (SocketAddr, mpsc::UnboundedReceiver<MeshAlpn>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, spoken) = mpsc::unbounded_channel();
    let acceptor = crate::tls::Acceptor::new(
        tokio::sync::watch::channel(Some(identity)).1,
        Clock::start(),
        PATIENCE,
        Rc::default(),
    );
    tokio::task::spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (mut tls, peer) = acceptor.accept(socket, b"").await.unwrap();
            accepted.send(peer.alpn).unwrap();
            tokio::task::spawn_local(async move {
                if peer.alpn == MeshAlpn::Http2 {
                    let mut connection = h2::server::handshake(tls).await.unwrap();
                    let asked = connection.accept().await;
                    return assert!(!matches!(asked, Some(Ok(_))), "{asked:?}");
                }
                let mut seen = Vec::new();
                while let Ok(byte) = tls.read_u8().await {
                    seen.push(byte);
                    if seen.ends_with(b"\r\n\r\n") {
                        tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
                        tls.flush().await.unwrap();
                    }
                }
            });
        }
    });
    (address, spoken)
}

#[tokio::test]
async fn a_sidecar_that_knows_no_links_is_sent_requests_on_connections() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let authority = Authority::new("a");
            let (to, mut spoken) = without_links(authority.identity(CART, &[CART], 600)).await;
            let a = sharing(to, authority.identity(WEB, &[WEB], 600));
            let mut clients = [a.client().await, a.client().await];
            for client in &mut clients {
                client.write_all(GET.as_bytes()).await.unwrap();
            }
            for client in &mut clients {
                assert!(ask(client, "").await.ends_with("\r\n\r\nhello"));
            }
            assert!(ask(&mut a.client().await, GET).await.ends_with("\r\n\r\nhello"));
            let mut all = Vec::new();
            while let Ok(alpn) = spoken.try_recv() {
                all.push(alpn);
            }
            assert_eq!(all, [MeshAlpn::Http2, MeshAlpn::Http1, MeshAlpn::Http1], "asked once");
            assert_eq!(a.hub.counter(Counter::LinksShared), 0);
            drop(clients);
            a.end().await;
        })
        .await;
}

#[tokio::test]
async fn a_server_that_proves_another_identity_gets_nothing() {
    let (app, mut requests) = http_app(usize::MAX).await;
    let (a, b) = mesh(app, AppProtocol::Detect, "spiffe://a/ns/shop/sa/other");
    let answer = ask(&mut a.client().await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    assert!(answer.contains(FaultKind::UpstreamIdentity.code()), "{answer}");
    b.end().await;
    assert!(requests.try_recv().is_err(), "nothing was delivered");
}

#[tokio::test]
async fn strict_refuses_plaintext_and_permissive_does_not() {
    let (app, mut requests) = http_app(usize::MAX).await;
    let authority = Authority::new("a");
    for (mode, served) in [(InboundMode::Strict, false), (InboundMode::Permissive, true)] {
        let door = Door::Local { address: app, protocol: AppProtocol::Detect, mode };
        let b = Proxy::start(door, Snapshot::empty(), Some(authority.identity(CART, &[CART], 600)));
        let mut client = b.client().await;
        client.write_all(GET.as_bytes()).await.unwrap();
        assert_eq!(timeout(PATIENCE, head(&mut client)).await.unwrap().is_some(), served);
        let seen = requests.try_recv();
        assert_eq!(seen.is_ok(), served);
        assert!(!seen.is_ok_and(|seen| seen.contains("spoofed")), "a stranger has no identity");
    }
}

#[tokio::test]
async fn a_greeting_passes_two_proxies_unasked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.write_all(b"220 ready\r\n").await.unwrap();
            let mut said = [0; 6];
            socket.read_exact(&mut said).await.unwrap();
            socket.write_all(&said).await.unwrap();
        }
    });
    let (a, _b) = mesh(app, AppProtocol::Detect, CART);
    let mut client = a.client().await;
    let mut greeting = [0; 11];
    timeout(PATIENCE, client.read_exact(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    client.write_all(b"QUIT\r\n").await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"QUIT\r\n");
    assert_eq!(a.hub.counter(Counter::ServerFirst), 1);
}

#[tokio::test]
async fn a_client_that_speaks_late_takes_the_normal_path() {
    let (app, mut requests) = http_app(usize::MAX).await;
    let (a, b) = mesh(app, AppProtocol::Detect, CART);
    let mut client = a.client().await;
    // Until the connection dialled ahead has reached the application's side.
    let opened = async {
        while b.hub.counter(Counter::PoolOpened) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, opened).await.unwrap();
    assert!(ask(&mut client, GET).await.ends_with("hello"));
    assert!(requests.recv().await.unwrap().contains("x-request-id"), "it was judged as HTTP");
}

#[tokio::test]
async fn bytes_and_half_closes_pass() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, _b) = mesh(listener.local_addr().unwrap(), AppProtocol::Tcp, CART);
    let body = vec![7; 1 << 20];
    let app = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        socket.read_to_end(&mut got).await.unwrap();
        socket.write_all(&got.len().to_be_bytes()).await.unwrap();
    };
    let client = async {
        let mut client = a.client().await;
        client.write_all(&body).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = timeout(PATIENCE, async { tokio::join!(app, client) }).await.unwrap();
    assert_eq!(answer, (1_usize << 20).to_be_bytes());
}

/// A server that speaks first must not be heard before the mesh's handshake, however often it was heard before.
#[tokio::test]
async fn a_servers_greeting_never_overtakes_the_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(b"220 ready\r\n").await.unwrap_or_default();
                socket.read_to_end(&mut Vec::new()).await.ok();
            });
        }
    });
    let authority = Authority::new("a");
    let door = Door::Local { address: app, protocol: AppProtocol::Detect, mode: InboundMode::Permissive };
    let b = Proxy::start(door, Snapshot::empty(), Some(authority.identity(CART, &[CART], 600)));
    let own = tokio::sync::watch::channel(Some(authority.identity(WEB, &[WEB], 600))).1;
    let connector = crate::tls::Connector::new(own, Clock::start(), PATIENCE, Rc::default());
    let expected = SpiffeId::parse(CART).unwrap();
    for number in 0..3 {
        let socket = b.client().await;
        // A sidecar whose machine is busy: well within the time that a silent client has here.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let connected = connector.connect(socket, &expected, MeshAlpn::Tcp).await;
        let (mut tls, _) = connected.unwrap_or_else(|error| panic!("connection {number}: {error}"));
        let mut greeting = [0; 11];
        timeout(PATIENCE, tls.read_exact(&mut greeting)).await.unwrap().unwrap();
        assert_eq!(&greeting, b"220 ready\r\n", "connection {number}");
    }
}

#[tokio::test]
async fn a_connection_cut_at_the_end_of_a_drain_has_its_record() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let a = Proxy::start(Door::Service(key(), PORT), snapshot(app, AppProtocol::Tcp, None), None);
    let mut client = a.client().await;
    client.write_all(b"hello").await.unwrap();
    let (mut socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    socket.read_exact(&mut [0; 5]).await.unwrap();
    let (hub, workers) = (a.hub, a.workers);
    tokio::task::spawn_blocking(move || workers.stop(Duration::ZERO)).await.unwrap();
    let mut page = String::new();
    hub.render(&mut page);
    let has = |start: &str, end: &str| page.lines().any(|line| line.starts_with(start) && line.ends_with(end));
    assert!(has("weft_connections_total{", "fault=\"draining\"} 1"), "{page}");
    assert!(has("weft_received_bytes_total{", "} 5"), "{page}");
}

#[tokio::test]
async fn what_races_with_a_close_is_sent_again_only_if_it_may_be() {
    let post = "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 0\r\n\r\n";
    for (request, status, times) in [(GET, "HTTP/1.1 200", 3), (post, "HTTP/1.1 502", 2)] {
        let (app, mut requests) = http_app(1).await;
        let door = Door::Service(key(), PORT);
        let a = Proxy::start(door, snapshot(app, AppProtocol::Http1, None), None);
        let mut client = a.client().await;
        assert!(ask(&mut client, GET).await.starts_with("HTTP/1.1 200"));
        let answer = ask(&mut client, request).await;
        assert!(answer.starts_with(status), "{answer}");
        let mut seen = 0;
        while requests.try_recv().is_ok() {
            seen += 1;
        }
        assert_eq!(seen, times);
    }
}

/// Answers each gRPC call with one message and its trailers.
async fn h2_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert!(request.headers().contains_key("x-weft-client-id"));
                    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let mut body = respond.send_response(head, false).unwrap();
                    body.send_data(Bytes::from_static(b"message"), false).unwrap();
                    body.send_trailers([("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect())
                        .unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn http2_keeps_its_trailers() {
    let (a, _b) = mesh(h2_app().await, AppProtocol::H2c, CART);
    let (mut send, connection) = h2::client::handshake(a.client().await).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..5 {
        let request = http::Request::post("http://cart/users.Users/Get").header("content-type", "application/grpc");
        let (response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "message");
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    }
    assert_eq!(a.hub.counter(Counter::PoolOpened), 1);
}

#[tokio::test]
async fn a_drain_lets_the_request_in_flight_finish() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let b = Proxy::start(
        Door::Local { address: app, protocol: AppProtocol::Http1, mode: InboundMode::Permissive },
        Snapshot::empty(),
        None,
    );
    let mut client = b.client().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    let seen = head(&mut socket).await.unwrap();
    assert!(!seen.contains("spoofed"), "a proxy without identity believes no claim either: {seen}");
    b.workers.drain();
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    b.end().await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_reset() {
    let (app, _requests) = http_app(usize::MAX).await;
    let door = Door::Local { address: app, protocol: AppProtocol::Http1, mode: InboundMode::Permissive };
    let b = Proxy::start(door, Snapshot::empty(), None);
    let mut held = Vec::new();
    for _ in 0..=CONNECTIONS_MAX {
        held.push(b.client().await);
    }
    let last = held.last_mut().unwrap();
    assert!(timeout(PATIENCE, last.read(&mut [0; 1])).await.unwrap().is_err(), "reset");
    assert_eq!(b.hub.counter(Counter::ConnectionsRefused), 1);
}

/// A defect that one connection hits ends that connection: what it held is given back, others of the worker go on.
#[tokio::test]
async fn a_panic_ends_its_connection_and_is_counted() {
    let hub = Hub::new();
    let telemetry = Telemetry::new(&hub, None, "test", Clock::start());
    let local = tokio::task::LocalSet::new();
    let _entered = local.enter();
    let [drain, egress] = [drain().1.here(), drain().1.here()];
    let worker = Rc::new(Worker::new(Arc::new(shared(Snapshot::empty(), None)), telemetry, drain, egress));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (mut client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let socket = accepted.unwrap().0;
    let defect = async {
        let _held = socket;
        tokio::task::yield_now().await;
        let _borrowed = worker.first_bytes.borrow_mut();
        panic!("a defect");
    };
    let (mut turns, beside) = (0, async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    });
    let counted = async {
        beside.await;
        turns = 10;
    };
    tokio::join!(contained(Rc::clone(&worker), address, defect), counted);
    assert_eq!(turns, 10, "the one beside it goes on");
    assert_eq!(timeout(PATIENCE, client.as_mut().unwrap().read_u8()).await.unwrap().ok(), None, "its socket is closed");
    assert!(worker.first_bytes.try_borrow_mut().is_ok(), "what it had borrowed is given back");
    let mut text = String::new();
    hub.render(&mut text);
    assert!(text.contains("weft_connection_panics_total 1"), "{text}");
}

/// Goal: a connection that began before its proxy had an identity is in the records under the one it had at the end.
#[tokio::test]
async fn a_connection_before_the_identity_is_recorded_under_it() {
    let (app, _requests) = http_app(9).await;
    let directory = tempfile::tempdir().unwrap();
    let records = directory.path().join("records");
    let log = AccessLog::start(&LogTarget::File(records.clone())).unwrap();
    let (publish, identity) = tokio::sync::watch::channel(None);
    let shared = Shared { identity, ..shared(snapshot(app, AppProtocol::Http1, None), None) };
    let proxy = Proxy::start_with(Door::Service(key(), PORT), shared, Some(log));
    let written = async |count: usize| loop {
        let text = std::fs::read_to_string(&records).unwrap();
        if text.lines().count() == count && text.ends_with('\n') {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut client = proxy.client().await;
    ask(&mut client, "GET /before HTTP/1.1\r\nhost: cart\r\n\r\n").await;
    // The record is written after the answer.
    timeout(PATIENCE, written(1)).await.expect("a record");
    publish.send_replace(Some(Authority::new("a").identity(WEB, &[WEB], 600)));
    ask(&mut client, "GET /after HTTP/1.1\r\nhost: cart\r\n\r\n").await;
    let records = timeout(PATIENCE, written(2)).await.expect("two records");
    drop(client);
    proxy.end().await;
    let own = |path: &str| {
        let line = records.lines().find(|line| line.contains(path)).unwrap();
        serde_json::from_str::<serde_json::Value>(line).unwrap().get("own_id").cloned()
    };
    assert_eq!(own("/after"), Some(WEB.into()), "{records}");
    assert_eq!(own("/before"), None, "then there was none: {records}");
}
