//! The proxy as a process: what is started in which order, and how it ends.
//!
//! Traffic runs on the worker threads; this, the control thread, keeps identity, configuration, registration and doors.
//! The capture ports are bound before anything else is there, so that early connections wait instead of being refused
//! (U5), and readiness says yes only with an identity and a first snapshot (D5).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use weft_core::model::{ListenerRole, ListenerSpec};
use weft_core::reuse::PoolLimits;
use weft_core::snapshot::Snapshot;
use weft_core::sync::Want;
use weft_core::workers::{CpuQuota, Place, worker_count};
use weft_proto::v1::{RegisterRequest, WorkloadPort};

use crate::bootstrap::{Role, RunArgs, proof};
use crate::clock::Clock;
use crate::descriptors::{self, Budget, CONNECTIONS_MAX};
use crate::diagnostics::attend;
use crate::dns::{self, DnsCounts, DnsSetup};
use crate::doors::{Process, serve_admin, serve_status};
use crate::feed::{Feed, FeedStatus, Resolver, static_config};
use crate::identity::{
    ControlPlane, DialError, IdentityKeeper, IdentityWatch, MaterialPaths, RenewalStatus, Store, keep_on_disk,
};
use crate::net::{Admission, Bind, mark_connections, stay_within_host};
use crate::pages;
use crate::registration::{Registrar, keep_registered};
use crate::report::{Facts, dump, metrics};
use crate::runtime::worker::{InboundRules, Shared, Timeouts};
use crate::runtime::{Door, Listening, Loads, Setup, start};
use crate::supervise::{Supervisor, Task};
use crate::telemetry::{AccessLog, Hub, LogTarget};

/// Of one source address. A sidecar's outbound connections all come from its own workload.
const CONNECTIONS_PER_SOURCE_MAX: usize = 32_768;

/// From being no longer ready, and deregistered, to closing the door: other proxies, and balancers in front of a gateway,
/// learn within it to call elsewhere.
const SETTLE: Duration = Duration::from_secs(2);

/// What the workload's own connections get, after the last request to it was answered, to finish.
const EGRESS_REST: Duration = Duration::from_secs(5);

/// For accepting what waits when everything else has ended, and answering it.
const LAST_ACCEPTS: Duration = Duration::from_secs(1);

/// How often a draining process looks whether its connections have ended.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// Runs until SIGTERM or SIGINT, then drains; a second signal ends at once. Blocks.
///
/// # Errors
/// Whatever keeps the process from starting, naming the flag or file.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let log = crate::log::start(&args.log)?;
    crate::panics::watch();
    descriptors::raise_limit();
    if let Some(mark) = args.mark {
        mark_connections(mark).context("--mark: cannot mark connections (this needs CAP_NET_ADMIN)")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("control thread")?;
    runtime.block_on(async move {
        if args.static_file.is_some() { run_static(args, log).await } else { run_mesh(args, log).await }
    })
}

async fn run_static(args: RunArgs, log: crate::log::LogControl) -> anyhow::Result<()> {
    let path = args.static_file.clone().context("--static")?;
    let setup = static_config::load(&path).with_context(|| path.display().to_string())?;
    let trust_domain = setup.snapshot.mesh().map(|mesh| mesh.trust_domain.clone());
    let clock = Clock::start();
    let identity = match (&setup.tls, trust_domain) {
        (Some(tls), Some(trust_domain)) => {
            let paths = MaterialPaths {
                certificate_chain: tls.certificate_chain.clone(),
                private_key: tls.private_key.clone(),
                trust_bundle: tls.trust_bundle.clone(),
            };
            Some(Arc::new(crate::identity::load(&paths, &trust_domain, clock.unix_seconds())?))
        }
        (Some(_), None) => anyhow::bail!("{}: tls needs mesh.trustDomain", path.display()),
        (None, _) => None,
    };
    let snapshot = Arc::new(ArcSwap::from_pointee(setup.snapshot));
    let (_keep, watch) = watch::channel(identity);
    let door = |spec: ListenerSpec| (spec.name, Bind::Address(spec.address), door_of(spec.role));
    let doors: Vec<_> = setup.listeners.into_iter().map(door).collect();
    let resolver = Resolver::offline(Arc::clone(&snapshot));
    let process = Parts {
        args,
        log,
        snapshot,
        resolver,
        identity: watch,
        feed: None,
        renewal: Arc::default(),
        supervisor: Supervisor::default(),
        clock,
    };
    process.serve(doors, Vec::new(), None).await
}

fn door_of(role: ListenerRole) -> Door {
    match role {
        ListenerRole::ReverseProxy(service, port) => Door::Gateway(service, Some(port)),
        ListenerRole::Outbound(service, port) => Door::Service(service, port),
        ListenerRole::Inbound { address, protocol, mode } => Door::Local { address, protocol, mode },
    }
}

