//! Plays an exchange between a client and a server, with or without proxies between them.

use std::time::Duration;

use weft_integration::raw::{Backend, DEADLINE, End, Wire};

use crate::script::{Exchange, Script};

/// Nothing more comes, and the connection stays as it is: what would come is there by then.
const SETTLED: Duration = Duration::from_millis(60);

/// What both sides received.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) client: Side,
    pub(crate) server: Side,
    /// Why a script could not be played to its end.
    pub(crate) fault: Option<String>,
}

/// What one side received.
#[derive(Debug)]
pub(crate) struct Side {
    wire: Option<Wire>,
    pub(crate) received: Vec<u8>,
    pub(crate) end: End,
    /// It was told of the end of the other direction where its script awaits that.
    pub(crate) told: bool,
}

/// How each side's connection is expected to stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// At the end.
    pub(crate) client: End,
    /// At the end.
    pub(crate) server: End,
    /// The server is not told in between that the client has ended its direction.
    pub(crate) held: bool,
}

pub(crate) async fn run(exchange: &Exchange, port: u16, backend: &Backend, ends: Ends) -> Seen {
    let [mut client, mut server] =
        [(); 2].map(|()| Side { wire: None, received: Vec::new(), end: End::Open, told: true });
    let played = async {
        client.wire = Some(Wire::connect(port).await?);
        let called = client.play(&exchange.client, false);
        let served = async {
            server.wire = Some(first_that_speaks(backend).await?);
            server.play(&exchange.server, ends.held).await
        };
        tokio::try_join!(async { called.await.map_err(|e| e.context("client")) }, async {
            served.await.map_err(|e| e.context("server"))
        })
    };
    let fault = played.await.err().map(|error| format!("{error:#}"));
    if fault.is_none() {
        tokio::join!(client.observe(ends.client), server.observe(ends.server));
    }
    for side in [&mut client, &mut server] {
        side.note();
    }
    Seen { client, server, fault }
}

/// The first connection on which anything comes. Where protocols are detected, a proxy connects to the server while the
/// client is silent, in case the server speaks first, and drops that connection when HTTP comes after all.
async fn first_that_speaks(backend: &Backend) -> anyhow::Result<Wire> {
    loop {
        let mut wire = backend.accept().await?;
        if wire.read_until(|received| !received.is_empty()).await.is_ok() {
            return Ok(wire);
        }
        anyhow::ensure!(wire.end() == End::Fin, "a connection without a byte is {:?}", wire.end());
    }
}

impl Side {
    async fn play(&mut self, script: &Script, held: bool) -> anyhow::Result<()> {
        self.told = script.steps(held) == script.steps(false);
        let Some(wire) = &mut self.wire else { return Ok(()) };
        wire.perform(&script.steps(held)).await?;
        if script.resets() {
            self.note();
            self.wire = None;
        }
        Ok(())
    }

    async fn observe(&mut self, end: End) {
        if let Some(wire) = &mut self.wire {
            wire.read_to_end(if end == End::Open { SETTLED } else { DEADLINE }).await;
        }
    }

    fn note(&mut self) {
        if let Some(wire) = &self.wire {
            (self.received, self.end) = (wire.received().to_owned(), wire.end());
        }
    }
}
