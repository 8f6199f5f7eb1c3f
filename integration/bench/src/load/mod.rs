//! The client side: a process of its own on the load's processor.
//!
//! It writes the line `begin` when the warm-up is over and one line of JSON ([`Tally`]) when the measurement is, and then
//! holds its connections until its standard input ends, so that whoever started it can look at the proxies under load.

mod answer;
mod bulk;
mod churn;
mod h2;
mod http1;
mod idle;
mod tls;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::stats;

/// What the client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// HTTP/1.1 requests, the next one when the answer is there.
    Http1,
    /// HTTP/1.1 requests at fixed moments, whether answers come or not.
    Http1Paced,
    /// HTTP/2 requests, the next one on a stream of its own when an answer is there.
    H2,
    /// As H2: gRPC calls with one message each way.
    GrpcUnary,
    /// Messages and their echoes on long gRPC streams.
    GrpcStream,
    /// Bytes, as many as are taken.
    Bulk,
    /// A connection for each HTTP/1.1 request.
    Churn,
    /// As Churn, with a full mutual TLS handshake.
    ChurnTls,
    /// Connections that have had one answer and wait.
    Idle,
    /// As Idle, over mutual TLS.
    IdleTls,
}

/// Flags of `weft-bench load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// What to do.
    #[arg(long)]
    pub kind: Kind,
    /// Where to connect.
    #[arg(long)]
    pub target: SocketAddr,
    /// Where else; HTTP/1.1 connections go to all in turn.
    #[arg(long)]
    pub also: Vec<SocketAddr>,
    /// Connections at a time.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Streams of each HTTP/2 connection at a time.
    #[arg(long, default_value_t = 1)]
    pub streams: usize,
    /// Requests per second of paced kinds.
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// Bytes of every answer's body.
    #[arg(long, default_value_t = 100)]
    pub body: usize,
    /// Length of the warm-up in milliseconds.
    #[arg(long, default_value_t = 1000)]
    pub warm_ms: u64,
    /// Length of the measurement in milliseconds.
    #[arg(long, default_value_t = 3000)]
    pub run_ms: u64,
    /// Directory of the client's identity, for kinds with TLS.
    #[arg(long, default_value = ".")]
    pub identity: PathBuf,
    /// Protocol to offer in the handshake.
    #[arg(long, default_value = "http/1.1")]
    pub alpn: String,
}

/// What came of it.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Tally {
    /// Requests (messages, connections) that ended well while measuring.
    pub done: u64,
    /// Bytes sent while measuring, where bytes are what counts.
    pub bytes: u64,
    /// Requests that failed, ever.
    pub failed: u64,
    /// What happened to the first of them.
    pub failure: Option<String>,
    /// How long was measured.
    pub seconds: f64,
    /// Half of the answers took at most so many microseconds.
    pub p50_us: Option<f64>,
    /// 90% of them.
    pub p90_us: Option<f64>,
    /// 99% of them.
    pub p99_us: Option<f64>,
}

/// Counts while the window is open, and keeps the protocol of lines.
#[derive(Debug)]
struct Recorder {
    opens: Instant,
    closes: Instant,
    open: bool,
    done: u64,
    bytes: u64,
    failed: u64,
    failure: Option<String>,
    nanos: Vec<u32>,
}

impl Recorder {
    fn new(args: &LoadArgs) -> Self {
        let opens = Instant::now() + Duration::from_millis(args.warm_ms);
        Self::between(opens, opens + Duration::from_millis(args.run_ms))
    }

    const fn between(opens: Instant, closes: Instant) -> Self {
        Self { opens, closes, open: false, done: 0, bytes: 0, failed: 0, failure: None, nanos: Vec::new() }
    }

    /// Whether the measurement goes on. Opens the window in time, so it is to be called often.
    fn goes_on(&mut self, now: Instant) -> anyhow::Result<bool> {
        if !self.open && now >= self.opens {
            self.open = true;
            say("begin")?;
        }
        // However slow the path is, something is done in the end, or whoever started this loses patience. One failure
        // spoils the run; that it ends at once saves time and shows the cause.
        let nothing = self.done == 0 && self.bytes == 0;
        Ok((now < self.closes || nothing) && self.failed == 0)
    }

    fn answered(&mut self, now: Instant, since: Instant) {
        if self.open {
            self.done += 1;
            self.nanos.push(u32::try_from((now - since).as_nanos()).unwrap_or(u32::MAX));
        }
    }

    const fn moved(&mut self, bytes: u64) {
        if self.open {
            self.bytes += bytes;
        }
    }

    fn fail(&mut self, why: impl Into<String>) {
        self.failed += 1;
        self.failure.get_or_insert_with(|| why.into());
    }

    fn absorb(&mut self, other: Self) {
        self.done += other.done;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
        self.nanos.extend(other.nanos);
    }

    fn tally(mut self) -> Tally {
        self.nanos.sort_unstable();
        let micros = |permille| stats::quantile(&self.nanos, permille).map(|nanos| f64::from(nanos) / 1000.0);
        Tally {
            done: self.done,
            bytes: self.bytes,
            failed: self.failed,
            seconds: (Instant::now() - self.opens).as_secs_f64(),
            p50_us: micros(500),
            p90_us: micros(900),
            p99_us: micros(990),
            failure: self.failure,
        }
    }
}

/// Runs the load to its end.
///
/// # Errors
/// It cannot be made (a failed request is no error but counted).
pub fn run(args: &LoadArgs) -> anyhow::Result<()> {
    let recorder = Recorder::new(args);
    match args.kind {
        Kind::Idle | Kind::IdleTls => finish(idle::run(args)?),
        Kind::Http1 => finish(http1::closed(args, recorder)?),
        Kind::Http1Paced => finish(http1::paced(args, recorder)?),
        Kind::H2 | Kind::GrpcUnary | Kind::GrpcStream => finish(h2::run(args, recorder)?),
        Kind::Bulk => finish(bulk::run(args, recorder)?),
        Kind::Churn | Kind::ChurnTls => finish(churn::run(args, recorder)?),
    }
}

/// Reports, and holds `connections` until nobody needs them any more.
fn finish<T>((recorder, connections): (Recorder, T)) -> anyhow::Result<()> {
    say(&serde_json::to_string(&recorder.tally())?)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(connections);
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// One request and its answer, on a connection that stays.
///
/// # Errors
/// It fails.
pub fn exchange(stream: &TcpStream, body: usize) -> anyhow::Result<()> {
    churn::ask(stream, body, false)
}

/// On one HTTP/2 connection `rounds` times as many requests at once as `streams` says, each round when the one before has
/// its answers.
///
/// # Errors
/// One fails.
pub fn rounds(kind: Kind, target: SocketAddr, body: usize, (streams, rounds): (usize, usize)) -> anyhow::Result<()> {
    h2::rounds(kind, target, body, (streams, rounds))
}

/// The request that all HTTP/1.1 kinds send.
fn http1_request(close: bool) -> Vec<u8> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    format!("GET /bench HTTP/1.1\r\nHost: bench.default\r\nUser-Agent: weft-bench\r\nAccept: */*\r\n{connection}\r\n")
        .into_bytes()
}
