//! Drives one proxy's stream: messages in, updates out, changes that concern it gathered for a moment before they are
//! pushed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use weft_core::identity::spiffe::SpiffeId;
use weft_proto::DISCOVERY_PROTOCOL_VERSION;
use weft_proto::v1::{DiscoveryRequest, Hello, TrustBundle, Welcome, discovery_request};

use super::gather::Gathering;
use super::proxies::{Proxies, Seat, cut};
use super::subscription::{Push, Subscription};
use super::wire::Response;
use crate::registry::handle::Registry;
use crate::registry::{Concern, Extent, Index, Listener, Touched};
use crate::shutdown::Shutdown;

/// The first message must come within this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// An update must be acknowledged, or refused, within this; a proxy takes milliseconds. One that does not would hold its
/// updates, and be shown as connected, forever.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// Where answers to a stream go.
pub(super) type Outgoing = mpsc::Sender<Result<Response, Status>>;

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
            listener: registry.listen(),
            registry,
            subscription,
            seat,
            sent: None,
            since: None,
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
    let welcome = Response { welcome: Some(welcome), update: None };
    outgoing.send(Ok(welcome)).await.map_err(|_| Status::cancelled("proxy left"))?;
    Ok(hello)
}

/// What the unacknowledged update held.
struct Sent {
    revision: u64,
    names: Vec<Arc<str>>,
    at: Instant,
    /// When the first change in it came into force; `None` where it only answers the proxy.
    since: Option<Instant>,
}

struct Conversation<'a> {
    registry: Registry,
    listener: Listener,
    subscription: Subscription,
    seat: Seat,
    sent: Option<Sent>,
    /// When the first change that is still to be told came into force.
    since: Option<Instant>,
    outgoing: &'a Outgoing,
}

impl Conversation<'_> {
    async fn run(
        mut self,
        mut incoming: impl Stream<Item = Result<DiscoveryRequest, Status>> + Unpin,
    ) -> Result<(), Status> {
        self.push().await?;
        let mut gathering = None;
        loop {
            let due = gathering.map(Gathering::due);
            let deadline = self.sent.as_ref().map(|sent| sent.at + ACK_TIMEOUT);
            tokio::select! {
                message = incoming.next() => {
                    let Some(message) = message else { return Ok(()) };
                    // A question is answered at once; changes go on gathering.
                    if self.handle(message?)? || gathering.is_none() {
                        self.push().await?;
                    }
                }
                () = self.listener.touched() => {
                    gathering = Some(Gathering::note(gathering, Instant::now()));
                }
                () = wait(due), if due.is_some() => {
                    gathering = None;
                    self.push().await?;
                }
                () = wait(deadline), if deadline.is_some() => return Err(self.overdue()),
            }
        }
    }

    /// True when the proxy waits for more.
    fn handle(&mut self, message: DiscoveryRequest) -> Result<bool, Status> {
        match message.message {
            Some(discovery_request::Message::Subscribe(subscribe)) => {
                let subscribed = self.subscription.subscribe(&subscribe.targets);
                subscribed.map_err(|error| Status::resource_exhausted(error.to_string()))?;
                Ok(true)
            }
            Some(discovery_request::Message::Unsubscribe(unsubscribe)) => {
                self.subscription.unsubscribe(&unsubscribe.targets);
                Ok(false)
            }
            Some(discovery_request::Message::Ack(ack)) => {
                if self.subscription.acknowledge(&ack)
                    && let Some(sent) = self.sent.take()
                {
                    self.seat.acknowledged(sent.revision, &sent.names, &ack.rejections);
                    if let Some(since) = sent.since {
                        self.seat.took(since.elapsed());
                    }
                }
                Ok(self.subscription.has_more())
            }
            Some(discovery_request::Message::Hello(_)) => Err(Status::failed_precondition("second Hello")),
            // Of a later version of the protocol.
            None => Ok(false),
        }
    }

    /// The proxy is told again, from what it then says that it holds, when it comes back.
    fn overdue(&self) -> Status {
        self.seat.overdue();
        let nonce = self.subscription.unacknowledged().unwrap_or_default();
        let text = format!("no Ack of update {nonce} within {ACK_TIMEOUT:?}; open another stream, with what is held");
        Status::deadline_exceeded(text)
    }

    async fn push(&mut self) -> Result<(), Status> {
        if self.subscription.unacknowledged().is_some() {
            return Ok(());
        }
        // Concerned before the index is looked at: no change can fall in between.
        self.attend();
        let (news, index) = self.registry.hear(&self.listener);
        if let Some(news) = news {
            self.subscription.notice(&news.touched);
            self.since.get_or_insert(news.since);
        }
        let push = self.subscription.update(&index);
        let concerned = self.attend();
        self.recall(&index, concerned);
        let since = self.since;
        if !self.subscription.has_more() {
            self.since = None;
        }
        let Some(Push { update, names }) = push else { return Ok(()) };
        self.sent = Some(Sent { revision: update.revision, names, at: Instant::now(), since });
        self.seat.pushed();
        let update = Response { welcome: None, update: Some(update) };
        self.outgoing.send(Ok(update)).await.map_err(|_| Status::cancelled("proxy left"))
    }

    /// Listens to what concerns the subscription. Returns what is new of it.
    fn attend(&mut self) -> Vec<Concern> {
        let mut concerned = Vec::new();
        for (concern, wanted) in self.subscription.take_concerns() {
            if wanted {
                self.listener.insert(concern.clone());
                concerned.push(concern);
            } else {
                self.listener.remove(&concern);
            }
        }
        concerned
    }

    /// What turned out to be a concern only from the index may have changed before the listener knew.
    fn recall(&self, seen: &Arc<Index>, concerned: Vec<Concern>) {
        if concerned.is_empty() || Arc::ptr_eq(seen, &self.registry.snapshot()) {
            return;
        }
        let mut touched = Touched::default();
        for concern in concerned {
            match concern {
                Concern::Service(key) => touched.services.insert(key, Extent::Whole),
                Concern::Address(address) => _ = touched.addresses.insert(address),
            }
        }
        self.listener.recall(touched);
    }
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
