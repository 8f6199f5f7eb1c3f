//! The rows of the comparison.

use crate::backend::Speech;
use crate::job::{App, Job, Log, Shape};
use crate::load::Kind;

/// What a row's figure is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Processor time of all proxies of the path for one request, connection or message, in microseconds.
    MicrosPerRequest,
    /// Processor time of all proxies of the path for 10⁹ bytes, in seconds.
    SecondsPerGb,
    /// Growth of memory for one connection that waits, in KiB.
    KibPerConnection,
    /// Memory of one proxy without traffic, in MiB.
    MibPerProxy,
}

impl Unit {
    /// As a table's heading.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Self::MicrosPerRequest => "CPU µs/request",
            Self::SecondsPerGb => "CPU s/GB",
            Self::KibPerConnection => "KiB/connection",
            Self::MibPerProxy => "MiB/proxy",
        }
    }
}

/// Where it takes place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// On ports of loopback, Weft by a static file.
    Loopback,
    /// In a network namespace for each side, through iptables' redirection, Weft by its control plane.
    Namespaces,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// For the command line.
    pub name: &'static str,
    /// For the tables.
    pub title: &'static str,
    /// What proxies do.
    pub job: Job,
    /// What the client does; nothing where only presence is measured.
    pub kind: Option<Kind>,
    /// The client's connections.
    pub connections: usize,
    /// Its streams on each.
    pub streams: usize,
    /// Bytes of an answer or message.
    pub body: usize,
    /// What is compared.
    pub unit: Unit,
    /// Where.
    pub place: Place,
}

impl Scenario {
    const fn new(name: &'static str, title: &'static str, job: Job, kind: Kind, connections: usize) -> Self {
        let (unit, place) = (Unit::MicrosPerRequest, Place::Loopback);
        Self { name, title, job, kind: Some(kind), connections, streams: 1, body: 100, unit, place }
    }

    /// No row: what stands there when a storm of handshakes comes.
    #[must_use]
    pub const fn storm(job: Job) -> Self {
        Self::new("storm", "a storm of handshakes", job, Kind::Http1Paced, 0)
    }

    /// What the backend has to speak.
    #[must_use]
    pub const fn speech(&self) -> Speech {
        match self.kind {
            Some(Kind::H2) => Speech::H2,
            Some(Kind::GrpcUnary) => Speech::GrpcUnary,
            Some(Kind::GrpcStream) => Speech::GrpcStream,
            Some(Kind::Bulk) => Speech::Sink,
            _ => Speech::Http1,
        }
    }

    /// The same with less of everything, to see that it works.
    #[must_use]
    pub fn small(mut self) -> Self {
        self.connections = self.connections.min(4);
        self.streams = self.streams.min(4);
        self.job.services = self.job.services.min(10);
        self.job.endpoints = self.job.endpoints.min(10);
        self
    }
}

const HOP: Job = Job::new(Shape::Hop, App::Http1);
const MESH: Job = Job::new(Shape::Mesh, App::Http1);
const DOOR: Job = Job::new(Shape::Door, App::Http1);
const MESH_OF_MANY: Job = Job { services: 10_000, ..MESH };
const MESH_H2: Job = Job::new(Shape::Mesh, App::H2);
const MESH_GRPC: Job = Job::new(Shape::Mesh, App::Grpc);
const MESH_TCP: Job = Job::new(Shape::Mesh, App::Tcp);
const HOP_TCP: Job = Job::new(Shape::Hop, App::Tcp);
/// Connections of the rows that hold many.
const MANY: usize = 5000;

/// What is counted beside rows of the comparison: it says what grows, which needs no other proxy.
#[must_use]
pub fn counted_only() -> Vec<Scenario> {
    let many = Job { endpoints: 10_000, favoured: true, ..HOP };
    vec![Scenario::new("hop-endpoints-10000", "hop-http1, 10,000 endpoints", many, Kind::Http1, 1)]
}