async fn run_mesh(args: RunArgs, log: crate::log::LogControl) -> anyhow::Result<()> {
    let control_plane = ControlPlane::new(args.control_plane.as_deref().context("--control-plane")?);
    let instance_id = instance_id(&args)?;
    let clock = Clock::start();
    let store = args.state_dir.as_deref().map(Store::new);
    let _claim = store.as_ref().map(Store::claim).transpose()?;
    let proof = proof(&args, store.as_ref(), clock.unix_seconds())?;
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::empty()));
    let (publish, identity) = watch::channel(None);
    let renewal = Arc::new(RenewalStatus::default());
    let wants = args.service.iter().map(|target| Want::Service(target.service.clone()));
    let feed = Feed::new(Arc::clone(&snapshot), &instance_id, wants, clock);
    let (resolver, status, bundles) = (feed.resolver(), feed.status(), feed.bundle());
    let supervisor = Supervisor::default();
    let keeper = IdentityKeeper::new(control_plane.clone(), proof, clock, publish, bundles, Arc::clone(&renewal));
    let mut tasks =
        vec![keep_identity(&supervisor, keeper), follow(&supervisor, feed, control_plane.clone(), identity.clone())];
    if let Some(store) = store {
        let (identity, renewal) = (identity.clone(), Arc::clone(&renewal));
        let keeping = move || keep_on_disk(store.clone(), identity.clone(), Arc::clone(&renewal));
        tasks.push(supervisor.spawn(Task::Storage, keeping));
    }
    let doors = match args.role {
        Role::Sidecar => vec![
            ("outbound".into(), Bind::Address(args.outbound_listen), Door::Outbound),
            ("inbound".into(), Bind::Address(args.inbound_listen), Door::Inbound),
        ],
        Role::Gateway => {
            let target = args.service.clone().context("--service")?;
            let given = args.listen_fd.map(Bind::Inherited).or_else(|| args.listen.map(Bind::Address));
            vec![("gateway".into(), given.context("--listen")?, Door::Gateway(target.service, target.port))]
        }
    };
    let registration = (args.role == Role::Sidecar)
        .then(|| Workload { control_plane: control_plane.clone(), request: register_request(&args, &instance_id) });
    let mut parts = Parts { args, log, snapshot, resolver, identity, feed: Some(status), renewal, supervisor, clock };
    parts.args.instance_id = Some(instance_id);
    let outcome = parts.serve(doors, vec![control_plane], registration).await;
    for task in tasks.drain(..) {
        task.abort();
    }
    outcome
}

fn keep_identity(supervisor: &Supervisor, keeper: IdentityKeeper) -> JoinHandle<()> {
    let keeper = Arc::new(Mutex::new(keeper));
    supervisor.spawn(Task::Identity, move || {
        let keeper = Arc::clone(&keeper);
        async move { match keeper.lock().await.run().await {} }
    })
}

/// Keeps the discovery stream; each connection uses the identity of its moment.
fn follow(supervisor: &Supervisor, feed: Feed, control_plane: ControlPlane, identity: IdentityWatch) -> JoinHandle<()> {
    let feed = Arc::new(Mutex::new(feed));
    supervisor.spawn(Task::Discovery, move || {
        let (feed, control_plane, identity) = (Arc::clone(&feed), control_plane.clone(), identity.clone());
        let connect = move || {
            let (control_plane, mut identity) = (control_plane.clone(), identity.clone());
            async move {
                let held = identity.wait_for(Option::is_some).await.ok().and_then(|held| held.clone());
                match held {
                    Some(held) => control_plane.dial(&held).await,
                    None => std::future::pending::<Result<_, DialError>>().await,
                }
            }
        };
        async move { match feed.lock().await.run(connect).await {} }
    })
}

/// What a sidecar says of its workload, and to whom.
struct Workload {
    control_plane: ControlPlane,
    request: RegisterRequest,
}

/// Everything but traffic.
struct Parts {
    args: RunArgs,
    log: crate::log::LogControl,
    snapshot: Arc<ArcSwap<Snapshot>>,
    resolver: Resolver,
    identity: IdentityWatch,
    feed: Option<Arc<FeedStatus>>,
    renewal: Arc<RenewalStatus>,
    supervisor: Supervisor,
    clock: Clock,
}

