//! Goal: whatever is lost, interleaved or cut off, the proxy ends with what the server has for its targets, and never
//! applies an older version of what it holds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::snapshot::apply;

type Known = BTreeMap<(i32, String), (u64, v1::resource::Body)>;

fn service_name(n: u8) -> String {
    format!("s{n}")
}

fn key(n: u8) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: service_name(n).into() }
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

fn service(n: u8) -> v1::resource::Body {
    let ports = vec![v1::ServicePort { port: 80, ..Default::default() }];
    v1::resource::Body::Service(v1::Service {
        namespace: "shop".into(),
        name: service_name(n),
        ports,
        ..Default::default()
    })
}

fn endpoint(n: u8, id: u8) -> v1::resource::Body {
    v1::resource::Body::Endpoint(v1::Endpoint {
        namespace: "shop".into(),
        service: service_name(n),
        id: id.to_string(),
        address: format!("10.1.{n}.{id}"),
        ..Default::default()
    })
}

fn resolution(at: u8, leads_to: Option<u8>) -> v1::resource::Body {
    let verdict = if leads_to.is_some() { 1 } else { 3 };
    let service = leads_to.map(service_name).unwrap_or_default();
    let ip = address(at).ip().to_string();
    let namespace = if leads_to.is_some() { "shop".into() } else { String::new() };
    let service_port = 80;
    v1::resource::Body::Resolution(v1::Resolution {
        address: ip,
        port: 80,
        verdict,
        namespace,
        service,
        service_port,
        ..Default::default()
    })
}

/// A server as the API describes it, over one ordered stream that can be cut.
#[derive(Debug, Default)]
struct Server {
    version: u64,
    services: BTreeMap<u8, (u64, BTreeMap<u8, u64>)>,
    leads: BTreeMap<u8, (u64, u8)>,
    /// Of the open stream.
    targets: BTreeSet<Want>,
    sent: BTreeMap<(i32, String), u64>,
    nonce: u64,
    /// It has read the hello.
    open: bool,
    /// Whether what an answer stops leading to is removed explicitly or silently kept as sent.
    removes_orphans: bool,
}

impl Server {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// What a proxy with these targets should hold.
    fn due(&self, targets: &BTreeSet<Want>) -> Known {
        let mut due = Known::new();
        let mut add = |kind, name: String, version, body| due.insert((kind, name), (version, body));
        let mut services = BTreeSet::new();
        for want in targets {
            match want {
                Want::Service(wanted) => services.extend((0..4).filter(|n| key(*n) == *wanted)),
                Want::Address(at) => {
                    let n = (0..8).find(|n| address(*n) == *at).unwrap();
                    let (version, leads_to) =
                        self.leads.get(&n).map_or((1, None), |(version, to)| (*version, Some(*to)));
                    services.extend(leads_to);
                    add(4, at.to_string(), version, resolution(n, leads_to));
                }
            }
        }
        for n in services {
            let Some((version, endpoints)) = self.services.get(&n) else { continue };
            add(2, key(n).to_string(), *version, service(n));
            for (id, version) in endpoints {
                add(3, format!("{}/{id}", key(n)), *version, endpoint(n, *id));
            }
        }
        due
    }

    fn connect(&mut self) {
        self.targets.clear();
        self.sent.clear();
        self.nonce = 0;
        self.open = false;
    }

    fn read(&mut self, message: v1::DiscoveryRequest) -> Vec<v1::DiscoveryResponse> {
        match message.message.unwrap() {
            Request::Hello(hello) => {
                self.open = true;
                let held = hello.held.into_iter().map(|held| (held.name.unwrap(), held.version));
                self.sent.extend(held.map(|(name, version)| ((name.kind, name.name), version)));
                self.targets.extend(hello.targets.iter().map(want));
                let welcome = v1::Welcome { protocol_version: 1, bundle: None };
                let welcome = v1::DiscoveryResponse { message: Some(Response::Welcome(welcome)) };
                return std::iter::once(welcome).chain(self.push()).collect();
            }
            Request::Subscribe(subscribe) => self.targets.extend(subscribe.targets.iter().map(want)),
            Request::Unsubscribe(unsubscribe) => {
                let before = self.due(&self.targets);
                for target in &unsubscribe.targets {
                    self.targets.remove(&want(target));
                }
                let after = self.due(&self.targets);
                self.sent.retain(|name, _| after.contains_key(name) || !before.contains_key(name));
            }
            Request::Ack(ack) => assert!(ack.nonce <= self.nonce && ack.rejections.is_empty()),
        }
        self.push().into_iter().collect()
    }

