//! `Config`: user resources, checked at the door by the same code that reads them later.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};
use weft_core::model::{ServiceKey, decode};
use weft_proto::v1::config_server::Config;
use weft_proto::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, GetRequest, ListRequest, ListResponse, UserResource,
    WatchEvent, WatchRequest, apply_response, watch_event,
};

use super::peer::Peer;
use super::registry::{behind, in_turn, unavailable};
use crate::registry::feed::virtual_ips;
use crate::registry::handle::Registry;
use crate::registry::service_message;
use crate::registry::virtual_ips::{self, Freed};
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
    writing: Arc<Mutex<Written>>,
    started: Instant,
}

/// What one writer leaves to the next.
#[derive(Debug, Default)]
struct Written {
    /// The index must show this before anything is decided by it.
    last: Revision,
    freed: Freed,
}

impl ConfigService {
    /// Over the store and the registry.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, registry: Registry, shutdown: Shutdown) -> Self {
        Self { store, registry, shutdown, writing: Arc::default(), started: Instant::now() }
    }

    /// Checks a resource against itself and what exists; fills in what is ours. With `keep`, writes it.
    async fn admit(&self, request: ApplyRequest, keep: bool) -> Result<ApplyResponse, Status> {
        let mut writing = in_turn(&self.writing).await?;
        if !self.registry.caught_up(writing.last).await {
            return Err(behind());
        }
        let user = request.resource.ok_or_else(|| Status::invalid_argument("resource: is missing"))?;
        if (user.api_version.as_str(), user.kind.as_str()) != ("v1", "Service") {
            let text =
                format!("apiVersion, kind: {} {} is not known here; known: {KINDS}", user.api_version, user.kind);
            return Err(Status::invalid_argument(text));
        }
        let mut problems = Problems::default();
        let mut stored = Stored::from_user(&user, &mut problems);
        let spec = service::check(&stored, &mut problems);
        self.check_address(&stored, spec.address, &mut problems);
        problems.into_result().map_err(|problems| refused(&problems))?;
        let key = stored.key().map_err(|error| Status::invalid_argument(error.to_string()))?;
        let held = self.store.get(&key).await.map_err(unavailable)?;
        check_revision(user.revision, held.as_ref())?;
        let before = held.as_ref().and_then(|held| serde_json::from_slice::<Stored>(&held.value).ok());
        let addresses = self.virtual_addresses(&stored, spec.address, before.as_ref(), &writing.freed)?;
        // What proxies would refuse is refused here, by the same code.
        decode::service(&service_message(&service_key(&stored), &spec, &addresses))
            .map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        stored.status = serde_json::json!({
            "virtualIPs": addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        let outcome = match &before {
            Some(before) if *before == stored => apply_response::Outcome::Unchanged,
            Some(_) => apply_response::Outcome::Changed,
            None => apply_response::Outcome::Created,
        };
        let mut revision = held.as_ref().map_or(0, |held| held.revision.0);
        if keep && outcome != apply_response::Outcome::Unchanged {
            writing.last = self.write(key, &stored, held.as_ref()).await?;
            revision = writing.last.0;
            let mut lost = before.as_ref().map(virtual_ips).unwrap_or_default();
            lost.retain(|address| !addresses.contains(address));
            writing.freed.free(&service_key(&stored), &lost, self.started.elapsed());
            self.registry.caught_up(writing.last).await;
            tracing::info!(kind = %stored.kind, namespace = %stored.namespace, name = %stored.name, revision, "applied");
        }
        Ok(ApplyResponse { resource: Some(stored.to_user(revision)), outcome: outcome.into() })
    }

    async fn remove(&self, request: DeleteRequest) -> Result<(), Status> {
        let DeleteRequest { api_version, kind, namespace, name, revision } = request;
        let key = key_of(&api_version, &kind, &namespace, &name)?;
        let mut writing = in_turn(&self.writing).await?;
        let held = self.store.get(&key).await.map_err(unavailable)?.ok_or_else(|| absent(&key))?;
        check_revision(revision, Some(&held))?;
        match self.store.delete(key, Expect::Revision(held.revision)).await {
            Ok(revision) => {
                writing.last = revision;
                if let Ok(deleted) = serde_json::from_slice::<Stored>(&held.value) {
                    let addresses = virtual_ips(&deleted);
                    writing.freed.free(&service_key(&deleted), &addresses, self.started.elapsed());
                }
                self.registry.caught_up(revision).await;
                tracing::info!(kind, namespace, name, revision = revision.0, "deleted");
                Ok(())
            }
            Err(error @ StoreError::Conflict { .. }) => Err(Status::aborted(error.to_string())),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn write(&self, key: Key, stored: &Stored, held: Option<&Versioned>) -> Result<Revision, Status> {
        let value = serde_json::to_vec(stored).map_err(|error| Status::internal(error.to_string()))?;
        let expect = held.map_or(Expect::Absent, |held| Expect::Revision(held.revision));
        match self.store.put(key, value.into(), expect).await {
            Ok(revision) => Ok(revision),
            Err(error @ StoreError::Conflict { .. }) => Err(Status::aborted(error.to_string())),
            Err(error @ StoreError::TooLarge { .. }) => Err(Status::invalid_argument(error.to_string())),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// An address that a service asks for must be free and ours to give.
    fn check_address(&self, stored: &Stored, wanted: Address, problems: &mut Problems) {
        let Address::Fixed(address) = wanted else { return };
        if !self.registry.settings().virtual_ranges.iter().any(|range| range.contains(&address)) {
            problems.add("spec.clusterIP", format!("{address} is in no virtual range (--virtual-range)"));
        }
        let key = service_key(stored);
        if self.registry.read(|index| index.holder(address).is_some_and(|holder| *holder != key)) {
            problems.add("spec.clusterIP", format!("{address} belongs to another service"));
        }
    }

    /// The virtual addresses of a service: those it has, the one it asks for, or free ones.
    fn virtual_addresses(
        &self,
        stored: &Stored,
        wanted: Address,
        before: Option<&Stored>,
        freed: &Freed,
    ) -> Result<Vec<IpAddr>, Status> {
        let key = service_key(stored);
        let ranges = &self.registry.settings().virtual_ranges;
        self.registry.read(|index| {
            let taken = |address: IpAddr| index.holder(address).is_some_and(|holder| *holder != key);
            match wanted {
                Address::Headless => Ok(Vec::new()),
                Address::Fixed(address) => Ok(vec![address]),
                Address::Virtual => {
                    let present = before.map(virtual_ips).unwrap_or_default();
                    let assigned = virtual_ips::assign(ranges, &key, &present, taken, freed, self.started.elapsed());
                    assigned.map_err(|exhausted| Status::resource_exhausted(exhausted.to_string()))
                }
            }
        })
    }
}

fn service_key(stored: &Stored) -> ServiceKey {
    ServiceKey { namespace: stored.namespace.as_str().into(), name: stored.name.as_str().into() }
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
        let service = self.clone();
        // A caller that leaves halfway must not let the next writer in before the index shows this write.
        let admitted = tokio::spawn(async move { service.admit(request.into_inner(), true).await });
        Ok(Response::new(admitted.await.map_err(|error| Status::internal(error.to_string()))??))
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
        let mut resources: Vec<UserResource> = listing.entries.iter().filter_map(shown).collect();
        resources.retain(|resource| wanted(resource, &kind, &namespace));
        resources.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
        Ok(Response::new(ListResponse { resources, revision: listing.revision.0 }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Peer::operator(&request)?;
        let service = self.clone();
        let deleted = tokio::spawn(async move { service.remove(request.into_inner()).await });
        deleted.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(DeleteResponse {}))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Peer::operator(&request)?;
        let WatchRequest { kind, namespace } = request.into_inner();
        let listing = self.store.list(PREFIX).await.map_err(unavailable)?;
        let mut existing: Vec<UserResource> = listing.entries.iter().filter_map(shown).collect();
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
                        Ok(change) => told(&change, &kind, &namespace).map(Ok),
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

fn told(change: &Event, kind: &str, namespace: &str) -> Option<WatchEvent> {
    let (resource, told): (_, fn(UserResource) -> _) = match change {
        Event::Put(versioned) => (shown(versioned)?, watch_event::Event::Upserted),
        Event::Delete { key, .. } => (named(key)?, watch_event::Event::Deleted),
    };
    wanted(&resource, kind, namespace).then(|| event(told(resource), change.revision().0))
}

/// A resource as stored, or where it cannot be read its name and why: one such must not hide the others.
fn shown(versioned: &Versioned) -> Option<UserResource> {
    match to_user(versioned) {
        Ok(resource) => Some(resource),
        Err(status) => {
            tracing::error!(status = status.message(), "shown by its name only");
            let problem = serde_json::json!({ "problem": status.message() });
            let revision = versioned.revision.0;
            Some(UserResource { status_json: problem.to_string(), revision, ..named(&versioned.key)? })
        }
    }
}

/// What a store key says of the resource that lay there.
fn named(key: &Key) -> Option<UserResource> {
    let mut parts = key.as_str().strip_prefix(PREFIX)?.splitn(4, '/');
    let (api_version, kind) = (api_version(parts.next()?), parts.next()?.to_owned());
    let (namespace, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(UserResource { api_version, kind, namespace, name, ..UserResource::default() })
}

/// Undoes what [`key`] did to the slash of a group.
fn api_version(part: &str) -> String {
    part.rsplit_once('.').map_or_else(|| part.to_owned(), |(group, version)| format!("{group}/{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_key_names_its_resource() {
        let check = |version: &str, kind: &str| {
            let named = named(&key(version, kind, "shop", "cart").unwrap()).unwrap();
            assert_eq!((named.api_version.as_str(), named.kind.as_str()), (version, kind));
            assert_eq!((named.namespace.as_str(), named.name.as_str()), ("shop", "cart"));
        };
        check("v1", "Service");
        check("gateway.networking.k8s.io/v1", "HTTPRoute");
        check("weft.dev/v1alpha1", "Policy");
    }

    #[test]
    fn what_cannot_be_read_is_shown_by_its_name() {
        let key = key("v1", "Service", "shop", "cart").unwrap();
        let resource = shown(&Versioned { key, value: "{".into(), revision: Revision(7) }).unwrap();
        assert_eq!((resource.name.as_str(), resource.revision), ("cart", 7));
        assert!(resource.status_json.contains("is not understood"), "{}", resource.status_json);
    }
}
