//! A mesh on this machine, from nothing to ready and back.
//!
//! Order: (without root: enter a user namespace, see [`super::rootless`] →) own the name → clean what a dead owner left → addresses → switch → control plane → services and tokens →
//! per instance namespace, rules, sidecar, application → gateways → wait until everything says that it is ready.
//! Every wait has a deadline, and its error shows the log of what did not come up.

mod children;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::Ipv4Net;
use tokio::task::JoinHandle;
use weft_proto::v1::{StatusRequest, StatusResponse};

use self::waiting::keep_hosts;
use super::file::{App, DevFile};
use super::home::is_privileged;
use super::host_network::HostNetwork;
use super::hosts::{self, Addresses};
use super::plan::{CONTROL_PORT, Instance, Names, PROXY_STATUS_PORT, free_range, host_address, instances};
use super::process::Process;
use super::rootless::{self, Left, Owner};
use super::state::{self, Lock, State};
use super::{guard, net};
use crate::binaries::Binaries;
use crate::client::{Clients, explain};

/// How long the control plane may take to be ready.
const CONTROL_DEADLINE: Duration = Duration::from_secs(30);
/// How long a process may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long a previous owner of the name may take to be gone.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at the children.
const WATCH_PERIOD: Duration = Duration::from_millis(200);

/// Receives a line whenever something happens that a person who waits wants to know.
pub type Progress = fn(&str);

/// A running mesh. Take it down with [`Mesh::down`]; if it is only dropped, the guard cleans up.
#[derive(Debug)]
pub struct Mesh {
    /// Names of everything that belongs to it.
    pub names: Names,
    /// What it was made from.
    pub file: DevFile,
    /// Its addresses.
    pub range: Ipv4Net,
    /// Its instances, in the file's order.
    pub instances: Vec<Instance>,
    control: Option<Process>,
    sidecars: BTreeMap<String, Process>,
    apps: BTreeMap<String, Process>,
    gateways: Vec<Process>,
    hosts: Option<JoinHandle<()>>,
    binaries: Binaries,
    weft: PathBuf,
    guard: Option<Child>,
    rootless: Option<Rootless>,
    // Last: released after everything else is gone.
    lock: Lock,
}

/// What a mesh without root has and needs besides.
#[derive(Debug)]
struct Rootless {
    owner: Owner,
    /// Of the gateways, by name, on this machine.
    listeners: BTreeMap<String, TcpListener>,
    network: HostNetwork,
}

impl Rootless {
    /// A descriptor for the gateway of this name.
    fn listener(&self, gateway: &str) -> anyhow::Result<OwnedFd> {
        let listener = self.listeners.get(gateway).with_context(|| format!("no listener for gateway {gateway}"))?;
        Ok(listener.try_clone()?.into())
    }
}

/// Where a mesh is made.
#[derive(Debug)]
pub enum Ground {
    /// On this machine, as root.
    Root,
    /// In a user namespace that has been entered.
    Left(Left),
}

impl Ground {
    /// For the mesh of `file`: where this process has no root, it enters a user namespace. Must be called while the process
    /// has one thread.
    ///
    /// # Errors
    /// Those of [`rootless::enter`].
    pub fn find(file: &DevFile) -> anyhow::Result<Self> {
        if is_privileged() { Ok(Self::Root) } else { rootless::enter(file).map(Self::Left) }
    }
}

impl Mesh {
    /// Starts the mesh and waits until it is ready.
    ///
    /// # Errors
    /// Not root on root's ground; a program is missing; another mesh of this name runs; something did not become ready (named, with
    /// the end of its log). What had been started is taken away again.
    pub async fn up(file: DevFile, ground: Ground, progress: Progress) -> anyhow::Result<Self> {
        let mut mesh = Self::claim(file, ground)?;
        match mesh.start(progress).await {
            Ok(()) => Ok(mesh),
            Err(error) => match mesh.down().await {
                Ok(()) => Err(error),
                Err(left) => Err(error.context(format!("and not everything could be taken away: {left:#}"))),
            },
        }
    }

