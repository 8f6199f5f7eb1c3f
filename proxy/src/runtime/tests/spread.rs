//! Several workers of one proxy: connections are even, and a door that a defect closes opens again.

use tokio::task::LocalSet;

use super::*;
use crate::runtime::accept::{Hall, keep_accepting};
use crate::runtime::handover::{Member, inboxes};
use crate::runtime::lot::Lot;

/// Connections at the fewer of two workers.
fn fewer(proxy: &Proxy) -> usize {
    proxy.loads.connections(0).min(proxy.loads.connections(1))
}

#[tokio::test]
async fn a_few_long_connections_are_even_even_if_all_come_by_one_door() {
    let (app, _requests) = http_app(usize::MAX).await;
    for (count, least) in [(2, 1), (8, 3)] {
        let known = shared(snapshot(app, AppProtocol::Http1, None), None);
        let proxy = Proxy::of_workers(2, Door::Service(key(), PORT), known, None);
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = proxy.client().await;
            assert!(ask(&mut client, GET).await.ends_with("hello"));
            clients.push(client);
        }
        for client in &mut clients {
            assert!(ask(client, GET).await.ends_with("hello"), "they stay where they are");
        }
        assert_eq!(proxy.loads.egress(), count);
        assert!(fewer(&proxy) >= least, "of {count}: {:?}", proxy.loads);
        let handed = proxy.hub.counter(Counter::HandedOver);
        assert!(handed >= 1 && usize::try_from(handed).unwrap() == proxy.loads.connections(1), "{handed}");
        drop(clients);
        proxy.end().await;
    }
}

/// Goal: a few HTTP/2 connections of an application reach both workers of its sidecar, and from there both of the server's.
#[tokio::test]
async fn a_few_http2_connections_through_the_mesh_use_all_workers() {
    let app = h2_app().await;
    for count in 2..=4 {
        through_the_mesh(app, count).await;
    }
}

async fn through_the_mesh(app: SocketAddr, count: usize) {
    let authority = Authority::new("a");
    let door = Door::Local { address: app, protocol: AppProtocol::H2c, mode: InboundMode::Strict };
    let server = shared(Snapshot::empty(), Some(authority.identity(CART, &[CART], 600)));
    let b = Proxy::of_workers(2, door, server, None);
    let known = snapshot(b.address(), AppProtocol::H2c, Some(CART));
    let client = shared(known, Some(authority.identity(WEB, &[WEB], 600)));
    let a = Proxy::of_workers(2, Door::Service(key(), PORT), client, None);
    let mut held = Vec::new();
    for _ in 0..count {
        let (mut send, connection) = h2::client::handshake(a.client().await).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://cart/users.Users/Get").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200);
        held.push(send);
    }
    assert_eq!((a.loads.egress(), fewer(&a)), (count, count / 2), "{:?}", a.loads);
    // Each worker of the client's sidecar has one to the server's, that its connections share.
    assert_eq!((b.loads.carriers(0), b.loads.carriers(1)), (1, 1), "{:?}", b.loads);
    assert_eq!((b.loads.ingress(), fewer(&b)), (2, 1), "{:?}", b.loads);
}

#[tokio::test]
async fn connections_under_way_outlast_a_drain_wherever_they_are() {
    let (app, _requests) = http_app(usize::MAX).await;
    let door = Door::Local { address: app, protocol: AppProtocol::Http1, mode: InboundMode::Permissive };
    let proxy = Proxy::of_workers(3, door, shared(Snapshot::empty(), None), None);
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = proxy.client().await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        clients.push(client);
    }
    let here = async {
        while proxy.loads.ingress() < clients.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, here).await.expect("all are let in");
    assert!((0..3).all(|worker| proxy.loads.connections(worker) > 0), "{:?}", proxy.loads);
    proxy.workers.drain();
    for client in &mut clients {
        let answer = ask(client, "host: cart\r\n\r\n").await;
        assert!(answer.ends_with("hello"), "{answer}");
    }
    proxy.end().await;
}

/// Goal: a defect in accepting closes the connection that met it, is counted, and the next one is let in.
#[tokio::test]
async fn a_door_that_a_defect_closes_opens_again() {
    let (app, _requests) = http_app(usize::MAX).await;
    let known = Arc::new(shared(snapshot(app, AppProtocol::Http1, None), None));
    let (ways, _inboxes) = inboxes(1);
    let member = Member::new(0, ways, Arc::clone(&known.loads), tokio::runtime::Handle::current().metrics());
    let telemetry = Telemetry::new(&Hub::new(), None, "test", Clock::start());
    let supervisor = Supervisor::default();
    let (_stop, stopping) = tokio::sync::watch::channel(None);
    let local = LocalSet::new();
    let making = async { Worker::new(known, telemetry, drain().1.here(), drain().1.here()) };
    let worker = Rc::new(local.run_until(making).await);
    let lot = Lot::new().unwrap();
    let hall = Rc::new(Hall { worker, member, lot, supervisor: supervisor.clone(), stopping });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut accepting = std::pin::pin!(keep_accepting(Rc::clone(&hall), listener, Door::Service(key(), PORT)));
    // Outside of a local set no task can begin for a connection: a defect.
    let unlucky = async { TcpStream::connect(address).await.unwrap().read_u8().await };
    tokio::select! {
        () = &mut accepting => panic!("the door is closed for good"),
        ended = timeout(PATIENCE, unlucky) => assert!(ended.unwrap().is_err()),
    }
    assert_eq!(hall.member.open(), 0, "what it held is given back");
    let lucky = async {
        let mut client = TcpStream::connect(address).await.unwrap();
        ask(&mut client, GET).await
    };
    let served = local.run_until(async {
        tokio::select! {
            () = &mut accepting => panic!("the door is closed for good"),
            answer = lucky => answer,
        }
    });
    assert!(timeout(PATIENCE, served).await.unwrap().ends_with("hello"));
    assert_eq!(supervisor.restarts().find(|(task, _)| task.name() == "accept").unwrap().1, 1);
}
