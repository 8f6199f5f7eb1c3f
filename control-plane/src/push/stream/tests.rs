use clap::Parser as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use weft_proto::v1::Ack;

use super::*;
use crate::bootstrap::{Cli, Command, ServeArgs};
use crate::shutdown::{self, Trigger};
use crate::store::embedded::Embedded;

/// Time is virtual here: only a failing test comes to its end.
const PATIENCE: Duration = Duration::from_secs(3600);

/// One end of a stream in this process.
struct Proxy {
    send: mpsc::Sender<Result<DiscoveryRequest, Status>>,
    receive: mpsc::Receiver<Result<Response, Status>>,
    _trigger: Trigger,
}

fn args(directory: &std::path::Path) -> ServeArgs {
    let line = ["weft-control-plane", "serve", "--state-dir", directory.to_str().unwrap()];
    let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else { panic!("not serve") };
    *args
}

async fn registry(directory: &std::path::Path) -> Registry {
    let store = Arc::new(Embedded::open(directory).unwrap());
    Registry::load(store, &args(directory)).await.unwrap().0
}

impl Proxy {
    /// With the first update read.
    async fn connect(registry: &Registry, proxies: &Proxies) -> Self {
        let (send, incoming) = mpsc::channel(4);
        let (outgoing, receive) = mpsc::channel(4);
        let (trigger, shutdown) = shutdown::channel();
        let caller = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        let incoming = ReceiverStream::new(incoming);
        let (registry, proxies) = (registry.clone(), proxies.clone());
        tokio::spawn(converse(registry, proxies, TrustBundle::default(), caller, incoming, outgoing, shutdown));
        let mut proxy = Self { send, receive, _trigger: trigger };
        let hello = Hello { protocol_version: 1, ..Hello::default() };
        proxy.say(discovery_request::Message::Hello(hello)).await;
        assert!(proxy.hear().await.unwrap().welcome.is_some());
        assert_eq!(proxy.hear().await.unwrap().update.unwrap().nonce, 1);
        proxy
    }

    async fn say(&self, message: discovery_request::Message) {
        self.send.send(Ok(DiscoveryRequest { message: Some(message) })).await.unwrap();
    }

    async fn hear(&mut self) -> Result<Response, Status> {
        tokio::time::timeout(PATIENCE, self.receive.recv()).await.expect("in time").expect("a message")
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_never_acknowledges_is_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path()).await;
    let proxies = Proxies::default();
    let mut good = Proxy::connect(&registry, &proxies).await;
    good.say(discovery_request::Message::Ack(Ack { nonce: 1, ..Ack::default() })).await;
    let mut silent = Proxy::connect(&registry, &proxies).await;
    let connected = Instant::now();
    // Another update's Ack is none.
    silent.say(discovery_request::Message::Ack(Ack { nonce: 7, ..Ack::default() })).await;
    let status = silent.hear().await.unwrap_err();
    assert_eq!((status.code(), connected.elapsed().as_secs()), (Code::DeadlineExceeded, ACK_TIMEOUT.as_secs()));
    assert!(status.message().contains("update 1 "), "{status}");
    assert!(silent.receive.recv().await.is_none(), "the status is the last word");
    assert_eq!(proxies.counts().overdue.value(), 1);

    let quiet = tokio::time::timeout(10 * ACK_TIMEOUT, good.hear()).await;
    assert!(quiet.is_err(), "who acknowledged has all the time there is: {quiet:?}");
    assert_eq!(proxies.count(), 1);
}
