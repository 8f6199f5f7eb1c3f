//! One end of an HTTP/2 connection, driven frame by frame: a client or a server that does what a test says and no more.
//!
//! By default SETTINGS and PING are acknowledged and windows are given back as DATA arrives; each can be turned off.
//! Nothing received is checked but for what is needed to read on.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DEADLINE;
use super::h2_frame::{Frame, PAYLOAD_MAX, PREFACE, flag, kind, setting};
use super::h2_hpack::{Field, Reader};

/// Windows before any SETTINGS (RFC 9113 section 6.9.2).
const WINDOW: i64 = 65_535;

/// What has come from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole field section: a request, an interim or final response, or trailers.
    Headers {
        /// Stream.
        stream: u32,
        /// Fields in order.
        fields: Vec<Field>,
        /// With END_STREAM.
        end: bool,
    },
    /// DATA, without padding.
    Data {
        /// Stream.
        stream: u32,
        /// Bytes, possibly none.
        bytes: Vec<u8>,
        /// With END_STREAM.
        end: bool,
    },
    /// RST_STREAM.
    Reset {
        /// Stream.
        stream: u32,
        /// Error code.
        code: u32,
    },
    /// GOAWAY.
    Goaway {
        /// Last stream that was or might be processed.
        last: u32,
        /// Error code.
        code: u32,
        /// Debug data.
        debug: Vec<u8>,
    },
    /// SETTINGS.
    Settings(Vec<(u16, u32)>),
    /// SETTINGS were acknowledged.
    SettingsAck,
    /// PING.
    Ping(Vec<u8>),
    /// PING was answered.
    Pong(Vec<u8>),
    /// WINDOW_UPDATE.
    WindowUpdate {
        /// Stream, 0 for the connection.
        stream: u32,
        /// By so many bytes.
        increment: u32,
    },
    /// Any other frame.
    Other(Frame),
    /// The connection is over: with an end (`None`), or an error.
    Closed(Option<std::io::ErrorKind>),
}

/// What a peer does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Automatic {
    /// Acknowledges SETTINGS.
    pub settings: bool,
    /// Answers PING.
    pub pings: bool,
    /// Gives windows back for DATA.
    pub windows: bool,
}

impl Default for Automatic {
    fn default() -> Self {
        Self { settings: true, pings: true, windows: true }
    }
}

/// One end of an HTTP/2 connection.
#[derive(Debug)]
pub struct H2Peer<S = TcpStream> {
    /// What it does by itself.
    pub automatic: Automatic,
    stream: S,
    received: BytesMut,
    reader: Reader,
    /// A field section whose end has not come: stream, whether it ends the stream, block.
    section: Option<(u32, bool, Vec<u8>)>,
    waiting: VecDeque<Event>,
    initial_window: i64,
    /// What may be sent, by stream; 0 is the connection. Absent: the initial window.
    windows: HashMap<u32, i64>,
}

impl H2Peer<TcpStream> {
    /// Connects and sends the preface with these settings.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(address: std::net::SocketAddr, settings: &[(u16, u32)]) -> anyhow::Result<Self> {
        let stream = timeout(DEADLINE, TcpStream::connect(address)).await.context("no connection in time")?;
        let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Self::client(stream, settings).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> H2Peer<S> {
    /// A client; sends the preface with these settings.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn client(stream: S, settings: &[(u16, u32)]) -> anyhow::Result<Self> {
        let mut peer = Self::bare(stream);
        peer.send_bytes(PREFACE).await?;
        peer.send([Frame::settings(settings)]).await?;
        Ok(peer)
    }

    /// A server; awaits the preface and sends these settings.
    ///
    /// # Errors
    /// No preface comes.
    pub async fn server(stream: S, settings: &[(u16, u32)]) -> anyhow::Result<Self> {
        let mut peer = Self::bare(stream);
        while peer.received.len() < PREFACE.len() {
            let read =
                timeout(DEADLINE, peer.stream.read_buf(&mut peer.received)).await.context("no preface in time")??;
            ensure!(read > 0, "the client closed instead of sending its preface");
        }
        let preface = peer.received.split_to(PREFACE.len());
        ensure!(preface == PREFACE, "{:?} is no preface", preface.escape_ascii().to_string());
        peer.send([Frame::settings(settings)]).await?;
        Ok(peer)
    }

    /// One end on which nothing has been sent.
    pub fn bare(stream: S) -> Self {
        Self {
            automatic: Automatic::default(),
            stream,
            received: BytesMut::new(),
            reader: Reader::default(),
            section: None,
            waiting: VecDeque::new(),
            initial_window: WINDOW,
            windows: HashMap::from([(0, WINDOW)]),
        }
    }

