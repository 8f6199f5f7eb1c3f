//! `Names`: which services exist, for resolvers beside workloads.

use tonic::{Request, Response, Status, async_trait};
use weft_core::model::ServiceKey;
use weft_proto::v1;
use weft_proto::v1::names_server::Names;
use weft_proto::v1::{LookupRequest, LookupResponse, NamedService};

use super::peer::Peer;
use crate::registry::handle::Registry;

/// Services that one call may ask for, as the API says.
const SERVICES_MAX: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub struct NamesService {
    registry: Registry,
}

impl NamesService {
    /// Over the registry.
    #[must_use]
    pub const fn new(registry: Registry) -> Self {
        Self { registry }
    }

    fn named(&self, wanted: Vec<v1::ServiceKey>) -> Vec<NamedService> {
        let index = self.registry.snapshot();
        let named = wanted.into_iter().filter_map(|service| {
            let key = ServiceKey { namespace: service.namespace.as_str().into(), name: service.name.as_str().into() };
            let virtual_ips = index.service(&key)?.virtual_ips.iter().map(ToString::to_string).collect();
            Some(NamedService { service: Some(service), virtual_ips })
        });
        named.collect()
    }
}

#[async_trait]
impl Names for NamesService {
    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        Peer::of(&request)?;
        let wanted = request.into_inner().services;
        if wanted.len() > SERVICES_MAX {
            return Err(Status::invalid_argument(format!("services: at most {SERVICES_MAX} in one call")));
        }
        Ok(Response::new(LookupResponse { services: self.named(wanted) }))
    }
}
