//! `weft-control-plane serve`: what is built at start, which service stands behind which door, and how it ends.
//!
//! Order matters at start: the store's lock comes first (one process per state directory), then the keys, then the doors;
//! `/ready` says yes last.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use weft_proto::v1::config_server::ConfigServer;
use weft_proto::v1::diagnostics_server::DiagnosticsServer;
use weft_proto::v1::identity_server::IdentityServer;
use weft_proto::v1::names_server::NamesServer;
use weft_proto::v1::operator_server::OperatorServer;
use weft_proto::v1::registry_server::RegistryServer;
use weft_proto::v1::{InstanceStatus, ServiceStatus};

use crate::api::config::ConfigService;
use crate::api::diagnostics::DiagnosticsService;
use crate::api::discovery::DiscoveryService;
use crate::api::identity::{IdentityService, IssueCounts};
use crate::api::names::NamesService;
use crate::api::operator::{OperatorService, Overview};
use crate::api::registry::RegistryService;
use crate::bootstrap::ServeArgs;
use crate::ca::Authority;
use crate::ca::state::make_private_directory;
use crate::doors::grpc;
use crate::doors::own_certificate::OwnCertificate;
use crate::doors::services::Services;
use crate::doors::socket::SocketDoor;
use crate::doors::status::StatusPort;
use crate::doors::tls::{TlsCounts, TlsDoor};
use crate::metrics::{Metrics, Page};
use crate::names::resolver::Source;
use crate::names::{LookupCounts, Names};
use crate::panics;
use crate::push::proxies::{Proxies, PushCounts};
use crate::registry::handle::Registry;
use crate::shutdown::Shutdown;
use crate::store::embedded::Embedded;
use crate::store::{Revision, Store};
use crate::tokens::Tokens;

/// How often expired join tokens are deleted.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Largest message to `Identity`: a CSR of 16 KiB and a token.
const ISSUE_BYTES_MAX: usize = 32 * 1024;

/// What every service of the control plane shares.
#[derive(Clone, Debug)]
pub struct Plane {
    /// The flags.
    pub args: Arc<ServeArgs>,
    /// What survives a restart.
    pub store: Arc<dyn Store>,
    /// Signs identities; knows the trust bundle.
    pub authority: Arc<Authority>,
    /// Join tokens.
    pub tokens: Arc<Tokens>,
    /// What was issued so far.
    pub issued: Arc<IssueCounts>,
    /// What exists.
    pub registry: Registry,
    /// Which proxies are connected.
    pub proxies: Proxies,
    /// Passes questions on to them.
    pub diagnostics: DiagnosticsService,
    /// What DNS was asked so far.
    pub lookups: Arc<LookupCounts>,
    /// Where to register what 15014 shows.
    pub metrics: Arc<Metrics>,
    /// Long streams end when this is requested.
    pub shutdown: Shutdown,
}

/// Behind the TLS door: `Identity`, `Registry`, `Discovery`, `Diagnostics` (Attend), `Names`. Any of them but `Identity`
/// demands [`crate::api::peer::Peer::of`].
#[must_use]
pub fn proxy_services(plane: &Plane) -> Services {
    let (authority, tokens) = (Arc::clone(&plane.authority), Arc::clone(&plane.tokens));
    let identity = IdentityService::new(authority, tokens, Arc::clone(&plane.issued));
    let registry = RegistryService::new(Arc::clone(&plane.store), plane.registry.clone(), plane.args.lease_seconds);
    let discovery = DiscoveryService::new(
        plane.registry.clone(),
        plane.proxies.clone(),
        Arc::clone(&plane.authority),
        plane.shutdown.clone(),
    );
    Services::default()
        .with(IdentityServer::new(identity).max_decoding_message_size(ISSUE_BYTES_MAX))
        .with(RegistryServer::new(registry))
        .with(discovery)
        .with(DiagnosticsServer::new(plane.diagnostics.clone()))
        .with(NamesServer::new(NamesService::new(plane.registry.clone())))
}

