//! The `Discovery` stream on the control thread: connect, speak, publish, and connect again.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use weft_core::interest::Interests;
use weft_core::snapshot::Snapshot;
use weft_core::sync::{Step, Subscriber, SyncError, Want};
use weft_proto::v1;
use weft_proto::v1::discovery_client::DiscoveryClient;

use super::apply::Publisher;
use super::resolver::QUESTIONS_MAX;
use super::{FeedStatus, Resolver};
use crate::clock::Clock;

/// First and longest pause between two attempts. The longest bounds how late a proxy notices a control plane that is back.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// From dialling to the control plane's welcome. A control plane that hangs later is noticed by the channel's HTTP/2
/// keep-alive, which whoever makes the channel sets (at most 40 s).
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);

/// How often unused subscriptions are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Largest message taken: a first update holds all endpoints of all services asked for.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Messages handed to the connection before it has sent them; more wait in the machine.
const OUTGOING_MAX: usize = 16;

/// The subscriber with its effects. Runs on the control thread.
#[derive(Debug)]
pub struct Feed {
    subscriber: Subscriber,
    interests: Interests,
    publisher: Publisher,
    questions: mpsc::Receiver<SocketAddr>,
    resolver: Resolver,
    bundle: watch::Receiver<Option<v1::TrustBundle>>,
    clock: Clock,
}

#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("{0}")]
    Connect(String),
    #[error("{} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    #[error("the control plane ended the stream")]
    Ended,
    #[error("no welcome within {WELCOME_TIMEOUT:?}")]
    Silent,
    #[error(transparent)]
    Protocol(#[from] SyncError),
}

impl From<tonic::Status> for FeedError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// An open stream. However it ends, askers know at once.
struct Open {
    status: Arc<FeedStatus>,
    clock: Clock,
}

impl Open {
    fn new(status: Arc<FeedStatus>, clock: Clock) -> Self {
        status.welcomed(clock.now());
        Self { status, clock }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.status.lost(self.clock.now());
    }
}

