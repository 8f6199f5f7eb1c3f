//! Bytes both ways between two streams, until both directions have ended.
//!
//! Each direction has one buffer that starts small and grows while the traffic fills it, so an idle connection holds
//! little and a bulk transfer makes few system calls. A direction reads only when its buffer is empty: that is the
//! backpressure. The end of one side's sending is passed on as the end of sending, a reset as a reset.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use weft_core::fault::FaultKind;

use crate::io::Stream;

/// Sizes of a direction's buffer; it takes the next one when a read fills it.
const BUFFER_SIZES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

/// Bytes that one direction may move before the others of its worker have their turn.
const TURN_BYTES_MAX: u64 = 256 << 10;

/// How a relay ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayEnd {
    /// Bytes from downstream to upstream.
    pub up: u64,
    /// Bytes from upstream to downstream.
    pub down: u64,
    /// Who broke it; `None` when both ended in order.
    pub fault: Option<FaultKind>,
}

/// Bytes moved so far, for whoever outlives a relay that is cancelled.
#[derive(Debug, Default)]
pub struct Moved {
    up: Cell<u64>,
    down: Cell<u64>,
}

impl Moved {
    /// As an end with this fault.
    #[must_use]
    pub fn ended(&self, fault: Option<FaultKind>) -> RelayEnd {
        RelayEnd { up: self.up.get(), down: self.down.get(), fault }
    }
}

/// Relays until both directions have ended or one side breaks; keeps `moved` up to date. Cancelling closes both.
pub async fn relay(mut downstream: Stream, mut upstream: Stream, moved: &Moved) -> RelayEnd {
    let (mut up, mut down) = (Direction::new(), Direction::new());
    let ended = poll_fn(|cx| {
        let sent = up.poll(cx, &mut downstream, &mut upstream);
        let received = down.poll(cx, &mut upstream, &mut downstream);
        moved.up.set(up.moved);
        moved.down.set(down.moved);
        match (sent, received) {
            (Poll::Ready(Err(Broken::Reading)), _) => Poll::Ready(Err(FaultKind::DownstreamReset)),
            (_, Poll::Ready(Err(Broken::Reading))) => Poll::Ready(Err(FaultKind::UpstreamReset)),
            // Who cannot be written to may have said something before it left: that is delivered first.
            (Poll::Ready(Err(Broken::Writing)), Poll::Ready(_)) => Poll::Ready(Err(FaultKind::UpstreamReset)),
            (Poll::Ready(_), Poll::Ready(Err(Broken::Writing))) => Poll::Ready(Err(FaultKind::DownstreamReset)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Pending, _) | (_, Poll::Pending) => Poll::Pending,
        }
    })
    .await;
    let end = moved.ended(ended.err());
    if end.fault.is_some() {
        downstream.abort();
        upstream.abort();
    }
    end
}

/// Which end of a direction broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Reading,
    Writing,
}

#[derive(Debug)]
struct Direction {
    buffer: Vec<u8>,
    size: usize,
    start: usize,
    end: usize,
    moved: u64,
    unflushed: bool,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Moving,
    Closing,
    Closed,
    /// Nothing more is moved: the other end takes nothing.
    Refused,
}

impl Direction {
    const fn new() -> Self {
        Self { buffer: Vec::new(), size: 0, start: 0, end: 0, moved: 0, unflushed: false, state: State::Moving }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<Result<(), Broken>> {
        let turn_ends = self.moved + TURN_BYTES_MAX;
        loop {
            if self.moved >= turn_ends {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Refused => {
                    // Goes on sending, perhaps: within its window, and not at the cost of the link that others share.
                    from.poll_ahead(cx);
                    return Poll::Ready(Err(Broken::Writing));
                }
                State::Closing => {
                    // Failing to end in order is no news: the other direction says how the peer is.
                    if ready!(Pin::new(&mut *to).poll_shutdown(cx)).is_err() {
                        tracing::trace!("peer was gone at the end of a direction");
                    }
                    self.state = State::Closed;
                    self.buffer = Vec::new();
                }
                State::Moving if self.start < self.end => match self.poll_write(cx, to) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => self.state = State::Refused,
                    Poll::Pending => {
                        from.poll_ahead(cx);
                        return Poll::Pending;
                    }
                },
                State::Moving => match self.poll_read(cx, from) {
                    Poll::Ready(Ok(0)) => self.state = State::Closing,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Reading)),
                    Poll::Pending => {
                        if self.unflushed {
                            if ready!(Pin::new(&mut *to).poll_flush(cx)).is_err() {
                                self.state = State::Refused;
                                continue;
                            }
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut Stream) -> Poll<io::Result<usize>> {
        let wanted = BUFFER_SIZES.get(self.size).copied().unwrap_or(BUFFER_SIZES[0]);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let mut read = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        if count == wanted && self.size + 1 < BUFFER_SIZES.len() {
            self.size += 1;
        }
        (self.start, self.end) = (0, count);
        Poll::Ready(Ok(count))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        let count = ready!(Pin::new(to).poll_write(cx, waiting))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.start += count;
        self.moved += count as u64;
        self.unflushed = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), Stream::plain(far.unwrap().0))
    }

    #[tokio::test]
    async fn both_directions_end_apart() {
        let moved = Moved::default();
        let ((mut client, downstream), (mut server, upstream)) = tokio::join!(pair(), pair());
        let relayed = tokio::task::LocalSet::new();
        let body = vec![7_u8; 3 << 20];
        let (end, (), got) = relayed
            .run_until(async {
                tokio::join!(
                    relay(downstream, upstream, &moved),
                    async {
                        client.write_all(&body).await.unwrap();
                        client.shutdown().await.unwrap();
                    },
                    async {
                        let mut got = Vec::new();
                        server.read_to_end(&mut got).await.unwrap();
                        server.write_all(b"all of it").await.unwrap();
                        drop(server);
                        got.len()
                    }
                )
            })
            .await;
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.unwrap();
        assert_eq!((got, reply.as_str()), (3 << 20, "all of it"));
        assert_eq!(end, RelayEnd { up: 3 << 20, down: 9, fault: None });
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_a_reset() {
        let moved = Moved::default();
        let ((client, downstream), (mut server, upstream)) = tokio::join!(pair(), pair());
        crate::net::reset(client);
        let end = tokio::time::timeout(Duration::from_secs(5), relay(downstream, upstream, &moved)).await.unwrap();
        assert_eq!(end.fault, Some(FaultKind::DownstreamReset));
        assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    /// A server may say why before it hangs up on a client that is still sending.
    #[tokio::test]
    async fn the_last_words_of_who_cannot_be_written_to_are_delivered() {
        let moved = Moved::default();
        let ((mut client, downstream), (mut server, upstream)) = tokio::join!(pair(), pair());
        let ending = async {
            server.read_exact(&mut [0; 4]).await.unwrap();
            server.write_all(b"too large").await.unwrap();
            // With bytes unread this closes by a reset.
            drop(server);
        };
        let sending = async {
            let mut said = Vec::new();
            let (mut reading, mut writing) = client.split();
            let talk = async { while writing.write_all(&[7; 4096]).await.is_ok() {} };
            tokio::select! {
                () = talk => {}
                _ = reading.read_to_end(&mut said) => {}
            }
            reading.read_to_end(&mut said).await.unwrap_or_default();
            said
        };
        let (end, (), said) = tokio::time::timeout(Duration::from_secs(5), async {
            tokio::join!(relay(downstream, upstream, &moved), ending, sending)
        })
        .await
        .unwrap();
        assert_eq!((end.down, end.fault), (9, Some(FaultKind::UpstreamReset)));
        drop(said);
    }
}
