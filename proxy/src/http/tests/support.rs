//! The harness: a forwarding handler, a scripted upstream, a raw client.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};
use weft_core::fault::FaultKind;
use weft_core::h1::Limits;

use crate::http::{
    ExchangeEnd, H1Client, H1Connection, H2Client, Handler, Home, HttpLimits, Interim, Refusal, Request, Response,
    ServeEnd, fault_response, serve_h1, serve_h2,
};
use crate::io::Stream;
use crate::runtime::drain::{DrainTrigger, drain};

/// Runs a test on a runtime like a worker's; nothing here may take long.
pub(super) fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { timeout(Duration::from_secs(20), test).await.expect("the test hangs") };
    LocalSet::new().block_on(&runtime, test);
}

/// As [`run`]; time stands still unless the test advances it.
pub(super) fn run_frozen<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (over, until_over) = std::sync::mpsc::channel::<()>();
    let test = async {
        // While something blocks, a paused clock does not go ahead by itself. In a test that hangs it does after a minute.
        tokio::task::spawn_blocking(move || until_over.recv_timeout(Duration::from_secs(60)));
        timeout(Duration::from_secs(20), test).await.expect("the test hangs");
        drop(over);
    };
    LocalSet::new().block_on(&runtime, test);
}

/// Idle upstream connections.
#[derive(Debug, Default)]
pub(super) struct Shelf(pub(super) RefCell<Vec<H1Client>>);

impl Home for Shelf {
    fn give_back(&self, client: H1Client, _: bool) {
        self.0.borrow_mut().push(client);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proto {
    H1,
    H2,
}

/// Forwards every request to one upstream, or answers 403 without reading when there is none.
pub(super) struct Forward {
    upstream: Option<(SocketAddr, Proto)>,
    pub(super) shelf: Rc<Shelf>,
    h2: RefCell<Option<H2Client>>,
    /// Workers that it says to have, if it takes links.
    pub(super) links: Cell<Option<usize>>,
    pub(super) opened: Cell<u32>,
    pub(super) log: RefCell<Vec<String>>,
    pub(super) logged: Notify,
    limits: HttpLimits,
}

impl Forward {
    pub(super) fn to(upstream: Option<(SocketAddr, Proto)>, limits: &HttpLimits) -> Rc<Self> {
        Rc::new(Self {
            upstream,
            shelf: Rc::default(),
            h2: RefCell::default(),
            links: Cell::new(None),
            opened: Cell::new(0),
            log: RefCell::default(),
            logged: Notify::new(),
            limits: limits.clone(),
        })
    }

    fn note(&self, line: String) {
        self.log.borrow_mut().push(line);
        self.logged.notify_one();
    }

    /// Waits until something that starts with `start` was noted, and gives it.
    pub(super) async fn noted(&self, start: &str) -> String {
        loop {
            let found = self.log.borrow().iter().find(|l| l.starts_with(start)).cloned();
            if let Some(line) = found {
                return line;
            }
            self.logged.notified().await;
        }
    }

    async fn connect(&self, to: SocketAddr) -> Result<Stream, FaultKind> {
        self.opened.set(self.opened.get() + 1);
        let socket = TcpStream::connect(to).await.map_err(|_| FaultKind::ConnectFailed)?;
        socket.set_nodelay(true).map_err(|_| FaultKind::ConnectFailed)?;
        Ok(Stream::plain(socket))
    }

    async fn forward(&self, mut request: Request, interim: &Interim) -> Result<Response, FaultKind> {
        let Some((to, proto)) = self.upstream else { return Err(FaultKind::DestinationDenied) };
        if request.head.wants_upgrade().is_none() {
            request.head.fields.remove("connection");
        }
        let mut response = if proto == Proto::H1 {
            let shelved = self.shelf.0.borrow_mut().pop().filter(H1Client::is_quiet);
            let client = match shelved {
                Some(client) => client,
                None => H1Client::new(self.connect(to).await?, Limits::default()),
            };
            client.send(&mut request, interim, Some(Rc::clone(&self.shelf) as Rc<dyn Home>)).await
        } else {
            let held = self.h2.borrow().clone().filter(H2Client::is_usable);
            let client = match held {
                Some(client) => client,
                None => H2Client::connect(self.connect(to).await?, &self.limits, "http").await?,
            };
            *self.h2.borrow_mut() = Some(client.clone());
            client.send(&mut request, interim).await
        }
        .map_err(|error| {
            self.note(format!("failed {} unsent={}", error.fault.code(), error.unsent));
            error.fault
        })?;
        if response.upgrade.is_none() {
            response.head.fields.remove("connection");
        }
        Ok(response)
    }
}

/// Notes when a handler is dropped before it answers.
struct Pending<'a>(&'a Forward, bool);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.note("cancelled".into());
        }
    }
}