    /// Takes the name, cleans up, chooses addresses and lays the switch.
    fn claim(file: DevFile, ground: Ground) -> anyhow::Result<Self> {
        let binaries = Binaries::locate()?;
        let weft = binaries.find("weft")?;
        let (names, lock, rootless) = match ground {
            Ground::Root => {
                let names = Names::new(file.mesh_name());
                let lock = Lock::take_within(&names.lock_file(), LOCK_WAIT)?.with_context(|| names.is_taken())?;
                state::sweep(&names)?;
                (names, lock, None)
            }
            Ground::Left(Left { names, lock, owner, listeners, network }) => {
                (names, lock, Some(Rootless { owner, listeners, network }))
            }
        };
        let directory = names.directory();
        fs::remove_dir_all(names.logs()).or_else(ignore_missing)?;
        for path in [directory.clone(), names.logs(), directory.join("bin"), directory.join("run")] {
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        // Two meshes that start at once must not choose the same addresses.
        let _choosing =
            Lock::take_within(&names.addresses_lock(), LOCK_WAIT)?.context("somebody else keeps choosing addresses")?;
        let range = free_range(&names, &net::taken()?).context("no /16 of 10.0.0.0/8 is free on this machine")?;
        let instances = instances(&file, &names, range);
        let state = State {
            mesh: names.mesh.clone(),
            supervisor: i32::try_from(std::process::id())?,
            range,
            instances: instances.clone(),
            user: if rootless.is_none() { default_user() } else { None },
            owner: rootless.as_ref().map(|rootless| rootless.owner),
        };
        state.write(&names)?;
        let guard = guard::start(&weft, &names)?;
        net::create_switch(&names, range, file.ipv6)?;
        Ok(Self {
            names,
            file,
            range,
            instances,
            control: None,
            sidecars: BTreeMap::new(),
            apps: BTreeMap::new(),
            gateways: Vec::new(),
            hosts: None,
            binaries,
            weft,
            guard: Some(guard),
            rootless,
            lock,
        })
    }

    async fn start(&mut self, progress: Progress) -> anyhow::Result<()> {
        progress(&format!(
            "mesh {:?}: addresses {}, state {}",
            self.names.mesh,
            self.range,
            self.directory().display()
        ));
        if self.rootless.is_some() {
            progress(
                "without root: no way out to other networks (no internet), nor from this machine to the mesh's addresses; \
                 gateways and `weft dev exec` lead in",
            );
        }
        hosts::prepare(&self.directory(), &self.plain_names())?;
        if self.needs_control_plane() {
            self.start_control_plane().await?;
            progress(&format!("control plane: ready on {}", self.control_address()));
            self.apply_services().await?;
            self.hosts = Some(tokio::spawn(keep_hosts(self.names.clone(), self.hosts_file(), self.plain_names())));
        }
        for instance in &self.instances {
            net::create_instance(&self.names, self.range, instance)?;
        }
        progress(&format!("{} network namespaces: made", self.instances.len()));
        for instance in self.instances.clone() {
            self.start_instance(&instance).await?;
        }
        for gateway in self.file.gateways.clone() {
            self.start_gateway(&gateway).await?;
        }
        self.wait_ready(progress).await
    }

    /// What the control plane says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusResponse> {
        status(&self.names).await
    }

    /// Waits until a part of the mesh ends, which none should: its name and the end of its log. An application that
    /// ends is its own affair: it is only told. Cancelling loses nothing.
    pub async fn watch(&mut self, progress: Progress) -> anyhow::Error {
        let mut told = BTreeSet::new();
        loop {
            for process in self.control.iter_mut().chain(self.sidecars.values_mut()).chain(&mut self.gateways) {
                if let Some(status) = process.ended() {
                    return process.failure(&format!("ended ({status})"));
                }
            }
            for (name, process) in &mut self.apps {
                if let Some(status) = process.ended()
                    && told.insert(name.clone())
                {
                    progress(&process.failure(&format!("ended ({status})")).to_string());
                }
            }
            tokio::time::sleep(WATCH_PERIOD).await;
        }
    }