impl Parts {
    /// The resolver that `--dns` asks for.
    fn resolver_of_names(&self, control_plane: Option<&ControlPlane>) -> anyhow::Result<Option<Arc<DnsCounts>>> {
        let Some(listen) = self.args.dns else { return Ok(None) };
        let setup = DnsSetup {
            listen,
            resolv_conf: self.args.dns_resolv_conf.clone(),
            supervisor: self.supervisor.clone(),
            snapshot: Arc::clone(&self.snapshot),
            control_plane: control_plane.cloned(),
            identity: self.identity.clone(),
            clock: self.clock,
        };
        dns::start(setup).map(|(counts, _)| Some(counts))
    }

    async fn serve(
        self,
        doors: Vec<(Arc<str>, Bind, Door)>,
        attended: Vec<ControlPlane>,
        registration: Option<Workload>,
    ) -> anyhow::Result<()> {
        let args = &self.args;
        let instance_id: Arc<str> = args.instance_id.as_deref().unwrap_or("static").into();
        let clock = self.clock;
        let hub = Hub::new();
        let workers = workers(args);
        let loads = Arc::new(Loads::new(workers));
        let budget = Budget::of_this_process(workers);
        let admission = Admission::new(CONNECTIONS_MAX, CONNECTIONS_PER_SOURCE_MAX);
        let admission = Arc::new(admission.with_descriptors_for(budget.connections));
        let mut listeners = Vec::new();
        for (name, bind, door) in doors {
            let sockets = bind.open(workers).with_context(|| format!("{name} cannot listen on {bind}"))?;
            if let Some(address) = sockets.first().map(std::net::TcpListener::local_addr).transpose()? {
                tracing::info!(%name, %address, "listening");
            }
            if matches!(door, Door::Outbound) {
                // Only the workload's connections are redirected to it.
                sockets.iter().for_each(stay_within_host);
            }
            listeners.push(Listening { door, sockets });
        }
        let shared = Arc::new(Shared {
            snapshot: Arc::clone(&self.snapshot),
            resolver: self.resolver.clone(),
            identity: self.identity.clone(),
            workers,
            pool: PoolLimits::default(),
            inbound: inbound_rules(args),
            admission: Arc::clone(&admission),
            pipes: budget.pipes,
            loads: Arc::clone(&loads),
            timeouts: Timeouts::default(),
            application: Arc::default(),
            clock,
        });
        let dns = self.resolver_of_names(attended.first())?;
        let draining = Arc::new(AtomicBool::new(false));
        let asked_to_drain = Arc::new(Notify::new());
        let facts = Arc::new(Facts {
            instance_id: Arc::clone(&instance_id),
            snapshot: Arc::clone(&self.snapshot),
            identity: self.identity.clone(),
            feed: self.feed.clone(),
            renewal: Arc::clone(&self.renewal),
            hub: hub.clone(),
            dns,
            admission: Arc::clone(&admission),
            loads: Arc::clone(&loads),
            supervisor: self.supervisor.clone(),
            draining: Arc::clone(&draining),
            clock,
        });
        let process = process(&facts, &asked_to_drain, self.log.clone());
        let log = access_log(args)?;
        let started = start(Setup {
            workers,
            listeners,
            shared: Arc::clone(&shared),
            hub,
            log,
            instance_id: Arc::clone(&instance_id),
            supervisor: self.supervisor.clone(),
        })
        .context("worker threads")?;
        let (stop, stopping) = watch::channel(false);
        let ready = self.feed.is_some().then(|| ready_watch(&self.supervisor, &facts));
        if let Some(ready) = &ready {
            tokio::spawn(pages::release_after_start(ready.clone()));
        }
        let registered = registration.zip(ready).map(|(Workload { control_plane, request }, ready)| {
            let application = Arc::clone(&shared.application);
            let registrar = Registrar::new(control_plane, self.identity.clone(), request, application, ready);
            tokio::spawn(keep_registered(self.supervisor.clone(), registrar, stopping))
        });
        for control_plane in attended {
            let (identity, instance_id, process) = (self.identity.clone(), Arc::clone(&instance_id), process.clone());
            self.supervisor.spawn(Task::Diagnostics, move || {
                attend(control_plane.clone(), identity.clone(), Arc::clone(&instance_id), process.clone(), clock)
            });
        }
        let mut signals = Signals::new()?;
        // Listening, not ready: a control plane that is away must not hold up the start of a machine.
        tell_manager(sd_notify::NotifyState::Ready);
        let status = serve_status(args.status_listen, process.clone(), |address| {
            tracing::info!(%address, "status port");
        });
        let admin = serve_admin(args.admin_socket.clone(), process.clone());
        tokio::pin!(status, admin);
        tokio::select! {
            ended = &mut status => ended?,
            ended = &mut admin => ended?,
            () = signals.next() => {}
            () = asked_to_drain.notified() => {}
        }
        tracing::info!("draining");
        tell_manager(sd_notify::NotifyState::Stopping);
        draining.store(true, Ordering::Release);
        stop.send_replace(true);
        let whole = Duration::from_secs(args.drain_timeout.into());
        // Of the time there is, a part is for what still waits in the listeners' queues.
        let last = LAST_ACCEPTS.min(whole / 2);
        let timeout = whole - last;
        let drained = async {
            if let Some(registered) = registered
                && registered.await.is_err()
            {
                tracing::warn!("registration task failed");
            }
            tokio::time::sleep(SETTLE.min(timeout / 2)).await;
            started.drain();
            while loads.ingress() > 0 {
                tokio::time::sleep(DRAIN_POLL).await;
            }
            started.drain_egress();
            let egress = async {
                while loads.egress() > 0 {
                    tokio::time::sleep(DRAIN_POLL).await;
                }
            };
            if tokio::time::timeout(EGRESS_REST, egress).await.is_err() {
                tracing::info!("the workload still holds connections of its own; they end with the proxy");
            }
        };
        tokio::select! {
            ended = tokio::time::timeout(timeout, drained) => {
                if ended.is_err() {
                    tracing::warn!(connections = admission.open(), "drain deadline reached");
                }
            }
            ended = status => ended?,
            ended = admin => ended?,
            () = signals.next() => {
                tracing::warn!("second signal: ending at once");
                started.stop(Duration::ZERO);
                return Ok(());
            }
        }
        started.stop(last);
        tracing::info!("ended");
        Ok(())
    }
}

