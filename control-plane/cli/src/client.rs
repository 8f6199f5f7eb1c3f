//! The operators' socket: gRPC over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_proto::v1::config_client::ConfigClient;
use weft_proto::v1::diagnostics_client::DiagnosticsClient;
use weft_proto::v1::operator_client::OperatorClient;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients of the three services behind the operators' socket, over one connection.
#[derive(Clone, Debug)]
pub struct Clients {
    /// User resources.
    pub config: ConfigClient<Channel>,
    /// Tokens, backup, status.
    pub operator: OperatorClient<Channel>,
    /// Questions to proxies.
    pub diagnostics: DiagnosticsClient<Channel>,
}

impl Clients {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens on the socket, or it is not ours to use.
    pub async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let path = socket.to_owned();
        // The URI is needed by HTTP only; the connector ignores it.
        let endpoint = Endpoint::from_static("http://control-plane.weft").connect_timeout(CONNECT_TIMEOUT);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await.with_context(|| {
            format!(
                "cannot reach a control plane at {}: is one running? (`weft-control-plane serve`; --socket names another)",
                socket.display()
            )
        })?;
        Ok(Self {
            config: ConfigClient::new(channel.clone()),
            operator: OperatorClient::new(channel.clone()),
            diagnostics: DiagnosticsClient::new(channel),
        })
    }
}

/// The socket by default: the one a control plane of this user listens on.
#[must_use]
pub fn default_socket() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/weft/control.sock");
    }
    user_runtime().join("control.sock")
}

/// Where this user's programs keep sockets and what else a reboot may take.
#[must_use]
pub fn user_runtime() -> PathBuf {
    directory("XDG_RUNTIME_DIR").map_or_else(|| user_state().join("weft"), |runtime| runtime.join("weft"))
}

/// Where this user's programs keep what stays.
#[must_use]
pub fn user_state() -> PathBuf {
    let state = directory("XDG_STATE_HOME").or_else(|| directory("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_else(|| PathBuf::from(".")).join("weft")
}

/// As the XDG specification says: a relative path counts as unset.
fn directory(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// What a failed call means, in words.
#[must_use]
pub fn explain(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{} ({:?})", status.message(), status.code())
}
