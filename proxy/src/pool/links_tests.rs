//! HTTP/1 links on shared connections, as the pools handle them.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ::http::Response;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;
use weft_core::fault::FaultKind;
use weft_core::h1::Limits;
use weft_core::reuse::{Carrier, Life, PoolLimits};
use weft_core::share::Caller;

use super::http2::{Lane, Opened, Streams};
use super::{Link, Shelf, Taken};
use crate::clock::Clock;
use crate::entropy::ThreadEntropy;
use crate::http::{H1Client, H2Client, Home as _, HttpLimits};
use crate::io::Stream;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { timeout(Duration::from_secs(60), test).await.expect("the test hangs") };
    runtime.block_on(LocalSet::new().run_until(test));
}

/// A sidecar that takes every link and says nothing on it. Told to, it ends its links, or goes away and keeps them.
struct FarEnd {
    address: SocketAddr,
    end: Rc<Notify>,
    leave: Rc<Notify>,
}

impl FarEnd {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, end, leave) = (listener.local_addr().unwrap(), Rc::<Notify>::default(), Rc::<Notify>::default());
        let told = (Rc::clone(&end), Rc::clone(&leave));
        spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                spawn_local(Self::take_links(socket, told.clone()));
            }
        });
        Self { address, end, leave }
    }

    async fn take_links(socket: TcpStream, (end, leave): (Rc<Notify>, Rc<Notify>)) {
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        let mut connection = builder.handshake::<_, Bytes>(socket).await.unwrap();
        let mut links = Vec::new();
        loop {
            tokio::select! {
                asked = connection.accept() => {
                    let Some(Ok((request, mut respond))) = asked else { return };
                    links.push((respond.send_response(Response::new(()), false).unwrap(), request));
                }
                () = end.notified() => links.clear(),
                () = leave.notified() => connection.graceful_shutdown(),
            }
        }
    }

    async fn connect(&self) -> H2Client {
        let socket = TcpStream::connect(self.address).await.unwrap();
        H2Client::connect(Stream::plain(socket), &HttpLimits::between_sidecars(), "http").await.unwrap()
    }

    async fn opened(&self) -> Result<Opened, FaultKind> {
        Ok(Opened { client: self.connect().await, peer: None, expires: i64::MAX })
    }
}

fn on(limits: PoolLimits) -> (Clock, Rc<Shelf>) {
    let clock = Clock::start();
    (clock, Shelf::new(clock, limits))
}

/// A link on this connection that has become idle.
async fn idle_link(shelf: &Shelf, clock: Clock, on: &H2Client) {
    let client = link(on).await;
    put(shelf, clock, on, client);
}

async fn link(on: &H2Client) -> H1Client {
    H1Client::new(on.open_link().await.unwrap().0, Limits::default())
}

fn put(shelf: &Shelf, clock: Clock, on: &H2Client, client: H1Client) {
    let life = Life::begin(&PoolLimits::default(), clock.now(), &mut ThreadEntropy);
    let link = shelf.opened_shared(shelf.reserve().unwrap(), on.clone(), (life, i64::MAX), None);
    link.give_back(client, false);
}

/// A connection of its own that has become idle, and its server's end.
async fn idle_own(shelf: &Shelf) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let link: Rc<Link> = shelf.opened(shelf.reserve().unwrap(), i64::MAX, None);
    link.give_back(H1Client::new(Stream::plain(near.unwrap()), Limits::default()), false);
    far.unwrap().0
}