fn process(facts: &Arc<Facts>, asked_to_drain: &Arc<Notify>, log: crate::log::LogControl) -> Process {
    let (ready, shown, dumped, notify) =
        (Arc::clone(facts), Arc::clone(facts), Arc::clone(facts), Arc::clone(asked_to_drain));
    Process {
        ready: Arc::new(move || ready.readiness()),
        metrics: Arc::new(move |out| metrics(&shown, out)),
        dump: Arc::new(move || dump(&dumped)),
        drain: Arc::new(move || notify.notify_one()),
        log,
    }
}

/// Turns true once the proxy is ready for the first time.
fn ready_watch(supervisor: &Supervisor, facts: &Arc<Facts>) -> watch::Receiver<bool> {
    let (say, ready) = watch::channel(false);
    let facts = Arc::clone(facts);
    supervisor.spawn(Task::Readiness, move || {
        let (facts, say) = (Arc::clone(&facts), say.clone());
        async move {
            while facts.readiness().is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            say.send_replace(true);
            say.closed().await;
        }
    });
    ready
}

/// Where a service manager started us (systemd, Type=notify), it is told.
fn tell_manager(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// SIGTERM and SIGINT as one.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn instance_id(args: &RunArgs) -> anyhow::Result<String> {
    match &args.instance_id {
        Some(name) => Ok(name.clone()),
        None => Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("host name; give --instance-id")?
            .trim()
            .to_ascii_lowercase()),
    }
}

fn register_request(args: &RunArgs, instance_id: &str) -> RegisterRequest {
    use weft_core::model::AppProtocol;
    let ports = args.app_port.iter().map(|port| WorkloadPort {
        port: port.port.get().into(),
        name: String::new(),
        app_protocol: match port.protocol {
            AppProtocol::Detect => "",
            AppProtocol::Http1 => "http",
            AppProtocol::H2c => "kubernetes.io/h2c",
            AppProtocol::Tcp => "tcp",
        }
        .to_owned(),
        captured: true,
    });
    RegisterRequest {
        instance_id: instance_id.to_owned(),
        addresses: args.address.iter().map(ToString::to_string).collect(),
        ports: ports.collect(),
        labels: args.label.iter().cloned().collect(),
        locality: args.locality.clone(),
    }
}

fn inbound_rules(args: &RunArgs) -> InboundRules {
    let protocols = args.app_port.iter().map(|port| (port.port.get(), port.protocol)).collect();
    InboundRules { mode: args.inbound_mode.into(), protocols }
}

fn workers(args: &RunArgs) -> usize {
    if let Some(count) = args.workers {
        return count.into();
    }
    let place = match args.role {
        Role::Sidecar => Place::Sidecar,
        Role::Gateway => Place::Gateway,
    };
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let quota = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok().and_then(|text| CpuQuota::parse_v2(&text));
    worker_count(place, cores, quota).get()
}

fn access_log(args: &RunArgs) -> anyhow::Result<Option<AccessLog>> {
    let target = match args.access_log.as_str() {
        "off" => return Ok(None),
        "-" => LogTarget::Stdout,
        path => LogTarget::File(path.into()),
    };
    Ok(Some(AccessLog::start(&target).with_context(|| format!("--access-log {}", args.access_log))?))
}
