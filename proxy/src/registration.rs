//! Keeps this workload's instance in the registry for as long as the process lives.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;
use weft_proto::v1::registry_client::RegistryClient;
use weft_proto::v1::{DeregisterRequest, RegisterRequest, RenewRequest, ReportReadinessRequest};

use crate::application::Application;
use crate::identity::{ControlPlane, DialError, IdentityWatch};
use crate::net::{DELIVERY_V4, DELIVERY_V6, dialling};

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How often a port of the application is tried until it listens.
const LISTEN_POLL: Duration = Duration::from_millis(50);

/// How often it is looked whether the application seems to be gone.
const GONE_LOOK: Duration = Duration::from_secs(1);

/// A single call may take this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    #[error("the call took longer than {CALL_TIMEOUT:?}")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("the identity watch has ended")]
    NoIdentity,
}

impl From<tonic::Status> for RegistrationError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// Registers, renews at a third of the lease, registers again when the control plane forgot, reports the instance as ready
/// once `proxy_ready` says so and every declared port of the application accepts a connection, and as not ready when
/// `application` seems to be gone, until it is back; deregisters when `stop` turns true, and returns. Failures are retried with jittered back-off. Cancelling leaves the lease to expire.
pub async fn keep_registered(
    control_plane: ControlPlane,
    identity: IdentityWatch,
    request: RegisterRequest,
    application: Arc<Application>,
    proxy_ready: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let request = Arc::new(request);
    let mut readiness = Readiness::of(&request, application, proxy_ready);
    let mut backoff = BACKOFF_MIN;
    loop {
        let mut registered = false;
        let session = session(&control_plane, identity.clone(), &request, &mut readiness, &mut registered);
        tokio::select! {
            ended = session => {
                let Err(error) = ended;
                tracing::warn!(%error, "registration interrupted");
                // It was registered: what interrupts that is no reason to stay away longer than before.
                if registered {
                    backoff = BACKOFF_MIN;
                }
            }
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        backoff = (backoff * 2).min(BACKOFF_MAX);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    if let Err(error) = deregister(&control_plane, identity, &request.instance_id).await {
        tracing::warn!(%error, "not deregistered; the lease will expire");
    }
}

/// One connection's worth of renewals; only ever ends with an error.
async fn session(
    control_plane: &ControlPlane,
    identity: IdentityWatch,
    request: &RegisterRequest,
    readiness: &mut Readiness,
    registered: &mut bool,
) -> Result<std::convert::Infallible, RegistrationError> {
    let mut client = dial(control_plane, identity).await?;
    let mut seconds = call(client.register(request.clone())).await?.lease_seconds;
    *registered = true;
    tracing::info!(instance = %request.instance_id, lease = seconds, "registered");
    // What the control plane remembers may be of before an outage.
    report(&mut client, &request.instance_id, readiness.ready).await?;
    loop {
        let renew_in = Duration::from_secs(seconds.max(1).into()) / 3;
        tokio::select! {
            ready = readiness.changed() => {
                report(&mut client, &request.instance_id, ready).await?;
                tracing::info!(instance = %request.instance_id, ready, "readiness reported");
            }
            () = tokio::time::sleep(renew_in) => {
                seconds = call(client.renew(RenewRequest { instance_id: request.instance_id.clone() })).await?.lease_seconds;
            }
        }
    }
}

async fn dial(
    control_plane: &ControlPlane,
    mut identity: IdentityWatch,
) -> Result<RegistryClient<Channel>, RegistrationError> {
    let held = identity.wait_for(Option::is_some).await.map(|held| held.clone());
    let Ok(Some(held)) = held else { return Err(RegistrationError::NoIdentity) };
    Ok(RegistryClient::new(control_plane.dial(&held).await?))
}

async fn call<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, RegistrationError> {
    Ok(tokio::time::timeout(CALL_TIMEOUT, call).await??.into_inner())
}

async fn report(client: &mut RegistryClient<Channel>, instance_id: &str, ready: bool) -> Result<(), RegistrationError> {
    let report = ReportReadinessRequest { instance_id: instance_id.to_owned(), ready };
    call(client.report_readiness(report)).await?;
    Ok(())
}

/// Whether the instance may have traffic, over all sessions.
struct Readiness {
    ready: bool,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    application: Arc<Application>,
    proxy_ready: watch::Receiver<bool>,
}

impl Readiness {
    fn of(request: &RegisterRequest, application: Arc<Application>, proxy_ready: watch::Receiver<bool>) -> Self {
        let addresses = request.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let ports = request.ports.iter().filter_map(|port| u16::try_from(port.port).ok()).collect();
        Self { ready: false, addresses, ports, application, proxy_ready }
    }

    /// Waits for the next change; gives what it is now. Cancelling loses nothing.
    async fn changed(&mut self) -> bool {
        if self.ready {
            while !self.application.seems_gone() {
                tokio::time::sleep(GONE_LOOK).await;
            }
        } else {
            self.serving().await;
            self.application.accepted();
        }
        self.ready = !self.ready;
        self.ready
    }

    /// Waits until the proxy is ready and every declared port of the application accepts a connection.
    async fn serving(&mut self) {
        if self.proxy_ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
        for port in &self.ports {
            while !listens(&self.addresses, *port).await {
                tokio::time::sleep(LISTEN_POLL).await;
            }
        }
    }
}

async fn deregister(
    control_plane: &ControlPlane,
    identity: IdentityWatch,
    instance_id: &str,
) -> Result<(), RegistrationError> {
    let request = DeregisterRequest { instance_id: instance_id.to_owned() };
    let mut client = tokio::time::timeout(CALL_TIMEOUT, dial(control_plane, identity)).await??;
    match call(client.deregister(request)).await {
        Err(RegistrationError::Refused(status)) if status.code() == Code::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Tries each address. From the address that delivery to the application uses, so that the try is not itself captured.
async fn listens(addresses: &[IpAddr], port: u16) -> bool {
    for address in addresses {
        if try_connect(SocketAddr::new(*address, port)).await.is_ok() {
            return true;
        }
    }
    false
}

async fn try_connect(to: SocketAddr) -> std::io::Result<()> {
    let socket = dialling(to)?;
    let from: IpAddr = if to.is_ipv4() { DELIVERY_V4.into() } else { DELIVERY_V6.into() };
    if let Err(error) = socket.bind(SocketAddr::new(from, 0)) {
        tracing::trace!(%error, "delivery address is absent; the kernel chooses");
    }
    tokio::time::timeout(Duration::from_secs(1), socket.connect(to)).await??;
    Ok(())
}
