//! Registrations and services as proxies and operators see them come and go.

mod fanout;

use weft_proto::v1::config_client::ConfigClient;
use weft_proto::v1::discovery_client::DiscoveryClient;
use weft_proto::v1::registry_client::RegistryClient;
use weft_proto::v1::{
    Ack, ApplyRequest, ApplyResponse, DeleteRequest, DeregisterRequest, DiscoveryRequest, DiscoveryResponse,
    GetRequest, Held, Hello, ListRequest, RegisterRequest, RenewRequest, ReportReadinessRequest, ResourceName,
    ServiceKey, Target, Update, UserResource, WatchRequest, WorkloadPort, apply_response, discovery_request,
    discovery_response, resource, target, watch_event,
};

use super::*;

const LOCAL: [u8; 4] = [127, 0, 0, 1];

/// What one proxy has been told by its stream.
struct Follower {
    send: tokio::sync::mpsc::Sender<DiscoveryRequest>,
    updates: tonic::Streaming<DiscoveryResponse>,
    endpoints: std::collections::BTreeSet<String>,
    versions: std::collections::HashMap<(i32, String), u64>,
    upserted: usize,
    removed: usize,
}

impl Follower {
    async fn begin(channel: Channel, service: &str) -> Self {
        Self::resume(channel, service, &[]).await
    }

    /// As a proxy that was connected before and holds this.
    async fn resume(channel: Channel, service: &str, held: &[Held]) -> Self {
        let (send, requests) = tokio::sync::mpsc::channel(16);
        let service = ServiceKey { namespace: "shop".into(), name: service.into() };
        let targets = vec![Target { target: Some(target::Target::Service(service)) }];
        let hello = Hello { protocol_version: 1, targets, held: held.to_vec(), ..Hello::default() };
        send.send(DiscoveryRequest { message: Some(discovery_request::Message::Hello(hello)) }).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let updates = DiscoveryClient::new(channel).stream(requests).await.unwrap().into_inner();
        let (endpoints, versions) = Default::default();
        Self { send, updates, endpoints, versions, upserted: 0, removed: 0 }
    }

    fn held(&self) -> Vec<Held> {
        let named = |((kind, name), version): (&(i32, String), &u64)| Held {
            name: Some(ResourceName { kind: *kind, name: name.clone() }),
            version: *version,
        };
        self.versions.iter().map(named).collect()
    }

    /// Reads and acknowledges one update.
    async fn next(&mut self) {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.updates.message()).await.expect("an update");
            let Some(discovery_response::Message::Update(update)) = message.unwrap().unwrap().message else { continue };
            self.take(&update);
            let ack = Ack { nonce: update.nonce, ..Ack::default() };
            let ack = DiscoveryRequest { message: Some(discovery_request::Message::Ack(ack)) };
            return self.send.send(ack).await.unwrap();
        }
    }

    /// Reads and acknowledges updates until the endpoints are these.
    async fn until(&mut self, expected: &[&str]) {
        while !self.endpoints.iter().map(String::as_str).eq(expected.iter().copied()) {
            self.next().await;
        }
    }

    fn take(&mut self, update: &Update) {
        for resource in &update.upserts {
            self.upserted += 1;
            let name = resource.name.clone().unwrap();
            self.versions.insert((name.kind, name.name), resource.version);
            if let Some(resource::Body::Endpoint(endpoint)) = &resource.body {
                self.endpoints.insert(endpoint.id.clone());
            }
        }
        for gone in &update.removals {
            self.removed += 1;
            self.versions.remove(&(gone.kind, gone.name.clone()));
            self.endpoints.remove(gone.name.rsplit('/').next().unwrap());
        }
    }
}

fn service(name: &str, spec: &str) -> ApplyRequest {
    let resource = UserResource {
        api_version: "v1".into(),
        kind: "Service".into(),
        namespace: "shop".into(),
        name: name.into(),
        spec_json: spec.into(),
        ..UserResource::default()
    };
    ApplyRequest { resource: Some(resource) }
}

const SELECTING: &str = r#"{"selector": {"app": "cart"}, "ports": [{"port": 80, "targetPort": 8080}]}"#;

const DNS: &str = r#"{"type": "ExternalName", "externalName": "db.invalid", "ports": [{"port": 80}]}"#;

fn instance(id: &str, address: &str) -> RegisterRequest {
    RegisterRequest {
        instance_id: id.into(),
        addresses: vec![address.into()],
        ports: vec![WorkloadPort { port: 8080, captured: true, ..WorkloadPort::default() }],
        labels: [("app".to_owned(), "cart".to_owned())].into(),
        ..RegisterRequest::default()
    }
}

