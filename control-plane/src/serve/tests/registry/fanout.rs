//! One change, many proxies.

use super::*;

/// From an endpoint's change to every proxy that it concerns.
const PROMISE: Duration = Duration::from_secs(1);

const OTHER: &str = r#"{"selector": {"app": "other"}, "ports": [{"port": 80}]}"#;
const OTHER_CHANGED: &str = r#"{"selector": {"app": "other"}, "ports": [{"port": 81}]}"#;

impl Follower {
    async fn read(&mut self) -> Update {
        let message = tokio::time::timeout(PATIENCE, self.updates.message()).await.expect("a message in time");
        match message.unwrap().expect("a message").message {
            Some(discovery_response::Message::Update(update)) => update,
            Some(discovery_response::Message::Welcome(_)) => Box::pin(self.read()).await,
            None => panic!("an unknown message"),
        }
    }

    async fn acknowledge(&self, nonce: u64) {
        let ack = discovery_request::Message::Ack(Ack { nonce, ..Ack::default() });
        self.send.send(DiscoveryRequest { message: Some(ack) }).await.unwrap();
    }
}

/// Waits until a metric without labels has this value; the last Acks may be on their way.
async fn shown(mesh: &Mesh, name: &str, value: u64) {
    let line = format!("\n{name} {value}\n");
    let waiting = async {
        while !mesh.plane.metrics.render().contains(&line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{}", mesh.plane.metrics.render()));
}

async fn mesh_with_cart(directory: &Path) -> (Mesh, Channel, RegistryClient<Channel>) {
    let mesh = Mesh::start(directory).await;
    config(&mesh).await.apply(service("cart", SELECTING)).await.unwrap();
    let channel = cart(&mesh).await;
    let mut registry = RegistryClient::new(channel.clone());
    registry.register(instance("cart-1", "10.1.0.1")).await.unwrap();
    registry.report_readiness(ready("cart-1", true)).await.unwrap();
    registry.register(instance("cart-2", "10.1.0.2")).await.unwrap();
    (mesh, channel, registry)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_proxies_learn_of_an_endpoint_and_nobody_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let (mesh, channel, mut registry) = mesh_with_cart(directory.path()).await;
    config(&mesh).await.apply(service("other", OTHER)).await.unwrap();
    let mut bystander = Follower::begin(channel.clone(), "other").await;
    let first = bystander.read().await;
    bystander.acknowledge(first.nonce).await;
    let mut followers = Vec::new();
    for _ in 0..50 {
        let mut follower = Follower::begin(channel.clone(), "cart").await;
        follower.until(&["cart-1"]).await;
        followers.push(follower);
    }
    registry.report_readiness(ready("cart-2", true)).await.unwrap();
    let told = tokio::time::timeout(PROMISE, async {
        for follower in &mut followers {
            follower.until(&["cart-1", "cart-2"]).await;
        }
    });
    told.await.expect("a proxy is told of a change within a second");

    shown(&mesh, "weft_push_seconds_count", 50).await;
    // The first of 51 streams, and the change of 50.
    shown(&mesh, "weft_updates_sent_total", 101).await;

    config(&mesh).await.apply(service("other", OTHER_CHANGED)).await.unwrap();
    let update = bystander.read().await;
    let names: Vec<&str> = update.upserts.iter().map(|upsert| upsert.name.as_ref().unwrap().name.as_str()).collect();
    assert_eq!((update.nonce, names), (2, vec!["shop/other"]), "nothing came between the first update and this one");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_proxy_holds_up_nobody_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mesh, channel, mut registry) = mesh_with_cart(directory.path()).await;
    let mut slow = Follower::begin(channel.clone(), "cart").await;
    let unacknowledged = slow.read().await;
    slow.take(&unacknowledged);
    let mut fast = Follower::begin(channel, "cart").await;
    fast.until(&["cart-1"]).await;
    registry.report_readiness(ready("cart-2", true)).await.unwrap();
    fast.until(&["cart-1", "cart-2"]).await;
    registry.report_readiness(ready("cart-1", false)).await.unwrap();
    fast.until(&["cart-2"]).await;

    slow.acknowledge(unacknowledged.nonce).await;
    let all = slow.read().await;
    slow.take(&all);
    assert_eq!(slow.endpoints, ["cart-2".to_owned()].into(), "what gathered comes at once");
    mesh.stop().await;
}
