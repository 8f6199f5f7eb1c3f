//! One HTTP/2 connection, either end, without I/O: bytes that came go in by [`Connection::receive`], what streams do goes
//! in by commands, and bytes to be sent come out of [`Connection::output`].
//!
//! It has no clock and starts nothing. Who waits for something on a stream leaves a waker; the one task that reads and writes
//! leaves its own by [`Connection::watch`] and is woken when there is something to write.
//!
//! Everything a peer can make it keep is bounded: streams by [`Config::streams_max`], bodies by windows, a head by
//! [`SECTION_BYTES_MAX`], answers that nobody reads by [`Connection::may_read`]. What is legal and yet of no use is weighed
//! against what is ([`budget`]). Faults of the peer cost a stream or the connection as RFC 9113 has it; where it leaves the
//! choice, what comes on a stream that its sender has ended costs the connection.

mod budget;
mod commands;
mod control;
mod data;
mod headers;
mod input;
mod openers;
mod state;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod window;
#[cfg(test)]
mod window_tests;

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::{Buf, BytesMut};
use http::Method;

use self::budget::Budget;
use self::input::Expect;
use self::openers::Openers;
use self::stream::{Stream, note};
use self::streams::Streams;
use self::window::{Growth, Window};
use super::frame::{self, PREFACE, Reason, WINDOW_DEFAULT, setting};
use super::hpack::{Decoder, Encoder, TABLE_BYTES_DEFAULT};
use crate::h1::{HeadFault, Limits};
use crate::message::ParsedRequest;

pub use self::input::SECTION_BYTES_MAX;
pub use self::openers::Place;
pub use self::stream::Broken;
pub use self::streams::Key;
pub use self::window::{CONNECTION_SURPLUS_MAX, STREAM_WINDOW_MAX, Surplus};

/// Output of which streams add DATA only below it.
pub const OUT_BYTES_MAX: usize = 64 * 1024;

/// A server that has so much to send reads nothing more: heads and resets that its client causes and does not read.
const OUT_HELD_MAX: usize = 512 * 1024;

/// Answers to frames of the peer's that it does not read; then nothing more is read.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;

/// Room for output that is kept from one turn to the next, and made at once.
const OUT_KEPT: usize = 4 * 1024;

/// Streams that are opened in one turn; more wait for the next, when others have run.
const TURN_STREAMS: u32 = 128;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We answer.
    Server,
    /// We ask.
    Client,
}

/// Bounds and settings of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Our end.
    pub role: Role,
    /// Bounds of heads and trailers.
    pub message: Limits,
    /// Fields of a head that are taken, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts them.
    pub list_bytes_max: usize,
    /// Streams that a client may have open.
    pub streams_max: u32,
    /// Receive window that a stream begins with.
    pub stream_window: u32,
    /// Receive window of the connection.
    pub connection_window: u32,
    /// Whether extended CONNECT (RFC 8441) is taken.
    pub connect_protocol: bool,
    /// Streams that may be reset before anybody has seen them.
    pub pending_resets_max: usize,
    /// Streams that we have reset and remember, to ignore what was on its way for them.
    pub resets_remembered_max: usize,
    /// Interim responses that one request may have.
    pub interims_max: u32,
}

/// The peer has broken the protocol or a bound; the connection ends with this code, and GOAWAY stands in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fatal(pub Reason);

/// A stream that a client has opened.
#[derive(Debug)]
pub struct Opened {
    /// For whoever serves it; held once.
    pub key: Key,
    /// The request, or what is wrong with it.
    pub request: Result<ParsedRequest, Refused>,
}

/// A head that is to be answered with the status of its fault.
#[derive(Debug)]
pub struct Refused {
    /// The fault.
    pub fault: HeadFault,
    /// Method, where it could be read.
    pub method: Option<Method>,
}

/// A stream that was reset before it was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It was one too many.
    TooMany,
    /// Its head is malformed.
    Malformed,
}