/// All rows.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let new = Scenario::new;
    let roomy = |job| Job { connections: MANY, ..job };
    vec![
        new("mesh-http1", "HTTP/1.1, A ═ mTLS ═ B, 64 connections", MESH, Kind::Http1, 64),
        new("mesh-http1-paced", "HTTP/1.1, A ═ mTLS ═ B, 1,000 requests/s, 16 connections", MESH, Kind::Http1Paced, 16),
        Scenario { streams: 32, ..new("mesh-h2", "HTTP/2, A ═ mTLS ═ B, 8 × 32 streams", MESH_H2, Kind::H2, 8) },
        new("hop-http1", "HTTP/1.1, one proxy in the clear, 64 connections", HOP, Kind::Http1, 64),
        Scenario { unit: Unit::SecondsPerGb, ..new("mesh-tcp", "bulk TCP, A ═ mTLS ═ B", MESH_TCP, Kind::Bulk, 1) },
        Scenario {
            unit: Unit::SecondsPerGb,
            ..new("hop-tcp", "bulk TCP, one proxy in the clear", HOP_TCP, Kind::Bulk, 1)
        },
        new("door-handshake", "full mTLS handshake, one request, close, at B", DOOR, Kind::ChurnTls, 16),
        new("hop-connect", "a connection per request, one proxy in the clear", HOP, Kind::Churn, 16),
        Scenario {
            unit: Unit::KibPerConnection,
            ..new("hop-idle", "memory per waiting connection, in the clear", roomy(HOP), Kind::Idle, MANY)
        },
        Scenario {
            unit: Unit::KibPerConnection,
            ..new("door-idle", "memory per waiting connection, mTLS at B", roomy(DOOR), Kind::IdleTls, MANY)
        },
        Scenario {
            unit: Unit::MibPerProxy,
            kind: None,
            place: Place::Namespaces,
            ..new("mesh-rest", "memory of a proxy without traffic, in a mesh", MESH, Kind::Idle, 0)
        },
        Scenario { body: 10240, ..new("hop-http1-10k", "hop-http1, 10 KiB answers", HOP, Kind::Http1, 64) },
        Scenario { body: 10240, ..new("mesh-http1-10k", "mesh-http1, 10 KiB answers", MESH, Kind::Http1, 64) },
        Scenario {
            streams: 32,
            ..new("mesh-grpc", "gRPC calls, A ═ mTLS ═ B, 8 × 32 streams", MESH_GRPC, Kind::GrpcUnary, 8)
        },
        Scenario {
            streams: 8,
            ..new("mesh-grpc-stream", "gRPC messages on 8 × 8 long streams", MESH_GRPC, Kind::GrpcStream, 8)
        },
        new("mesh-log-on", "mesh-http1, all keep access records", Job { log: Log::On, ..MESH }, Kind::Http1, 64),
        new("mesh-log-off", "mesh-http1, none keeps access records", Job { log: Log::Off, ..MESH }, Kind::Http1, 64),
        new("mesh-services", "mesh-http1, 10,000 services known", MESH_OF_MANY, Kind::Http1, 64),
        new(
            "mesh-two-workers",
            "mesh-http1, two workers in each proxy, no processor of their own",
            Job { workers: 2, ..MESH },
            Kind::Http1,
            64,
        ),
        Scenario {
            place: Place::Namespaces,
            ..new("netns-http1", "mesh-http1 in namespaces, through iptables", MESH, Kind::Http1, 64)
        },
        Scenario {
            place: Place::Namespaces,
            ..new("netns-http1-paced", "mesh-http1-paced in namespaces, through iptables", MESH, Kind::Http1Paced, 16)
        },
        Scenario {
            place: Place::Namespaces,
            ..new(
                "netns-services",
                "netns-http1, 10,000 services known, 10 of them in use",
                MESH_OF_MANY,
                Kind::Http1,
                64,
            )
        },
        new("hop-endpoints", "hop-http1, 1,000 endpoints", Job { endpoints: 1000, ..HOP }, Kind::Http1, 64),
    ]
}
