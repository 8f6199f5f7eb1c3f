//! `Discovery`: the stream on which a proxy learns what exists.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use weft_proto::v1::discovery_server::Discovery;
use weft_proto::v1::{DiscoveryRequest, DiscoveryResponse};

use super::peer::Peer;
use crate::ca::Authority;
use crate::push::converse;
use crate::push::proxies::Proxies;
use crate::registry::handle::Registry;
use crate::shutdown::Shutdown;

/// Updates that wait for the transport; one is unacknowledged at a time.
const WAITING_MAX: usize = 4;

/// The service.
#[derive(Clone, Debug)]
pub struct DiscoveryService {
    registry: Registry,
    proxies: Proxies,
    authority: Arc<Authority>,
    shutdown: Shutdown,
}

impl DiscoveryService {
    /// Over the registry; `proxies` notes who is connected.
    #[must_use]
    pub fn new(registry: Registry, proxies: Proxies, authority: Arc<Authority>, shutdown: Shutdown) -> Self {
        Self { registry, proxies, authority, shutdown }
    }
}

#[async_trait]
impl Discovery for DiscoveryService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let caller = Peer::of(&request)?;
        let (send, receive) = mpsc::channel(WAITING_MAX);
        tokio::spawn(converse(
            self.registry.clone(),
            self.proxies.clone(),
            self.authority.bundle(),
            caller,
            request.into_inner(),
            send,
            self.shutdown.clone(),
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
