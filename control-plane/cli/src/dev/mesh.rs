//! A mesh on this machine, from nothing to ready and back.
//!
//! Order: own the name → clean what a dead owner left → addresses → switch → control plane → services and tokens →
//! per instance namespace, rules, sidecar, application → gateways → wait until everything says that it is ready.
//! Every wait has a deadline, and its error shows the log of what did not come up.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use ipnet::Ipv4Net;
use tokio::task::JoinHandle;
use weft_proto::v1::{CreateTokenRequest, StatusRequest, StatusResponse};

use super::enter::EnterArgs;
use super::file::{App, DevFile, Gateway};
use super::hosts::{self, Addresses};
use super::plan::{
    CONTROL_PORT, CONTROL_STATUS_PORT, Instance, Names, PROXY_STATUS_PORT, free_range, host_address, instances,
};
use super::process::{Process, Spawn};
use super::ready::{is_listening, probe, wait_for};
use super::resources;
use super::state::{self, Lock, State};
use super::{guard, net};
use crate::binaries::Binaries;
use crate::client::{Clients, explain};

/// UID and GID of sidecars.
pub const PROXY_USER: u32 = 2113;
/// How long the control plane may take to be ready.
const CONTROL_DEADLINE: Duration = Duration::from_secs(30);
/// How long sidecars, applications and gateways may take.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Seconds that proxies drain for. Short: whoever takes the whole mesh down does not wait for its traffic.
const DRAIN_SECONDS: &str = "3";
/// How long a previous owner of the name may take to be gone.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often the names are compared with the control plane's.
const HOSTS_PERIOD: Duration = Duration::from_millis(300);

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
    // Last: released after everything else is gone.
    lock: Lock,
}

impl Mesh {
    /// Starts the mesh and waits until it is ready.
    ///
    /// # Errors
    /// Not root; a program is missing; another mesh of this name runs; something did not become ready (named, with
    /// the end of its log). What had been started is taken away again.
    pub async fn up(file: DevFile, progress: Progress) -> anyhow::Result<Self> {
        let mut mesh = Self::claim(file)?;
        match mesh.start(progress).await {
            Ok(()) => Ok(mesh),
            Err(error) => {
                mesh.down().await.context("cannot clean up")?;
                Err(error)
            }
        }
    }

