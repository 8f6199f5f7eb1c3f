//! Goal: the feed against a control plane scripted here, over a real connection: what is published, acknowledged, kept
//! and asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use weft_core::fault::FaultKind;
use weft_core::snapshot::{Snapshot, Target};
use weft_proto::v1;
use weft_proto::v1::discovery_request::Message;
use weft_proto::v1::discovery_server::{Discovery, DiscoveryServer};

use super::*;
use crate::clock::Clock;
use crate::supervise::{Supervisor, Task};

/// Longer than anything here takes; a test that waits for it has failed.
const LONG: Duration = Duration::from_secs(20);

/// Hands each stream to the test.
struct Script(mpsc::Sender<Session>);

/// One stream as the control plane sees it.
struct Session {
    requests: Streaming<v1::DiscoveryRequest>,
    responses: mpsc::Sender<Result<v1::DiscoveryResponse, Status>>,
    nonce: u64,
}

#[tonic::async_trait]
impl Discovery for Script {
    type StreamStream = ReceiverStream<Result<v1::DiscoveryResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (responses, stream) = mpsc::channel(16);
        let session = Session { requests: request.into_inner(), responses, nonce: 0 };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Session {
    async fn next(&mut self) -> Message {
        let message = tokio::time::timeout(LONG, self.requests.message()).await.unwrap();
        message.unwrap().unwrap().message.unwrap()
    }

    async fn hello(&mut self) -> v1::Hello {
        let Message::Hello(hello) = self.next().await else { panic!("hello comes first") };
        let welcome = v1::Welcome { protocol_version: 1, bundle: Some(v1::TrustBundle::default()) };
        self.send(v1::discovery_response::Message::Welcome(welcome)).await;
        hello
    }

    async fn send(&self, message: v1::discovery_response::Message) {
        self.responses.send(Ok(v1::DiscoveryResponse { message: Some(message) })).await.unwrap();
    }

    async fn push(&mut self, upserts: Vec<v1::Resource>) {
        self.nonce += 1;
        let update = v1::Update { nonce: self.nonce, revision: 7, upserts, ..Default::default() };
        self.send(v1::discovery_response::Message::Update(update)).await;
    }

    async fn ack(&mut self) -> v1::Ack {
        let Message::Ack(ack) = self.next().await else { panic!("an acknowledgement is due") };
        assert_eq!(ack.nonce, self.nonce);
        ack
    }

    async fn question(&mut self) -> String {
        let Message::Subscribe(subscribe) = self.next().await else { panic!("a question is due") };
        let Some(v1::target::Target::Address(address)) = &subscribe.targets[0].target else { panic!("{subscribe:?}") };
        format!("{}:{}", address.ip, address.port)
    }
}

fn resource(kind: i32, name: &str, body: v1::resource::Body) -> v1::Resource {
    v1::Resource { name: Some(v1::ResourceName { kind, name: name.into() }), version: 3, body: Some(body) }
}

fn mesh() -> v1::Resource {
    let mesh = v1::Mesh { trust_domain: "cluster.local".into(), ranges: vec!["10.0.0.0/8".into()], outbound_mode: 1 };
    resource(1, "", v1::resource::Body::Mesh(mesh))
}

fn service(name: &str, port: u32) -> v1::Resource {
    let ports = vec![v1::ServicePort { port, ..Default::default() }];
    let service = v1::Service { namespace: "shop".into(), name: name.into(), ports, ..Default::default() };
    resource(2, &format!("shop/{name}"), v1::resource::Body::Service(service))
}

fn answer(ip: &str, verdict: i32) -> v1::Resource {
    let answer = v1::Resolution {
        address: ip.into(),
        port: 80,
        verdict,
        namespace: "shop".into(),
        service: "cart".into(),
        service_port: 80,
        ..Default::default()
    };
    resource(4, &format!("{ip}:80"), v1::resource::Body::Resolution(answer))
}

/// A running feed and the control plane's end of it.
struct Bench {
    snapshot: Arc<ArcSwap<Snapshot>>,
    resolver: Resolver,
    status: Arc<FeedStatus>,
    sessions: mpsc::Receiver<Session>,
    clock: Clock,
    supervisor: Supervisor,
}

impl Bench {
    async fn start() -> Self {
        Self::with_defect(0).await
    }

