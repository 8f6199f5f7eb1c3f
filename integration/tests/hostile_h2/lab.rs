//! Proxies under observation: ways in, bystanders, memory, records.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_integration::assert::wait_for;
use weft_integration::raw::h2::{Event, H2Peer};
use weft_integration::raw::h2_frame::{Frame, PREFACE, kind};
use weft_integration::raw::h2_hpack::block;
use weft_integration::raw::{DEADLINE, Pair, Plan, Protocol, Proxy, mesh_peer};

use crate::apps::{App, Heard};

/// How long a flood goes on, over as many connections as it takes.
pub(crate) const FLOOD: Duration = Duration::from_millis(700);

/// By how much the memory of a proxy may be above what it was before while an attack runs.
const GROWTH_KIB: u64 = 32 * 1024;

/// And soon after it: what is freed goes back, but for what the next connections need anyway.
const KEPT_KIB: u64 = 8 * 1024;

/// 99 of 100 requests of bystanders are answered within this. As users run it (`cargo test --release`, on a machine of
/// one's own) that is 250 ms; without optimisation, beside other tests, it still tells waiting for one's turn from waiting
/// for an attacker.
const PATIENCE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2000 } else { 250 });

/// A connection of any kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// An attacker's end.
pub(crate) type Peer = H2Peer<Box<dyn Io>>;

/// A way into the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The outbound proxy's port for its application.
    Outbound,
    /// The inbound proxy's port, in the clear.
    Inbound,
    /// The inbound proxy's port, by the mesh's mutual TLS.
    Mesh,
}

/// Doors by what the application behind them speaks.
pub(crate) const H2: usize = 0;
pub(crate) const H1: usize = 1;
/// HTTP/2 too, spoken by whatever the test puts there.
pub(crate) const SCRIPTED: usize = 2;

/// Two proxies, two applications, and a port for a third.
pub(crate) struct Lab {
    pub(crate) pair: Pair,
    pub(crate) heard: Heard,
    _apps: [App; 2],
}

impl Lab {
    pub(crate) async fn open() -> Self {
        let ports = [Protocol::H2c, Protocol::Http, Protocol::H2c];
        let pair = Pair::start(Plan { permissive: true, ..Plan::mesh(&ports) }).await.unwrap();
        let heard = Heard::default();
        let apps = [App::http2(&pair.doors[H2].backend), App::http1(&pair.doors[H1].backend, &heard)];
        Self { pair, heard, _apps: apps }
    }

    /// The proxy that a way leads to first.
    pub(crate) fn proxy(&self, way: Way) -> &Proxy {
        match way {
            Way::Outbound => &self.pair.outbound,
            Way::Inbound | Way::Mesh => self.pair.inbound.as_ref().unwrap(),
        }
    }

