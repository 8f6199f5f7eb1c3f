//! Starting the children of a mesh, each with the flags that an operator would give it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use weft_core::intercept::PROXY_MARK;
use weft_proto::v1::{ApplyRequest, CreateTokenRequest};

use super::waiting::until_ready;
use super::{CONTROL_DEADLINE, Mesh, default_user};
use crate::client::{Clients, explain};
use crate::dev::enter::{EnterArgs, enter_app};
use crate::dev::file::{App, Gateway};
use crate::dev::home::PROXY_USER;
use crate::dev::plan::{CONTROL_PORT, CONTROL_STATUS_PORT, Instance, host_address};
use crate::dev::process::{Process, Spawn};
use crate::dev::ready::probe;
use crate::dev::resources;

/// Seconds that proxies drain for. Short: whoever takes the whole mesh down does not wait for its traffic.
const DRAIN_SECONDS: &str = "3";

impl Mesh {
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
            stdin: None,
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

    pub(super) async fn apply_services(&self) -> anyhow::Result<()> {
        let mut clients = Clients::connect(&self.names.socket()).await?;
        for resource in resources::services(&self.file) {
            let name = resource.name.clone();
            clients
                .config
                .apply(ApplyRequest { resource: Some(resource) })
                .await
                .map_err(explain)
                .with_context(|| format!("service {name}"))?;
        }
        Ok(())
    }

    pub(super) async fn start_instance(&mut self, instance: &Instance) -> anyhow::Result<()> {
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
        command.push(self.mark().unwrap_or_else(|| format!("--proxy-uid={PROXY_USER}")));
        command.extend(app.init_args.iter().cloned());
        let spawn = Spawn {
            name: format!("init of {}", instance.name),
            log: self.log(&format!("{}.init", instance.name)),
            enter: EnterArgs { netns: Some(instance.netns.clone()), command, ..EnterArgs::default() },
            env: Vec::new(),
            stdin: None,
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
        command.extend(self.mark());
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
        self.spawn_proxy(
            &instance.name,
            format!("sidecar of {}", instance.name),
            EnterArgs { netns, command, ..EnterArgs::default() },
            None,
        )
    }

    /// What tells `init` and sidecars of the packet mark, where sidecars have no user of their own.
    fn mark(&self) -> Option<String> {
        self.rootless.as_ref().map(|_| format!("--mark={PROXY_MARK:#x}"))
    }

    pub(super) async fn start_gateway(&mut self, gateway: &Gateway) -> anyhow::Result<()> {
        let token = self.token(&gateway.name, "default", &gateway.name).await?;
        let mut command = self.proxy_command(&gateway.name, &token)?;
        let listener = self.rootless.as_ref().map(|rootless| rootless.listener(&gateway.name)).transpose()?;
        // Standard input is the one descriptor that children inherit.
        let door = if listener.is_some() { "--listen-fd=0".to_owned() } else { format!("--listen={}", gateway.listen) };
        command.extend(["--role=gateway".to_owned(), door]);
        command.push(format!("--service={}", gateway.service));
        command.push(format!("--instance-id={}", gateway.name));
        command.push(format!("--status-listen={}", self.gateway_status(self.gateways.len())));
        let enter = EnterArgs { command, ..EnterArgs::default() };
        let process = self.spawn_proxy(&gateway.name, format!("gateway {}", gateway.name), enter, listener)?;
        self.gateways.push(process);
        Ok(())
    }

    fn proxy_command(&self, name: &str, token: &Path) -> anyhow::Result<Vec<String>> {
        let access = if self.file.access_log { self.access_log(name).display().to_string() } else { "off".to_owned() };
        Ok(vec![
            self.proxy_binary()?.display().to_string(),
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
        name: String,
        mut enter: EnterArgs,
        stdin: Option<OwnedFd>,
    ) -> anyhow::Result<Process> {
        if self.rootless.is_none() {
            let target = self.proxy_binary()?;
            if !target.exists() {
                fs::write(&target, b"").with_context(|| format!("cannot make {}", target.display()))?;
            }
            enter.binds.push((self.binaries.find("weft-proxy")?, target));
            enter.user = Some(PROXY_USER);
        }
        let log = self.log(&format!("{file}.proxy"));
        Spawn { name, log, enter, env: Vec::new(), stdin, weft: &self.weft }.start(&self.names)
    }

    /// The proxy as its user sees it: one of its own may be unable to walk to the place it was built in (a home directory),
    /// so it finds the binary under the mesh's directory.
    fn proxy_binary(&self) -> anyhow::Result<PathBuf> {
        if self.rootless.is_some() {
            self.binaries.find("weft-proxy")
        } else {
            Ok(self.directory().join("bin/weft-proxy"))
        }
    }

    /// Makes a join token, and what the proxy `name` may write to: a directory and its access records.
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
        let access = self.access_log(name);
        fs::write(&access, b"").with_context(|| format!("cannot write {}", access.display()))?;
        for owned in [&own, &path, &access].into_iter().filter(|_| self.rootless.is_none()) {
            chown(owned, Some(PROXY_USER), Some(PROXY_USER))?;
        }
        Ok(path)
    }

    fn start_app(&self, instance: &Instance, app: &App) -> anyhow::Result<Process> {
        let mut env: Vec<(String, String)> = vec![
            ("WEFT_INSTANCE".to_owned(), instance.name.clone()),
            ("PATH".to_owned(), self.binaries.path_with_ours()),
        ];
        env.extend(app.env.clone());
        let spawn = Spawn {
            name: instance.name.clone(),
            log: self.log(&instance.name),
            enter: self.enter_app(instance, app.command.argv()),
            env,
            stdin: None,
            weft: &self.weft,
        };
        spawn.start(&self.names)
    }

    /// What runs `command` as the instance's application runs: its namespaces, its names, its user.
    #[must_use]
    pub fn enter_app(&self, instance: &Instance, command: Vec<String>) -> EnterArgs {
        let user = if self.rootless.is_none() { default_user() } else { None };
        enter_app(&self.names, instance, user, self.rootless.as_ref().map(|rootless| rootless.owner), command)
    }

    /// A command that runs as the instance's application runs. It is killed when its handle is dropped.
    #[must_use]
    pub fn command(&self, instance: &Instance, command: &[&str]) -> tokio::process::Command {
        let enter = self.enter_app(instance, command.iter().map(|&word| word.to_owned()).collect());
        let mut command = tokio::process::Command::new(&self.weft);
        command.args(enter.to_arguments()).env("PATH", self.binaries.path_with_ours()).kill_on_drop(true);
        command
    }
}