    /// The follower has a defect in its nth attempt to connect (from 1).
    async fn with_defect(nth: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (streams, sessions) = mpsc::channel(4);
        tokio::spawn(serve(listener, DiscoveryServer::new(Script(streams))));
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::empty()));
        let clock = Clock::start();
        let feed = Feed::new(Arc::clone(&snapshot), "cart-1", [], clock);
        let (resolver, status) = (feed.resolver(), feed.status());
        let supervisor = Supervisor::default();
        let (feed, tries) = (Arc::new(Mutex::new(feed)), Arc::new(AtomicUsize::new(1)));
        supervisor.spawn(Task::Discovery, move || {
            let (feed, tries) = (Arc::clone(&feed), Arc::clone(&tries));
            let connect = move || {
                assert_ne!(tries.fetch_add(1, Ordering::Relaxed), nth, "a defect");
                connect(address)
            };
            async move { feed.lock().await.run(connect).await }
        });
        Self { snapshot, resolver, status, sessions, clock, supervisor }
    }

    async fn session(&mut self) -> Session {
        tokio::time::timeout(LONG, self.sessions.recv()).await.unwrap().unwrap()
    }

    fn ask(&self, address: &str, deadline: Duration) -> tokio::task::JoinHandle<Target> {
        let (resolver, address) = (self.resolver.clone(), address.parse().unwrap());
        tokio::spawn(async move { resolver.resolve(address, deadline).await })
    }
}

async fn serve(listener: TcpListener, service: DiscoveryServer<Script>) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(service.clone());
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(TokioIo::new(tcp), service));
    }
}

async fn connect(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?.connect().await
}

#[tokio::test]
async fn publishes_acknowledges_and_resumes() {
    let mut bench = Bench::start().await;
    assert!(!bench.snapshot.load().is_ready() && bench.status.age(bench.clock.now()).is_none());
    let mut session = bench.session().await;
    let hello = session.hello().await;
    assert_eq!((hello.protocol_version, &*hello.instance_id, hello.held.len()), (1, "cart-1", 0));
    session.push(vec![mesh(), resource(1, "", v1::resource::Body::Mesh(v1::Mesh::default()))]).await;
    let ack = session.ack().await;
    assert_eq!(ack.rejections.len(), 1);
    assert_eq!(ack.rejections[0].field, "trustDomain");
    // Acknowledged means in force.
    assert!(bench.snapshot.load().is_ready() && bench.snapshot.load().mesh().is_some());
    assert_eq!((bench.status.revision(), bench.status.rejected(), bench.status.is_connected()), (7, 1, true));
    assert_eq!(bench.status.age(bench.clock.now()), Some(Duration::ZERO));

    drop(session);
    let mut session = bench.session().await;
    assert!(bench.snapshot.load().mesh().is_some(), "what is known serves on without a control plane");
    assert!(!bench.status.is_connected() && bench.status.age(bench.clock.now()).is_some());
    let hello = session.hello().await;
    assert_eq!(hello.held.len(), 1);
    assert_eq!((hello.held[0].name.clone().unwrap().kind, hello.held[0].version), (1, 3));
    session.push(vec![]).await;
    session.ack().await;
    assert_eq!(bench.status.connects(), 2);
}