/// Behind the operators' socket: `Config`, `Operator`, `Diagnostics` (Ask, Proxies).
#[must_use]
pub fn operator_services(plane: &Plane) -> Services {
    let (registry, proxies) = (plane.registry.clone(), plane.proxies.clone());
    let operator = OperatorService::new(
        Arc::clone(&plane.store),
        plane.args.state.directory(),
        Arc::clone(&plane.authority),
        Arc::clone(&plane.tokens),
        Arc::new(move || overview(&registry, &proxies)),
    );
    let config = ConfigService::new(Arc::clone(&plane.store), plane.registry.clone(), plane.shutdown.clone());
    Services::default()
        .with(OperatorServer::new(operator))
        .with(ConfigServer::new(config))
        .with(DiagnosticsServer::new(plane.diagnostics.clone()))
}

fn overview(registry: &Registry, proxies: &Proxies) -> Overview {
    registry.read(|index| Overview {
        instances: index
            .instances()
            .map(|instance| InstanceStatus {
                namespace: instance.namespace.clone(),
                instance_id: instance.id.clone(),
                service_account: instance.service_account.clone(),
                addresses: instance.addresses.iter().map(ToString::to_string).collect(),
                ready: instance.ready,
            })
            .collect(),
        services: index
            .services()
            .map(|(key, known)| ServiceStatus {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                virtual_ips: known.virtual_ips.iter().map(ToString::to_string).collect(),
                endpoints: u32::try_from(known.endpoint_count()).unwrap_or(u32::MAX),
            })
            .collect(),
        connected_proxies: u32::try_from(proxies.count()).unwrap_or(u32::MAX),
    })
}

/// A control plane that serves.
#[derive(Debug)]
pub struct Running {
    /// Where proxies connect, as bound.
    pub listen: SocketAddr,
    /// The status port, as bound.
    pub status_listen: SocketAddr,
    /// The operators' socket.
    pub socket: PathBuf,
    /// What is served.
    pub plane: Plane,
    store: Arc<Embedded>,
    status: StatusPort,
    tasks: JoinSet<anyhow::Result<()>>,
    /// Keeps the status port open to the end of the drain.
    status_task: tokio::task::JoinHandle<()>,
    _socket: SocketDoor,
}

/// Opens the store and the keys, binds every door and serves.
///
/// # Errors
/// What could not be opened or bound, with the remedy where there is one.
pub async fn start(args: ServeArgs, shutdown: Shutdown) -> anyhow::Result<Running> {
    let args = Arc::new(args);
    let directory = args.state.directory();
    make_private_directory(&directory)
        .with_context(|| format!("cannot make the state directory {} (--state-dir)", directory.display()))?;
    let opened = directory.clone();
    let store = Arc::new(tokio::task::spawn_blocking(move || Embedded::open(&opened)).await??);
    let store_used = store.revision().0 > 0;
    let now = SystemTime::now();
    let authority = Arc::new(Authority::open(&directory, &args.trust_domain, store_used, now)?);
    let own = Arc::new(OwnCertificate::new(Arc::clone(&authority), now)?);
    let dyn_store = Arc::clone(&store) as Arc<dyn Store>;
    let (registry, loaded_at) = Registry::load(dyn_store, &args).await.context("the store cannot be read")?;
    let proxies = Proxies::default();
    let diagnostics = DiagnosticsService::new(registry.clone(), proxies.clone(), shutdown.clone());
    let plane = Plane {
        registry,
        proxies,
        diagnostics,
        store: Arc::clone(&store) as Arc<dyn Store>,
        tokens: Arc::new(Tokens::new(Arc::clone(&store) as Arc<dyn Store>, args.trust_domain.clone())),
        issued: Arc::new(IssueCounts::default()),
        lookups: Arc::default(),
        metrics: Arc::new(Metrics::default()),
        authority,
        args,
        shutdown,
    };
    let doors = Doors::bind(&plane, &own).await?;
    register_metrics(&plane, &store, &own, &doors);
    Ok(doors.serve(plane, store, own, loaded_at))
}

/// Everything bound, nothing served.
struct Doors {
    tls: TlsDoor,
    tls_counts: Arc<TlsCounts>,
    tcp: TcpListener,
    listen: SocketAddr,
    status_tcp: TcpListener,
    status_listen: SocketAddr,
    socket_path: PathBuf,
    socket: SocketDoor,
}