/// What the peer has said of itself.
#[derive(Debug)]
struct Peer {
    /// It has said so.
    said: bool,
    streams_max: u32,
    window: i64,
    connect_protocol: bool,
    /// The last stream that its GOAWAY names.
    goaway: Option<u32>,
}

/// How far we are with ending the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    /// Not at all.
    On,
    /// GOAWAY was sent; streams on their way are still taken.
    Announced,
    /// Streams above this one are ignored.
    Last(u32),
}

/// One connection.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each says one thing")]
pub struct Connection {
    config: Config,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams,
    expect: Expect,
    /// Beginning of a frame whose end has not come.
    held: Vec<u8>,
    section: Option<input::Section>,
    out: BytesMut,
    answers: usize,
    task: Option<Waker>,
    /// Streams that wait for their turn to send.
    waiting: VecDeque<Key>,
    /// Who waits until a stream can be opened.
    openers: Openers,
    opened: VecDeque<Opened>,
    unseen: Vec<Unseen>,
    peer: Peer,
    receive_window: i64,
    consumed: u32,
    growth: Growth,
    send_window: i64,
    /// What new streams of the peer's, or answers to ours, may fill.
    own_window: i64,
    settings_unanswered: u32,
    last_peer: u32,
    next_own: u32,
    open: u32,
    turn_streams: u32,
    pending_resets: usize,
    resets_sent: usize,
    remembered: VecDeque<u32>,
    heads_left: u32,
    budget: Budget,
    ping_unanswered: bool,
    dismissed: bool,
    going: Going,
    ended: Option<Broken>,
}