    /// The difference between what was sent and what is due.
    fn push(&mut self) -> Option<v1::DiscoveryResponse> {
        let due = self.due(&self.targets);
        let changed =
            |(name, (version, _)): &(&(i32, String), &(u64, v1::resource::Body))| self.sent.get(*name) != Some(version);
        let upserts: Vec<v1::Resource> = due
            .iter()
            .filter(changed)
            .map(|((kind, name), (version, body))| v1::Resource {
                name: Some(v1::ResourceName { kind: *kind, name: name.clone() }),
                version: *version,
                body: Some(body.clone()),
            })
            .collect();
        let exists = |(kind, name): &(i32, String)| match kind {
            2 | 3 => {
                let all: BTreeSet<Want> = (0..4).map(|n| Want::Service(key(n))).collect();
                self.due(&all).contains_key(&(*kind, name.clone()))
            }
            _ => false,
        };
        let gone: Vec<(i32, String)> = self
            .sent
            .keys()
            .filter(|name| !due.contains_key(*name) && (self.removes_orphans || !exists(name)))
            .cloned()
            .collect();
        for name in &gone {
            self.sent.remove(name);
        }
        self.sent.extend(due.iter().map(|(name, (version, _))| (name.clone(), *version)));
        if upserts.is_empty() && gone.is_empty() {
            return None;
        }
        self.nonce += 1;
        let removals = gone.into_iter().map(|(kind, name)| v1::ResourceName { kind, name }).collect();
        let update = v1::Update { nonce: self.nonce, revision: self.version, upserts, removals, bundle: None };
        Some(v1::DiscoveryResponse { message: Some(Response::Update(update)) })
    }
}

fn want(target: &v1::Target) -> Want {
    match target.target.as_ref().unwrap() {
        v1::target::Target::Service(key) => {
            Want::Service(ServiceKey { namespace: key.namespace.as_str().into(), name: key.name.as_str().into() })
        }
        v1::target::Target::Address(at) => {
            Want::Address(SocketAddr::new(at.ip.parse().unwrap(), u16::try_from(at.port).unwrap()))
        }
    }
}

/// Both sides and the wires between them.
#[derive(Debug)]
struct World {
    server: Server,
    proxy: Subscriber,
    up: VecDeque<v1::DiscoveryRequest>,
    down: VecDeque<v1::DiscoveryResponse>,
    applied: BTreeMap<(i32, String), u64>,
    snapshot: Snapshot,
    connected: bool,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    PutService(u8),
    DropService(u8),
    PutEndpoint(u8, u8),
    DropEndpoint(u8, u8),
    Lead(u8, u8),
    Want(u8),
    Unwant(u8),
    WantService(u8),
    UnwantService(u8),
    ServerReads,
    ProxyReads,
    Repeat,
    Cut,
    Connect,
    Defect,
}

fn action() -> impl Strategy<Value = Action> {
    let (s, a, e) = (0..4_u8, 0..8_u8, 0..3_u8);
    prop_oneof![
        3 => s.clone().prop_map(Action::PutService),
        1 => s.clone().prop_map(Action::DropService),
        4 => (s.clone(), e.clone()).prop_map(|(s, e)| Action::PutEndpoint(s, e)),
        2 => (s.clone(), e).prop_map(|(s, e)| Action::DropEndpoint(s, e)),
        2 => (a.clone(), s.clone()).prop_map(|(a, s)| Action::Lead(a, s)),
        4 => a.clone().prop_map(Action::Want),
        3 => a.prop_map(Action::Unwant),
        1 => s.clone().prop_map(Action::WantService),
        1 => s.prop_map(Action::UnwantService),
        6 => Just(Action::ServerReads),
        6 => Just(Action::ProxyReads),
        1 => Just(Action::Repeat),
        1 => Just(Action::Cut),
        2 => Just(Action::Connect),
        1 => Just(Action::Defect),
    ]
}