impl Doors {
    async fn bind(plane: &Plane, own: &Arc<OwnCertificate>) -> anyhow::Result<Self> {
        let (tcp, listen) = bind_tcp(plane.args.listen, "--listen").await?;
        let (status_tcp, status_listen) = bind_tcp(plane.args.status_listen, "--status-listen").await?;
        let socket_path = plane.args.socket_path();
        let socket = SocketDoor::bind(&socket_path)
            .with_context(|| format!("cannot bind the operators' socket {} (--socket)", socket_path.display()))?;
        let tls_counts = Arc::new(TlsCounts::default());
        let tls = TlsDoor::new(&plane.authority, Arc::clone(own), Arc::clone(&tls_counts))?;
        Ok(Self { tls, tls_counts, tcp, listen, status_tcp, status_listen, socket_path, socket })
    }

    fn serve(mut self, plane: Plane, store: Arc<Embedded>, own: Arc<OwnCertificate>, loaded_at: Revision) -> Running {
        let status = StatusPort { metrics: Arc::clone(&plane.metrics), ..StatusPort::default() };
        let status_task = tokio::spawn(status.clone().serve(self.status_tcp));
        let mut tasks = JoinSet::new();
        let (proxies, operators) = (proxy_services(&plane), operator_services(&plane));
        let (tls, socket) = (self.tls.accept(self.tcp), self.socket.accept());
        let end = || plane.shutdown.clone();
        let serving = grpc::serve(proxies, tls, end());
        tasks.spawn(async { serving.await.context("the TLS door failed") });
        let serving = grpc::serve(operators, socket, end());
        tasks.spawn(async { serving.await.context("the operators' socket failed") });
        let keeping = own.keep(end());
        tasks.spawn(async {
            keeping.await;
            Ok(())
        });
        let following = plane.registry.clone().follow(loaded_at, end());
        let expiring = plane.registry.clone().expire(end());
        let (registry, counts) = (plane.registry.clone(), Arc::clone(&plane.lookups));
        let resolving = Names::new(Arc::clone(&plane.store), registry, Source::system(), counts).keep(end());
        tasks.spawn(async {
            tokio::join!(following, expiring, resolving);
            Ok(())
        });
        let sweeping = sweep_tokens(Arc::clone(&plane.tokens), end());
        tasks.spawn(async {
            sweeping.await;
            Ok(())
        });
        status.ready.store(true, Ordering::Release);
        Running {
            listen: self.listen,
            status_listen: self.status_listen,
            socket: self.socket_path,
            plane,
            store,
            status,
            tasks,
            status_task,
            _socket: self.socket,
        }
    }
}

impl Running {
    /// Serves until shutdown is requested, then lets calls finish, for [`grpc::DRAIN`] at most, and closes the store.
    ///
    /// # Errors
    /// When a door failed; the rest is then ended, too.
    pub async fn finished(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            self.status.ready.store(false, Ordering::Release);
            let ended = ended.map_err(anyhow::Error::from).flatten();
            if ended.is_err() && outcome.is_ok() {
                outcome = ended;
                // A door that fails alone would leave a control plane that looks alive.
                self.tasks.abort_all();
            }
        }
        self.status_task.abort();
        let store = self.store;
        tokio::task::spawn_blocking(move || store.close()).await?;
        outcome
    }
}

async fn bind_tcp(addr: SocketAddr, flag: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr} ({flag})"))?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

