//! Steady traffic from outside the mesh, and an honest account of it.
//!
//! Requests are sent at fixed times whether or not earlier ones have been answered (an open loop: a stall shows as
//! failures and latency, not as fewer requests). Every second request uses a new connection, the others one that is
//! kept. Nothing is ever repeated: what fails is counted.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::dev::host_network::HostNetwork;

/// How long a request may take before it counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_MAX: usize = 1 << 20;
/// Failures that are described; the others are counted.
const COMPLAINTS_MAX: usize = 10;
/// Kept connections.
const IDLE_MAX: usize = 64;

/// Account of traffic.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests begun.
    pub sent: u64,
    /// Answered with 200 and a whole body.
    pub succeeded: u64,
    /// Everything else.
    pub failed: u64,
    /// Of those sent, on a new connection.
    pub new_connections: u64,
    /// Of those sent, on a kept connection.
    pub kept_connections: u64,
    /// Of all answered, in microseconds.
    pub latencies_us: Vec<u64>,
    /// The first failures, in words.
    pub complaints: Vec<String>,
}

impl Counts {
    /// Latency below which `percent` of the answers came, in microseconds.
    #[must_use]
    pub fn percentile_us(&self, percent: usize) -> u64 {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(place).copied().unwrap_or(0)
    }
}

/// A connection that answers one request after the other.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    address: SocketAddr,
}

/// Where a gateway listens.
#[derive(Clone, Debug)]
pub struct Door {
    /// In which network.
    pub network: HostNetwork,
    /// At which address.
    pub address: SocketAddr,
}

impl Door {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn open(&self) -> anyhow::Result<Connection> {
        let stream = self.network.connect(self.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("connect")?;
        tokio::task::spawn_local(async move {
            // What goes wrong is seen by the request in flight; an idle connection may be closed at will.
            connection.await.ok();
        });
        Ok(Connection { sender, address: self.address })
    }
}

impl Connection {
    /// GET, whole answer.
    ///
    /// # Errors
    /// The connection broke, or the answer is too long.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::get(path).header(http::header::HOST, self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.sender.send_request(request.body(Empty::new())?).await.context("request")?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("body: {error}"))?;
        Ok((status, body.to_bytes()))
    }

    fn usable(&self) -> bool {
        self.sender.is_ready() && !self.sender.is_closed()
    }
}

/// Running traffic.
#[derive(Debug)]
pub struct Load {
    counts: Rc<RefCell<Counts>>,
    task: tokio::task::JoinHandle<()>,
    started: Instant,
}

impl Load {
    /// Starts `rate` requests per second for `paths`, in turn. Must run inside a `LocalSet`.
    #[must_use]
    pub fn start(door: Door, rate: u32, paths: &'static [&'static str]) -> Self {
        let counts = Rc::new(RefCell::new(Counts::default()));
        let task = tokio::task::spawn_local(generate(door, rate, paths, Rc::clone(&counts)));
        Self { counts, task, started: Instant::now() }
    }

    /// The account so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    /// Stops sending, waits for what is in flight, and gives the account and the time it took.
    pub async fn stop(self) -> (Counts, Duration) {
        self.task.abort();
        let elapsed = self.started.elapsed();
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        while Instant::now() < deadline {
            let counts = self.counts();
            if counts.succeeded + counts.failed >= counts.sent {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (self.counts(), elapsed)
    }
}

async fn generate(door: Door, rate: u32, paths: &'static [&'static str], counts: Rc<RefCell<Counts>>) {
    let door = Rc::new(door);
    let idle: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    // Late ticks are made up for, so that the rate holds on a busy machine.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut turn = paths.iter().cycle();
    for number in 0_u64.. {
        ticks.tick().await;
        let path = turn.next().copied().unwrap_or("/");
        let (door, idle, counts) = (Rc::clone(&door), Rc::clone(&idle), Rc::clone(&counts));
        counts.borrow_mut().sent += 1;
        tokio::task::spawn_local(async move {
            let start = Instant::now();
            let result = timeout(REQUEST_TIMEOUT, request(&door, path, number % 2 == 0, &idle, &counts)).await;
            let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {REQUEST_TIMEOUT:?}")));
            let mut counts = counts.borrow_mut();
            match result {
                Ok(()) => {
                    counts.succeeded += 1;
                    counts.latencies_us.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
                Err(error) => {
                    counts.failed += 1;
                    if counts.complaints.len() < COMPLAINTS_MAX {
                        counts.complaints.push(format!("request {number}: {error:#}"));
                    }
                }
            }
        });
    }
}

async fn request(
    door: &Door,
    path: &str,
    new: bool,
    idle: &RefCell<Vec<Connection>>,
    counts: &RefCell<Counts>,
) -> anyhow::Result<()> {
    let kept = if new { None } else { take_usable(idle) };
    if kept.is_some() {
        counts.borrow_mut().kept_connections += 1;
    } else {
        counts.borrow_mut().new_connections += 1;
    }
    let mut connection = match kept {
        Some(connection) => connection,
        None => door.open().await?,
    };
    let headers: &[(&str, &str)] = if new { &[("connection", "close")] } else { &[] };
    let (status, body) = connection.get(path, headers).await?;
    anyhow::ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body).trim());
    let mut idle = idle.borrow_mut();
    if !new && idle.len() < IDLE_MAX {
        idle.push(connection);
    }
    Ok(())
}

fn take_usable(idle: &RefCell<Vec<Connection>>) -> Option<Connection> {
    let mut idle = idle.borrow_mut();
    while let Some(connection) = idle.pop() {
        if connection.usable() {
            return Some(connection);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    use super::*;

    /// Answers every request on every connection, the `bad`-th of all with a reset or a 503.
    async fn serve(listener: TcpListener, bad: u64) {
        let seen = Rc::new(RefCell::new(0_u64));
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let seen = Rc::clone(&seen);
            tokio::task::spawn_local(async move {
                let mut buffer = vec![0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {
                    *seen.borrow_mut() += 1;
                    let number = *seen.borrow();
                    if number == bad {
                        return;
                    }
                    let status = if number == bad + 1 { "503 Service Unavailable" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    }

    fn counted(bad: u64) -> Counts {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::task::spawn_local(serve(listener, bad));
            let load = Load::start(Door { network: HostNetwork::Here, address }, 500, &["/a", "/b"]);
            while load.counts().sent < 100 {
                sleep(Duration::from_millis(1)).await;
            }
            load.stop().await.0
        })
    }

    #[test]
    fn every_failure_is_counted_once_and_nothing_is_repeated() {
        let good = counted(u64::MAX - 1);
        assert_eq!((good.failed, good.succeeded), (0, good.sent), "{:?}", good.complaints);
        assert!(good.new_connections * 2 >= good.sent && good.kept_connections > 0, "{good:?}");
        let bad = counted(50);
        assert_eq!((bad.failed, bad.succeeded), (2, bad.sent - 2), "{:?}", bad.complaints);
        assert!(bad.complaints.iter().any(|complaint| complaint.contains("503")), "{:?}", bad.complaints);
    }

    #[test]
    fn percentiles_are_of_the_sorted() {
        let counts = Counts { latencies_us: (1..=100).rev().collect(), ..Counts::default() };
        assert_eq!((counts.percentile_us(50), counts.percentile_us(99), counts.percentile_us(100)), (51, 100, 100));
        assert_eq!(Counts::default().percentile_us(50), 0);
    }
}