impl Connection {
    /// A new one; what it says first stands in the output.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let server = config.role == Role::Server;
        let mut out = BytesMut::with_capacity(256);
        if !server {
            out.extend_from_slice(PREFACE);
        }
        put_greeting(&mut out, &config);
        Self {
            config,
            decoder: Decoder::new(TABLE_BYTES_DEFAULT),
            encoder: Encoder::new(),
            streams: Streams::default(),
            expect: if server { Expect::Preface } else { Expect::Head },
            held: Vec::new(),
            section: None,
            out,
            answers: 0,
            task: None,
            waiting: VecDeque::new(),
            openers: Openers::default(),
            opened: VecDeque::new(),
            unseen: Vec::new(),
            peer: Peer {
                said: false,
                streams_max: u32::MAX,
                window: i64::from(WINDOW_DEFAULT),
                connect_protocol: false,
                goaway: None,
            },
            receive_window: i64::from(config.connection_window.max(WINDOW_DEFAULT)),
            consumed: 0,
            growth: Growth::default(),
            send_window: i64::from(WINDOW_DEFAULT),
            own_window: i64::from(WINDOW_DEFAULT),
            settings_unanswered: 1,
            last_peer: 0,
            next_own: 1,
            open: 0,
            turn_streams: 0,
            pending_resets: 0,
            resets_sent: 0,
            remembered: VecDeque::new(),
            heads_left: 0,
            budget: Budget::default(),
            ping_unanswered: false,
            dismissed: false,
            going: Going::On,
            ended: None,
        }
    }

    /// The task that reads and writes; it is woken when there is something to write.
    pub fn watch(&mut self, cx: &Context<'_>) {
        note(&mut self.task, cx);
    }

    fn wake_task(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// What is to be written.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.out
    }

    /// So much of it was.
    pub fn written(&mut self, bytes: usize) {
        self.out.advance(bytes.min(self.out.len()));
        self.answers = self.answers.saturating_sub(bytes);
        if self.out.is_empty() && self.out.capacity() > OUT_KEPT {
            self.out = BytesMut::new();
        }
    }

    /// Output to append to.
    fn out(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            self.out.reserve(OUT_KEPT);
        }
        if let Some(task) = self.task.take() {
            task.wake();
        }
        &mut self.out
    }

    /// Whether more is to be read now. Who does not read what we send has to wait; a client of ours goes on to read
    /// whatever it has to send, as both ends could else wait for each other.
    #[must_use]
    pub fn may_read(&self) -> bool {
        let held = self.config.role == Role::Client || self.out.len() < OUT_HELD_MAX;
        held && self.answers < ANSWERS_BYTES_MAX && self.ended.is_none()
    }

    /// A new turn: others have run.
    pub const fn begin_turn(&mut self) {
        self.turn_streams = 0;
    }

    /// Whether a turn has opened as many streams as it may.
    #[must_use]
    pub const fn turn_is_over(&self) -> bool {
        self.turn_streams >= TURN_STREAMS
    }

    /// A stream as it begins.
    fn new_stream(&self, id: u32) -> Stream {
        Stream::new(id, Window::new(self.own_window, self.config.stream_window), self.peer.window)
    }

    /// The next stream that the client has opened.
    pub fn next_opened(&mut self) -> Option<Opened> {
        let opened = self.opened.pop_front()?;
        if let Some(stream) = self.streams.get(opened.key) {
            stream.taken = true;
            if stream.broken.is_some() {
                self.pending_resets = self.pending_resets.saturating_sub(1);
            }
        }
        Some(opened)
    }

    /// The next stream that was reset before it could be handed on.
    pub fn next_unseen(&mut self) -> Option<Unseen> {
        self.unseen.pop()
    }

    /// Whether the peer's first words have come, its SETTINGS with them (RFC 9113 section 3.4).
    #[must_use]
    pub const fn is_greeted(&self) -> bool {
        self.peer.said
    }

    /// Whether nothing of a frame has come whose end has not.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.expect == Expect::Head && self.held.is_empty() && self.section.is_none()
    }

    /// Whether a field section has begun and its end has not come.
    #[must_use]
    pub fn in_section(&self) -> bool {
        self.section.is_some() || self.expect.is_of_section()
    }

    /// Streams that are open now.
    #[must_use]
    pub const fn open(&self) -> u32 {
        self.open
    }

    /// Streams that the peer lets us open at once.
    #[must_use]
    pub const fn streams_max(&self) -> u32 {
        self.peer.streams_max
    }

    /// Whether the peer takes extended CONNECT.
    #[must_use]
    pub const fn takes_connect_protocol(&self) -> bool {
        self.peer.connect_protocol
    }

    /// Streams that we have reset.
    #[must_use]
    pub const fn resets_sent(&self) -> usize {
        self.resets_sent
    }

    /// Whether the peer has sent more that carries nothing than it may, unless enough time has passed.
    #[must_use]
    pub const fn is_overdrawn(&self) -> bool {
        self.budget.is_overdrawn()
    }

    /// So much time has passed since this was called last.
    pub fn passed(&mut self, millis: u64) {
        self.budget.passed(millis);
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub const fn ended(&self) -> Option<Broken> {
        self.ended
    }
}

/// SETTINGS, and the window of the connection, which no setting can say (RFC 9113 section 6.9.2).
fn put_greeting(out: &mut BytesMut, config: &Config) {
    let list = u32::try_from(config.list_bytes_max).unwrap_or(u32::MAX);
    let mut settings = Vec::with_capacity(4);
    match config.role {
        Role::Server => settings.push((setting::MAX_CONCURRENT_STREAMS, config.streams_max)),
        Role::Client => settings.push((setting::ENABLE_PUSH, 0)),
    }
    settings.push((setting::INITIAL_WINDOW_SIZE, config.stream_window));
    settings.push((setting::MAX_HEADER_LIST_SIZE, list));
    if config.connect_protocol {
        settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
    }
    frame::put_settings(out, &settings);
    if let Some(more) = config.connection_window.checked_sub(WINDOW_DEFAULT).filter(|more| *more > 0) {
        frame::put_window_update(out, 0, more);
    }
}