impl Feed {
    /// `instance_id` as registered, or empty; `wants` are subscribed for good (a gateway's services).
    #[must_use]
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        instance_id: &str,
        wants: impl IntoIterator<Item = Want>,
        clock: Clock,
    ) -> Self {
        let (asker, questions) = mpsc::channel(QUESTIONS_MAX);
        let (swaps, swapped) = watch::channel(0);
        let (bundles, bundle) = watch::channel(None);
        let mut subscriber = Subscriber::new(instance_id, crate::VERSION);
        for want in wants {
            subscriber.want(want);
        }
        let publisher = Publisher::new(Arc::clone(&snapshot), swaps, bundles);
        let resolver = Resolver::new(snapshot, asker, swapped, Arc::clone(&publisher.status));
        Self { subscriber, interests: Interests::default(), publisher, questions, resolver, bundle, clock }
    }

    /// What workers ask with.
    #[must_use]
    pub fn resolver(&self) -> Resolver {
        self.resolver.clone()
    }

    /// For metrics and readiness.
    #[must_use]
    pub fn status(&self) -> Arc<FeedStatus> {
        Arc::clone(&self.publisher.status)
    }

    /// The trust bundle as the control plane last sent it.
    #[must_use]
    pub fn bundle(&self) -> watch::Receiver<Option<v1::TrustBundle>> {
        self.bundle.clone()
    }

    /// Keeps a stream open for as long as it is polled, with jittered back-off. `connect` makes a channel to the control
    /// plane; it is awaited while nothing else depends on it. Cancelling ends the stream and keeps the snapshot. It can be
    /// run again, also when a panic ended it somewhere: it begins with what is in force, and forgets no subscription.
    pub async fn run<F, E>(&mut self, mut connect: impl FnMut() -> F) -> Infallible
    where
        F: Future<Output = Result<Channel, E>>,
        E: Display,
    {
        self.begin();
        let mut backoff = BACKOFF_MIN;
        loop {
            let before = self.publisher.status.connects();
            let Err(error) = self.session(connect()).await;
            self.subscriber.handle_disconnected();
            if self.publisher.status.connects() > before {
                backoff = BACKOFF_MIN;
                if matches!(error, FeedError::Protocol(SyncError::Resync)) {
                    // Nothing is wrong with the control plane, and somebody waits for the answer.
                    tracing::debug!(%error, "opening another discovery stream");
                    continue;
                }
            }
            let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
            tracing::warn!(%error, ?pause, "no discovery stream; serving on with what is known");
            backoff = (backoff * 2).min(BACKOFF_MAX);
            self.meanwhile(tokio::time::sleep(pause)).await;
        }
    }

    fn begin(&mut self) {
        self.subscriber.handle_defect(&self.publisher.snapshot.load());
        if let Some(step) = self.subscriber.poll_step() {
            self.in_force(&step);
        }
    }

    /// One stream; only ever ends with an error.
    async fn session<E: Display>(
        &mut self,
        connect: impl Future<Output = Result<Channel, E>>,
    ) -> Result<Infallible, FeedError> {
        let (outgoing, requests) = mpsc::channel(OUTGOING_MAX);
        let hello_by = tokio::time::Instant::now() + WELCOME_TIMEOUT;
        let connected = self.meanwhile(tokio::time::timeout_at(hello_by, connect)).await;
        let channel =
            connected.map_err(|_| FeedError::Silent)?.map_err(|error| FeedError::Connect(error.to_string()))?;
        self.subscriber.handle_connected();
        // A server may wait for the first message before it answers the call.
        if let Some(hello) = self.subscriber.poll_send() {
            outgoing.try_send(hello).map_err(|_| FeedError::Ended)?;
        }
        let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let call = client.stream(ReceiverStream::new(requests));
        let opened = self.meanwhile(tokio::time::timeout_at(hello_by, call)).await;
        let mut updates = opened.map_err(|_| FeedError::Silent)??.into_inner();
        let welcome = self.meanwhile(tokio::time::timeout_at(hello_by, updates.message())).await;
        let welcome = welcome.map_err(|_| FeedError::Silent)??.ok_or(FeedError::Ended)?;
        self.take(welcome)?;
        let _open = Open::new(Arc::clone(&self.publisher.status), self.clock);
        tracing::info!(revision = self.publisher.status.revision(), "discovery stream open");
        self.speak(&mut updates, &outgoing).await
    }

    async fn speak(
        &mut self,
        updates: &mut Streaming<v1::DiscoveryResponse>,
        outgoing: &mpsc::Sender<v1::DiscoveryRequest>,
    ) -> Result<Infallible, FeedError> {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = None;
        loop {
            if let Some(error) = self.subscriber.poll_resync() {
                return Err(error.into());
            }
            next = next.or_else(|| self.subscriber.poll_send());
            tokio::select! {
                message = updates.message() => self.take(message?.ok_or(FeedError::Ended)?)?,
                Some(address) = self.questions.recv() => self.ask(address),
                _ = sweep.tick() => self.sweep(),
                permit = outgoing.reserve(), if next.is_some() => {
                    let permit = permit.map_err(|_| FeedError::Ended)?;
                    if let Some(request) = next.take() {
                        permit.send(request);
                    }
                }
            }
        }
    }

    /// Awaits `future` while questions are still taken, so that askers are not held up by a full queue.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return done,
                Some(address) = self.questions.recv() => self.ask(address),
            }
        }
    }

    fn take(&mut self, message: v1::DiscoveryResponse) -> Result<(), SyncError> {
        if let Some(step) = self.subscriber.handle_response(message)? {
            self.in_force(&step);
        }
        Ok(())
    }

    fn in_force(&mut self, step: &Step) {
        self.publisher.publish(step);
        self.subscriber.handle_applied(step);
    }

    fn ask(&mut self, address: SocketAddr) {
        // As answers spell it.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let snapshot = self.publisher.snapshot.load_full();
        let evicted = self.interests.ask(address, self.clock.now(), |address| snapshot.last_use(address));
        self.subscriber.want(Want::Address(address));
        self.withdraw(evicted);
    }

    fn sweep(&mut self) {
        let snapshot = self.publisher.snapshot.load_full();
        let idle = self.interests.sweep(self.clock.now(), |address| snapshot.last_use(address));
        self.withdraw(idle);
    }

    fn withdraw(&mut self, addresses: Vec<SocketAddr>) {
        for address in addresses {
            self.subscriber.unwant(&Want::Address(address));
        }
        if let Some(step) = self.subscriber.poll_step() {
            self.in_force(&step);
        }
    }
}