    /// Ends every process, politely at first, and takes everything away but the logs.
    ///
    /// # Errors
    /// Something could not be taken away.
    pub async fn down(mut self) -> anyhow::Result<()> {
        if let Some(task) = self.hosts.take() {
            task.abort();
        }
        // Applications and proxies first: proxies deregister at a control plane that still runs.
        let first = self.apps.values_mut().chain(self.sidecars.values_mut()).chain(&mut self.gateways);
        futures_util::future::join_all(first.map(|process| process.stop(STOP_GRACE))).await;
        if let Some(control) = &mut self.control {
            control.stop(STOP_GRACE).await;
        }
        state::sweep(&self.names)?;
        // Without state the guard finds nothing to do.
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            drop(self.lock);
            guard.wait()?;
        }
        Ok(())
    }

    /// The process of an instance's application.
    #[must_use]
    pub fn app_process(&self, instance: &str) -> Option<&Process> {
        self.apps.get(instance)
    }

    /// The process of an instance's sidecar.
    #[must_use]
    pub fn sidecar_process(&mut self, instance: &str) -> Option<&mut Process> {
        self.sidecars.get_mut(instance)
    }

    /// The process of the gateway at this place of the file.
    #[must_use]
    pub fn gateway_process(&mut self, place: usize) -> Option<&mut Process> {
        self.gateways.get_mut(place)
    }

    /// This machine's network, where gateways listen.
    #[must_use]
    pub fn host_network(&self) -> HostNetwork {
        self.rootless.as_ref().map_or_else(HostNetwork::default, |rootless| rootless.network.clone())
    }

    /// Directory with state and sockets.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.names.directory()
    }

    /// The hosts file that applications see.
    #[must_use]
    pub fn hosts_file(&self) -> PathBuf {
        self.directory().join("hosts")
    }

    /// Log of an application ("blog-0"), a proxy ("blog-0.proxy", "gateway.proxy") or "control-plane".
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.names.logs().join(format!("{name}.log"))
    }

    /// Access records of the proxy of an instance or gateway.
    #[must_use]
    pub fn access_log(&self, name: &str) -> PathBuf {
        self.names.logs().join(format!("{name}.access.jsonl"))
    }

    /// Admin socket of the proxy of an instance or gateway.
    #[must_use]
    pub fn admin_socket(&self, name: &str) -> PathBuf {
        self.proxy_directory(name).join("proxy.sock")
    }

    /// Where proxies reach the control plane.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        SocketAddr::from((host_address(self.range), CONTROL_PORT))
    }

    /// Status door of the gateway at this place of the file.
    #[must_use]
    pub fn gateway_status(&self, place: usize) -> SocketAddr {
        let port = PROXY_STATUS_PORT.saturating_add(u16::try_from(place).unwrap_or(u16::MAX));
        SocketAddr::from((host_address(self.range), port))
    }

    fn proxy_directory(&self, name: &str) -> PathBuf {
        self.directory().join("run").join(name)
    }

    fn log_filter(&self) -> &str {
        self.file.log.as_deref().unwrap_or("info")
    }

    fn app(&self, name: &str) -> anyhow::Result<&App> {
        self.file.apps.iter().find(|app| app.name == name).with_context(|| format!("no application {name:?}"))
    }

    fn needs_control_plane(&self) -> bool {
        !self.file.gateways.is_empty() || self.file.apps.iter().any(|app| app.sidecar)
    }

    /// Names of applications without sidecar: their own addresses, since no service stands for them.
    fn plain_names(&self) -> Addresses {
        let mut names = Addresses::new();
        for instance in self.instances.iter().filter(|instance| !instance.sidecar) {
            let key = (instance.namespace.clone(), instance.app.clone());
            names.entry(key).or_default().push(instance.address.into());
        }
        names
    }
}

/// What the control plane of a mesh says.
///
/// # Errors
/// It does not answer.
pub async fn status(names: &Names) -> anyhow::Result<StatusResponse> {
    let mut clients = Clients::connect(&names.socket()).await?;
    Ok(clients.operator.status(StatusRequest {}).await.map_err(explain)?.into_inner())
}

/// UID that applications run as unless the file says otherwise: who called sudo, else who we are (`None`).
#[must_use]
pub fn default_user() -> Option<u32> {
    std::env::var("SUDO_UID").ok()?.parse().ok()
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