impl Handler for Forward {
    type Ticket = ();

    async fn handle(&self, request: Request, interim: &Interim) -> (Response, ()) {
        let grpc = request.head.is_grpc();
        let mut pending = Pending(self, false);
        let outcome = self.forward(request, interim).await;
        pending.1 = true;
        (outcome.unwrap_or_else(|fault| fault_response(fault, grpc)), ())
    }

    fn finished(&self, (): (), end: ExchangeEnd) -> Instant {
        let fault = end.fault.map_or("ok", FaultKind::code);
        self.note(format!("finished {fault} received={} sent={}", end.bytes_received, end.bytes_sent));
        Instant::now()
    }

    fn refused(&self, refusal: &Refusal) {
        self.note(format!("refused {} {}", refusal.fault.code(), refusal.status.unwrap_or_default()));
    }

    fn broken(&self, fault: FaultKind) {
        self.note(format!("broken {}", fault.code()));
    }

    fn link(self: &Rc<Self>) -> Option<(Rc<Self>, usize)> {
        self.links.get().map(|workers| (Rc::clone(self), workers))
    }

    async fn tunnel(&self, (): (), mut downstream: Stream, mut upstream: Stream) {
        let ends = copy_bidirectional(&mut downstream, &mut upstream).await;
        self.note(format!("tunnel {:?}", ends.map_err(|e| e.kind())));
    }
}

/// A proxy of one listener.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) handler: Rc<Forward>,
    pub(super) trigger: DrainTrigger,
    pub(super) ends: Rc<RefCell<Vec<ServeEnd>>>,
}

/// Serves `downstream` connections with a forwarding handler.
pub(super) async fn proxy(downstream: Proto, upstream: Option<(SocketAddr, Proto)>, limits: HttpLimits) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handler = Forward::to(upstream, &limits);
    let (trigger, signal) = drain();
    let signal = signal.here();
    let ends: Rc<RefCell<Vec<ServeEnd>>> = Rc::default();
    let (forward, list, limits) = (Rc::clone(&handler), Rc::clone(&ends), Rc::new(limits));
    spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (forward, list, limits, signal) =
                (Rc::clone(&forward), Rc::clone(&list), Rc::clone(&limits), signal.clone());
            spawn_local(async move {
                socket.set_nodelay(true).unwrap();
                let stream = Stream::plain(socket);
                let end = match downstream {
                    Proto::H1 => serve_h1(&H1Connection::new(stream, &limits), &limits, signal, &*forward).await,
                    Proto::H2 => serve_h2(stream, &limits, signal, &forward).await,
                };
                list.borrow_mut().push(end);
                forward.note(format!("end {end:?}"));
            });
        }
    });
    Proxy { address, handler, trigger, ends }
}

/// An upstream that runs `script` on each connection, with its number from 0.
pub(super) async fn upstream<S, F>(script: S) -> SocketAddr
where
    S: Fn(TcpStream, u32) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let mut number = 0;
        while let Ok((socket, _)) = listener.accept().await {
            spawn_local(script(socket, number));
            number += 1;
        }
    });
    address
}

/// Reads until the bytes end with `end`.
pub(super) async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let byte = socket.read_u8().await;
        seen.push(byte.unwrap_or_else(|e| panic!("{e} after {:?}, before {end:?}", String::from_utf8_lossy(&seen))));
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// Reads one head, with its empty line.
pub(super) async fn read_head(socket: &mut TcpStream) -> String {
    read_until(socket, "\r\n\r\n").await
}

/// Everything until the peer's end; `None` when it resets.
pub(super) async fn read_all(socket: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    socket.read_to_end(&mut seen).await.ok()?;
    Some(String::from_utf8_lossy(&seen).into_owned())
}

/// An upstream that answers each head with the same bytes.
pub(super) async fn answering(answer: &'static str) -> SocketAddr {
    upstream(move |mut socket, _| async move {
        while let Some(head) = try_read_head(&mut socket).await {
            assert!(!head.is_empty());
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// A head, or nothing at the end of the connection.
pub(super) async fn try_read_head(socket: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&seen).into_owned())
}

/// A proxy of HTTP/1 both ways in front of an upstream, and a client connected to it.
pub(super) async fn h1_pair(to: SocketAddr) -> (Proxy, TcpStream) {
    let proxy = proxy(Proto::H1, Some((to, Proto::H1)), HttpLimits::default()).await;
    let client = TcpStream::connect(proxy.address).await.unwrap();
    (proxy, client)
}
