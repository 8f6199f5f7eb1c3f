//! Connections that wait for their next request without a task, and what may happen to them meanwhile.

use std::pin::pin;

use tokio::task::LocalSet;

use super::*;
use crate::http::HttpLimits;
use crate::runtime::accept::{Hall, keep_accepting};
use crate::runtime::handover::{Member, inboxes};
use crate::runtime::lot::{Lot, keep_lot};
use crate::telemetry::Gauge;

/// Until so many wait.
async fn waiting(loads: &Loads, count: usize) {
    until(|| loads.waiting(0) == count, &format!("{count} of {loads:?} wait")).await;
}

async fn until(condition: impl Fn() -> bool, what: &str) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A proxy through which each of so many clients has asked once and waits now.
async fn with_waiting(count: usize) -> (Proxy, Vec<TcpStream>) {
    let (app, _requests) = http_app(usize::MAX).await;
    let door = Door::Local { address: app, protocol: AppProtocol::Detect, mode: InboundMode::Permissive };
    let admission = Arc::new(Admission::new(count, count));
    let proxy = Proxy::start_with(door, Shared { admission, ..shared(Snapshot::empty(), None) }, None);
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = proxy.client().await;
        assert!(ask(&mut client, GET).await.ends_with("hello"));
        clients.push(client);
    }
    waiting(&proxy.loads, count).await;
    all_are_open(&proxy, count);
    (proxy, clients)
}

fn all_are_open(proxy: &Proxy, count: usize) {
    let gauge = proxy.hub.gauge(Gauge::DownstreamConnections);
    assert_eq!((proxy.loads.ingress(), usize::try_from(gauge).unwrap()), (count, count));
}

async fn all_are_gone(proxy: &Proxy) {
    let gone = || (proxy.loads.ingress(), proxy.hub.gauge(Gauge::DownstreamConnections)) == (0, 0);
    until(gone, "no connection is left").await;
    assert_eq!(proxy.loads.waiting(0), 0);
}

