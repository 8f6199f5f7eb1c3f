//! Drives one proxy's stream: messages in, updates out, changes of the registry gathered for a moment before they are
//! pushed.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use weft_core::identity::spiffe::SpiffeId;
use weft_proto::DISCOVERY_PROTOCOL_VERSION;
use weft_proto::v1::{
    DiscoveryRequest, DiscoveryResponse, Hello, TrustBundle, Update, Welcome, discovery_request, discovery_response,
};

use super::proxies::{Proxies, Seat, cut};
use super::subscription::Subscription;
use crate::registry::handle::Registry;
use crate::shutdown::Shutdown;

/// The first message must come within this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Changes gather until it has been quiet for this long, but not longer than [`GATHER_MAX`].
const QUIET: Duration = Duration::from_millis(20);
const GATHER_MAX: Duration = Duration::from_millis(200);

/// Where answers to a stream go.
pub(super) type Outgoing = mpsc::Sender<Result<DiscoveryResponse, Status>>;

/// Serves one stream until the proxy leaves or the control plane stops. A protocol error is sent as the last word.
pub async fn converse(
    registry: Registry,
    proxies: Proxies,
    bundle: TrustBundle,
    caller: SpiffeId,
    mut incoming: impl Stream<Item = Result<DiscoveryRequest, Status>> + Unpin,
    outgoing: Outgoing,
    shutdown: Shutdown,
) {
    let ended = async {
        let hello = greet(&mut incoming, &outgoing, bundle).await?;
        let subscription =
            Subscription::begin(&hello).map_err(|error| Status::resource_exhausted(error.to_string()))?;
        tracing::info!(proxy = %caller, instance = %hello.instance_id, build = %cut(&hello.build), "proxy connected");
        let seat = proxies.connect(caller.clone(), hello.instance_id);
        let conversation = Conversation {
            changes: registry.changes(),
            registry,
            subscription,
            seat,
            sent: Sent::default(),
            outgoing: &outgoing,
        };
        conversation.run(incoming).await
    };
    let last_word = tokio::select! {
        ended = ended => ended.err(),
        () = shutdown.requested() => Some(Status::unavailable("control plane is stopping")),
    };
    if let Some(status) = last_word {
        tracing::debug!(proxy = %caller, %status, "discovery stream ends");
        // The proxy may be gone already.
        outgoing.send(Err(status)).await.unwrap_or_default();
    }
}

async fn greet(
    incoming: &mut (impl Stream<Item = Result<DiscoveryRequest, Status>> + Unpin),
    outgoing: &Outgoing,
    bundle: TrustBundle,
) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.next()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no Hello"))?;
    let message = first.ok_or_else(|| Status::cancelled("left without Hello"))??.message;
    let Some(discovery_request::Message::Hello(hello)) = message else {
        return Err(Status::failed_precondition("the first message must be Hello"));
    };
    if hello.protocol_version == 0 {
        return Err(Status::failed_precondition("Hello.protocol_version must be at least 1"));
    }
    if !hello.instance_id.is_empty() && !weft_core::model::decode::is_dns_label(&hello.instance_id) {
        return Err(Status::invalid_argument("Hello.instance_id must be a DNS label or empty"));
    }
    let welcome =
        Welcome { protocol_version: hello.protocol_version.min(DISCOVERY_PROTOCOL_VERSION), bundle: Some(bundle) };
    let welcome = DiscoveryResponse { message: Some(discovery_response::Message::Welcome(welcome)) };
    outgoing.send(Ok(welcome)).await.map_err(|_| Status::cancelled("proxy left"))?;
    Ok(hello)
}

/// What the unacknowledged update held.
#[derive(Default)]
struct Sent {
    revision: u64,
    names: Vec<String>,
}

struct Conversation<'a> {
    registry: Registry,
    changes: watch::Receiver<u64>,
    subscription: Subscription,
    seat: Seat,
    sent: Sent,
    outgoing: &'a Outgoing,
}

impl Conversation<'_> {
    async fn run(
        mut self,
        mut incoming: impl Stream<Item = Result<DiscoveryRequest, Status>> + Unpin,
    ) -> Result<(), Status> {
        self.push().await?;
        let mut gathering: Option<(Instant, Instant)> = None;
        loop {
            let due = gathering.map(|(quiet, latest)| quiet.min(latest));
            tokio::select! {
                message = incoming.next() => {
                    let Some(message) = message else { return Ok(()) };
                    self.handle(message?)?;
                    // A question is answered at once.
                    self.push().await?;
                }
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = now();
                    let latest = gathering.map_or(now + GATHER_MAX, |(_, latest)| latest);
                    gathering = Some((now + QUIET, latest));
                }
                () = wait(due), if due.is_some() => {
                    gathering = None;
                    self.push().await?;
                }
            }
        }
    }

    fn handle(&mut self, message: DiscoveryRequest) -> Result<(), Status> {
        match message.message {
            Some(discovery_request::Message::Subscribe(subscribe)) => self
                .subscription
                .subscribe(&subscribe.targets)
                .map_err(|error| Status::resource_exhausted(error.to_string())),
            Some(discovery_request::Message::Unsubscribe(unsubscribe)) => {
                let subscription = &mut self.subscription;
                self.registry.read(|index| subscription.unsubscribe(&unsubscribe.targets, index));
                Ok(())
            }
            Some(discovery_request::Message::Ack(ack)) => {
                if self.subscription.acknowledge(&ack) {
                    self.seat.acknowledged(self.sent.revision, &self.sent.names, &ack.rejections);
                }
                Ok(())
            }
            Some(discovery_request::Message::Hello(_)) => Err(Status::failed_precondition("second Hello")),
            // Of a later version of the protocol.
            None => Ok(()),
        }
    }

    async fn push(&mut self) -> Result<(), Status> {
        let subscription = &mut self.subscription;
        let Some(update) = self.registry.read(|index| subscription.update(index)) else { return Ok(()) };
        self.sent = Sent { revision: update.revision, names: names(&update) };
        self.seat.pushed();
        let update = DiscoveryResponse { message: Some(discovery_response::Message::Update(update)) };
        self.outgoing.send(Ok(update)).await.map_err(|_| Status::cancelled("proxy left"))
    }
}

fn names(update: &Update) -> Vec<String> {
    let upserted = update.upserts.iter().filter_map(|resource| resource.name.as_ref());
    upserted.chain(&update.removals).map(|name| name.name.clone()).collect()
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    Instant::now()
}
