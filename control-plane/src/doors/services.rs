//! The gRPC services behind one door, found by name.
//!
//! A map and not tonic's router, because that one brings a whole web framework for a choice among five names.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The services of a door. Cheap to clone.
#[derive(Clone, Default)]
pub struct Services {
    by_name: Arc<HashMap<&'static str, Boxed>>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

impl Services {
    /// With one more service, as `tonic` generates it (for example `IdentityServer::new(…)`).
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Arc::make_mut(&mut self.by_name).insert(S::NAME, BoxCloneSyncService::new(service));
        self
    }
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Path of a gRPC call: "/" service "/" method.
        let name = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')).map(|(name, _)| name);
        match name.and_then(|name| self.by_name.get(name)) {
            Some(service) => Box::pin(contained(service.clone(), request)),
            None => Box::pin(ready(Ok(Status::unimplemented("no such service at this door").into_http()))),
        }
    }
}

/// Serves one call. A panic is its answer's business alone: the connection carries other calls.
async fn contained(service: Boxed, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let call = async move { service.oneshot(request).await };
    let defect = || Status::internal("a defect of the control plane ended this call; its log says where").into_http();
    Ok(AssertUnwindSafe(call).catch_unwind().await.map_or_else(|_| defect(), |Ok(response)| response))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    /// Has a defect in one method, before or after it first waits.
    #[derive(Clone)]
    struct Fragile;

    impl NamedService for Fragile {
        const NAME: &'static str = "Fragile";
    }

    impl Service<Request<Body>> for Fragile {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            assert!(!request.uri().path().ends_with("/AtOnce"));
            Box::pin(async move {
                tokio::task::yield_now().await;
                assert!(!request.uri().path().ends_with("/Later"));
                Ok(Response::new(Body::default()))
            })
        }
    }

    #[tokio::test]
    async fn a_panic_ends_its_call_and_no_other() {
        crate::panics::watch();
        let before = crate::panics::COUNT.value();
        let mut services = Services::default().with(Fragile);
        for (method, expected) in [("AtOnce", Code::Internal), ("Later", Code::Internal), ("Fine", Code::Ok)] {
            let request = Request::builder().uri(format!("/Fragile/{method}")).body(Body::default()).unwrap();
            let response = services.call(request).await.unwrap();
            let status = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
            assert_eq!(status, expected, "{method}");
        }
        assert!(crate::panics::COUNT.value() >= before + 2, "each is counted");
    }
}
