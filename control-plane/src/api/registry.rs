//! `Registry`: workload instances come and go.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tonic::{Request, Response, Status, async_trait};
use weft_core::identity::spiffe::SpiffeId;
use weft_proto::v1::registry_server::Registry as Service;
use weft_proto::v1::{
    DeregisterRequest, DeregisterResponse, RegisterRequest, RegisterResponse, RenewRequest, RenewResponse,
    ReportReadinessRequest, ReportReadinessResponse,
};

use super::peer::Peer;
use crate::registry::claim::{self, Proof, Refusal};
use crate::registry::handle::Registry;
use crate::registry::instance::{self, Instance};
use crate::store::{Expect, Key, Revision, Store, StoreError};

/// Concurrent writers of one instance are its own calls; a few tries end any race.
const TRIES: usize = 5;

/// How long a writer waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(4);

/// The service.
#[derive(Clone, Debug)]
pub struct RegistryService {
    store: Arc<dyn Store>,
    registry: Registry,
    lease_seconds: u32,
    /// One registration at a time: what it is checked against must still be so when it is written. Holds the revision of
    /// the last one.
    claiming: Arc<Mutex<Revision>>,
}

impl RegistryService {
    /// Over the store and the registry.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, registry: Registry, lease_seconds: u32) -> Self {
        Self { store, registry, lease_seconds, claiming: Arc::default() }
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

    async fn admit(&self, caller: &SpiffeId, fresh: Instance, proof: &Proof) -> Result<(), Status> {
        let mut last = in_turn(&self.claiming).await?;
        if !self.registry.caught_up(*last).await {
            return Err(behind());
        }
        let displaced = self.registry.read(|index| claim::check(index, &fresh, proof)).map_err(|refusal| {
            tracing::warn!(%caller, instance = %fresh.id, %refusal, "refused: registration");
            refused(&refusal)
        })?;
        let name = (fresh.namespace.clone(), fresh.id.clone());
        let key = instance::key(&name.0, &name.1).map_err(|error| Status::invalid_argument(error.to_string()))?;
        for _ in 0..TRIES {
            let held = self.own(caller, &fresh.id).await?;
            for (namespace, id) in &displaced {
                tracing::warn!(%caller, instance = %fresh.id, displaced = %format!("{namespace}/{id}"), "takes over an address");
                self.displace(namespace, id).await?;
            }
            let (expect, instance) = match &held {
                // A proxy that comes back after an outage must not look not-ready in between.
                Some((_, held, revision)) => (
                    Expect::Revision(*revision),
                    Instance { ready: held.ready && held.addresses == fresh.addresses, ..fresh.clone() },
                ),
                None => (Expect::Absent, fresh.clone()),
            };
            let was_ending = self.registry.begin_lease(name.clone());
            // All proxies register again after a restart of the control plane: what is known costs no write.
            if !was_ending && held.is_some_and(|(_, held, _)| held == instance) {
                return Ok(());
            }
            match self.write(key.clone(), &instance, expect).await {
                Ok(revision) => {
                    tracing::info!(%caller, instance = %instance.id, "registered");
                    *last = revision;
                    self.registry.caught_up(revision).await;
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(Status::aborted("the instance is being changed by somebody else"))
    }

    /// Removes an instance whose address somebody else has proven to hold.
    async fn displace(&self, namespace: &str, id: &str) -> Result<(), Status> {
        let key = instance::key(namespace, id).map_err(|error| Status::internal(error.to_string()))?;
        self.store.delete(key, Expect::Any).await.map_err(unavailable)?;
        self.registry.forget(&(namespace.to_owned(), id.to_owned()));
        Ok(())
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
        let source = Peer::source(&request)?;
        let fresh = Instance::register(request.into_inner(), &caller)
            .map_err(|problems| Status::invalid_argument(problems.to_string()))?;
        let proof = proof(source, &fresh.addresses);
        let service = self.clone();
        // A caller that leaves halfway must not let the next registration in before this one is seen by the index.
        let admitted = tokio::spawn(async move { service.admit(&caller, fresh, &proof).await });
        admitted.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(RegisterResponse { lease_seconds: self.lease_seconds }))
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
        if !self.registry.renew((caller.namespace().to_owned(), id.clone())) {
            return Err(Status::not_found(format!("the lease of instance {id} has run out")));
        }
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

fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Addresses(_) => Status::invalid_argument(refusal.to_string()),
        Refusal::Held { .. } => Status::already_exists(refusal.to_string()),
        Refusal::TooMany => Status::resource_exhausted(refusal.to_string()),
    }
}

/// A caller holds the address it calls from; one that calls over loopback holds those of this machine.
fn proof(from: Option<IpAddr>, claimed: &[IpAddr]) -> Proof {
    let holds = |address: &IpAddr| {
        from == Some(*address) || (from.is_some_and(|from| from.is_loopback()) && is_of_this_machine(*address))
    };
    Proof { from, held: claimed.iter().copied().filter(holds).collect() }
}

fn is_of_this_machine(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// The lock, or a refusal: who has waited for as long as callers wait has nobody left to answer.
pub(super) async fn in_turn<T>(lock: &Mutex<T>) -> Result<MutexGuard<'_, T>, Status> {
    let locked = tokio::time::timeout(TURN_MAX, lock.lock()).await;
    locked.map_err(|_| Status::unavailable("others have been waiting for the store for too long; try again"))
}

pub(super) fn behind() -> Status {
    Status::unavailable("the index is behind the store and nothing can be checked; try again")
}

#[allow(clippy::needless_pass_by_value, reason = "used as a conversion")]
pub(super) fn unavailable(error: StoreError) -> Status {
    tracing::error!(%error, "store");
    Status::unavailable(error.to_string())
}