async fn until(so: impl Fn() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Goal: room that there is, is used while another connection is opened, and where none can be.
#[test]
fn links_go_where_there_is_room_when_no_other_connection_can_be_had() {
    run(async {
        let far = Rc::new(FarEnd::start().await);
        let limits = PoolLimits { links_max: 1, ..PoolLimits::default() };
        let lane = Rc::new(Lane::new(Clock::start(), limits, Streams::Links));
        let opened = Rc::clone(&far);
        let first = lane.checkout(|| async move { opened.opened().await }).await.unwrap();
        let _link = first.client.open_link().await.unwrap();
        lane.has_workers(3);
        assert!(lane.open().is_none(), "another connection is to be opened");

        let (slow, connecting, refuse) = (Rc::clone(&lane), Rc::new(Cell::new(false)), Rc::<Notify>::default());
        let (begun, refused) = (Rc::clone(&connecting), Rc::clone(&refuse));
        let opening = spawn_local(async move {
            let fails = || async move {
                begun.set(true);
                refused.notified().await;
                Err(FaultKind::UpstreamTls)
            };
            slow.checkout(fails).await
        });
        until(|| connecting.get()).await;
        assert!(lane.open().is_some_and(|checkout| checkout.reused), "nobody waits for it");
        refuse.notify_one();
        let refused = opening.await.unwrap();
        assert!(refused.is_ok_and(|checkout| checkout.reused), "it is not needed");
    });
}

/// Goal: requests whose time is shorter than a handshake get their connection all the same, those behind them at least.
#[test]
fn a_connection_is_opened_for_all_who_wait_whoever_leaves() {
    run(async {
        let far = Rc::new(FarEnd::start().await);
        let lane = Rc::new(Lane::new(Clock::start(), PoolLimits::default(), Streams::Requests));
        let (opened, go) = (Rc::new(Cell::new(0)), Rc::<Notify>::default());
        let ask = || {
            let (far, lane, opened, go) = (Rc::clone(&far), Rc::clone(&lane), Rc::clone(&opened), Rc::clone(&go));
            spawn_local(async move {
                let connect = || async move {
                    opened.set(opened.get() + 1);
                    go.notified().await;
                    far.opened().await
                };
                lane.checkout(connect).await.map(|checkout| checkout.reused)
            })
        };
        let first = ask();
        until(|| opened.get() == 1).await;
        let second = ask();
        first.abort();
        first.await.unwrap_err();
        go.notify_one();
        assert_eq!(second.await.unwrap(), Ok(true), "the connection that the first began to open");
        assert_eq!(opened.get(), 1);
    });
}

/// Goal: a connection that goes away keeps its links until they end, one by one; none of them begins a request then.
#[test]
fn an_idle_link_of_a_connection_that_goes_away_is_not_used() {
    run(async {
        let far = FarEnd::start().await;
        let (clock, shelf) = on(PoolLimits { own_links_max: 0, ..PoolLimits::default() });
        let client = far.connect().await;
        idle_link(&shelf, clock, &client).await;
        let (taken, _) = shelf.take(clock.now(), true, false);
        let Taken::Idle(link_client, link) = taken else { panic!("{taken:?}") };
        link.give_back(link_client, false);
        drop(link);
        far.leave.notify_one();
        until(|| !client.is_usable()).await;
        let (taken, stale) = shelf.take(clock.now(), true, false);
        assert!(matches!((&taken, stale), (Taken::Open(Carrier::Shared), 0)), "{taken:?} {stale}");
    });
}

/// Goal: a sidecar that restarts is not taken for one that closes idle connections after a moment.
#[test]
fn shared_links_that_end_say_nothing_of_the_servers_patience() {
    run(async {
        let (lasts, ends) = (FarEnd::start().await, FarEnd::start().await);
        let (clock, shelf) = on(PoolLimits { own_links_max: 0, ..PoolLimits::default() });
        idle_link(&shelf, clock, &lasts.connect().await).await;
        let other = ends.connect().await;
        let ended = link(&other).await;
        ends.end.notify_one();
        until(|| !ended.is_quiet()).await;
        put(&shelf, clock, &other, ended);
        let later = clock.now() + Duration::from_secs(1);
        let (taken, stale) = shelf.take(later, true, false);
        assert!(matches!((&taken, stale), (Taken::Idle(..), 1)), "{taken:?} {stale}");
    });
}

/// Goal: nobody is refused while a connection lies idle.
#[test]
fn where_no_other_may_be_opened_idle_connections_are_used_whatever_their_sort() {
    run(async {
        let (clock, shelf) = on(PoolLimits { connections_max: 2, own_links_max: 1, ..PoolLimits::default() });
        let _server = idle_own(&shelf).await;
        let [one, other] = [1, 2].map(|n| Rc::new(Caller::stranger([192, 0, 2, n].into())));
        let _used = (shelf.admit(&one).unwrap(), shelf.admit(&other).unwrap());
        let (taken, _) = shelf.take(clock.now(), true, true);
        assert!(matches!(taken, Taken::Open(Carrier::Shared)), "{taken:?}");
        let _slot = shelf.reserve().unwrap();
        let (taken, _) = shelf.take(clock.now(), true, false);
        assert!(matches!(taken, Taken::Idle(..)), "{taken:?}");
    });
}
