//! Finds out what a connection speaks before anything is decided about it (T7-T9, U7).
//!
//! A client that says nothing may be waiting for its server to speak first, as SMTP and MySQL clients do. So after a
//! short silence (none where it is remembered) the caller's `dial` opens the way upstream as bytes, and both ends are
//! listened to: the server's first bytes make the connection opaque, unless they are how an HTTP server begins; a client
//! that speaks after all takes the normal path.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use weft_core::detect::{ClientHello, Detected, PREFIX_BYTES_MAX, ServerFirst, detect, first_server_bytes};
use weft_core::fault::FaultKind;
use weft_core::time::Moment;

use crate::http::spare;
use crate::io::Stream;

/// Destinations remembered as server-speaks-first, per worker.
const REMEMBERED_MAX: usize = 1024;

/// How long that is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// How long a client that must speak first may be silent.
const SILENT_MAX: Duration = Duration::from_secs(600);

/// Read at once; a request head or a ClientHello usually fits.
const READ_BYTES: usize = 4096;

/// What a connection turned out to be. The bytes read are back in the stream.
#[derive(Debug)]
pub enum Peeked<U> {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS, with its whole ClientHello at the front of the stream.
    Tls(ClientHello),
    /// Bytes; with the connection upstream, where one was opened already.
    Opaque(Option<U>),
    /// The client left without a word.
    Left,
}

/// Remembers on which destinations servers speak first. Bounded; forgets after ten minutes.
#[derive(Debug, Default)]
pub struct FirstBytes {
    server_first: HashMap<SocketAddr, Moment>,
}

impl FirstBytes {
    /// Whether the server at `to` was seen to speak first lately.
    #[must_use]
    pub fn is_server_first(&self, to: SocketAddr, now: Moment) -> bool {
        self.server_first.get(&to).is_some_and(|until| now < *until)
    }

    /// Remembers it.
    pub fn remember(&mut self, to: SocketAddr, now: Moment) {
        if self.server_first.len() >= REMEMBERED_MAX {
            self.server_first.retain(|_, until| now < *until);
        }
        if self.server_first.len() < REMEMBERED_MAX {
            self.server_first.insert(to, now + REMEMBERED_FOR);
        }
    }

    /// The client spoke first after all.
    pub fn forget(&mut self, to: SocketAddr) {
        self.server_first.remove(&to);
    }
}

/// A way upstream that was opened on speculation.
pub trait Speculative {
    /// Its bytes.
    fn stream(&mut self) -> &mut Stream;
}

/// Reads the client's first bytes until they say what they are. It must speak first: one that is silent for as long as an
/// idle connection may be is let go.
///
/// # Errors
/// `DetectTimeout` when first bytes have begun and are not decisive in time, `DownstreamReset` when the client breaks.
pub async fn peek<U>(client: &mut Stream, within: Duration) -> Result<Peeked<U>, FaultKind> {
    let mut prefix = BytesMut::new();
    let reading = read_until_decided(client, &mut prefix, within);
    let Ok(detected) = timeout(SILENT_MAX, reading).await else { return Ok(Peeked::Left) };
    settle(client, prefix, detected)
}

/// As [`peek`]; after `silence` from the client, `dial` is started, and whoever speaks first decides. Where the server
/// cannot be reached, the client still gets a moment to speak, so that the normal path can answer it with the reason.
///
/// # Errors
/// As [`peek`], and the fault of `dial` when the client stays silent.
pub async fn peek_speculating<U: Speculative>(
    client: &mut Stream,
    within: Duration,
    silence: Duration,
    dial: impl Future<Output = Result<U, FaultKind>>,
) -> Result<(Peeked<U>, Silence), FaultKind> {
    let mut prefix = BytesMut::new();
    let mut dialed = None;
    let outcome = {
        let mut deciding = pin!(read_until_decided(client, &mut prefix, within));
        let speculating = async {
            sleep(silence).await;
            match dial.await {
                Ok(upstream) => Ok(server_spoke(dialed.insert(upstream)).await),
                Err(fault) => {
                    sleep(LAST_WORD).await;
                    Err(fault)
                }
            }
        };
        tokio::select! {
            biased;
            detected = &mut deciding => Outcome::Client(detected),
            spoken = speculating => Outcome::Server(spoken?),
        }
    };
    match outcome {
        Outcome::Client(detected) => {
            let peeked = settle(client, prefix, detected)?;
            let broken = if dialed.is_some() { Silence::BrokenLate } else { Silence::Broken };
            let peeked = if let Peeked::Opaque(None) = peeked { Peeked::Opaque(dialed) } else { peeked };
            Ok((peeked, broken))
        }
        Outcome::Server(Spoken::Bytes) => {
            client.unread(prefix.freeze());
            Ok((Peeked::Opaque(dialed), Silence::ServerFirst))
        }
        Outcome::Server(Spoken::Nothing) => {
            client.unread(prefix.freeze());
            Ok((Peeked::Opaque(dialed), Silence::Broken))
        }
        Outcome::Server(Spoken::Http) => {
            drop(dialed);
            let detected = read_until_decided(client, &mut prefix, within).await;
            Ok((settle(client, prefix, detected)?, Silence::BrokenLate))
        }
    }
}

