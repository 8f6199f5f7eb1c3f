//! The processes of one measurement, started and ready.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_integration::process::{Running, free_ports};

use crate::host::{family, memory_kib, on_cpu, processor, processor_time};
use crate::job::Site;
use crate::namespaces::Namespaces;
use crate::peers::{Launch, Peer};
use crate::process::Helper;
use crate::scenario::{Place, Scenario};

/// Where proxies of one worker run, all of them: the first processor there is.
pub const PROXY_CPU: usize = 0;
/// Where client and backend run: the second.
pub const LOAD_CPU: usize = 1;
/// How long anything may take to start, or to say what it has to say. Generous: on a busy machine Envoy takes more than a
/// minute for 10,000 services with a TLS context each.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Everything but the client. Dropping ends it.
#[derive(Debug)]
pub struct Scene {
    /// Where the client connects.
    pub entrance: SocketAddr,
    /// Where else: other services, if more than one is in use.
    pub also: Vec<SocketAddr>,
    /// How the client is started: this program, perhaps by way of others.
    pub client: Vec<String>,
    proxies: Vec<u32>,
    backend: u32,
    /// Ends before what stands below.
    running: Vec<Proxy>,
    _backend: Option<Helper>,
    _namespaces: Option<Namespaces>,
}

impl Scene {
    /// Starts what the scenario needs and waits until it is ready.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(scenario: &Scenario, peer: Peer, identity: &Path, directory: &Path) -> anyhow::Result<Self> {
        match scenario.place {
            Place::Loopback => Self::on_loopback(scenario, peer, identity, directory, &[]),
            Place::Namespaces => Self::in_namespaces(scenario, peer, identity, directory),
        }
    }

    /// As [`Self::start`] on ports of loopback, the proxies by way of `inside`.
    ///
    /// # Errors
    /// Something does not start.
    pub fn on_loopback(
        scenario: &Scenario,
        peer: Peer,
        identity: &Path,
        directory: &Path,
        inside: &[String],
    ) -> anyhow::Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let [front, middle] = free_ports()?.map(local);
        let own = vec![std::env::current_exe()?.display().to_string()];
        // Many endpoints are one backend by its many loopback addresses.
        let listen = if scenario.job.endpoints > 1 { "0.0.0.0:0" } else { "127.0.0.1:0" };
        let helper = on_cpu(LOAD_CPU, || Helper::start(&own, &backend_arguments(scenario, listen)))?;
        let backend = local(helper.line(PATIENCE)?.parse()?);
        let site = Site { directory, identity, front, middle, middle_listen: middle, backend };
        let (mut entrance, mut running) = (backend, Vec::new());
        for launch in peer.launches(&scenario.job, &site)? {
            entrance = launch.listens;
            running.push(start(launch, scenario, inside, directory)?);
        }
        Ok(Self {
            entrance,
            also: Vec::new(),
            client: own,
            proxies: running.iter().map(Proxy::id).collect(),
            backend: helper.id(),
            running,
            _backend: Some(helper),
            _namespaces: None,
        })
    }

    fn in_namespaces(scenario: &Scenario, peer: Peer, identity: &Path, directory: &Path) -> anyhow::Result<Self> {
        let port = 8080;
        let arguments = backend_arguments(scenario, &format!("0.0.0.0:{port}"));
        // Everything starts on the proxies' processor, so that each takes it for the only one, and the rest then moves.
        let load = processor(LOAD_CPU)?;
        let namespaces = on_cpu(PROXY_CPU, || Namespaces::up(directory, &arguments, port, load))?;
        let server = SocketAddr::new(namespaces.server, port);
        let (any, local) = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::LOCALHOST));
        let [outbound, inbound] = [17001, 17006];
        let (mut proxies, mut running, mut entrances) = (Vec::new(), Vec::new(), vec![server]);
        match peer {
            Peer::Direct => namespaces.redirect(None)?,
            Peer::Weft => {
                proxies.extend(namespaces.sidecars);
                if scenario.job.services > 1 {
                    entrances = namespaces.register(directory, scenario.job.services, port)?;
                }
            }
            Peer::Envoy | Peer::EnvoyH2 | Peer::Haproxy | Peer::Nginx => {
                namespaces.redirect(Some([outbound, inbound]))?;
                let site = Site {
                    directory,
                    identity,
                    front: SocketAddr::new(local, outbound),
                    middle: server,
                    middle_listen: SocketAddr::new(any, inbound),
                    backend: SocketAddr::new(local, port),
                };
                for launch in peer.launches(&scenario.job, &site)? {
                    let inside = namespaces.inside(launch.name == "first");
                    running.push(start(launch, scenario, &inside, directory)?);
                }
                proxies.extend(running.iter().map(Proxy::id));
            }
        }
        let (entrance, also) = entrances.split_first().context("no entrance")?;
        Ok(Self {
            entrance: *entrance,
            also: also.to_vec(),
            client: namespaces.client(),
            proxies,
            backend: namespaces.backend,
            running,
            _backend: None,
            _namespaces: Some(namespaces),
        })
    }

    /// Asks the proxies to end and waits for it.
    ///
    /// # Errors
    /// One fails.
    pub fn end_well(mut self) -> anyhow::Result<()> {
        for proxy in self.running.iter_mut().rev() {
            kill(Pid::from_raw(proxy.id().try_into()?), Signal::SIGTERM)?;
            let status = proxy.0.0.wait()?;
            anyhow::ensure!(status.success(), "a proxy failed: {status}");
        }
        Ok(())
    }

    /// How many proxies there are.
    #[must_use]
    pub const fn proxies(&self) -> usize {
        self.proxies.len()
    }

    /// Memory of all proxies.
    ///
    /// # Errors
    /// One has ended.
    pub fn memory_mib(&self) -> anyhow::Result<f64> {
        let kib: u64 = self.proxies.iter().map(|pid| memory_kib(*pid)).sum::<anyhow::Result<_>>()?;
        Ok(f64::from(u32::try_from(kib)?) / 1024.0)
    }

    /// Processor time of all proxies, and of the backend.
    ///
    /// # Errors
    /// One has ended.
    pub fn processor_times(&self) -> anyhow::Result<(Duration, Duration)> {
        let proxies = self.proxies.iter().map(|pid| processor_time(*pid)).sum::<anyhow::Result<_>>()?;
        Ok((proxies, processor_time(self.backend)?))
    }
}