    pub(crate) fn address(&self, way: Way, door: usize) -> SocketAddr {
        let door = &self.pair.doors[door];
        let port = if way == Way::Outbound { door.port } else { door.mesh_port.unwrap() };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// A connection on which nothing has been said.
    pub(crate) async fn dial(&self, way: Way, door: usize) -> Box<dyn Io> {
        let stream = TcpStream::connect(self.address(way, door)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match way {
            Way::Outbound | Way::Inbound => Box::new(stream),
            Way::Mesh => Box::new(mesh_peer(stream, self.pair.directory.path(), "weft-h2/1").await.unwrap()),
        }
    }

    /// A connection that has begun well.
    pub(crate) async fn client(&self, way: Way, door: usize, settings: &[(u16, u32)]) -> Peer {
        H2Peer::client(self.dial(way, door).await, settings).await.unwrap()
    }

    /// Records of a proxy from index `from` on that carry a fault, once one satisfies `is`.
    pub(crate) async fn faults(&self, way: Way, from: usize, is: impl Fn(&Value) -> bool) -> Vec<Value> {
        let proxy = self.proxy(way);
        proxy.record(from, |record| record.get("fault").is_some() && is(record)).await.unwrap();
        proxy.records().unwrap().into_iter().skip(from).filter(|record| record.get("fault").is_some()).collect()
    }

    /// Makes sure that a whole new connection is served.
    pub(crate) async fn serves(&self, way: Way, door: usize) {
        let mut client = self.client(way, door, &[]).await;
        assert_eq!(get(&mut client, 1, "/").await, "200", "{way:?}");
    }

    /// Runs an attack while others are served and memory is looked at.
    pub(crate) async fn during<T>(&self, attack: impl Future<Output = T>) -> T {
        // Buffers and caches that any traffic needs.
        for way in [Way::Outbound, Way::Inbound] {
            self.serves(way, H2).await;
            self.serves(way, H1).await;
        }
        let before = self.memory();
        let over = Arc::new(AtomicBool::new(false));
        let watched = [self.pair.outbound.id(), self.pair.inbound.as_ref().unwrap().id()];
        let sampler = tokio::spawn(sample(watched, Arc::clone(&over)));
        let bystanders: Vec<_> = [(Way::Outbound, H2), (Way::Outbound, H1), (Way::Inbound, H2)]
            .map(|(way, door)| tokio::spawn(bystander(self.address(way, door), Arc::clone(&over))))
            .into();
        let outcome = timeout(DEADLINE * 3, attack).await.expect("the attack does not come to an end");
        over.store(true, Ordering::Release);
        let most = sampler.await.unwrap();
        for bystander in bystanders {
            judge(bystander).await;
        }
        for (before, most) in before.into_iter().zip(most) {
            eprintln!("memory: from {before} to {most} KiB");
            assert!(most <= before + GROWTH_KIB, "memory grew from {before} to {most} KiB");
        }
        wait_for("memory given back", DEADLINE, || async {
            let now = self.memory();
            let back = now.iter().zip(before).all(|(now, before)| *now <= before + KEPT_KIB);
            if back { Ok(()) } else { Err(format!("{now:?} KiB instead of {before:?}")) }
        })
        .await
        .unwrap();
        outcome
    }

    /// KiB of both proxies.
    fn memory(&self) -> [u64; 2] {
        [self.pair.outbound.memory_kib().unwrap(), self.pair.inbound.as_ref().unwrap().memory_kib().unwrap()]
    }
}

async fn sample(processes: [u32; 2], over: Arc<AtomicBool>) -> [u64; 2] {
    let mut most = [0; 2];
    while !over.load(Ordering::Acquire) {
        for (most, process) in most.iter_mut().zip(processes) {
            let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a proxy is gone");
            let rss = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            *most = (*most).max(rss.trim().trim_end_matches(" kB").parse().unwrap());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    most
}

/// Asks again and again on one connection; gives how long each answer took.
async fn bystander(to: SocketAddr, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut client = H2Peer::connect(to, &[]).await.unwrap();
    let (mut times, mut stream) = (Vec::new(), 1);
    while !over.load(Ordering::Acquire) || times.len() < 20 {
        let asked = Instant::now();
        assert_eq!(get(&mut client, stream, "/").await, "200");
        times.push(asked.elapsed());
        stream += 2;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times
}

async fn judge(bystander: JoinHandle<Vec<Duration>>) {
    let mut times = bystander.await.expect("a bystander is served");
    times.sort();
    let slow = times[(times.len() - 1) * 99 / 100];
    eprintln!("bystander: p99 of {} is {slow:?}", times.len());
    assert!(slow <= PATIENCE, "bystanders wait {slow:?} (p99 of {})", times.len());
}

/// Fields of a request.
pub(crate) fn ask<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", "app.test"), (":path", path)]
}

/// HEADERS of a request.
pub(crate) fn request(stream: u32, method: &str, path: &str, end: bool) -> Frame {
    Frame::headers(stream, block(ask(method, path)), end)
}

/// Asks and gives the status; the whole answer has come then.
pub(crate) async fn get<S: AsyncRead + AsyncWrite + Unpin>(client: &mut H2Peer<S>, stream: u32, path: &str) -> String {
    client.send([request(stream, "GET", path, true)]).await.unwrap();
    let over = |event: &Event| {
        matches!(event, Event::Data { stream: of, end: true, .. } | Event::Headers { stream: of, end: true, .. }
            | Event::Reset { stream: of, .. } if *of == stream)
    };
    status(&client.until(over).await.unwrap(), stream)
}

/// Status of the answer on a stream; the code where it was reset without one.
pub(crate) fn status(events: &[Event], stream: u32) -> String {
    let said = events.iter().find_map(|event| match event {
        Event::Headers { stream: of, fields, .. } if *of == stream => fields
            .iter()
            .find(|(name, value)| name == b":status" && !value.starts_with(b"1"))
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned()),
        Event::Reset { stream: of, code } if *of == stream => Some(format!("reset {code}")),
        Event::Headers { .. }
        | Event::Data { .. }
        | Event::Reset { .. }
        | Event::Goaway { .. }
        | Event::Settings(_)
        | Event::SettingsAck
        | Event::Ping(_)
        | Event::Pong(_)
        | Event::WindowUpdate { .. }
        | Event::Other(_)
        | Event::Closed(_) => None,
    });
    said.unwrap_or_else(|| format!("nothing on {stream} in {events:?}"))
}

/// What became of a connection that was flooded.
#[derive(Debug, Default)]
pub(crate) struct Flooded {
    /// Bytes that were taken.
    pub(crate) sent: usize,
    /// Code of a GOAWAY, where it was not lost with the connection.
    pub(crate) goaway: Option<u32>,
    /// The proxy has ended the connection.
    pub(crate) closed: bool,
}

/// Sends what `next` makes until the peer ends the connection, `most` bytes are sent or nothing moves for half a second;
/// reads or does not.
pub(crate) async fn flood(
    stream: Box<dyn Io>,
    settings: &[(u16, u32)],
    reads: bool,
    most: usize,
    mut next: crate::floods::Pieces,
) -> Flooded {
    let (mut from, mut to) = tokio::io::split(stream);
    let writing = async {
        let (mut sent, mut closed) = (0, to.write_all(PREFACE).await.is_err());
        closed |= to.write_all(&Frame::settings(settings).encode()).await.is_err();
        while !closed && sent < most {
            let bytes = next();
            match timeout(Duration::from_millis(500), to.write_all(&bytes)).await {
                Ok(written) => closed = written.is_err(),
                Err(_) => break,
            }
            sent += bytes.len();
        }
        (sent, closed)
    };
    let reading = async {
        let (mut received, mut goaway, mut closed) = (BytesMut::new(), None, false);
        while reads && !closed {
            closed = !matches!(from.read_buf(&mut received).await, Ok(1..));
            while let Some(frame) = Frame::decode(&mut received) {
                if frame.kind == kind::GOAWAY {
                    goaway = frame.number(4);
                }
            }
        }
        (goaway, closed)
    };
    let mut reading = Box::pin(reading);
    let mut read = None;
    let (sent, closed) = {
        let mut writing = Box::pin(writing);
        loop {
            tokio::select! {
                written = &mut writing => break written,
                done = &mut reading, if reads && read.is_none() => read = Some(done),
            }
        }
    };
    if reads && read.is_none() {
        // What is on its way yet, or the end.
        read = timeout(Duration::from_secs(3), &mut reading).await.ok();
    }
    let (goaway, ended) = read.unwrap_or_default();
    Flooded { sent, goaway, closed: closed || ended }
}