fn ready(id: &str, ready: bool) -> ReportReadinessRequest {
    ReportReadinessRequest { instance_id: id.into(), ready }
}

async fn config(mesh: &Mesh) -> ConfigClient<Channel> {
    ConfigClient::new(mesh.operators_channel().await)
}

async fn cart(mesh: &Mesh) -> Channel {
    mesh.try_connect(Some(&mesh.join().await), LOCAL).await.unwrap()
}

fn virtual_ips(answer: &ApplyResponse) -> Vec<String> {
    let status: serde_json::Value = serde_json::from_str(&answer.resource.as_ref().unwrap().status_json).unwrap();
    serde_json::from_value(status["virtualIPs"].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_instance_is_seen_when_ready_and_no_longer_when_gone() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    config(&mesh).await.apply(service("cart", SELECTING)).await.unwrap();
    let channel = cart(&mesh).await;
    let mut registry = RegistryClient::new(channel.clone());
    let mut follower = Follower::begin(channel, "cart").await;
    registry.register(instance("cart-1", "10.1.0.1")).await.unwrap();
    registry.register(instance("cart-2", "10.1.0.2")).await.unwrap();
    registry.report_readiness(ready("cart-2", true)).await.unwrap();
    follower.until(&["cart-2"]).await;
    registry.report_readiness(ready("cart-1", true)).await.unwrap();
    follower.until(&["cart-1", "cart-2"]).await;
    registry.register(instance("cart-1", "10.1.0.1")).await.unwrap();
    registry.report_readiness(ready("cart-2", false)).await.unwrap();
    follower.until(&["cart-1"]).await;
    assert_eq!(follower.removed, 1, "registering again as before takes nothing away");
    registry.deregister(DeregisterRequest { instance_id: "cart-1".into() }).await.unwrap();
    follower.until(&[]).await;
    let renewed = registry.renew(RenewRequest { instance_id: "cart-1".into() }).await;
    assert_eq!(renewed.unwrap_err().code(), Code::NotFound);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_nothing_away() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let applied = config(&mesh).await.apply(service("cart", SELECTING)).await.unwrap().into_inner();
    let credentials = mesh.join().await;
    let mut registry = RegistryClient::new(mesh.try_connect(Some(&credentials), LOCAL).await.unwrap());
    registry.register(instance("cart-1", "10.1.0.1")).await.unwrap();
    registry.report_readiness(ready("cart-1", true)).await.unwrap();
    config(&mesh).await.apply(service("named", DNS)).await.unwrap();
    let answer = (crate::store::Key::new("dns/shop/named").unwrap(), r#"["db.invalid", ["192.0.2.1"]]"#);
    mesh.plane.store.put(answer.0, answer.1.into(), crate::store::Expect::Any).await.unwrap();
    let mut before = Follower::begin(mesh.try_connect(Some(&credentials), LOCAL).await.unwrap(), "cart").await;
    before.until(&["cart-1"]).await;
    let mut named = Follower::begin(mesh.try_connect(Some(&credentials), LOCAL).await.unwrap(), "named").await;
    while named.endpoints.is_empty() {
        named.next().await;
    }
    mesh.stop().await;

    let mesh = Mesh::start(directory.path()).await;
    // Who was there before is told that nothing changed, of names that DNS resolves too.
    for (name, held) in [("cart", before.held()), ("named", named.held())] {
        let channel = mesh.try_connect(Some(&credentials), LOCAL).await.unwrap();
        let mut after = Follower::resume(channel, name, &held).await;
        after.next().await;
        assert_eq!((after.upserted, after.removed), (0, 0), "{name}");
    }
    let mut follower = Follower::begin(mesh.try_connect(Some(&credentials), LOCAL).await.unwrap(), "cart").await;
    follower.until(&["cart-1"]).await;
    let again = config(&mesh).await.apply(service("cart", SELECTING)).await.unwrap().into_inner();
    assert_eq!(again.outcome(), apply_response::Outcome::Unchanged);
    assert_eq!(virtual_ips(&again), virtual_ips(&applied));
    assert_eq!(follower.removed, 0);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_not_understood_stops_the_start_and_says_which() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    config(&mesh).await.apply(service("cart", SELECTING)).await.unwrap();
    let key = crate::store::Key::new("instance/shop/odd").unwrap();
    let written =
        mesh.plane.store.put(key.clone(), "{\"of\": \"the future\"}".into(), crate::store::Expect::Any).await.unwrap();
    assert!(mesh.plane.registry.caught_up(written).await, "a running control plane goes on");
    mesh.stop().await;
    let refused = format!("{:#}", Mesh::try_start(directory.path()).await.err().expect("a refusal"));
    assert!(refused.contains(key.as_str()) && refused.contains("restore"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn config_validates_conflicts_and_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let mut config = config(&mesh).await;
    let mut events = config.watch(WatchRequest::default()).await.unwrap().into_inner();
    let mut next =
        async || tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, watch_event::Event::Synced(_)));

    let dry = config.validate(service("cart", SELECTING)).await.unwrap().into_inner();
    assert_eq!(dry.outcome(), apply_response::Outcome::Created);
    let all = ListRequest::default();
    assert_eq!(config.list(all.clone()).await.unwrap().into_inner().resources, [], "a dry run writes nothing");
    let nonsense = service("cart", r#"{"ports": [{"port": 0}, {"port": 80, "nonsense": 1}]}"#);
    let refused = config.apply(nonsense).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for field in ["spec.ports[0].port", "spec.ports[1].nonsense"] {
        assert!(refused.message().contains(field), "{}", refused.message());
    }

    // What every proxy would refuse is not accepted, or it would be in force nowhere.
    let long = format!(r#"{{"ports": [{{"port": 80, "name": "{}"}}]}}"#, "n".repeat(300));
    let refused = config.apply(service("cart", &long)).await.unwrap_err();
    assert!(refused.message().contains("ports[0].name"), "{}", refused.message());

    let applied = config.apply(service("cart", SELECTING)).await.unwrap().into_inner().resource.unwrap();
    assert!(matches!(next().await, watch_event::Event::Upserted(seen) if seen == applied));
    let mut stale = service("cart", r#"{"ports": [{"port": 81}]}"#);
    stale.resource.as_mut().unwrap().revision = applied.revision + 1;
    assert_eq!(config.apply(stale.clone()).await.unwrap_err().code(), Code::Aborted);
    stale.resource.as_mut().unwrap().revision = applied.revision;
    let changed = config.apply(stale).await.unwrap().into_inner();
    assert_eq!(changed.outcome(), apply_response::Outcome::Changed);
    assert!(matches!(next().await, watch_event::Event::Upserted(seen) if Some(&seen) == changed.resource.as_ref()));

    let name =
        GetRequest { api_version: "v1".into(), kind: "Service".into(), namespace: "shop".into(), name: "cart".into() };
    assert_eq!(config.get(name.clone()).await.unwrap().into_inner(), changed.resource.unwrap());
    let mut delete = DeleteRequest {
        kind: "Service".into(),
        namespace: "shop".into(),
        name: "cart".into(),
        ..DeleteRequest::default()
    };
    delete.revision = applied.revision;
    assert_eq!(config.delete(delete.clone()).await.unwrap_err().code(), Code::Aborted, "changed since");
    delete.revision = 0;
    config.delete(delete).await.unwrap();
    assert!(matches!(next().await, watch_event::Event::Deleted(gone) if gone.name == "cart"));
    assert_eq!(config.get(name).await.unwrap_err().code(), Code::NotFound);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn virtual_addresses_are_kept_refused_and_not_handed_on_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let mut config = config(&mesh).await;
    let first = config.apply(service("cart", SELECTING)).await.unwrap().into_inner();
    let [address] = virtual_ips(&first).try_into().unwrap();
    let fixed = |address: &str| format!(r#"{{"clusterIP": "{address}", "ports": [{{"port": 80}}]}}"#);
    let taken = config.apply(service("web", &fixed(&address))).await.unwrap_err();
    assert!(taken.message().contains("belongs to another service"), "{}", taken.message());
    let outside = config.apply(service("web", &fixed("192.0.2.1"))).await.unwrap_err();
    assert!(outside.message().contains("in no virtual range"), "{}", outside.message());
    let headless = config.apply(service("cart", r#"{"clusterIP": "None", "ports": [{"port": 80}]}"#)).await.unwrap();
    assert_eq!(virtual_ips(&headless.into_inner()), Vec::<String>::new());
    // Asked for by name it is given.
    let web = config.apply(service("web", &fixed(&address))).await.unwrap().into_inner();
    assert_eq!(virtual_ips(&web), [address]);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refusal_names_all_that_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let mut config = config(&mesh).await;
    let spec = r#"{"clusterIP": "10.9.9.9", "ports": [{"port": 80, "protocol": "UDP"}, "x"]}"#;
    let refusal = config.validate(service("Cart", spec)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    for part in ["metadata.name", "spec.ports[0].protocol", "spec.ports[1]: must be an object", "no virtual range"] {
        assert!(refusal.message().contains(part), "{} lacks {part}", refusal.message());
    }
    let refusal = config.apply(service("cart", "{")).await.unwrap_err();
    assert!(refusal.message().starts_with("spec: is not JSON"), "{}", refusal.message());
    assert_eq!(refusal.message().matches("spec:").count(), 1, "{}", refusal.message());
    mesh.stop().await;
}
