//! What every proxy has to do in a scenario.

use std::net::SocketAddr;
use std::path::Path;

/// Which proxies stand between client and backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// One, in the clear on both sides.
    Hop,
    /// Two, with mutual TLS between them.
    Mesh,
    /// The second of two: mutual TLS comes in.
    Door,
}

/// What the application speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum App {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in the clear.
    H2,
    /// gRPC, which one of the proxies has to be told.
    Grpc,
    /// Bytes.
    Tcp,
}

/// Who keeps access records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Log {
    /// Each as it comes: Weft does, the others do not.
    Usual,
    /// All.
    On,
    /// None.
    Off,
}

/// The job, as far as proxies see it.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Which proxies.
    pub shape: Shape,
    /// What they carry.
    pub app: App,
    /// Who logs.
    pub log: Log,
    /// Services known, one of them in use.
    pub services: usize,
    /// Endpoints of the service in use, all of them one backend (by its many loopback addresses).
    pub endpoints: usize,
    /// Nearly all requests go to the first of them, which Weft alone is told (by weights): a count of instructions has no
    /// time to open connections to all.
    pub favoured: bool,
    /// Connections at a time that there must be room for.
    pub connections: usize,
    /// Threads that each proxy serves with.
    pub workers: usize,
    /// Whether the second proxy takes plaintext, too (Weft alone is told).
    pub plaintext: bool,
}

impl Job {
    /// One service with one endpoint.
    #[must_use]
    pub const fn new(shape: Shape, app: App) -> Self {
        let (log, favoured, plaintext) = (Log::Usual, false, false);
        Self { shape, app, log, services: 1, endpoints: 1, favoured, connections: 1024, workers: 1, plaintext }
    }

    /// Addresses of the endpoints at `port`.
    pub fn endpoint_addresses(&self, target: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let many = self.endpoints > 1;
        (0..u16::try_from(self.endpoints).unwrap_or(u16::MAX)).map(move |index| {
            let [high, low] = index.to_be_bytes();
            if many { SocketAddr::from(([127, 1, high, low], target.port())) } else { target }
        })
    }
}

/// Where it takes place.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// For set-ups and logs of this run.
    pub directory: &'a Path,
    /// Holds `roots.pem`, and `.pem`, `.key` and `.both` (one file with both) of `client` and `server`.
    pub identity: &'a Path,
    /// Where the first proxy listens.
    pub front: SocketAddr,
    /// Where the first sends to the second.
    pub middle: SocketAddr,
    /// Where the second listens: there, unless connections are redirected.
    pub middle_listen: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
}

/// SPIFFE ID of the client's side.
pub const CLIENT_ID: &str = "spiffe://cluster.local/ns/default/sa/client";
/// SPIFFE ID of the backend's side.
pub const SERVER_ID: &str = "spiffe://cluster.local/ns/default/sa/server";
/// Name of the backend, for peers that know peers by DNS names.
pub const SERVER_NAME: &str = "bench.default";