/// Who ended the silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The client, or nobody.
    Broken,
    /// The client, after a way upstream had been opened for it as bytes. A detector that only waits would have been wrong.
    BrokenLate,
    /// The server, with bytes that are not HTTP: worth remembering.
    ServerFirst,
}

/// How long a silent client has to speak after its server was found to be out of reach.
const LAST_WORD: Duration = Duration::from_secs(1);

enum Outcome {
    Client(Result<Option<Detected>, FaultKind>),
    Server(Spoken),
}

/// What a server did while its client was silent.
enum Spoken {
    /// It spoke, and not as an HTTP server does.
    Bytes,
    /// It closed without a word, which its client must see.
    Nothing,
    /// It began as an HTTP server does: the client decides.
    Http,
}

/// Reads into `prefix` until it is decided. Cancelling loses nothing: what was read is in `prefix`.
async fn read_until_decided(
    client: &mut Stream,
    prefix: &mut BytesMut,
    within: Duration,
) -> Result<Option<Detected>, FaultKind> {
    let mut deadline = None;
    loop {
        if !prefix.is_empty() {
            match detect(prefix, false) {
                Detected::NeedMore(_) => {}
                decided @ (Detected::Http1 | Detected::Http2 | Detected::Tls(_) | Detected::Opaque) => {
                    return Ok(Some(decided));
                }
            }
        }
        // A client that says nothing holds no buffer.
        let read = poll_fn(|cx| client.poll_read_room(cx, prefix, make_room));
        let read = match deadline {
            None => read.await,
            Some(at) => timeout_at(at, read).await.map_err(|_| FaultKind::DetectTimeout)?,
        };
        match read {
            Ok(0) if prefix.is_empty() => return Ok(None),
            Ok(0) => return Ok(Some(detect(prefix, true))),
            Ok(_) => deadline = deadline.or_else(|| Some(deadline_after(within))),
            Err(_) => return Err(FaultKind::DownstreamReset),
        }
    }
}

fn make_room(prefix: &mut BytesMut) {
    if prefix.capacity() == 0 {
        *prefix = spare::take();
    } else {
        prefix.reserve(READ_BYTES.min(PREFIX_BYTES_MAX));
    }
}

#[allow(clippy::disallowed_methods, reason = "a timer's deadline is in the runtime's own time")]
fn deadline_after(within: Duration) -> Instant {
    Instant::now() + within
}

fn settle<U>(
    client: &mut Stream,
    prefix: BytesMut,
    detected: Result<Option<Detected>, FaultKind>,
) -> Result<Peeked<U>, FaultKind> {
    client.unread(prefix.freeze());
    Ok(match detected? {
        None => Peeked::Left,
        Some(Detected::Http1) => Peeked::Http1,
        Some(Detected::Http2) => Peeked::Http2,
        Some(Detected::Tls(hello)) => Peeked::Tls(hello),
        Some(Detected::Opaque | Detected::NeedMore(_)) => Peeked::Opaque(None),
    })
}

/// Listens to a server whose client is silent. Its bytes are back in its stream.
async fn server_spoke<U: Speculative>(upstream: &mut U) -> Spoken {
    let stream = upstream.stream();
    let mut said = BytesMut::new();
    loop {
        match stream.read_buf(&mut said).await {
            Ok(0) | Err(_) if said.is_empty() => return Spoken::Nothing,
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        match first_server_bytes(&said) {
            ServerFirst::NeedMore => {}
            ServerFirst::Opaque => break,
            ServerFirst::Http2Settings | ServerFirst::Http1 => return Spoken::Http,
        }
    }
    stream.unread(Bytes::from(said));
    Spoken::Bytes
}