/// A proxy's process. It ends when this is dropped, and so do its children (nginx has its worker as one).
#[derive(Debug)]
struct Proxy(Running);

impl Proxy {
    fn id(&self) -> u32 {
        self.0.0.id()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The parent first, or it would start others; what has ended meanwhile cannot be killed, and need not.
        let family = family(self.id()).unwrap_or_default();
        self.0.0.kill().unwrap_or_default();
        self.0.0.wait().map(drop).unwrap_or_default();
        for child in family.into_iter().filter(|pid| *pid != self.id()).filter_map(|pid| pid.try_into().ok()) {
            kill(Pid::from_raw(child), Signal::SIGKILL).unwrap_or_default();
        }
    }
}

/// Starts a proxy, by way of `inside`, and waits until it listens. With several workers it has all processors.
fn start(launch: Launch, scenario: &Scenario, inside: &[String], directory: &Path) -> anyhow::Result<Proxy> {
    let Launch { name, command, listens } = launch;
    let log = |stream: &str| std::fs::File::create(directory.join(format!("{name}.{stream}")));
    let mut whole = inside.iter().map(OsStr::new).chain([command.get_program()]).chain(command.get_args());
    let mut started = Command::new(whole.next().context("no command")?);
    started.args(whole).stdin(Stdio::null()).stdout(log("out")?).stderr(log("log")?);
    let child = if scenario.job.workers == 1 {
        on_cpu(PROXY_CPU, || Ok(started.spawn()?))
    } else {
        started.spawn().map_err(anyhow::Error::from)
    };
    let running = child
        .map(|child| Proxy(Running(child)))
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    wait_until_listening(running.id(), listens.port())?;
    Ok(running)
}

/// Looks at the sockets of the process's network instead of connecting, which would be a connection more.
fn wait_until_listening(pid: u32, port: u16) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).context("a proxy has ended")?;
        if listens(&table, port) {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "a proxy does not listen on port {port}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|local| local.rsplit_once(':'));
        // Port in hexadecimal; 0A is the state LISTEN.
        local.is_some_and(|(_, own)| u16::from_str_radix(own, 16) == Ok(port)) && fields.nth(1) == Some("0A")
    })
}

fn backend_arguments(scenario: &Scenario, listen: &str) -> Vec<String> {
    use clap::ValueEnum as _;
    let speech = scenario.speech().to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let body = scenario.body.to_string();
    ["backend", "--speech", &speech, "--listen", listen, "--body", &body].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_who_listens() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000\n   \
                     1: 0100007F:1F91 0100007F:1F90 01 00000000\n";
        assert!(listens(table, 8080));
        assert!(!listens(table, 8081));
        assert!(!listens(table, 80));
    }
}
