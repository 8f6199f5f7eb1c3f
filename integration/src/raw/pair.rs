//! Proxies between a raw client and a backend of the test.
//!
//! client → [`Door::port`] → outbound listener → mutual TLS → inbound listener → [`Door::backend`], each proxy a process of
//! its own; or one proxy alone, which is a reverse proxy in the clear. A pair is made once and carries any number of
//! exchanges.

use std::fmt::Write as _;

use tempfile::TempDir;

use super::{Backend, Proxy};
use crate::authority::Authority;

/// Identity of the client's proxy.
pub const CLIENT_ID: &str = "spiffe://cluster.local/ns/default/sa/client";
/// Identity of the proxy before the backend.
pub const SERVER_ID: &str = "spiffe://cluster.local/ns/default/sa/backend";

/// What is said of an application port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.
    Http,
    /// HTTP/2 in the clear.
    H2c,
    /// Bytes.
    Tcp,
    /// Nothing: found out from what is spoken.
    Detected,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::H2c => "kubernetes.io/h2c",
            Self::Tcp => "tcp",
            Self::Detected => "",
        }
    }
}

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// One application port for each.
    pub ports: &'a [Protocol],
    /// One reverse proxy in the clear instead of two sidecars with mutual TLS between them.
    pub single: bool,
    /// The inbound proxy takes plaintext too, at [`Door::mesh_port`].
    pub permissive: bool,
    /// More arguments for each `weft-proxy run`.
    pub arguments: &'a [&'a str],
    /// Most descriptors that the client's proxy may have; `None`: as many as the test may.
    pub descriptors: Option<u32>,
}

impl<'a> Plan<'a> {
    /// Two sidecars, strict.
    #[must_use]
    pub const fn mesh(ports: &'a [Protocol]) -> Self {
        Self { ports, single: false, permissive: false, arguments: &[], descriptors: None }
    }

    /// One reverse proxy.
    #[must_use]
    pub const fn single(ports: &'a [Protocol]) -> Self {
        Self { single: true, ..Self::mesh(ports) }
    }
}

/// The way to one application port.
#[derive(Debug)]
pub struct Door {
    /// Where clients connect, in the clear.
    pub port: u16,
    /// Where the inbound listener expects the mesh's mutual TLS; nowhere for a single proxy.
    pub mesh_port: Option<u16>,
    /// Where it leads.
    pub backend: Backend,
}

/// The proxies, running.
#[derive(Debug)]
pub struct Pair {
    /// By index, as in [`Plan::ports`].
    pub doors: Vec<Door>,
    /// The client's proxy, or the only one.
    pub outbound: Proxy,
    /// The proxy before the backend.
    pub inbound: Option<Proxy>,
    /// Signs what both proxies trust; issue more identities with it.
    pub authority: Authority,
    /// Everything in files: `roots.pem`, `client.pem`, `client.key`, `server.pem`, `server.key`, and for each proxy its
    /// log, access log and admin socket.
    pub directory: TempDir,
}

impl Pair {
    /// Starts what is planned and waits until it listens.
    ///
    /// # Errors
    /// A program is not built, or does not start.
    pub async fn start(plan: Plan<'_>) -> anyhow::Result<Self> {
        let (directory, authority) = (tempfile::tempdir()?, Authority::new()?);
        let path = directory.path();
        std::fs::write(path.join("roots.pem"), &authority.roots)?;
        authority.write(path, "client", CLIENT_ID, 3600)?;
        authority.write(path, "server", SERVER_ID, 3600)?;
        let mut backends = Vec::new();
        for _ in plan.ports {
            backends.push(Backend::bind().await?);
        }
        let mut targets: Vec<u16> = backends.iter().map(Backend::port).collect();
        let folder = path.display().to_string();
        let mut inbound = None;
        if !plan.single {
            let proxy = Proxy::start(
                path,
                "inbound",
                &inbound_yaml(&plan, &folder, &targets),
                &Plan { descriptors: None, ..plan },
            )?;
            targets = ports(&proxy, plan.ports.len()).await?;
            inbound = Some(proxy);
        }
        let outbound = Proxy::start(path, "outbound", &outbound_yaml(&plan, &folder, &targets), &plan)?;
        let listening = ports(&outbound, plan.ports.len()).await?;
        let door = |((backend, port), target)| Door { port, mesh_port: inbound.as_ref().map(|_| target), backend };
        let doors = backends.into_iter().zip(listening).zip(targets).map(door).collect();
        Ok(Self { doors, outbound, inbound, authority, directory })
    }
}

async fn ports(proxy: &Proxy, count: usize) -> anyhow::Result<Vec<u16>> {
    let mut ports = Vec::new();
    for at in 0..count {
        ports.push(proxy.port(&format!("port-{at}")).await?);
    }
    Ok(ports)
}

fn head(folder: &str, name: &str) -> String {
    format!(
        "mesh: {{ trustDomain: cluster.local }}\ntls: {{ certificateChainPath: {folder}/{name}.pem, \
         privateKeyPath: {folder}/{name}.key, trustBundlePath: {folder}/roots.pem }}\nlisteners:\n"
    )
}

fn inbound_yaml(plan: &Plan<'_>, folder: &str, targets: &[u16]) -> String {
    let mode = if plan.permissive { "INBOUND_MODE_PERMISSIVE" } else { "INBOUND_MODE_STRICT" };
    let mut yaml = head(folder, "server");
    for (at, (port, protocol)) in targets.iter().zip(plan.ports).enumerate() {
        // Writing to a string cannot fail.
        writeln!(
            yaml,
            "  - {{ name: port-{at}, address: '127.0.0.1:0', inbound: {{ address: '127.0.0.1:{port}', \
             appProtocol: '{}', mode: {mode} }} }}",
            protocol.name()
        )
        .unwrap_or_default();
    }
    yaml
}

fn outbound_yaml(plan: &Plan<'_>, folder: &str, targets: &[u16]) -> String {
    let (role, captured, id) = match plan.single {
        true => ("reverseProxy", false, String::new()),
        false => ("outbound", true, format!("spiffeId: '{SERVER_ID}', ")),
    };
    let mut yaml = head(folder, "client");
    let (mut services, mut endpoints) = ("services:\n".to_owned(), "endpoints:\n".to_owned());
    for (at, (port, protocol)) in targets.iter().zip(plan.ports).enumerate() {
        let (name, app) = (format!("port-{at}"), protocol.name());
        let service = format!("{{ namespace: default, name: {name}, port: 80 }}");
        writeln!(yaml, "  - {{ name: {name}, address: '127.0.0.1:0', {role}: {service} }}").unwrap_or_default();
        let declared = format!("[{{ port: 80, name: web, appProtocol: '{app}' }}]");
        writeln!(services, "  - {{ namespace: default, name: {name}, ports: {declared} }}").unwrap_or_default();
        writeln!(
            endpoints,
            "  - {{ namespace: default, service: {name}, id: {name}, address: 127.0.0.1, {id}\
             ports: [{{ servicePort: 80, targetPort: {port}, captured: {captured} }}] }}"
        )
        .unwrap_or_default();
    }
    yaml + &services + &endpoints
}