    /// Takes the name, cleans up, chooses addresses and lays the switch.
    fn claim(file: DevFile) -> anyhow::Result<Self> {
        anyhow::ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces and iptables need root: run this with sudo"
        );
        let names = Names::new(file.mesh_name());
        let binaries = Binaries::locate()?;
        let weft = binaries.find("weft")?;
        let lock = Lock::take_within(&names.lock_file(), LOCK_WAIT)?.with_context(|| {
            format!("a mesh {:?} is already running; `weft dev down --mesh {0}` ends it", names.mesh)
        })?;
        state::sweep(&names)?;
        let directory = names.directory();
        fs::remove_dir_all(directory.join("logs")).or_else(ignore_missing)?;
        for path in [directory.clone(), directory.join("logs"), directory.join("bin"), directory.join("run")] {
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        // Two meshes that start at once must not choose the same addresses.
        let choosing = Path::new(super::plan::ROOT).join("addresses.lock");
        let _choosing = Lock::take_within(&choosing, LOCK_WAIT)?.context("somebody else keeps choosing addresses")?;
        let range = free_range(&names, &net::taken()?).context("no /16 of 10.0.0.0/8 is free on this machine")?;
        let instances = instances(&file, &names, range);
        let state = State {
            mesh: names.mesh.clone(),
            supervisor: i32::try_from(std::process::id())?,
            range,
            instances: instances.clone(),
            user: default_user(),
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
        hosts::write(&self.hosts_file(), &hosts::render(&self.plain_names()))?;
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

    /// Starts (or starts again) the control plane, with the state it had, and waits until it is ready.
    ///
    /// # Errors
    /// It is not ready in time.
    pub async fn start_control_plane(&mut self) -> anyhow::Result<()> {
        let (host, directory) = (host_address(self.range), self.directory());
        let text = |value: &dyn std::fmt::Display| value.to_string();
        let mut command = vec![
            text(&self.binaries.find("weft-control-plane")?.display()),
            "serve".to_owned(),
            format!("--listen={host}:{CONTROL_PORT}"),
            format!("--status-listen={host}:{CONTROL_STATUS_PORT}"),
            format!("--socket={}", self.names.socket().display()),
            format!("--state-dir={}", directory.join("control-plane").display()),
            format!("--mesh-range={}", self.range),
            format!("--outbound-mode={}", self.file.outbound_mode.flag()),
            format!("--lease-seconds={}", self.file.lease_seconds.unwrap_or(10)),
            format!("--log={}", self.log_filter()),
        ];
        if self.file.ipv6 {
            command.push(format!("--mesh-range={}/64", self.names.ipv6(0)));
        }
        let spawn = Spawn {
            name: "control plane".to_owned(),
            log: self.log("control-plane"),
            enter: EnterArgs { command, ..EnterArgs::default() },
            env: Vec::new(),
            weft: &self.weft,
        };
        let mut process = spawn.start(&self.names)?;
        let address = SocketAddr::from((host, CONTROL_STATUS_PORT));
        until_ready(&mut process, CONTROL_DEADLINE, || probe(address)).await?;
        self.control = Some(process);
        Ok(())
    }

    /// Kills the control plane as a crash would. Its state stays for [`Mesh::start_control_plane`].
    pub async fn kill_control_plane(&mut self) {
        if let Some(mut process) = self.control.take() {
            process.signal(nix::sys::signal::Signal::SIGKILL);
            // It can only be gone already.
            process.wait().await.ok();
        }
    }

    async fn apply_services(&self) -> anyhow::Result<()> {
        let mut clients = Clients::connect(&self.names.socket()).await?;
        for resource in resources::services(&self.file) {
            let name = resource.name.clone();
            clients
                .config
                .apply(weft_proto::v1::ApplyRequest { resource: Some(resource) })
                .await
                .map_err(explain)
                .with_context(|| format!("service {name}"))?;
        }
        Ok(())
    }

    async fn start_instance(&mut self, instance: &Instance) -> anyhow::Result<()> {
        let app = self.app(&instance.app)?.clone();
        if instance.sidecar {
            self.init(instance, &app).await?;
            let sidecar = self.start_sidecar(instance, &app).await?;
            self.sidecars.insert(instance.name.clone(), sidecar);
        }
        let process = self.start_app(instance, &app)?;
        self.apps.insert(instance.name.clone(), process);
        Ok(())
    }

    /// Writes the redirection into the instance's namespace.
    async fn init(&self, instance: &Instance, app: &App) -> anyhow::Result<()> {
        let mut command = vec![self.binaries.find("weft-proxy")?.display().to_string(), "init".to_owned()];
        command.push(format!("--proxy-uid={PROXY_USER}"));
        command.extend(app.init_args.iter().cloned());
        let spawn = Spawn {
            name: format!("init of {}", instance.name),
            log: self.log(&format!("{}.init", instance.name)),
            enter: EnterArgs { netns: Some(instance.netns.clone()), command, ..EnterArgs::default() },
            env: Vec::new(),
            weft: &self.weft,
        };
        let mut process = spawn.start(&self.names)?;
        let status = tokio::time::timeout(CONTROL_DEADLINE, process.wait()).await;
        match status {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(process.failure(&format!("failed ({status})"))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(process.failure("does not end")),
        }
    }

    /// Starts the sidecar of an instance; it is not yet ready when this returns.
    async fn start_sidecar(&self, instance: &Instance, app: &App) -> anyhow::Result<Process> {
        let token = self.token(&instance.name, &app.namespace, app.account()).await?;
        let mut command = self.proxy_command(&instance.name, &token)?;
        command.push("--role=sidecar".to_owned());
        command.push(format!("--instance-id={}", instance.name));
        let addresses = [Some(IpAddr::from(instance.address)), instance.address6.map(IpAddr::from)];
        command.extend(addresses.iter().flatten().map(|address| format!("--address={address}")));
        for port in &app.ports {
            let protocol = if port.protocol.is_empty() { String::new() } else { format!("={}", port.protocol) };
            command.push(format!("--app-port={}{protocol}", port.port));
        }
        command.push(format!("--label=app={}", app.name));
        command.extend(resources::service_label(app).map(|(key, value)| format!("--label={key}={value}")));
        command.extend(app.labels.iter().map(|(key, value)| format!("--label={key}={value}")));
        command.push(format!("--inbound-mode={}", app.inbound_mode.flag()));
        command.extend(app.proxy_args.iter().cloned());
        let netns = Some(instance.netns.clone());
        self.spawn_proxy(&instance.name, &format!("sidecar of {}", instance.name), netns, command)
    }

    async fn start_gateway(&mut self, gateway: &Gateway) -> anyhow::Result<()> {
        let token = self.token(&gateway.name, "default", &gateway.name).await?;
        let mut command = self.proxy_command(&gateway.name, &token)?;
        command.extend(["--role=gateway".to_owned(), format!("--listen={}", gateway.listen)]);
        command.push(format!("--service={}", gateway.service));
        command.push(format!("--instance-id={}", gateway.name));
        command.push(format!("--status-listen={}", self.gateway_status(self.gateways.len())));
        let process = self.spawn_proxy(&gateway.name, &format!("gateway {}", gateway.name), None, command)?;
        self.gateways.push(process);
        Ok(())
    }

    fn proxy_command(&self, name: &str, token: &Path) -> anyhow::Result<Vec<String>> {
        let access = if self.file.access_log { self.access_log(name).display().to_string() } else { "off".to_owned() };
        Ok(vec![
            self.proxy_binary().display().to_string(),
            "run".to_owned(),
            format!("--control-plane={}", self.control_address()),
            format!("--join-token-file={}", token.display()),
            format!("--admin-socket={}", self.admin_socket(name).display()),
            format!("--access-log={access}"),
            format!("--log={}", self.log_filter()),
            format!("--drain-timeout={DRAIN_SECONDS}"),
        ])
    }

    fn spawn_proxy(
        &self,
        file: &str,
        name: &str,
        netns: Option<String>,
        command: Vec<String>,
    ) -> anyhow::Result<Process> {
        // The proxy's user may be unable to walk to the place it was built in (a home directory), so it sees the
        // binary under the mesh's own directory.
        let target = self.proxy_binary();
        if !target.exists() {
            fs::write(&target, b"").with_context(|| format!("cannot make {}", target.display()))?;
        }
        let binds = vec![(self.binaries.find("weft-proxy")?, target)];
        let enter = EnterArgs { netns, binds, user: Some(PROXY_USER), parent: None, command };
        let log = self.log(&format!("{file}.proxy"));
        Spawn { name: name.to_owned(), log, enter, env: Vec::new(), weft: &self.weft }.start(&self.names)
    }

    /// Makes a join token and the directory that the proxy `name` may write to.
    async fn token(&self, name: &str, namespace: &str, account: &str) -> anyhow::Result<PathBuf> {
        let own = self.proxy_directory(name);
        fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
        let request = CreateTokenRequest {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            ttl_seconds: 600,
            uses: 4,
        };
        let mut clients = Clients::connect(&self.names.socket()).await?;
        let token = clients.operator.create_token(request).await.map_err(explain)?.into_inner().join_token;
        let path = own.join("join-token");
        fs::write(&path, token)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        for owned in [&own, &path] {
            chown(owned, Some(PROXY_USER), Some(PROXY_USER))?;
        }
        Ok(path)
    }

    fn start_app(&self, instance: &Instance, app: &App) -> anyhow::Result<Process> {
        let mut env: Vec<(String, String)> = vec![
            ("WEFT_INSTANCE".to_owned(), instance.name.clone()),
            ("WEFT_ADDRESS".to_owned(), instance.address.to_string()),
            ("PATH".to_owned(), self.binaries.path_with_ours()),
        ];
        env.extend(app.env.clone());
        let spawn = Spawn {
            name: instance.name.clone(),
            log: self.log(&instance.name),
            enter: self.enter_app(instance, app.command.argv()),
            env,
            weft: &self.weft,
        };
        spawn.start(&self.names)
    }

    /// What runs `command` as the instance's application runs: its namespaces, its names, its user.
    #[must_use]
    pub fn enter_app(&self, instance: &Instance, command: Vec<String>) -> EnterArgs {
        let user = instance.user.or_else(default_user);
        let binds = vec![(self.hosts_file(), PathBuf::from("/etc/hosts"))];
        EnterArgs { netns: Some(instance.netns.clone()), binds, user, parent: None, command }
    }

    async fn wait_ready(&mut self, progress: Progress) -> anyhow::Result<()> {
        let gateways = self.file.gateways.clone();
        let statuses: Vec<SocketAddr> = (0..gateways.len()).map(|place| self.gateway_status(place)).collect();
        let sidecars = self.sidecars.iter_mut().map(|(name, process)| {
            let address = self.instances.iter().find(|one| one.name == *name).map(|one| one.address);
            let status = SocketAddr::from((address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED), PROXY_STATUS_PORT));
            until_ready(process, READY_DEADLINE, move || probe(status))
        });
        try_join_all(sidecars).await?;
        progress(&format!("{} sidecars: ready", self.sidecars.len()));
        for (name, process) in &mut self.apps {
            let instance = self.instances.iter().find(|one| one.name == *name);
            let app = self.file.apps.iter().find(|app| instance.is_some_and(|one| one.app == app.name));
            let ports: Vec<u16> = app.iter().flat_map(|app| app.ports.iter().map(|port| port.port)).collect();
            let pid = process.pid().unwrap_or_default();
            let listening = move || {
                let missing = ports.iter().find(|&&port| !is_listening(pid, port)).copied();
                async move { missing.map_or(Ok(()), |port| Err(format!("does not listen on port {port}"))) }
            };
            until_ready(process, READY_DEADLINE, listening).await?;
            progress(&format!("{name}: runs"));
        }
        for ((process, status), gateway) in self.gateways.iter_mut().zip(statuses).zip(&gateways) {
            until_ready(process, READY_DEADLINE, || probe(status)).await?;
            progress(&format!("gateway: http://{} leads to {}", gateway.listen, gateway.service));
        }
        self.wait_endpoints().await
    }

    /// Waits until the control plane counts every instance as an endpoint and its names are in the hosts file.
    async fn wait_endpoints(&self) -> anyhow::Result<()> {
        let expected = resources::expected_endpoints(&self.file);
        if expected.is_empty() {
            return Ok(());
        }
        wait_for("endpoints of all services", READY_DEADLINE, || async {
            let status = self.status().await.map_err(|error| format!("{error:#}"))?;
            for ((namespace, name), count) in &expected {
                let service = status.services.iter().find(|one| one.namespace == *namespace && one.name == *name);
                let (seen, virtual_ip) = service.map_or((0, None), |one| (one.endpoints, one.virtual_ips.first()));
                if seen < *count {
                    return Err(format!("{namespace}/{name} has {seen} of {count}"));
                }
                let named = fs::read_to_string(self.hosts_file()).unwrap_or_default();
                if !virtual_ip.is_some_and(|ip| named.contains(&format!("{ip} "))) {
                    return Err(format!("{namespace}/{name} has no name yet"));
                }
            }
            Ok(())
        })
        .await
    }

    /// What the control plane says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusResponse> {
        status(&self.names).await
    }

    /// Waits until a child ends that should not: its name and the end of its log. Cancelling loses nothing.
    pub async fn watch(&mut self) -> anyhow::Error {
        loop {
            let all = self.control.iter_mut().chain(self.sidecars.values_mut()).chain(&mut self.gateways);
            for process in all.chain(self.apps.values_mut()) {
                if let Some(status) = process.ended() {
                    return process.failure(&format!("ended ({status})"));
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
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

    /// Directory with state, sockets and logs.
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
        self.directory().join("logs").join(format!("{name}.log"))
    }

    /// Access records of the proxy of an instance or gateway.
    #[must_use]
    pub fn access_log(&self, name: &str) -> PathBuf {
        self.proxy_directory(name).join("access.log")
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

    fn proxy_binary(&self) -> PathBuf {
        self.directory().join("bin/weft-proxy")
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

/// Polls until `ready`, fails at once when the process ends.
async fn until_ready<F>(process: &mut Process, deadline: Duration, mut ready: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), String>>,
{
    let waited = {
        let name = process.name.clone();
        let polled = wait_for(&name, deadline, &mut ready);
        tokio::select! {
            waited = polled => waited.map_err(|error| format!("is not ready: {error:#}")),
            ended = process.wait() => Err(format!("ended: {}", ended.map_or_else(|error| error.to_string(), |status| status.to_string()))),
        }
    };
    waited.map_err(|what| process.failure(&what))
}

/// Keeps the hosts file in step with the control plane's services. While it is away, the last names stay.
async fn keep_hosts(names: Names, path: PathBuf, plain: Addresses) {
    loop {
        if let Ok(status) = status(&names).await {
            let mut services = plain.clone();
            for service in status.services {
                let addresses = service.virtual_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
                services.insert((service.namespace, service.name), addresses);
            }
            if let Err(error) = hosts::write(&path, &hosts::render(&services)) {
                tracing::warn!(path = %path.display(), %error, "cannot write the hosts file");
            }
        }
        tokio::time::sleep(HOSTS_PERIOD).await;
    }
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
