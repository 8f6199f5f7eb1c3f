//! `Operator`: what only the machine's operator may do. It stands behind the operators' socket and checks so once more.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures_util::Stream;
use tonic::{Request, Response, Status, async_trait};
use weft_proto::v1::operator_server::Operator;
use weft_proto::v1::{
    BackupChunk, BackupRequest, CreateTokenRequest, CreateTokenResponse, InstanceStatus, ServiceStatus, StatusRequest,
    StatusResponse,
};

use super::peer::Peer;
use crate::backup;
use crate::ca::Authority;
use crate::store::Store;
use crate::tokens::{TokenError, Tokens};

/// Bytes of a backup in one message.
const CHUNK_BYTES: usize = 64 * 1024;

/// What the registry adds to [`StatusResponse`].
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Every registered instance.
    pub instances: Vec<InstanceStatus>,
    /// Every service.
    pub services: Vec<ServiceStatus>,
    /// Proxies with an open Discovery stream.
    pub connected_proxies: u32,
}

/// Reads the registry at the moment of the question. Must not block.
pub type OverviewSource = Arc<dyn Fn() -> Overview + Send + Sync>;

/// The service.
#[derive(Clone)]
pub struct OperatorService {
    store: Arc<dyn Store>,
    state_directory: PathBuf,
    authority: Arc<Authority>,
    tokens: Arc<Tokens>,
    overview: OverviewSource,
}

impl std::fmt::Debug for OperatorService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorService").finish_non_exhaustive()
    }
}

impl OperatorService {
    /// Over the store in `state_directory`, the authority, the tokens and the registry.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        state_directory: PathBuf,
        authority: Arc<Authority>,
        tokens: Arc<Tokens>,
        overview: OverviewSource,
    ) -> Self {
        Self { store, state_directory, authority, tokens, overview }
    }
}

#[async_trait]
impl Operator for OperatorService {
    type BackupStream = Pin<Box<dyn Stream<Item = Result<BackupChunk, Status>> + Send>>;

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        Peer::operator(&request)?;
        let who = Peer::any(&request)?.addr;
        let asked = request.into_inner();
        let (namespace, account) = (asked.namespace.as_str(), asked.service_account.as_str());
        let root = self.authority.root_sha256();
        match self.tokens.create(namespace, account, asked.ttl_seconds, asked.uses, root).await {
            Ok((token, expires)) => {
                tracing::info!(%who, namespace, account, uses = asked.uses.max(1), "made a join token");
                let expires_at_unix_seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                Ok(Response::new(CreateTokenResponse { join_token: token.to_string(), expires_at_unix_seconds }))
            }
            Err(error) => {
                tracing::warn!(%who, namespace, account, %error, "refused to make a join token");
                Err(status(&error))
            }
        }
    }

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Peer::operator(&request)?;
        let who = Peer::any(&request)?.addr;
        let whole = backup::make(&*self.store, &self.state_directory).await.map_err(|error| {
            tracing::error!(%who, %error, "cannot make a backup");
            Status::internal(error.to_string())
        })?;
        tracing::info!(%who, bytes = whole.len(), "made a backup");
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks(whole)))))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Peer::operator(&request)?;
        let revision = self.store.revision();
        let Overview { instances, services, connected_proxies } = (self.overview)();
        Ok(Response::new(StatusResponse {
            build: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: self.authority.domain().to_string(),
            revision: revision.0,
            instances,
            services,
            connected_proxies,
        }))
    }
}

/// Pieces of a backup, cut as they are asked for.
fn chunks(whole: Bytes) -> impl Iterator<Item = Result<BackupChunk, Status>> + Send {
    let mut rest = whole;
    std::iter::from_fn(move || {
        let piece = rest.split_to(rest.len().min(CHUNK_BYTES));
        (!piece.is_empty()).then(|| Ok(BackupChunk { data: piece.to_vec() }))
    })
}

fn status(error: &TokenError) -> Status {
    let text = error.to_string();
    match error {
        TokenError::Field { .. } => Status::invalid_argument(text),
        TokenError::SystemNamespace => Status::permission_denied(text),
        TokenError::TooMany => Status::resource_exhausted(text),
        TokenError::Store(_) => Status::unavailable(text),
        TokenError::Random(_) | TokenError::Invalid { .. } | TokenError::TooManyAttempts => Status::internal(text),
    }
}
