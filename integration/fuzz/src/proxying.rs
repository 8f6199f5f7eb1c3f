//! A proxy in miniature around the real drivers: what comes downstream goes upstream over HTTP/1, to a script.
//!
//! Streams are pairs of Unix sockets, so that the code under test is the one that runs, without ports.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};
use weft_core::fault::FaultKind;
use weft_core::h1::Limits;
use weft_core::propagate::hop_by_hop::{Upgrade, strip_request, strip_response};
use weft_proxy::http::{ExchangeEnd, H1Client, Handler, Home, Interim, Refusal, Request, Response, fault_response};
use weft_proxy::io::Stream;

use crate::reading::assert_harmless;

/// Longer than anything waits: an input that takes this long hangs.
const HANG: Duration = Duration::from_secs(30);

/// An upstream that hears nothing for so long closes. Whenever it does, what must hold holds.
const QUIET: Duration = Duration::from_millis(5);

/// Between the parts of an input. No text of HTTP/1 holds it.
pub(crate) const SPLIT: &[u8] = b"\0|\0";

/// Runs a future as a worker would, on this thread.
pub(crate) fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
    }
    RUNTIME.with(|runtime| {
        let local = LocalSet::new();
        local.block_on(runtime, async { timeout(HANG, work).await.unwrap_or_else(|_| panic!("it hangs")) })
    })
}

/// Two ends of a connection: ours as the drivers take it, and the peer's.
pub(crate) fn connection() -> (Stream, UnixStream) {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).unwrap();
    }
    // The drivers know sockets, not their family.
    let ours = std::net::TcpStream::from(OwnedFd::from(ours));
    (Stream::plain(TcpStream::from_std(ours).unwrap()), UnixStream::from_std(theirs).unwrap())
}

/// Splits an input into its parts.
pub(crate) fn parts(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(SPLIT.len()).position(|at| at == SPLIT) {
        parts.push(&rest[..at]);
        rest = &rest[at + SPLIT.len()..];
    }
    parts.push(rest);
    parts
}

/// Says all of it, ends its direction, and gives what the other end said.
pub(crate) async fn talk(mut peer: UnixStream, says: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    let (mut read, mut write) = peer.split();
    let saying = async {
        // A peer that has closed hears no more; what it said is still there.
        if write.write_all(says).await.is_ok() {
            write.shutdown().await.unwrap_or_default();
        }
    };
    let hearing = async { read.read_to_end(&mut heard).await.unwrap_or_default() };
    tokio::join!(saying, hearing);
    heard
}

/// Forwards each request to an upstream that answers with the next part of a script, whatever was asked.
pub(crate) struct Forward {
    script: RefCell<std::vec::IntoIter<Vec<u8>>>,
    shelf: Rc<Shelf>,
    /// What each upstream connection was sent.
    pub(crate) upstreams: RefCell<Vec<Rc<RefCell<Vec<u8>>>>>,
    /// Methods of the requests that were handled.
    pub(crate) methods: RefCell<Vec<http::Method>>,
    /// Requests that were sent upstream.
    pub(crate) sent: Cell<usize>,
    pub(crate) refused: Cell<usize>,
    pub(crate) tunnels: Cell<usize>,
    pub(crate) ended: Cell<usize>,
}

#[derive(Debug, Default)]
struct Shelf(RefCell<Vec<H1Client>>);

impl Home for Shelf {
    fn give_back(&self, client: H1Client, _: bool) {
        self.0.borrow_mut().push(client);
    }
}

impl Forward {
    pub(crate) fn to(script: &[&[u8]]) -> Rc<Self> {
        let script: Vec<Vec<u8>> = script.iter().map(|part| part.to_vec()).collect();
        Rc::new(Self {
            script: RefCell::new(script.into_iter()),
            shelf: Rc::default(),
            upstreams: RefCell::default(),
            methods: RefCell::default(),
            sent: Cell::new(0),
            refused: Cell::new(0),
            tunnels: Cell::new(0),
            ended: Cell::new(0),
        })
    }

    fn connect(self: &Rc<Self>) -> H1Client {
        let (stream, peer) = connection();
        let heard = Rc::default();
        self.upstreams.borrow_mut().push(Rc::clone(&heard));
        spawn_local(upstream(peer, heard, Rc::clone(self)));
        H1Client::new(stream, Limits::default())
    }

    async fn forward(self: &Rc<Self>, mut request: Request, interim: &Interim) -> Result<Response, FaultKind> {
        let upgrade = if request.head.wants_upgrade().is_some() { Upgrade::Keep } else { Upgrade::Drop };
        strip_request(&mut request.head, upgrade);
        let shelved = self.shelf.0.borrow_mut().pop().filter(H1Client::is_quiet);
        let client = shelved.unwrap_or_else(|| self.connect());
        self.sent.set(self.sent.get() + 1);
        let home = Rc::clone(&self.shelf) as Rc<dyn Home>;
        let mut response = client.send(&mut request, interim, Some(home)).await.map_err(|error| error.fault)?;
        let tunnel = if response.upgrade.is_some() { Upgrade::Keep } else { Upgrade::Drop };
        strip_response(&mut response.head, tunnel);
        Ok(response)
    }
}

/// Answers what it hears with the next part of the script each time; after the last, or when nothing comes, it closes.
async fn upstream(mut peer: UnixStream, heard: Rc<RefCell<Vec<u8>>>, forward: Rc<Forward>) {
    let mut buffer = [0; 4096];
    while let Ok(Ok(len @ 1..)) = timeout(QUIET, peer.read(&mut buffer)).await {
        heard.borrow_mut().extend_from_slice(&buffer[..len]);
        let answer = forward.script.borrow_mut().next();
        let Some(answer) = answer else { break };
        if peer.write_all(&answer).await.is_err() {
            break;
        }
    }
    // What is still on its way is heard too.
    peer.shutdown().await.unwrap_or_default();
    while let Ok(len @ 1..) = peer.read(&mut buffer).await {
        heard.borrow_mut().extend_from_slice(&buffer[..len]);
    }
}

/// A handler is called with a reference; the upstream's task outlives that.
pub(crate) struct Shared(pub(crate) Rc<Forward>);

impl Handler for Shared {
    type Ticket = ();

    async fn handle(&self, request: Request, interim: &Interim) -> (Response, ()) {
        assert_harmless(&request.head.fields);
        let limits = Limits::default();
        assert!(request.head.fields.len() <= limits.fields_max);
        assert!(request.head.fields.wire_len() <= limits.head_bytes_max + 2 * limits.fields_max);
        self.0.methods.borrow_mut().push(request.head.method.clone());
        let grpc = request.head.is_grpc();
        let answered = self.0.forward(request, interim).await;
        (answered.unwrap_or_else(|fault| fault_response(fault, grpc)), ())
    }

    fn finished(&self, (): (), _: ExchangeEnd) -> Instant {
        self.0.ended.set(self.0.ended.get() + 1);
        Instant::now()
    }

    fn refused(&self, refusal: &Refusal) {
        assert!(refusal.status.is_none_or(|status| (400..600).contains(&status)));
        self.0.refused.set(self.0.refused.get() + 1);
    }

    fn broken(&self, _: FaultKind) {}

    async fn tunnel(&self, (): (), mut downstream: Stream, mut upstream: Stream) {
        self.0.tunnels.set(self.0.tunnels.get() + 1);
        // How a tunnel of nonsense ends is its peers' business.
        copy_bidirectional(&mut downstream, &mut upstream).await.map(drop).unwrap_or_default();
    }
}
