//! Keeps this workload's instance in the registry for as long as the process lives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;
use weft_proto::v1::registry_client::RegistryClient;
use weft_proto::v1::{DeregisterRequest, RegisterRequest, RenewRequest, ReportReadinessRequest};

use crate::identity::{ControlPlane, DialError, IdentityWatch};

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How often a port of the application is tried until it listens.
const LISTEN_POLL: Duration = Duration::from_millis(50);

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
/// once `proxy_ready` says so and every declared port of the application accepts a connection; deregisters when `stop`
/// turns true, and returns. Failures are retried with jittered back-off. Cancelling leaves the lease to expire.
pub async fn keep_registered(
    control_plane: ControlPlane,
    identity: IdentityWatch,
    request: RegisterRequest,
    proxy_ready: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let request = Arc::new(request);
    let serving = serving(&request, proxy_ready);
    tokio::pin!(serving);
    let mut ready = false;
    let mut backoff = BACKOFF_MIN;
    loop {
        let mut registered = false;
        let session =
            session(&control_plane, identity.clone(), &request, &mut ready, &mut registered, serving.as_mut());
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
    ready: &mut bool,
    registered: &mut bool,
    mut serving: std::pin::Pin<&mut (impl Future<Output = ()> + ?Sized)>,
) -> Result<std::convert::Infallible, RegistrationError> {
    let mut client = dial(control_plane, identity).await?;
    let mut seconds = call(client.register(request.clone())).await?.lease_seconds;
    *registered = true;
    tracing::info!(instance = %request.instance_id, lease = seconds, "registered");
    if *ready {
        report_ready(&mut client, &request.instance_id).await?;
    }
    loop {
        let renew_in = Duration::from_secs(seconds.max(1).into()) / 3;
        tokio::select! {
            () = &mut serving, if !*ready => {
                *ready = true;
                report_ready(&mut client, &request.instance_id).await?;
                tracing::info!(instance = %request.instance_id, "reported ready");
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

async fn report_ready(client: &mut RegistryClient<Channel>, instance_id: &str) -> Result<(), RegistrationError> {
    let report = ReportReadinessRequest { instance_id: instance_id.to_owned(), ready: true };
    call(client.report_readiness(report)).await?;
    Ok(())
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

/// Waits until the proxy is ready and every declared port of the application accepts a connection.
async fn serving(request: &RegisterRequest, mut proxy_ready: watch::Receiver<bool>) {
    if proxy_ready.wait_for(|ready| *ready).await.is_err() {
        std::future::pending::<()>().await;
    }
    let addresses: Vec<IpAddr> = request.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    for port in request.ports.iter().filter_map(|port| u16::try_from(port.port).ok()) {
        while !listens(&addresses, port).await {
            tokio::time::sleep(LISTEN_POLL).await;
        }
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
    let (socket, from) = match to {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6))),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))),
    };
    if let Err(error) = socket.bind(SocketAddr::new(from, 0)) {
        tracing::trace!(%error, "delivery address is absent; the kernel chooses");
    }
    tokio::time::timeout(Duration::from_secs(1), socket.connect(to)).await??;
    Ok(())
}