    /// Sends frames in one write.
    ///
    /// # Errors
    /// The connection is closed, or does not take them in time.
    pub async fn send(&mut self, frames: impl IntoIterator<Item = Frame>) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        for frame in frames {
            if frame.kind == kind::DATA {
                let length = i64::try_from(frame.payload.len())?;
                *self.windows.entry(0).or_default() -= length;
                *self.windows.entry(frame.stream).or_insert(self.initial_window) -= length;
            }
            bytes.extend(frame.encode());
        }
        self.send_bytes(&bytes).await
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// The connection is closed, or does not take them in time.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        timeout(DEADLINE, self.stream.write_all(bytes)).await.context("the peer does not read")??;
        Ok(self.stream.flush().await?)
    }

    /// Sends a body as the peer's windows allow; what comes meanwhile is kept for [`Self::event`].
    ///
    /// # Errors
    /// The connection is closed, or no window comes in time.
    pub async fn send_body(&mut self, stream: u32, mut body: &[u8], end: bool) -> anyhow::Result<()> {
        while !body.is_empty() {
            let room = self.room(stream).min(PAYLOAD_MAX).min(body.len());
            if room == 0 {
                self.receive(DEADLINE).await?.context("no window in time")?;
                ensure!(!matches!(self.waiting.back(), Some(Event::Closed(_))), "the peer closed the connection");
                continue;
            }
            let (piece, rest) = body.split_at(room);
            body = rest;
            self.send([Frame::data(stream, piece, end && rest.is_empty())]).await?;
        }
        Ok(())
    }

    /// Bytes of DATA that the peer takes on a stream now.
    #[must_use]
    pub fn room(&self, stream: u32) -> usize {
        let of = |stream| self.windows.get(&stream).copied().unwrap_or(self.initial_window);
        usize::try_from(of(0).min(of(stream))).unwrap_or(0)
    }

    /// What comes next.
    ///
    /// # Errors
    /// Nothing in time, or what is no HTTP/2.
    pub async fn event(&mut self) -> anyhow::Result<Event> {
        self.event_within(DEADLINE).await?.with_context(|| format!("nothing came within {DEADLINE:?}"))
    }

    /// What comes next, if it comes in time.
    ///
    /// # Errors
    /// What comes is no HTTP/2.
    pub async fn event_within(&mut self, time: Duration) -> anyhow::Result<Option<Event>> {
        if self.waiting.is_empty() {
            self.receive(time).await?;
        }
        Ok(self.waiting.pop_front())
    }

    /// All that comes until `last` holds of an event, with that one.
    ///
    /// # Errors
    /// It does not come in time, or the connection ends first; says what came.
    pub async fn until(&mut self, last: impl Fn(&Event) -> bool) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await.with_context(|| format!("after {events:?}"))?;
            let (found, over) = (last(&event), matches!(event, Event::Closed(_)));
            events.push(event);
            if found {
                return Ok(events);
            }
            ensure!(!over, "closed after {events:?}");
        }
    }

    /// Says PING and waits for the answer: all sent before has been read by the peer. Gives what came before the answer.
    ///
    /// # Errors
    /// It is not answered.
    pub async fn synchronise(&mut self) -> anyhow::Result<Vec<Event>> {
        let payload = *b"in step?";
        self.send([Frame::ping(payload, false)]).await?;
        let mut events = self.until(|event| *event == Event::Pong(payload.to_vec())).await?;
        events.pop();
        Ok(events)
    }

    /// Closes the sending direction.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn shutdown(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// The connection itself, with bytes that were read ahead.
    pub fn into_inner(self) -> (S, BytesMut) {
        (self.stream, self.received)
    }

    /// Reads until at least one event waits; `None` when time is up.
    async fn receive(&mut self, time: Duration) -> anyhow::Result<Option<()>> {
        let before = self.waiting.len();
        let reading = async {
            while self.waiting.len() == before {
                if let Some(frame) = Frame::decode(&mut self.received) {
                    self.take(frame).await?;
                } else {
                    match self.stream.read_buf(&mut self.received).await {
                        Ok(0) => self.waiting.push_back(Event::Closed(None)),
                        Ok(_) => {}
                        Err(error) => self.waiting.push_back(Event::Closed(Some(error.kind()))),
                    }
                }
            }
            anyhow::Ok(())
        };
        timeout(time, reading).await.ok().transpose()
    }

    async fn take(&mut self, frame: Frame) -> anyhow::Result<()> {
        let event = match frame.kind {
            kind::DATA => Some(self.take_data(&frame).await?),
            kind::HEADERS | kind::CONTINUATION => self.take_fields(&frame)?,
            kind::SETTINGS => Some(self.take_settings(&frame).await?),
            kind::PING => Some(self.take_ping(frame).await?),
            kind::WINDOW_UPDATE => Some(self.take_window(&frame)?),
            kind::RST_STREAM => {
                Some(Event::Reset { stream: frame.stream, code: frame.number(0).context("RST_STREAM without code")? })
            }
            kind::GOAWAY => Some(Event::Goaway {
                last: frame.number(0).context("GOAWAY without last stream")?,
                code: frame.number(4).context("GOAWAY without code")?,
                debug: frame.payload.get(8..).unwrap_or_default().to_vec(),
            }),
            _ => Some(Event::Other(frame)),
        };
        self.waiting.extend(event);
        Ok(())
    }

    async fn take_data(&mut self, frame: &Frame) -> anyhow::Result<Event> {
        let (stream, end) = (frame.stream, frame.has(flag::END_STREAM));
        let bytes = frame.content().context("DATA with more padding than it has")?.to_vec();
        if self.automatic.windows && !frame.payload.is_empty() {
            let length = u32::try_from(frame.payload.len())?;
            let of_stream = (!end).then(|| Frame::window_update(stream, length));
            let given = [Some(Frame::window_update(0, length)), of_stream];
            self.answer(given.into_iter().flatten()).await;
        }
        Ok(Event::Data { stream, bytes, end })
    }

    fn take_fields(&mut self, frame: &Frame) -> anyhow::Result<Option<Event>> {
        if frame.kind == kind::HEADERS {
            let block = frame.content().context("HEADERS with more padding than it has")?.to_vec();
            self.section = Some((frame.stream, frame.has(flag::END_STREAM), block));
        } else {
            let (_, _, block) = self.section.as_mut().context("CONTINUATION of nothing")?;
            block.extend_from_slice(&frame.payload);
        }
        if !frame.has(flag::END_HEADERS) {
            return Ok(None);
        }
        let Some((stream, end, block)) = self.section.take() else { bail!("no field section") };
        let fields = self.reader.read(&block)?;
        Ok(Some(Event::Headers { stream, fields, end }))
    }

    async fn take_settings(&mut self, frame: &Frame) -> anyhow::Result<Event> {
        if frame.has(flag::ACK) {
            return Ok(Event::SettingsAck);
        }
        let mut settings = Vec::new();
        for pair in frame.payload.chunks_exact(6) {
            let [a, b, value @ ..] = pair else { continue };
            let value = value.first_chunk().copied().map(u32::from_be_bytes).context("a setting without value")?;
            settings.push((u16::from_be_bytes([*a, *b]), value));
        }
        for (_, value) in settings.iter().filter(|(id, _)| *id == setting::INITIAL_WINDOW_SIZE) {
            let change = i64::from(*value) - self.initial_window;
            self.initial_window += change;
            for (_, window) in self.windows.iter_mut().filter(|(stream, _)| **stream != 0) {
                *window += change;
            }
        }
        if self.automatic.settings {
            self.answer([Frame::settings_ack()]).await;
        }
        Ok(Event::Settings(settings))
    }

    async fn take_ping(&mut self, frame: Frame) -> anyhow::Result<Event> {
        if frame.has(flag::ACK) {
            return Ok(Event::Pong(frame.payload));
        }
        if self.automatic.pings {
            self.answer([Frame { flags: flag::ACK, ..frame.clone() }]).await;
        }
        Ok(Event::Ping(frame.payload))
    }

    fn take_window(&mut self, frame: &Frame) -> anyhow::Result<Event> {
        let (stream, increment) = (frame.stream, frame.number(0).context("WINDOW_UPDATE without increment")?);
        *self.windows.entry(stream).or_insert(self.initial_window) += i64::from(increment);
        Ok(Event::WindowUpdate { stream, increment })
    }

    /// An answer that the peer may no longer want: it closed, as the next read tells.
    async fn answer(&mut self, frames: impl IntoIterator<Item = Frame>) {
        self.send(frames).await.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::h2_hpack::block;

    async fn pair() -> (H2Peer<tokio::io::DuplexStream>, H2Peer<tokio::io::DuplexStream>) {
        let (client, server) = tokio::io::duplex(1 << 20);
        let client = H2Peer::client(client, &[]).await.unwrap();
        (client, H2Peer::server(server, &[(setting::INITIAL_WINDOW_SIZE, 10)]).await.unwrap())
    }

    #[tokio::test]
    async fn a_field_section_in_pieces_is_one() {
        let (mut client, mut server) = pair().await;
        let request = Frame::headers(1, block([(":method", "GET"), ("x-long", "0123456789")]), true);
        let mut pieces = request.fragmented(9);
        pieces[0] = pieces[0].clone().padded(3);
        client.send(pieces).await.unwrap();
        let events = server.until(|event| matches!(event, Event::Headers { .. })).await.unwrap();
        let fields = vec![(b":method".to_vec(), b"GET".to_vec()), (b"x-long".to_vec(), b"0123456789".to_vec())];
        assert_eq!(events.last(), Some(&Event::Headers { stream: 1, fields, end: true }));
    }

    #[tokio::test]
    async fn a_body_keeps_to_the_window() {
        let (mut client, mut server) = pair().await;
        client.until(|event| matches!(event, Event::Settings(_))).await.unwrap();
        let (sent, events) = tokio::join!(client.send_body(1, &[7; 25], true), async {
            server.until(|event| matches!(event, Event::Data { end: true, .. })).await
        });
        sent.unwrap();
        let data = |event| if let Event::Data { bytes, .. } = event { Some(bytes.len()) } else { None };
        let sizes = events.unwrap().into_iter().filter_map(data);
        assert_eq!(sizes.collect::<Vec<_>>(), [10, 10, 5]);
    }

    #[tokio::test]
    async fn the_end_is_an_event() {
        let (mut client, server) = pair().await;
        drop(server);
        client.until(|event| *event == Event::Closed(None)).await.unwrap();
        assert!(client.until(|event| *event == Event::SettingsAck).await.is_err(), "it does not come any more");
    }
}
