//! What both ends of an exchange do, and its performance over some way between them.

use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_integration::raw::Backend;
use weft_integration::raw::h2::{Event, H2Peer};
use weft_integration::raw::h2_frame::Frame;
use weft_integration::raw::h2_hpack::block;

use crate::trace::{Recorder, Trace};

/// Something awaited may take so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The stream that ends an exchange: what came before it on the same connections has arrived.
pub(crate) const LAST: u32 = 1001;

/// The host that requests name, unless they say otherwise.
pub(crate) const AUTHORITY: &str = "backend.default:80";

/// One thing that an end does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends frames. Streams are numbered as by the client.
    Send(Vec<Frame>),
    /// Sends a body as windows allow; whether it ends the stream.
    Body(u32, Vec<u8>, bool),
    /// Goes on when this has come.
    Await(Stage),
}

/// What has come on a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// So many field sections.
    Sections(u32, usize),
    /// So many bytes of DATA.
    Bytes(u32, usize),
    /// END_STREAM.
    End(u32),
    /// RST_STREAM.
    Reset(u32),
    /// END_STREAM or RST_STREAM.
    Over(u32),
}

/// One exchange: what each end does, whatever is between them.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) name: String,
    pub(crate) client: Vec<Step>,
    pub(crate) server: Vec<Step>,
    /// Settings of the client and the server.
    pub(crate) settings: [Vec<(u16, u32)>; 2],
    /// Whether the client's connection is of use afterwards.
    pub(crate) survives: bool,
}

impl Exchange {
    pub(crate) fn new(name: impl Into<String>, client: Vec<Step>, server: Vec<Step>) -> Self {
        Self { name: name.into(), client, server, settings: [vec![], vec![]], survives: true }
    }

    /// A whole request on stream 1, then a whole answer.
    pub(crate) fn plain(name: impl Into<String>, request: Vec<Frame>, answer: Vec<Frame>) -> Self {
        Self::new(
            name,
            vec![Step::Send(request), Step::Await(Stage::End(1))],
            vec![Step::Await(Stage::End(1)), Step::Send(answer)],
        )
    }

    /// Afterwards the client's connection may be of no use.
    pub(crate) fn without_last(mut self) -> Self {
        self.survives = false;
        self
    }

    pub(crate) fn client_settings(mut self, settings: &[(u16, u32)]) -> Self {
        self.settings[0] = settings.to_vec();
        self
    }

    pub(crate) fn server_settings(mut self, settings: &[(u16, u32)]) -> Self {
        self.settings[1] = settings.to_vec();
        self
    }
}

/// HEADERS of a request, with fields after the usual pseudo-header fields.
pub(crate) fn request(stream: u32, method: &str, path: &str, fields: &[(&str, &str)], end: bool) -> Frame {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", AUTHORITY), (":path", path)];
    fields_frame(stream, &[&pseudo, fields].concat(), end)
}

/// HEADERS of a response, interim or final.
pub(crate) fn response(stream: u32, status: &str, fields: &[(&str, &str)], end: bool) -> Frame {
    Frame::headers(stream, block([&[(":status", status)], fields].concat()), end)
}

/// HEADERS of trailers.
pub(crate) fn trailers(stream: u32, fields: &[(&str, &str)]) -> Frame {
    Frame::headers(stream, block(fields.iter().copied()), true)
}

/// HEADERS of a request with exactly these fields, but for the one that tells the server which stream it is.
pub(crate) fn fields_frame<V: AsRef<[u8]>>(stream: u32, fields: &[(&str, V)], end: bool) -> Frame {
    let number = stream.to_string();
    let fields = fields.iter().map(|(name, value)| (*name, value.as_ref())).chain([("x-stream", number.as_bytes())]);
    Frame::headers(stream, block(fields), end)
}

/// What was received at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) client: Trace,
    pub(crate) server: Trace,
}

/// Performs an exchange between a client that connects to `to` and a server behind `backend`.
pub(crate) async fn perform(exchange: &Exchange, to: std::net::SocketAddr, backend: &Backend) -> Outcome {
    let [client_settings, server_settings] = &exchange.settings;
    let client = async {
        let peer = H2Peer::connect(to, client_settings).await;
        let mut end = End { peer: peer?, recorder: Recorder::client(), failed: None };
        end.follow(&exchange.client).await;
        if exchange.survives {
            end.follow(&[Step::Send(vec![request(LAST, "GET", "/last", &[], true)]), Step::Await(Stage::End(LAST))])
                .await;
        }
        anyhow::Ok(end.recorder.finish(end.failed))
    };
    let server = async {
        let connected = async { H2Peer::server(backend.accept_stream().await?, server_settings).await };
        let peer = timeout(PATIENCE, connected).await.context("nobody connected")?;
        let mut end = End { peer: peer?, recorder: Recorder::server(), failed: None };
        end.follow(&exchange.server).await;
        if exchange.survives {
            end.follow(&[Step::Await(Stage::End(LAST)), Step::Send(vec![response(LAST, "204", &[], true)])]).await;
        }
        end.goodbye().await;
        anyhow::Ok(end.recorder.finish(end.failed))
    };
    let (client, server) = tokio::join!(client, server);
    let failed = |error: anyhow::Error| Trace { failed: Some(format!("{error:#}")), ..Trace::default() };
    Outcome { client: client.unwrap_or_else(failed), server: server.unwrap_or_else(failed) }
}

/// One end on its way through its script.
struct End {
    peer: H2Peer<TcpStream>,
    recorder: Recorder,
    /// Why it stopped.
    failed: Option<String>,
}

impl End {
    async fn follow(&mut self, steps: &[Step]) {
        for step in steps {
            if self.failed.is_none()
                && let Err(error) = self.take(step).await
            {
                self.failed = Some(format!("{error:#}"));
            }
        }
    }

    async fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Send(frames) => {
                let mut frames = frames.clone();
                for frame in &mut frames {
                    frame.stream = self.recorder.on_wire(frame.stream)?;
                }
                self.peer.send(frames).await
            }
            Step::Body(stream, bytes, end) => self.peer.send_body(self.recorder.on_wire(*stream)?, bytes, *end).await,
            Step::Await(stage) => {
                while !self.recorder.has(*stage) {
                    let event = self.peer.event_within(PATIENCE).await?.with_context(|| format!("no {stage:?}"))?;
                    anyhow::ensure!(!matches!(event, Event::Closed(_)), "closed before {stage:?}");
                    self.recorder.note(event);
                }
                Ok(())
            }
        }
    }

    /// Has whoever connected give the connection up, so that the next exchange gets one of its own. What still comes
    /// counts.
    async fn goodbye(&mut self) {
        // The other end may be gone already.
        self.peer.send([Frame::goaway(0x7fff_ffff, 0, b"")]).await.unwrap_or_default();
        loop {
            match self.peer.event_within(PATIENCE).await {
                Ok(Some(Event::Closed(_))) => return,
                Ok(Some(event)) => self.recorder.note(event),
                Ok(None) | Err(_) => {
                    self.failed.get_or_insert_with(|| "the connection stays open after GOAWAY".to_owned());
                    return;
                }
            }
        }
    }
}
