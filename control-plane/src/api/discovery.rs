//! `Discovery`: the stream on which a proxy learns what exists.
//!
//! Not the service that `tonic` generates: that one takes whole messages, and would encode each resource anew for each
//! proxy.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use weft_proto::v1::{DiscoveryRequest, discovery_server};

use super::peer::Peer;
use crate::ca::Authority;
use crate::push::converse;
use crate::push::proxies::Proxies;
use crate::push::wire;
use crate::registry::handle::Registry;
use crate::shutdown::Shutdown;

/// Updates that wait for the transport; one is unacknowledged at a time.
const WAITING_MAX: usize = 4;

/// Largest message of a proxy. A `Hello` names each resource that is held, in some 60 bytes: hundreds of thousands.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Path of the only call.
const STREAM_PATH: &str = "/weft.v1.Discovery/Stream";

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

    fn open(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Response<Updates>, Status> {
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
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

type Updates = ReceiverStream<Result<wire::Response, Status>>;

impl NamedService for DiscoveryService {
    const NAME: &'static str = discovery_server::SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for DiscoveryService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != STREAM_PATH {
            return Box::pin(ready(Ok(Status::unimplemented("no such method").into_http())));
        }
        let method = Method(self.clone());
        Box::pin(async move {
            let codec: ProstCodec<wire::Response, DiscoveryRequest> = ProstCodec::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

struct Method(DiscoveryService);

impl StreamingService<DiscoveryRequest> for Method {
    type Response = wire::Response;
    type ResponseStream = Updates;
    type Future = std::future::Ready<Result<Response<Updates>, Status>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        ready(self.0.open(request))
    }
}