impl World {
    fn new(removes_orphans: bool) -> Self {
        Self {
            server: Server { version: 1, removes_orphans, ..Server::default() },
            proxy: Subscriber::new("i", "test"),
            up: VecDeque::new(),
            down: VecDeque::new(),
            applied: BTreeMap::new(),
            snapshot: Snapshot::empty(),
            connected: false,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::PutService(n) => {
                let version = self.server.next();
                self.server.services.entry(n).or_default().0 = version;
            }
            Action::DropService(n) => drop(self.server.services.remove(&n)),
            Action::PutEndpoint(n, id) => {
                let version = self.server.next();
                if let Some((_, endpoints)) = self.server.services.get_mut(&n) {
                    endpoints.insert(id, version);
                }
            }
            Action::DropEndpoint(n, id) => {
                if let Some((_, endpoints)) = self.server.services.get_mut(&n) {
                    endpoints.remove(&id);
                }
            }
            Action::Lead(at, n) => {
                let version = self.server.next();
                self.server.leads.insert(at, (version, n));
            }
            Action::Want(n) => self.proxy.want(Want::Address(address(n))),
            Action::Unwant(n) => self.proxy.unwant(&Want::Address(address(n))),
            Action::WantService(n) => self.proxy.want(Want::Service(key(n))),
            Action::UnwantService(n) => self.proxy.unwant(&Want::Service(key(n))),
            Action::ServerReads => {
                if let Some(message) = self.up.pop_front() {
                    let answers = self.server.read(message);
                    self.down.extend(answers);
                }
            }
            Action::ProxyReads => self.proxy_reads(),
            Action::Repeat => {
                if let Some(first) = self.down.front().cloned() {
                    self.down.push_front(first);
                }
            }
            Action::Cut => self.cut(),
            Action::Connect => self.connect(),
            Action::Defect => self.defect(),
        }
        if self.connected && self.server.open {
            let update = self.server.push();
            self.down.extend(update);
        }
        self.settle();
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.server.connect();
            self.proxy.handle_connected();
        }
    }

    fn cut(&mut self) {
        self.connected = false;
        self.up.clear();
        self.down.clear();
        self.proxy.handle_disconnected();
    }

    /// The shell is cut off after it read a message and before what it says is in force.
    fn defect(&mut self) {
        if let Some(message) = self.down.pop_front() {
            drop(self.proxy.handle_response(message));
        }
        self.cut();
        self.proxy.handle_defect(&self.snapshot);
        self.applied.values_mut().for_each(|version| *version = 0);
    }

    fn proxy_reads(&mut self) {
        let Some(message) = self.down.pop_front() else { return };
        match self.proxy.handle_response(message) {
            Ok(Some(step)) => self.apply(&step),
            Ok(None) => {}
            Err(_) => self.cut(),
        }
    }

    fn apply(&mut self, step: &Step) {
        let named = |id: &ResourceId| {
            let name = name_of(id);
            (name.kind, name.name)
        };
        for id in &step.update.removals {
            self.applied.remove(&named(id));
        }
        for upsert in &step.update.upserts {
            let before = self.applied.insert(named(&upsert.resource.id()), upsert.version);
            assert!(before.is_none_or(|before| before < upsert.version), "{upsert:?} after {before:?}");
        }
        self.snapshot = apply(&self.snapshot, step.update.clone());
        self.proxy.handle_applied(step);
    }

    fn settle(&mut self) {
        if let Some(step) = self.proxy.poll_step() {
            self.apply(&step);
        }
        if self.proxy.poll_resync().is_some() {
            self.cut();
        }
        while let Some(message) = self.proxy.poll_send() {
            self.up.push_back(message);
        }
    }

    /// Lets everything arrive.
    fn quiesce(&mut self) {
        for _ in 0..10_000 {
            self.act(Action::Connect);
            self.act(Action::ServerReads);
            self.act(Action::ProxyReads);
            if self.connected && self.up.is_empty() && self.down.is_empty() {
                return;
            }
        }
        panic!("never quiet");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn converges(actions in prop::collection::vec(action(), 0..120), removes_orphans in any::<bool>()) {
        let mut world = World::new(removes_orphans);
        for action in actions {
            world.act(action);
        }
        world.quiesce();
        let due = world.server.due(&world.proxy.wants);
        let due: BTreeMap<_, _> = due.into_iter().map(|(name, (version, _))| (name, version)).collect();
        prop_assert_eq!(&world.applied, &due);
        let held: BTreeMap<_, _> = world.proxy.held.list().map(|(id, version)| (name_of(&id), version)).collect::<Vec<_>>()
            .into_iter().map(|(name, version)| ((name.kind, name.name), version)).collect();
        prop_assert_eq!(&world.applied, &held, "what is told in Hello is what is in force");
        world.proxy.handle_defect(&world.snapshot);
        let in_force: BTreeSet<_> = world.proxy.held.list().map(|(id, _)| name_of(&id)).map(|name| (name.kind, name.name)).collect();
        prop_assert_eq!(in_force, world.applied.into_keys().collect(), "what is in force is known after a defect");
    }
}

