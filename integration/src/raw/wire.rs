//! One TCP connection driven byte by byte; a client's, or one that a [`super::Backend`] accepted.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Whatever is waited for comes within this, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Between pieces that are to arrive one by one: long enough that the reader nearly always reads each for itself.
const PIECE_GAP: Duration = Duration::from_millis(3);

/// How the peer's direction of a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer has ended its direction.
    Fin,
    /// The connection was reset.
    Reset,
    /// Neither, for as long as was waited.
    Open,
}

/// What one end of a connection does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reads until these bytes have come, after those that earlier steps waited for.
    Await(Vec<u8>),
    /// Sends bytes at once.
    Send(Vec<u8>),
    /// Sends bytes in pieces, each of which arrives for itself.
    Pieces(Vec<Vec<u8>>),
    /// Ends the own direction.
    HalfClose,
    /// Resets the connection; nothing can follow.
    Reset,
    /// Reads until the peer has ended its direction or reset the connection.
    AwaitEnd,
}

/// A connection and what has come on it.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    /// Up to where [`Self::read_past`] has looked.
    seen: usize,
    end: End,
}

impl Wire {
    /// Connects to a port of loopback.
    ///
    /// # Errors
    /// Nobody accepts there.
    pub async fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = timeout(DEADLINE, TcpStream::connect(("127.0.0.1", port))).await.context("no connection")?;
        Self::over(stream.with_context(|| format!("cannot connect to port {port}"))?)
    }

    /// Takes over a connection.
    ///
    /// # Errors
    /// It is gone already.
    pub fn over(stream: TcpStream) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new(), seen: 0, end: End::Open })
    }

    /// All that has been read so far.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// How the peer's direction stands, as far as was read.
    #[must_use]
    pub const fn end(&self) -> End {
        self.end
    }

    /// The socket, to set options of.
    #[must_use]
    pub const fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes, all at once as far as the peer takes them.
    ///
    /// # Errors
    /// The connection is closed, or takes nothing for [`DEADLINE`].
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let sent = timeout(DEADLINE, self.stream.write_all(bytes)).await.context("the peer does not read")?;
        sent.with_context(|| format!("sending {}", shown(bytes)))
    }

    /// Sends pieces with a moment between them, so that nearly every one is read for itself. Nothing tells when the other side
    /// has read: what a test asserts must hold however the pieces fall together.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_pieces<P: AsRef<[u8]>>(&mut self, pieces: impl IntoIterator<Item = P>) -> anyhow::Result<()> {
        for piece in pieces {
            self.send(piece.as_ref()).await?;
            sleep(PIECE_GAP).await;
        }
        Ok(())
    }

    /// Ends the own direction; reading goes on.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn half_close(&mut self) -> anyhow::Result<()> {
        self.stream.shutdown().await.context("half-close")
    }

    /// Resets the connection.
    ///
    /// # Errors
    /// The socket does not take the option that makes closing a reset.
    pub fn reset(self) -> anyhow::Result<()> {
        Ok(self.stream.set_zero_linger()?)
    }

    /// Reads until what has come altogether satisfies `enough`.
    ///
    /// # Errors
    /// The connection ends first, or [`DEADLINE`] passes; says what has come.
    pub async fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while !enough(&self.received) {
            match self.read_more(deadline).await {
                End::Open if Instant::now() < deadline => {}
                end @ (End::Fin | End::Reset | End::Open) => bail!("{end:?} after {}", shown(&self.received)),
            }
        }
        Ok(())
    }

    /// Reads until so many bytes have come altogether.
    ///
    /// # Errors
    /// As [`Self::read_until`].
    pub async fn read_bytes(&mut self, altogether: usize) -> anyhow::Result<()> {
        self.read_until(|received| received.len() >= altogether).await
    }

    /// Reads until `bytes` have come, after those that were waited for before.
    ///
    /// # Errors
    /// As [`Self::read_until`].
    pub async fn read_past(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let from = self.seen;
        let found = |received: &[u8]| find(received.get(from..).unwrap_or_default(), bytes);
        let read = self.read_until(|received| found(received).is_some()).await;
        read.with_context(|| format!("waiting for {}", shown(bytes)))?;
        self.seen = from + found(&self.received).unwrap_or_default() + bytes.len();
        Ok(())
    }

    /// Reads until the connection ends, for at most `within`. [`End::Open`] says that it did not.
    pub async fn read_to_end(&mut self, within: Duration) -> End {
        let deadline = Instant::now() + within;
        while self.end == End::Open && Instant::now() < deadline {
            self.read_more(deadline).await;
        }
        self.end
    }

    async fn read_more(&mut self, deadline: Instant) -> End {
        if self.end == End::Open {
            self.end = match timeout_at(deadline, self.stream.read_buf(&mut self.received)).await {
                Ok(Ok(0)) => End::Fin,
                Ok(Err(error)) if error.kind() != ErrorKind::Interrupted => End::Reset,
                Ok(Ok(_) | Err(_)) | Err(_) => End::Open,
            };
        }
        self.end
    }

    /// Does one step after the other. The connection is closed by dropping what is given back, if anything.
    ///
    /// # Errors
    /// The first step that cannot be done, by number from 1.
    pub async fn play(mut self, steps: &[Step]) -> anyhow::Result<Option<Self>> {
        self.perform(steps).await?;
        Ok((steps.last() != Some(&Step::Reset)).then_some(self))
    }

    /// As [`Self::play`], for those who want to know what has come whatever happened. A reset takes place when this is
    /// dropped.
    ///
    /// # Errors
    /// The first step that cannot be done, by number from 1.
    pub async fn perform(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        for (at, step) in steps.iter().enumerate() {
            let done = match step {
                Step::Await(bytes) => self.read_past(bytes).await,
                Step::Send(bytes) => self.send(bytes).await,
                Step::Pieces(pieces) => self.send_pieces(pieces).await,
                Step::HalfClose => self.half_close().await,
                Step::AwaitEnd => match self.read_to_end(DEADLINE).await {
                    End::Open => Err(anyhow::anyhow!("the peer does not end; it sent {}", shown(&self.received))),
                    End::Fin | End::Reset => Ok(()),
                },
                Step::Reset => {
                    ensure!(at + 1 == steps.len(), "steps after a reset");
                    self.stream.set_zero_linger().context("reset")
                }
            };
            done.with_context(|| format!("step {}", at + 1))?;
        }
        Ok(())
    }
}

/// Where `part` begins in `whole`.
#[must_use]
pub fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    whole.windows(part.len().max(1)).position(|window| window == part)
}

/// Bytes for a person to read: escaped, and cut in the middle when long.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 2000;
    if bytes.len() <= SHOWN_MAX {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let (start, end) = (bytes.get(..SHOWN_MAX / 2), bytes.get(bytes.len() - SHOWN_MAX / 2..));
    let part = |bytes: Option<&[u8]>| bytes.unwrap_or_default().escape_ascii().to_string();
    format!("\"{} … {}\" ({} bytes)", part(start), part(end), bytes.len())
}
