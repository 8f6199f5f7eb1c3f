//! Keeps this workload's instance in the registry for as long as the process lives.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tonic::Code;
use tonic::transport::Channel;
use weft_proto::v1::registry_client::RegistryClient;
use weft_proto::v1::{DeregisterRequest, RegisterRequest, RenewRequest, ReportReadinessRequest};

use crate::application::Application;
use crate::identity::{ControlPlane, DialError, IdentityWatch};
use crate::net::{DELIVERY_V4, DELIVERY_V6, dialling};
use crate::supervise::{Supervisor, Task};

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

/// Keeps an instance registered until `stop` turns true; then takes it out. Cancelling leaves the lease to expire.
pub async fn keep_registered(supervisor: Supervisor, registrar: Registrar, mut stop: watch::Receiver<bool>) {
    let registrar = Arc::new(Mutex::new(registrar));
    let keeping = supervisor.keep(Task::Registration, || {
        let registrar = Arc::clone(&registrar);
        async move { registrar.lock().await.run().await }
    });
    tokio::select! {
        never = keeping => match never {},
        _ = stop.wait_for(|stop| *stop) => {}
    }
    let registrar = registrar.lock().await;
    if let Err(error) = registrar.deregister().await {
        tracing::warn!(%error, "not deregistered; the lease will expire");
    }
}

/// What a sidecar tells the registry of its workload.
#[derive(Debug)]
pub struct Registrar {
    control_plane: ControlPlane,
    identity: IdentityWatch,
    /// Its addresses are, once the application serves, those that it listens on.
    request: RegisterRequest,
    readiness: Readiness,
}

impl Registrar {
    /// `proxy_ready` says when the proxy may have traffic, `application` whether the workload seems to be gone.
    #[must_use]
    pub fn new(
        control_plane: ControlPlane,
        identity: IdentityWatch,
        request: RegisterRequest,
        application: Arc<Application>,
        proxy_ready: watch::Receiver<bool>,
    ) -> Self {
        let readiness = Readiness::of(&request, application, proxy_ready);
        Self { control_plane, identity, request, readiness }
    }

