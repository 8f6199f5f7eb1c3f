//! Waiting until everything says that it is ready, and keeping names in step.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::Value;
use weft_proto::v1::{AskRequest, ConfigDump, Query, query};

use super::{Mesh, Progress, status};
use crate::client::{Clients, explain};
use crate::dev::file::Gateway;
use crate::dev::hosts::{self, Addresses};
use crate::dev::plan::{Names, PROXY_STATUS_PORT};
use crate::dev::process::Process;
use crate::dev::ready::{is_listening, poll, probe, wait_for};
use crate::dev::resources;

/// How long sidecars, applications and gateways may take.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often the names are compared with the control plane's.
const HOSTS_PERIOD: Duration = Duration::from_millis(300);

impl Mesh {
    pub(super) async fn wait_ready(&mut self, progress: Progress) -> anyhow::Result<()> {
        let gateways = self.file.gateways.clone();
        let statuses: Vec<SocketAddr> = (0..gateways.len()).map(|place| self.gateway_status(place)).collect();
        let sidecars = self.sidecars.iter_mut().map(|(name, process)| {
            let address = self.instances.iter().find(|one| one.name == *name).map(|one| one.address);
            let status = SocketAddr::from((address.unwrap_or(Ipv4Addr::UNSPECIFIED), PROXY_STATUS_PORT));
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
        self.wait_endpoints().await?;
        for gateway in &gateways {
            wait_for("a gateway's endpoints", READY_DEADLINE, || self.gateway_knows(gateway)).await?;
        }
        Ok(())
    }

    /// Whether a gateway knows all endpoints of its service: the control plane gathers changes for a moment before it tells
    /// them, and the first request must not come sooner.
    async fn gateway_knows(&self, gateway: &Gateway) -> Result<(), String> {
        let (service, _port) = gateway.service.split_once(':').unwrap_or((&gateway.service, ""));
        let key = service.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        let expected = key.and_then(|key| resources::expected_endpoints(&self.file).get(&key).copied()).unwrap_or(0);
        let dump = self.dump(&format!("default/{}", gateway.name)).await.map_err(|error| format!("{error:#}"))?;
        let services = dump.get("services").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let known = services.iter().find(|one| one.get("name").and_then(Value::as_str) == Some(service));
        let seen =
            known.and_then(|one| one.pointer("/ports/0/endpoints")).and_then(Value::as_array).map_or(0, Vec::len);
        if u32::try_from(seen).unwrap_or(u32::MAX) >= expected {
            return Ok(());
        }
        Err(format!("{} knows {seen} of {expected} endpoints of {service}", gateway.name))
    }

    /// A proxy's configuration, as `weft dump` shows it.
    async fn dump(&self, proxy: &str) -> anyhow::Result<Value> {
        let mut clients = Clients::connect(&self.names.socket()).await?;
        let query = Query { initial_chunks: 0, query: Some(query::Query::ConfigDump(ConfigDump {})) };
        let request = AskRequest { proxy: proxy.to_owned(), query: Some(query) };
        let mut chunks = clients.diagnostics.ask(request).await.map_err(explain)?.into_inner();
        let mut document = Vec::new();
        while let Some(chunk) = chunks.message().await.map_err(explain)? {
            document.extend_from_slice(&chunk.data);
        }
        Ok(serde_json::from_slice(&document)?)
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
}

/// Polls until `ready`, fails at once when the process ends.
pub(super) async fn until_ready<F>(
    process: &mut Process,
    deadline: Duration,
    mut ready: impl FnMut() -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), String>>,
{
    let waited = tokio::select! {
        waited = poll(deadline, &mut ready) => waited.map_err(|complaint| format!("is not ready: {complaint}")),
        ended = process.wait() => Err(match ended {
            Ok(status) => format!("ended: {status}"),
            Err(error) => format!("cannot be watched: {error}"),
        }),
    };
    waited.map_err(|what| process.failure(&what))
}

/// Keeps the hosts file in step with the control plane's services. While it is away, the last names stay.
pub(super) async fn keep_hosts(names: Names, path: PathBuf, plain: Addresses) {
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