async fn sweep_tokens(tokens: Arc<Tokens>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        match tokens.sweep(SystemTime::now()).await {
            Ok(0) => {}
            Ok(swept) => tracing::info!(swept, "deleted expired join tokens"),
            Err(error) => tracing::warn!(%error, "cannot delete expired join tokens"),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point by their format")]
fn lookup_metrics(page: &mut Page, counts: &LookupCounts) {
    let (name, help) = ("weft_dns_lookups_total", "Lookups of DNS names that serve services, by outcome.");
    page.counter(name, help, &[("outcome", "answered")], &counts.answered);
    page.counter(name, help, &[("outcome", "failed")], &counts.failed);
    let help = "DNS names whose last lookup failed; their last answer stays in force.";
    page.gauge("weft_dns_names_failing", help, &[], counts.failing() as f64);
}

fn push_metrics(page: &mut Page, counts: &PushCounts) {
    page.counter("weft_updates_sent_total", "Updates sent to proxies.", &[], &counts.sent);
    page.counter("weft_resources_refused_total", "Resources that proxies refused.", &[], &counts.refused);
    let help = "Discovery streams closed because the proxy did not acknowledge an update in time.";
    page.counter("weft_acks_overdue_total", help, &[], &counts.overdue);
    let help =
        "From a change in the registry to the proxy's word that it is in force, of each update that tells of one.";
    page.histogram("weft_push_seconds", help, &counts.took);
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point by their format")]
fn register_metrics(plane: &Plane, store: &Arc<Embedded>, own: &Arc<OwnCertificate>, doors: &Doors) {
    let (store, own, tls) = (Arc::clone(store), Arc::clone(own), doors.tls.clone());
    let (tls_counts, tokens) = (Arc::clone(&doors.tls_counts), Arc::clone(&plane.tokens));
    let (issued, authority) = (Arc::clone(&plane.issued), Arc::clone(&plane.authority));
    let (registry, proxies) = (plane.registry.clone(), plane.proxies.clone());
    let lookups = Arc::clone(&plane.lookups);
    plane.metrics.register(move |page: &mut Page| {
        page.gauge("weft_store_revision", "Revision of the store.", &[], store.revision().0 as f64);
        let writable = f64::from(u8::from(store.is_writable()));
        page.gauge("weft_store_writable", "1 while writes go to disk, 0 when the last one failed.", &[], writable);
        page.gauge("weft_store_keys", "Keys in the store.", &[], store.keys() as f64);
        let expiry = "When a certificate of the control plane ends, in Unix seconds.";
        let name = "weft_certificate_not_after_seconds";
        page.gauge(name, expiry, &[("certificate", "own")], own.not_after_unix_seconds() as f64);
        let root = authority.root_not_after().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        page.gauge(name, expiry, &[("certificate", "root")], root as f64);
        page.gauge("weft_connected_proxies", "Proxies with an open Discovery stream.", &[], proxies.count() as f64);
        let help = "Defects of this program, each of which ended one call or task.";
        page.counter("weft_panics_total", help, &[], &panics::COUNT);
        push_metrics(page, proxies.counts());
        lookup_metrics(page, &lookups);
        let help = "Instances removed because their lease was missed.";
        page.counter("weft_lease_expiries_total", help, &[], registry.lease_expiries());
        let (instances, services, endpoints) = registry.read(|index| {
            let endpoints: usize = index.services().map(|(_, known)| known.endpoint_count()).sum();
            (index.instances().count(), index.services().count(), endpoints)
        });
        page.gauge("weft_registered_instances", "Registered workload instances.", &[], instances as f64);
        let held_back = "Leases that have run out and are held back, because most have at once.";
        page.gauge("weft_leases_held_back", held_back, &[], registry.held_back() as f64);
        page.gauge("weft_services", "Services.", &[], services as f64);
        page.gauge("weft_endpoints", "Ready endpoints of all services.", &[], endpoints as f64);
        let (name, help) = ("weft_svids_total", "Requests for SVIDs, by outcome.");
        page.counter(name, help, &[("outcome", "joined")], &issued.joined);
        page.counter(name, help, &[("outcome", "renewed")], &issued.renewed);
        page.counter(name, help, &[("outcome", "refused")], &issued.refused);
        let (name, help) = ("weft_join_tokens_total", "What happened to join tokens.");
        page.counter(name, help, &[("event", "created")], &tokens.counts.created);
        page.counter(name, help, &[("event", "consumed")], &tokens.counts.consumed);
        page.counter(name, help, &[("event", "refused")], &tokens.counts.refused);
        page.counter(name, help, &[("event", "limited")], &tokens.counts.limited);
        for (state, open) in ["handshake", "anonymous", "known"].into_iter().zip(tls.open()) {
            page.gauge("weft_connections", "Connections at the TLS door.", &[("state", state)], open as f64);
        }
        let (name, help) = ("weft_connections_total", "Connections at the TLS door, by what became of them.");
        page.counter(name, help, &[("event", "accepted")], &tls_counts.accepted);
        page.counter(name, help, &[("event", "handshake_failed")], &tls_counts.handshakes_failed);
        page.counter(name, help, &[("event", "certificate_refused")], &tls_counts.certificates_refused);
        page.counter(name, help, &[("event", "beyond_bound")], &tls_counts.beyond_bound);
    });
}