#[tokio::test]
async fn what_comes_after_long_is_answered_as_ever() {
    let (proxy, mut clients) = with_waiting(1).await;
    let client = &mut clients[0];
    assert!(ask(client, GET).await.ends_with("hello"), "a request at once");
    waiting(&proxy.loads, 1).await;
    let (first, rest) = GET.split_at(9);
    client.write_all(first.as_bytes()).await.unwrap();
    waiting(&proxy.loads, 0).await;
    assert!(ask(client, rest).await.ends_with("hello"), "one in pieces");
    waiting(&proxy.loads, 1).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    assert!(ask(client, GET).await.ends_with("hello"), "the first of two");
    assert!(ask(client, "").await.ends_with("hello"), "and the second");
    waiting(&proxy.loads, 1).await;
    let refused = ask(client, "no request\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    assert_eq!(proxy.hub.counter(Counter::HeadRefused), 1);
    drop(clients);
    all_are_gone(&proxy).await;
    proxy.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_gone() {
    for reset in [false, true] {
        let (proxy, clients) = with_waiting(2).await;
        for client in clients {
            if reset {
                net::reset(client);
            }
        }
        all_are_gone(&proxy).await;
        proxy.end().await;
    }
    let (proxy, mut clients) = with_waiting(1).await;
    clients[0].shutdown().await.unwrap();
    let closed = timeout(PATIENCE, clients[0].read(&mut [0; 1])).await.unwrap();
    assert_eq!(closed.unwrap(), 0, "who ends his direction between requests is answered by ours");
    all_are_gone(&proxy).await;
    let mut page = String::new();
    proxy.hub.render(&mut page);
    assert!(!page.contains("weft_connections_total{"), "the end of such a connection has no record: {page}");
    proxy.end().await;
}

#[tokio::test]
async fn a_drain_lets_a_client_that_was_about_to_ask_be_answered_and_closes_the_others() {
    let (proxy, mut clients) = with_waiting(2).await;
    proxy.workers.drain();
    waiting(&proxy.loads, 0).await;
    let answer = ask(&mut clients[0], GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    for client in &mut clients {
        let closed = timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap();
        assert_eq!(closed.unwrap(), 0);
    }
    all_are_gone(&proxy).await;
    proxy.end().await;
}

#[tokio::test]
async fn what_still_waits_at_the_end_is_closed() {
    let (proxy, mut clients) = with_waiting(1).await;
    let Proxy { workers, loads, hub, .. } = proxy;
    tokio::task::spawn_blocking(move || workers.stop(Duration::ZERO)).await.unwrap();
    assert!(timeout(PATIENCE, clients[0].read(&mut [0; 1])).await.unwrap().is_ok_and(|count| count == 0));
    assert_eq!((loads.ingress(), loads.waiting(0), hub.gauge(Gauge::DownstreamConnections)), (0, 0, 0));
}

/// Goal: whoever wakes with hundreds of others is served, and what they did is not what those who sleep pay for.
#[tokio::test]
async fn many_that_wake_at_once_are_all_served() {
    const MANY: usize = 150;
    let (proxy, mut clients) = with_waiting(MANY).await;
    for client in clients.iter_mut().skip(1) {
        // All is sent before any answer is read.
        assert_eq!(client.try_write(GET.as_bytes()).unwrap(), GET.len());
    }
    for client in clients.iter_mut().skip(1) {
        assert!(ask(client, "").await.ends_with("hello"));
    }
    waiting(&proxy.loads, MANY).await;
    all_are_open(&proxy, MANY);
    drop(clients);
    all_are_gone(&proxy).await;
    proxy.end().await;
}

/// Goal: the time that a connection may wait is what it was, with a task or without.
#[tokio::test]
async fn who_waits_for_too_long_is_closed_then() {
    const IDLE: Duration = Duration::from_millis(1500);
    let limits =
        HttpLimits { idle_timeout: IDLE, hand_back_after: Some(Duration::from_millis(10)), ..HttpLimits::default() };
    let (app, _requests) = http_app(usize::MAX).await;
    let known = Arc::new(shared(snapshot(app, AppProtocol::Http1, None), None));
    let loads = Arc::clone(&known.loads);
    let (ways, _inboxes) = inboxes(1);
    let member = Member::new(0, ways, Arc::clone(&loads), tokio::runtime::Handle::current().metrics());
    let telemetry = Telemetry::new(&Hub::new(), None, "test", Clock::start());
    let (_stop, stopping) = tokio::sync::watch::channel(None);
    let [(_drain, signal), (_egress_drain, egress_signal)] = [drain(), drain()];
    let serving = async {
        let mut worker = Worker::new(known, telemetry, signal.here(), egress_signal.here());
        worker.limits = Rc::new(limits);
        let worker = Rc::new(worker);
        let (lot, supervisor) = (Lot::new().unwrap(), Supervisor::default());
        let hall = Rc::new(Hall { worker, member, lot, supervisor, stopping });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut keeping = pin!(keep_lot(Rc::clone(&hall)));
        let mut accepting = pin!(keep_accepting(hall, listener, Door::Service(key(), PORT)));
        let clients = async {
            let mut clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
            for client in &mut clients {
                ask(client, GET).await;
            }
            let answered = tokio::time::Instant::now();
            waiting(&loads, 2).await;
            // Asks again, which gives it its time anew.
            tokio::time::sleep(IDLE / 2).await;
            ask(&mut clients[1], GET).await;
            let asked = tokio::time::Instant::now();
            for (client, since) in clients.iter_mut().zip([answered, asked]) {
                let closed = timeout(PATIENCE, client.read(&mut [0; 1])).await.expect("it is closed in time");
                assert_eq!(closed.unwrap(), 0);
                let waited = since.elapsed();
                // The answers came a little before the clock was read.
                assert!(waited > IDLE - Duration::from_millis(500), "{waited:?}");
            }
            until(|| loads.egress() == 0, "no connection is left").await;
        };
        tokio::select! {
            () = &mut keeping => panic!("the lot is closed"),
            () = &mut accepting => panic!("the door is closed"),
            () = clients => {}
        }
    };
    LocalSet::new().run_until(serving).await;
}
