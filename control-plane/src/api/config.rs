//! `Config`: user resources, checked at the door by the same code that reads them later.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};
use weft_core::model::ServiceKey;
use weft_proto::v1::config_server::Config;
use weft_proto::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, GetRequest, ListRequest, ListResponse, UserResource,
    WatchEvent, WatchRequest, apply_response, watch_event,
};

use super::peer::Peer;
use super::registry::unavailable;
use crate::registry::handle::{Registry, dns_key, virtual_ips};
use crate::resource::service::{self, Address};
use crate::resource::{KINDS, PREFIX, Problems, Stored, key};
use crate::shutdown::Shutdown;
use crate::store::{Event, Expect, Key, Revision, Store, StoreError, Versioned};

/// Events that wait for a slow watcher before it is cut off.
const WATCH_WAITING_MAX: usize = 256;

/// The service.
#[derive(Clone, Debug)]
pub struct ConfigService {
    store: Arc<dyn Store>,
    registry: Registry,
    shutdown: Shutdown,
    /// One writer at a time, so that two services never get one virtual address.
    writing: Arc<Mutex<()>>,
}

impl ConfigService {
    /// Over the store and the registry.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, registry: Registry, shutdown: Shutdown) -> Self {
        Self { store, registry, shutdown, writing: Arc::default() }
    }

    /// Checks a resource against itself and what exists; fills in what is ours. With `keep`, writes it.
    async fn admit(&self, request: ApplyRequest, keep: bool) -> Result<ApplyResponse, Status> {
        let _writing = self.writing.lock().await;
        let user = request.resource.ok_or_else(|| Status::invalid_argument("resource: is missing"))?;
        if (user.api_version.as_str(), user.kind.as_str()) != ("v1", "Service") {
            let text =
                format!("apiVersion, kind: {} {} is not known here; known: {KINDS}", user.api_version, user.kind);
            return Err(Status::invalid_argument(text));
        }
        let mut stored = Stored::from_user(&user).map_err(|problems| refused(&problems))?;
        let spec = service::read(&stored).map_err(|problems| refused(&problems))?;
        let key = stored.key().map_err(|error| Status::invalid_argument(error.to_string()))?;
        let held = self.store.get(&key).await.map_err(unavailable)?;
        check_revision(user.revision, held.as_ref())?;
        let before = held.as_ref().and_then(|held| serde_json::from_slice::<Stored>(&held.value).ok());
        let address = self.virtual_address(&stored, spec.address, before.as_ref())?;
        stored.status = serde_json::json!({
            "virtualIPs": address.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        let outcome = match &before {
            Some(before) if *before == stored => apply_response::Outcome::Unchanged,
            Some(_) => apply_response::Outcome::Changed,
            None => apply_response::Outcome::Created,
        };
        let mut revision = held.as_ref().map_or(0, |held| held.revision.0);
        if keep && outcome != apply_response::Outcome::Unchanged {
            revision = self.write(key, &stored, held.as_ref()).await?.0;
            tracing::info!(kind = %stored.kind, namespace = %stored.namespace, name = %stored.name, revision, "applied");
        }
        Ok(ApplyResponse { resource: Some(stored.to_user(revision)), outcome: outcome.into() })
    }

    /// What DNS answered for a deleted service is of no more use.
    async fn forget_answer(&self, deleted: &Versioned) {
        let Ok(resource) = to_user(deleted) else { return };
        let key = ServiceKey { namespace: resource.namespace.as_str().into(), name: resource.name.as_str().into() };
        let Ok(key) = dns_key(&key) else { return };
        match self.store.delete(key, Expect::Any).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => tracing::warn!(%error, "DNS answer of a deleted service stays"),
        }
    }

    async fn write(&self, key: Key, stored: &Stored, held: Option<&Versioned>) -> Result<Revision, Status> {
        let value = serde_json::to_vec(stored).map_err(|error| Status::internal(error.to_string()))?;
        let expect = held.map_or(Expect::Absent, |held| Expect::Revision(held.revision));
        match self.store.put(key, value.into(), expect).await {
            Ok(revision) => {
                self.registry.caught_up(revision).await;
                Ok(revision)
            }
            Err(error @ StoreError::Conflict { .. }) => Err(Status::aborted(error.to_string())),
            Err(error @ StoreError::TooLarge { .. }) => Err(Status::invalid_argument(error.to_string())),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The virtual address of a service: the one it has, the one it asks for, or a free one.
    fn virtual_address(
        &self,
        stored: &Stored,
        wanted: Address,
        before: Option<&Stored>,
    ) -> Result<Option<IpAddr>, Status> {
        let key = ServiceKey { namespace: stored.namespace.as_str().into(), name: stored.name.as_str().into() };
        let ranges = &self.registry.settings().virtual_ranges;
        let taken =
            |address: IpAddr| self.registry.read(|index| index.holder(address).is_some_and(|holder| *holder != key));
        match wanted {
            Address::Headless => Ok(None),
            Address::Fixed(address) => {
                let mut problems = Problems::default();
                if !ranges.iter().any(|range| range.contains(&address)) {
                    problems.add("spec.clusterIP", format!("{address} is in no virtual range (--virtual-range)"));
                } else if taken(address) {
                    problems.add("spec.clusterIP", format!("{address} belongs to another service"));
                }
                problems.into_result().map_err(|problems| refused(&problems))?;
                Ok(Some(address))
            }
            Address::Virtual => {
                let present = before.and_then(|before| virtual_ips(before).first().copied());
                let still_good =
                    present.filter(|address| ranges.iter().any(|range| range.contains(address)) && !taken(*address));
                let free = still_good.or_else(|| free_address(ranges, &key, taken));
                free.map(Some).ok_or_else(|| {
                    Status::resource_exhausted("no virtual address is free; give another --virtual-range")
                })
            }
        }
    }
}

/// A free address, from a place in the range that depends on the name: a deleted service that is made again tends to get
/// its old address, and an address is not given to another service at once.
fn free_address(ranges: &[IpNet], key: &ServiceKey, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let hash = key
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    ranges.iter().find_map(|range| {
        let (size, base) = match range {
            IpNet::V4(net) => (1_u128 << (32 - net.prefix_len()), u128::from(u32::from(net.network()))),
            // The first 2^32 addresses are plenty.
            IpNet::V6(net) => (1_u128 << (128 - net.prefix_len()).min(32), u128::from(net.network())),
        };
        // Neither the network's own nor the broadcast address.
        let usable = size.saturating_sub(2);
        let start = u128::from(hash).checked_rem(usable)?;
        (0..usable.min(1 << 20)).find_map(|step| {
            let number = base + 1 + (start + step) % usable;
            let address = match range {
                IpNet::V4(_) => IpAddr::V4(u32::try_from(number).ok()?.into()),
                IpNet::V6(_) => IpAddr::V6(number.into()),
            };
            (!taken(address)).then_some(address)
        })
    })
}

fn refused(problems: &Problems) -> Status {
    Status::invalid_argument(problems.to_string())
}

fn check_revision(wanted: u64, held: Option<&Versioned>) -> Result<(), Status> {
    let present = held.map_or(0, |held| held.revision.0);
    if wanted == 0 || wanted == present {
        return Ok(());
    }
    Err(Status::aborted(format!("revision is {present}, not {wanted}: it was changed meanwhile; get it and try again")))
}

fn to_user(versioned: &Versioned) -> Result<UserResource, Status> {
    let stored: Stored = serde_json::from_slice(&versioned.value)
        .map_err(|error| Status::data_loss(format!("{} is not understood: {error}", versioned.key)))?;
    Ok(stored.to_user(versioned.revision.0))
}

fn wanted(resource: &UserResource, kind: &str, namespace: &str) -> bool {
    (kind.is_empty() || resource.kind == kind) && (namespace.is_empty() || resource.namespace == namespace)
}

fn key_of(api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<Key, Status> {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let api_version = if api_version.is_empty() { "v1" } else { api_version };
    key(api_version, kind, namespace, name).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn absent(key: &Key) -> Status {
    Status::not_found(format!("{} does not exist", key.as_str().trim_start_matches(PREFIX)))
}

#[async_trait]
impl Config for ConfigService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        Peer::operator(&request)?;
        Ok(Response::new(self.admit(request.into_inner(), true).await?))
    }

    async fn validate(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        Peer::operator(&request)?;
        Ok(Response::new(self.admit(request.into_inner(), false).await?))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<UserResource>, Status> {
        Peer::operator(&request)?;
        let GetRequest { api_version, kind, namespace, name } = request.into_inner();
        let key = key_of(&api_version, &kind, &namespace, &name)?;
        let held = self.store.get(&key).await.map_err(unavailable)?;
        Ok(Response::new(to_user(&held.ok_or_else(|| absent(&key))?)?))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Peer::operator(&request)?;
        let ListRequest { kind, namespace } = request.into_inner();
        let listing = self.store.list(PREFIX).await.map_err(unavailable)?;
        let mut resources = listing.entries.iter().map(to_user).collect::<Result<Vec<_>, _>>()?;
        resources.retain(|resource| wanted(resource, &kind, &namespace));
        resources.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
        Ok(Response::new(ListResponse { resources, revision: listing.revision.0 }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Peer::operator(&request)?;
        let DeleteRequest { api_version, kind, namespace, name, revision } = request.into_inner();
        let key = key_of(&api_version, &kind, &namespace, &name)?;
        let _writing = self.writing.lock().await;
        let held = self.store.get(&key).await.map_err(unavailable)?.ok_or_else(|| absent(&key))?;
        check_revision(revision, Some(&held))?;
        match self.store.delete(key, Expect::Revision(held.revision)).await {
            Ok(revision) => {
                self.registry.caught_up(revision).await;
                self.forget_answer(&held).await;
                tracing::info!(kind, namespace, name, revision = revision.0, "deleted");
                Ok(Response::new(DeleteResponse {}))
            }
            Err(error @ StoreError::Conflict { .. }) => Err(Status::aborted(error.to_string())),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Peer::operator(&request)?;
        let WatchRequest { kind, namespace } = request.into_inner();
        let listing = self.store.list(PREFIX).await.map_err(unavailable)?;
        let mut existing = listing.entries.iter().map(to_user).collect::<Result<Vec<_>, _>>()?;
        existing.retain(|resource| wanted(resource, &kind, &namespace));
        let mut changes = self.store.watch(PREFIX, listing.revision).await.map_err(unavailable)?;
        let (send, receive) = mpsc::channel(WATCH_WAITING_MAX);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let watching = async {
                for resource in existing {
                    let revision = resource.revision;
                    send.send(Ok(event(watch_event::Event::Upserted(resource), revision))).await.ok()?;
                }
                let synced = watch_event::Event::Synced(watch_event::Synced {});
                send.send(Ok(event(synced, listing.revision.0))).await.ok()?;
                loop {
                    let next = tokio::select! {
                        next = changes.next() => next,
                        () = send.closed() => return None,
                    };
                    let told = match next {
                        Ok(change) => told(&change, &kind, &namespace),
                        Err(error) => Some(Err(Status::aborted(format!("watch again: {error}")))),
                    };
                    let Some(told) = told else { continue };
                    let last = told.is_err();
                    send.send(told).await.ok()?;
                    if last {
                        return None::<()>;
                    }
                }
            };
            tokio::select! {
                _ = watching => {}
                () = shutdown.requested() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

fn event(event: watch_event::Event, revision: u64) -> WatchEvent {
    WatchEvent { event: Some(event), revision }
}

fn told(change: &Event, kind: &str, namespace: &str) -> Option<Result<WatchEvent, Status>> {
    match change {
        Event::Put(versioned) => match to_user(versioned) {
            Ok(resource) if wanted(&resource, kind, namespace) => {
                Some(Ok(event(watch_event::Event::Upserted(resource), versioned.revision.0)))
            }
            Ok(_) => None,
            Err(status) => Some(Err(status)),
        },
        Event::Delete { key, revision } => {
            let resource = named(key)?;
            wanted(&resource, kind, namespace).then(|| Ok(event(watch_event::Event::Deleted(resource), revision.0)))
        }
    }
}

/// What a store key says of the resource that lay there.
fn named(key: &Key) -> Option<UserResource> {
    let mut parts = key.as_str().strip_prefix(PREFIX)?.splitn(4, '/');
    let (api_version, kind) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let (namespace, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(UserResource { api_version, kind, namespace, name, ..UserResource::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_stable_free_and_run_out() {
        let ranges = ["10.9.0.0/29".parse().unwrap()];
        let key = |name: &str| ServiceKey { namespace: "n".into(), name: name.into() };
        let mut given = Vec::new();
        for name in ["a", "b", "c", "d", "e", "f"] {
            let address = free_address(&ranges, &key(name), |address| given.contains(&address)).unwrap();
            assert!(!given.contains(&address));
            given.push(address);
        }
        assert_eq!(free_address(&ranges, &key("g"), |address| given.contains(&address)), None);
        let again = free_address(&ranges, &key("a"), |_| false);
        assert_eq!(again, Some(given[0]));
        assert!(!given.iter().any(|address| ["10.9.0.0", "10.9.0.7"].contains(&address.to_string().as_str())));
    }
}
