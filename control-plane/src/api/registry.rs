//! `Registry`: workload instances come and go.

use tonic::{Request, Response, Status, async_trait};
use weft_core::identity::spiffe::SpiffeId;
use weft_proto::v1::registry_server::Registry as Service;
use weft_proto::v1::{
    DeregisterRequest, DeregisterResponse, RegisterRequest, RegisterResponse, RenewRequest, RenewResponse,
    ReportReadinessRequest, ReportReadinessResponse,
};

use super::peer::Peer;
use crate::registry::handle::Registry;
use crate::registry::instance::{self, Instance};
use crate::store::{Expect, Key, Revision, Store, StoreError};

/// Concurrent writers of one instance are its own calls; a few tries end any race.
const TRIES: usize = 5;

/// The service.
#[derive(Clone, Debug)]
pub struct RegistryService {
    store: std::sync::Arc<dyn Store>,
    registry: Registry,
    lease_seconds: u32,
}

impl RegistryService {
    /// Over the store and the registry.
    #[must_use]
    pub fn new(store: std::sync::Arc<dyn Store>, registry: Registry, lease_seconds: u32) -> Self {
        Self { store, registry, lease_seconds }
    }

    /// The stored instance, if it is the caller's.
    async fn own(&self, caller: &SpiffeId, id: &str) -> Result<Option<(Key, Instance, Revision)>, Status> {
        let key = instance::key(caller.namespace(), id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let Some(stored) = self.store.get(&key).await.map_err(unavailable)? else { return Ok(None) };
        let held: Instance = serde_json::from_slice(&stored.value).map_err(|error| {
            tracing::error!(%key, %error, "stored instance is not understood");
            Status::data_loss("stored instance is not understood")
        })?;
        if !held.belongs_to(caller) {
            tracing::warn!(%caller, instance = id, owner = %held.service_account, "refused: another's instance");
            return Err(Status::permission_denied(format!("instance {id} belongs to another identity")));
        }
        Ok(Some((key, held, stored.revision)))
    }

    async fn write(&self, key: Key, instance: &Instance, expect: Expect) -> Result<Revision, StoreError> {
        let value = serde_json::to_vec(instance).map_err(|error| StoreError::Corrupt { detail: error.to_string() })?;
        self.store.put(key, value.into(), expect).await
    }
}

#[async_trait]
impl Service for RegistryService {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let caller = Peer::of(&request)?;
        let fresh = Instance::register(request.into_inner(), &caller)
            .map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        let name = (fresh.namespace.clone(), fresh.id.clone());
        for _ in 0..TRIES {
            let (expect, instance) = match self.own(&caller, &fresh.id).await? {
                // A proxy that comes back after an outage must not look not-ready in between.
                Some((_, held, revision)) => (
                    Expect::Revision(revision),
                    Instance { ready: held.ready && held.addresses == fresh.addresses, ..fresh.clone() },
                ),
                None => (Expect::Absent, fresh.clone()),
            };
            let key = instance::key(&name.0, &name.1).map_err(|error| Status::invalid_argument(error.to_string()))?;
            self.registry.renew(name.clone());
            match self.write(key, &instance, expect).await {
                Ok(revision) => {
                    tracing::info!(%caller, instance = %instance.id, "registered");
                    self.registry.caught_up(revision).await;
                    return Ok(Response::new(RegisterResponse { lease_seconds: self.lease_seconds }));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(Status::aborted("the instance is being changed by somebody else"))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let caller = Peer::of(&request)?;
        let id = request.into_inner().instance_id;
        // From memory: renewals are many and change nothing that lasts.
        let owner = self
            .registry
            .read(|index| index.instance(caller.namespace(), &id).map(|instance| instance.belongs_to(&caller)));
        match owner {
            Some(true) => {}
            Some(false) => {
                tracing::warn!(%caller, instance = %id, "refused: renewal of another's instance");
                return Err(Status::permission_denied(format!("instance {id} belongs to another identity")));
            }
            None => return Err(Status::not_found(format!("instance {id} is not registered"))),
        }
        self.registry.renew((caller.namespace().to_owned(), id));
        Ok(Response::new(RenewResponse { lease_seconds: self.lease_seconds }))
    }

    async fn report_readiness(
        &self,
        request: Request<ReportReadinessRequest>,
    ) -> Result<Response<ReportReadinessResponse>, Status> {
        let caller = Peer::of(&request)?;
        let ReportReadinessRequest { instance_id, ready } = request.into_inner();
        for _ in 0..TRIES {
            let Some((key, held, revision)) = self.own(&caller, &instance_id).await? else {
                return Err(Status::not_found(format!("instance {instance_id} is not registered")));
            };
            if held.ready == ready {
                return Ok(Response::new(ReportReadinessResponse {}));
            }
            match self.write(key, &Instance { ready, ..held }, Expect::Revision(revision)).await {
                Ok(revision) => {
                    tracing::info!(%caller, instance = %instance_id, ready, "readiness reported");
                    self.registry.caught_up(revision).await;
                    return Ok(Response::new(ReportReadinessResponse {}));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(Status::aborted("the instance is being changed by somebody else"))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterResponse>, Status> {
        let caller = Peer::of(&request)?;
        let id = request.into_inner().instance_id;
        for _ in 0..TRIES {
            let Some((key, _, revision)) = self.own(&caller, &id).await? else { break };
            // At the revision that was checked: what another wrote meanwhile is not this caller's to delete.
            match self.store.delete(key, Expect::Revision(revision)).await {
                Ok(revision) => {
                    self.registry.caught_up(revision).await;
                    tracing::info!(%caller, instance = %id, "deregistered");
                    break;
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        self.registry.forget(&(caller.namespace().to_owned(), id));
        Ok(Response::new(DeregisterResponse {}))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "used as a conversion")]
pub(super) fn unavailable(error: StoreError) -> Status {
    tracing::error!(%error, "store");
    Status::unavailable(error.to_string())
}