fn connected() -> Subscriber {
    let mut proxy = Subscriber::new("i", "test");
    proxy.want(Want::Service(key(1)));
    proxy.handle_connected();
    let welcome = Response::Welcome(v1::Welcome { protocol_version: 1, bundle: Some(v1::TrustBundle::default()) });
    let step = proxy.handle_response(v1::DiscoveryResponse { message: Some(welcome) }).unwrap().unwrap();
    assert!(step.bundle.is_some() && !step.is_update());
    proxy
}

fn push(proxy: &mut Subscriber, nonce: u64, version: u64, body: v1::resource::Body) -> Result<Option<Step>, SyncError> {
    let name = v1::ResourceName { kind: 2, name: key(1).to_string() };
    let upserts = vec![v1::Resource { name: Some(name), version, body: Some(body) }];
    let update = Response::Update(v1::Update { nonce, revision: version, upserts, ..Default::default() });
    proxy.handle_response(v1::DiscoveryResponse { message: Some(update) })
}

/// A refused resource is told in the acknowledgement and is not held: the version before it is.
#[test]
fn refused_is_not_held() {
    let mut proxy = connected();
    let step = push(&mut proxy, 1, 5, service(1)).unwrap().unwrap();
    proxy.handle_applied(&step);
    let step = push(&mut proxy, 2, 6, v1::resource::Body::Service(v1::Service::default())).unwrap().unwrap();
    assert!(step.update.upserts.is_empty() && step.update.removals.is_empty());
    proxy.handle_applied(&step);
    let mut acks = Vec::new();
    while let Some(message) = proxy.poll_send() {
        if let Some(Request::Ack(ack)) = message.message {
            acks.push((ack.nonce, ack.rejections.iter().map(|refused| refused.version).collect::<Vec<_>>()));
        }
    }
    assert_eq!(acks, [(1, vec![]), (2, vec![6])]);
    proxy.handle_disconnected();
    proxy.handle_connected();
    let Some(Request::Hello(hello)) = proxy.poll_send().unwrap().message else { panic!("hello comes first") };
    assert_eq!(hello.held.iter().map(|held| held.version).collect::<Vec<_>>(), [5]);
    assert_eq!(hello.targets.len(), 1);
}

#[test]
fn order_and_versions_of_the_protocol() {
    let mut proxy = connected();
    assert_eq!(
        proxy.handle_response(v1::DiscoveryResponse { message: None }).unwrap().map(|_| ()),
        None,
        "unknown kind"
    );
    let step = push(&mut proxy, 3, 5, service(1)).unwrap().unwrap();
    assert_eq!(step.update.upserts.len(), 1);
    assert!(push(&mut proxy, 4, 4, service(1)).unwrap().unwrap().update.upserts.is_empty(), "older version");
    assert_eq!(push(&mut proxy, 4, 9, service(1)).unwrap_err(), SyncError::Nonce(4));
    let welcome = |version| v1::DiscoveryResponse {
        message: Some(Response::Welcome(v1::Welcome { protocol_version: version, bundle: None })),
    };
    assert_eq!(proxy.handle_response(welcome(1)).unwrap_err(), SyncError::Order);
    for version in [0, 2] {
        let mut proxy = Subscriber::new("", "");
        proxy.handle_connected();
        assert_eq!(proxy.handle_response(welcome(version)).unwrap_err(), SyncError::Version(version));
        assert_eq!(push(&mut proxy, 1, 1, service(1)).unwrap_err(), SyncError::Order);
    }
}