    /// Registers, renews at a third of the lease, registers again when the control plane forgot, reports the instance as
    /// ready once the proxy is and every declared port of the application accepts a connection, at the addresses where
    /// they do, and as not ready when the application seems to be gone, until it is back. Failures are retried with
    /// jittered back-off. It can be run again, also when a panic ended it.
    pub async fn run(&mut self) -> Infallible {
        let mut backoff = BACKOFF_MIN;
        loop {
            let mut registered = false;
            let Err(error) = self.session(&mut registered).await;
            tracing::warn!(%error, "registration interrupted");
            // It was registered: what interrupts that is no reason to stay away longer than before.
            if registered {
                backoff = BACKOFF_MIN;
            }
            tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// One connection's worth of renewals; only ever ends with an error.
    async fn session(&mut self, registered: &mut bool) -> Result<Infallible, RegistrationError> {
        let mut client = dial(&self.control_plane, self.identity.clone()).await?;
        let mut seconds = self.register(&mut client).await?;
        *registered = true;
        // What the control plane remembers may be of before an outage.
        self.report(&mut client).await?;
        loop {
            let renew_in = Duration::from_secs(seconds.max(1).into()) / 3;
            tokio::select! {
                () = self.readiness.changed() => {
                    if self.readiness.ready && self.request.addresses != self.readiness.listening() {
                        self.request.addresses = self.readiness.listening();
                        seconds = self.register(&mut client).await?;
                    }
                    self.report(&mut client).await?;
                    tracing::info!(instance = %self.request.instance_id, ready = self.readiness.ready, "readiness reported");
                }
                () = tokio::time::sleep(renew_in) => {
                    let renew = RenewRequest { instance_id: self.request.instance_id.clone() };
                    seconds = call(client.renew(renew)).await?.lease_seconds;
                }
            }
        }
    }

    async fn register(&self, client: &mut RegistryClient<Channel>) -> Result<u32, RegistrationError> {
        let lease = call(client.register(self.request.clone())).await?.lease_seconds;
        tracing::info!(instance = %self.request.instance_id, addresses = ?self.request.addresses, lease, "registered");
        Ok(lease)
    }

    async fn report(&self, client: &mut RegistryClient<Channel>) -> Result<(), RegistrationError> {
        let (instance_id, ready) = (self.request.instance_id.clone(), self.readiness.ready);
        call(client.report_readiness(ReportReadinessRequest { instance_id, ready })).await?;
        Ok(())
    }

    async fn deregister(&self) -> Result<(), RegistrationError> {
        let request = DeregisterRequest { instance_id: self.request.instance_id.clone() };
        let dialling = dial(&self.control_plane, self.identity.clone());
        let mut client = tokio::time::timeout(CALL_TIMEOUT, dialling).await??;
        match call(client.deregister(request)).await {
            Err(RegistrationError::Refused(status)) if status.code() == Code::NotFound => Ok(()),
            other => other.map(drop),
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

/// Whether the instance may have traffic, and where, over all sessions.
#[derive(Debug)]
struct Readiness {
    ready: bool,
    addresses: Vec<IpAddr>,
    /// Those of the addresses where every port accepts connections.
    listening: Vec<IpAddr>,
    ports: Vec<u16>,
    application: Arc<Application>,
    proxy_ready: watch::Receiver<bool>,
}

impl Readiness {
    fn of(request: &RegisterRequest, application: Arc<Application>, proxy_ready: watch::Receiver<bool>) -> Self {
        let addresses: Vec<_> = request.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let ports = request.ports.iter().filter_map(|port| u16::try_from(port.port).ok()).collect();
        Self { ready: false, listening: addresses.clone(), addresses, ports, application, proxy_ready }
    }

    /// As the registry spells them.
    fn listening(&self) -> Vec<String> {
        self.listening.iter().map(ToString::to_string).collect()
    }

    /// Waits for the next change. Cancelling loses nothing.
    async fn changed(&mut self) {
        if self.ready {
            self.while_serving().await;
        } else {
            self.serving().await;
            self.application.accepted();
            self.ready = true;
        }
    }

    /// Waits until the application seems to be gone, or listens on another of its addresses.
    async fn while_serving(&mut self) {
        while !self.application.seems_gone() {
            // Only what has refused so far is tried; an application that serves sees nothing of it.
            let silent: Vec<_> = self.addresses.iter().filter(|one| !self.listening.contains(one)).copied().collect();
            let more = listening(&silent, &self.ports).await;
            if !more.is_empty() {
                self.listening = self
                    .addresses
                    .iter()
                    .filter(|one| self.listening.contains(one) || more.contains(one))
                    .copied()
                    .collect();
                return;
            }
            tokio::time::sleep(GONE_LOOK).await;
        }
        self.ready = false;
    }

    /// Waits until the proxy is ready and every declared port of the application accepts a connection.
    async fn serving(&mut self) {
        if self.proxy_ready.wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
        for port in &self.ports {
            while listening(&self.addresses, &[*port]).await.is_empty() {
                tokio::time::sleep(LISTEN_POLL).await;
            }
        }
        let found = listening(&self.addresses, &self.ports).await;
        // One port here and another there: then each address is needed for something.
        self.listening = if found.is_empty() { self.addresses.clone() } else { found };
    }
}

/// The addresses on which each of the ports accepts a connection. Tried from the address that delivery to the application
/// uses, so that the try is not itself captured.
async fn listening(addresses: &[IpAddr], ports: &[u16]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    'addresses: for address in addresses {
        for port in ports {
            if try_connect(SocketAddr::new(*address, *port)).await.is_err() {
                continue 'addresses;
            }
        }
        found.push(*address);
    }
    found
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use weft_proto::v1::WorkloadPort;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Goal: only where the application listens is it an endpoint, and where it listens later, later.
    #[tokio::test]
    async fn an_application_is_ready_at_the_addresses_where_it_listens() {
        let (first, second) = ("127.0.0.1", "127.0.0.9");
        let listener = TcpListener::bind((first, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let request = RegisterRequest {
            addresses: vec![first.to_owned(), second.to_owned()],
            ports: vec![WorkloadPort { port: port.into(), ..WorkloadPort::default() }],
            ..RegisterRequest::default()
        };
        let (_ready, ready) = watch::channel(true);
        let application = Arc::new(Application::default());
        let mut readiness = Readiness::of(&request, Arc::clone(&application), ready);
        let mut next = async |ready: bool, addresses: &[&str]| {
            tokio::time::timeout(PATIENCE, readiness.changed()).await.expect("a change");
            assert_eq!(
                (readiness.ready, readiness.listening()),
                (ready, addresses.iter().map(ToString::to_string).collect())
            );
        };
        next(true, &[first]).await;
        let other = TcpListener::bind((second, port)).unwrap();
        next(true, &[first, second]).await;
        drop(listener);
        (0..3).for_each(|_| application.refused());
        next(false, &[first, second]).await;
        next(true, &[second]).await;
        drop(other);
    }
}
