//! The proxies that are compared, and their set-ups: each does the same job by the means its own manual names.

mod envoy;
mod haproxy;
mod nginx;
mod weft;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::job::{App, Job, Log, Shape, Site};

/// Who does the job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Nobody: the client speaks to the backend.
    Direct,
    /// Weft.
    Weft,
    /// Envoy.
    Envoy,
    /// Envoy with HTTP/2 between the two.
    EnvoyH2,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

/// One process to start.
#[derive(Debug)]
pub struct Launch {
    /// Its name, for its log.
    pub name: String,
    /// How to start it.
    pub command: Command,
    /// Where it listens once it is ready.
    pub listens: SocketAddr,
}

/// Which of two proxies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    /// Beside the client: what comes is in the clear.
    First { secured: bool },
    /// Beside the backend: what comes is encrypted.
    Second,
}

/// One proxy: which, where it listens, and where it sends.
#[derive(Clone, Copy, Debug)]
struct Post<'a> {
    side: Side,
    name: &'static str,
    listen: SocketAddr,
    target: SocketAddr,
    job: &'a Job,
    site: &'a Site<'a>,
    log: bool,
    /// HTTP/2 between the two although the application speaks HTTP/1.1.
    raised: bool,
}

impl Post<'_> {
    fn file(&self, ending: &str) -> PathBuf {
        self.site.directory.join(format!("{}.{ending}", self.name))
    }

    /// A file of the identity, as text for a set-up.
    fn identity(&self, name: &str) -> String {
        self.site.identity.join(name).display().to_string()
    }

    fn write(&self, ending: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.file(ending);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Peer {
    /// All, in the order of the tables.
    pub const ALL: [Self; 6] = [Self::Direct, Self::Weft, Self::Envoy, Self::EnvoyH2, Self::Haproxy, Self::Nginx];

    /// As tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Weft => "Weft",
            Self::Envoy => "Envoy",
            Self::EnvoyH2 => "Envoy, h2 between",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }

    /// Whether it can do the job, and the job is one for it.
    #[must_use]
    pub fn can(self, job: &Job) -> bool {
        match self {
            Self::Direct => job.shape != Shape::Door,
            Self::Weft | Self::Envoy | Self::Haproxy => true,
            Self::EnvoyH2 => job.shape == Shape::Mesh && job.app == App::Http1,
            // It speaks HTTP/2 to upstreams for gRPC only.
            Self::Nginx => job.app != App::H2,
        }
    }

    /// What its mutual TLS is called in the handshake.
    #[must_use]
    pub const fn alpn(self) -> &'static str {
        if matches!(self, Self::Weft) { "weft-h1/1" } else { "http/1.1" }
    }

    /// What it says of its version.
    ///
    /// # Errors
    /// It is not installed.
    pub fn version(self) -> anyhow::Result<String> {
        let (program, argument) = match self {
            Self::Direct => return Ok(String::new()),
            Self::Weft => (weft::program()?, "--version"),
            Self::Envoy | Self::EnvoyH2 => (PathBuf::from("envoy"), "--version"),
            Self::Haproxy => (PathBuf::from("haproxy"), "-v"),
            Self::Nginx => (PathBuf::from("nginx"), "-v"),
        };
        let output = Command::new(&program).arg(argument).output();
        let output = output.with_context(|| {
            format!("cannot start {}: integration/bench/run installs it, or says how", program.display())
        })?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().map(str::trim).find(|line| line.contains(|c: char| c.is_ascii_digit()));
        // Some say where they lie before that.
        let line = line.unwrap_or_default();
        Ok(line.split_once(" version: ").map_or(line, |(_, version)| version).to_owned())
    }

    /// The processes that do the job, last of the path first. Each has one worker.
    ///
    /// # Errors
    /// A set-up cannot be written, or the program is missing.
    pub fn launches(self, job: &Job, site: &Site<'_>) -> anyhow::Result<Vec<Launch>> {
        let first = |secured, target| (Side::First { secured }, "first", site.front, target);
        let second = (Side::Second, "second", site.middle_listen, site.backend);
        let sides = match job.shape {
            _ if self == Self::Direct => vec![],
            Shape::Hop => vec![first(false, site.backend)],
            Shape::Mesh => vec![second, first(true, site.middle)],
            Shape::Door => vec![second],
        };
        let log = match job.log {
            Log::Usual => self == Self::Weft,
            Log::On => true,
            Log::Off => false,
        };
        let posts = sides.into_iter().map(|(side, name, listen, target)| {
            let raised = self == Self::EnvoyH2;
            let post = Post { side, name, listen, target, job, site, log, raised };
            let command = match self {
                Self::Direct => anyhow::bail!("nothing stands in a direct path"),
                Self::Weft => weft::command(&post)?,
                Self::Envoy | Self::EnvoyH2 => envoy::command(&post)?,
                Self::Haproxy => haproxy::command(&post)?,
                Self::Nginx => nginx::command(&post)?,
            };
            Ok(Launch { name: name.to_owned(), command, listens: listen })
        });
        posts.collect()
    }
}
