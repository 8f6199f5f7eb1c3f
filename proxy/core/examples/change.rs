//! One endpoint changes, in a proxy that knows few others or many: decoded, taken by the discovery machine, applied.
//!
//! `change KNOWN TIMES`: KNOWN services, the first with as many endpoints, the others with one; then TIMES updates with one
//! endpoint of the first. Nothing else is in the process, so that `integration/bench/guard` can count what an update costs.
//! The server's side is made up here.

use std::error::Error;

use weft_core::model::ServiceKey;
use weft_core::snapshot::{Snapshot, apply};
use weft_core::sync::{Subscriber, Want};
use weft_proto::v1::{
    DiscoveryResponse, Endpoint, EndpointPort, Resource, ResourceKind, ResourceName, Service, ServicePort, Update,
    Welcome, discovery_response::Message, resource::Body,
};

/// The proxy's. The C library's merges what was freed now and then, which is chance in what is counted.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let mut number = || words.next().ok_or("change KNOWN TIMES")?.parse::<usize>().map_err(Failure::from);
    let (known, times) = (number()?, number()?);
    let mut proxy = Proxy::new(known);
    proxy.take(Message::Welcome(Welcome { protocol_version: 1, ..Welcome::default() }))?;
    let services = (0..known).map(service);
    let single = (1..known).map(|service| endpoint(service, 0, 1));
    let many = (0..known).map(|index| endpoint(0, index, 1));
    proxy.update(services.chain(single).chain(many).collect())?;
    changes(&mut proxy, known, times)?;
    let key = ServiceKey { namespace: "default".into(), name: name(0).into() };
    let port = proxy.snapshot.service(&key).and_then(|entry| entry.port(80)).ok_or("the service is not there")?;
    if port.endpoints.len() != known {
        return Err(format!("{} endpoints, not {known}", port.endpoints.len()).into());
    }
    Ok(())
}

/// By this name what is counted is told from what comes before it.
#[inline(never)]
fn changes(proxy: &mut Proxy, known: usize, times: usize) -> Result<(), Failure> {
    for (time, version) in (0..times).zip(2..) {
        // Here and there: 7919 is a prime.
        proxy.update(vec![endpoint(0, time.wrapping_mul(7919) % known, version)])?;
    }
    Ok(())
}

struct Proxy {
    subscriber: Subscriber,
    snapshot: Snapshot,
    nonce: u64,
}

impl Proxy {
    fn new(services: usize) -> Self {
        let mut subscriber = Subscriber::new("bench", "bench");
        for index in 0..services {
            subscriber.want(Want::Service(ServiceKey { namespace: "default".into(), name: name(index).into() }));
        }
        subscriber.handle_connected();
        while subscriber.poll_send().is_some() {}
        Self { subscriber, snapshot: Snapshot::empty(), nonce: 0 }
    }

    fn update(&mut self, upserts: Vec<Resource>) -> Result<(), Failure> {
        self.nonce += 1;
        let update = Update { nonce: self.nonce, revision: self.nonce, upserts, ..Update::default() };
        self.take(Message::Update(update))?;
        self.subscriber.poll_send().map(drop).ok_or_else(|| "a change was not acknowledged".into())
    }

    fn take(&mut self, message: Message) -> Result<(), Failure> {
        let Some(step) = self.subscriber.handle_response(DiscoveryResponse { message: Some(message) })? else {
            return Ok(());
        };
        if !step.refusals.is_empty() {
            return Err(format!("{:?}", step.refusals).into());
        }
        self.snapshot = apply(&self.snapshot, step.update.clone());
        self.subscriber.handle_applied(&step);
        Ok(())
    }
}

fn name(index: usize) -> String {
    format!("bench-{index}")
}

fn service(index: usize) -> Resource {
    let port = ServicePort { port: 80, name: "web".to_owned(), app_protocol: "http".to_owned() };
    let [_, _, high, low] = u32::try_from(index).unwrap_or_default().to_be_bytes();
    let body = Service {
        namespace: "default".to_owned(),
        name: name(index),
        ports: vec![port],
        virtual_ips: vec![format!("10.96.{high}.{low}")],
    };
    resource(ResourceKind::Service, format!("default/{}", name(index)), 1, Body::Service(body))
}

fn endpoint(service: usize, index: usize, version: u64) -> Resource {
    let id = format!("{}-{index:05}", name(service));
    let [_, _, high, low] = u32::try_from(if service == 0 { index } else { service }).unwrap_or_default().to_be_bytes();
    // Of the first service each version is somewhere else.
    let address =
        if service == 0 { format!("11.{}.{high}.{low}", version % 256) } else { format!("12.0.{high}.{low}") };
    let body = Endpoint {
        namespace: "default".to_owned(),
        service: name(service),
        id: id.clone(),
        address,
        ports: vec![EndpointPort { service_port: 80, target_port: 8080, captured: true }],
        spiffe_id: "spiffe://cluster.local/ns/default/sa/server".to_owned(),
        weight: 1,
        ..Endpoint::default()
    };
    resource(ResourceKind::Endpoint, format!("default/{}/{id}", name(service)), version, Body::Endpoint(body))
}

fn resource(kind: ResourceKind, name: String, version: u64, body: Body) -> Resource {
    Resource { name: Some(ResourceName { kind: kind.into(), name }), version, body: Some(body) }
}