#[tokio::test]
async fn questions_are_answered() {
    let mut bench = Bench::start().await;
    let mut session = bench.session().await;
    session.hello().await;
    session.push(vec![mesh()]).await;
    session.ack().await;

    let asked = bench.ask("10.0.0.1:80", LONG);
    assert_eq!(session.question().await, "10.0.0.1:80");
    session.push(vec![answer("10.0.0.1", 1), service("cart", 80), service("other", 80)]).await;
    session.ack().await;
    let Target::Service { port, pinned: None } = asked.await.unwrap() else { panic!("found") };
    assert_eq!(&*port.label, "shop/cart:80");
    assert_eq!(bench.snapshot.load().services().count(), 1, "what nothing needs is not kept");

    for (ip, verdict, expected) in [("10.0.0.2", 2, Some(FaultKind::DestinationDenied)), ("192.0.2.1", 3, None)] {
        let asked = bench.ask(&format!("{ip}:80"), LONG);
        assert_eq!(session.question().await, format!("{ip}:80"));
        session.push(vec![answer(ip, verdict)]).await;
        session.ack().await;
        match (asked.await.unwrap(), expected) {
            (Target::Refused(fault), Some(expected)) => assert_eq!(fault, expected),
            (Target::Passthrough, None) => {}
            (other, _) => panic!("{ip}: {other:?}"),
        }
    }
    // Known by now: no control plane is needed.
    drop(session);
    assert!(matches!(bench.resolver.resolve("10.0.0.1:80".parse().unwrap(), LONG).await, Target::Service { .. }));
}

/// Goal: a defect of the follower costs a pause. What was accepted serves on, what was asked stays asked, and the control
/// plane gets to say what is in force, whatever the follower believed when it was cut off.
#[tokio::test]
async fn discovery_goes_on_after_a_panic() {
    let mut bench = Bench::with_defect(2).await;
    let mut session = bench.session().await;
    session.hello().await;
    session.push(vec![mesh()]).await;
    session.ack().await;
    let asked = bench.ask("10.0.0.1:80", LONG);
    session.question().await;
    session.push(vec![answer("10.0.0.1", 1), service("cart", 80)]).await;
    session.ack().await;
    asked.await.unwrap();
    drop(session);

    let mut session = bench.session().await;
    let restarts: u64 = bench.supervisor.restarts().map(|(_, count)| count).sum();
    assert_eq!(restarts, 1, "the second attempt was a panic");
    assert!(!bench.status.is_connected());
    assert!(matches!(bench.resolver.resolve("10.0.0.1:80".parse().unwrap(), LONG).await, Target::Service { .. }));
    let hello = session.hello().await;
    assert_eq!(hello.targets.len(), 1, "still wanted");
    let held: Vec<_> = hello.held.iter().map(|held| (held.name.clone().unwrap().kind, held.version)).collect();
    assert_eq!(held.len(), 3, "mesh, service and answer: {held:?}");
    assert!(held.iter().all(|(_, version)| *version == 0), "at versions unknown, older than any: {held:?}");
    // The same version again, and a change: both are taken.
    session.push(vec![mesh(), answer("10.0.0.1", 2), service("cart", 80)]).await;
    assert!(session.ack().await.rejections.is_empty());
    let target = bench.resolver.resolve("10.0.0.1:80".parse().unwrap(), LONG).await;
    assert!(matches!(target, Target::Refused(FaultKind::DestinationDenied)), "{target:?}");
}

#[tokio::test]
async fn without_an_answer_mesh_addresses_are_refused() {
    let mut bench = Bench::start().await;
    let mut session = bench.session().await;
    session.hello().await;
    session.push(vec![mesh()]).await;
    session.ack().await;
    let deadline = Duration::from_millis(50);
    let inside = bench.ask("10.0.0.1:80", deadline).await.unwrap();
    assert!(matches!(inside, Target::Refused(FaultKind::DestinationUnknown)), "{inside:?}");
    let outside = bench.ask("192.0.2.1:80", deadline).await.unwrap();
    assert!(matches!(outside, Target::Passthrough), "{outside:?}");
    let offline = Resolver::offline(Arc::clone(&bench.snapshot));
    let inside = offline.resolve("10.0.0.1:80".parse().unwrap(), LONG).await;
    assert!(matches!(inside, Target::Refused(FaultKind::DestinationUnknown)), "{inside:?}");
}
