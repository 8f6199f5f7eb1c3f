//! One direction of a relay.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::pipe::{Pipe, is_unsupported};
use super::reserve::{Buffer, Reserve, SMALL_BYTES};
use crate::io::Stream;

/// Bytes that one direction may move before the others of its worker have their turn.
const TURN_BYTES_MAX: u64 = 256 << 10;

/// Bytes that come in bulk before the kernel moves them: a pipe costs more calls than copying, which short exchanges save.
const SPLICE_AFTER: u64 = 64 << 10;

/// Bytes between two moments at which the source has nothing more, for it to count as bulk.
const BURST_BYTES: u64 = 16 << 10;

/// Which end of a direction broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Reading,
    Writing,
}

#[derive(Debug, Default)]
pub(super) struct Direction {
    held: Held,
    moved: u64,
    /// Read since the source last had nothing more.
    burst: u64,
    /// Read in bulk.
    bulk: u64,
    copies: bool,
    unflushed: bool,
    state: State,
}

/// Read and not written yet.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Bytes {
        buffer: Buffer,
        start: usize,
        end: usize,
    },
    Piped(Pipe),
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Moving,
    Closing,
    Closed,
    /// Nothing more is moved: the other end takes nothing.
    Refused,
}

impl Direction {
    /// Bytes that the other end has taken.
    pub(super) const fn moved(&self) -> u64 {
        self.moved
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reserve: &Reserve,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Result<(), Broken>> {
        let turn_ends = self.moved + TURN_BYTES_MAX;
        loop {
            if self.moved >= turn_ends {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Refused => {
                    self.held = Held::Nothing;
                    return Poll::Ready(Err(Broken::Writing));
                }
                State::Closing => {
                    // Failing to end in order is no news: the other direction says how the peer is.
                    if ready!(Pin::new(&mut *to).poll_shutdown(cx)).is_err() {
                        tracing::trace!("peer was gone at the end of a direction");
                    }
                    self.state = State::Closed;
                }
                State::Moving if !matches!(self.held, Held::Nothing) => match self.poll_write(cx, to) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => self.state = State::Refused,
                    Poll::Pending => {
                        self.shrink();
                        return Poll::Pending;
                    }
                },
                State::Moving => match self.poll_read(cx, reserve, from, to) {
                    Poll::Ready(Ok(0)) => self.state = State::Closing,
                    Poll::Ready(Ok(count)) => {
                        self.burst += count as u64;
                        self.bulk += count as u64;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Reading)),
                    Poll::Pending => {
                        self.end_burst();
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

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        reserve: &Reserve,
        from: &mut Stream,
        to: &Stream,
    ) -> Poll<io::Result<usize>> {
        if self.bulk >= SPLICE_AFTER && !self.copies && from.is_plain() && to.is_plain() {
            match ready!(from.poll_fill(cx, || reserve.take_pipe())) {
                Ok(Some((pipe, count))) => {
                    if count > 0 {
                        self.held = Held::Piped(pipe);
                    }
                    return Poll::Ready(Ok(count));
                }
                Ok(None) => {}
                Err(error) if is_unsupported(&error) => self.copies = true,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let mut buffer = reserve.take_buffer();
        let mut read = ReadBuf::new(&mut buffer);
        let outcome = Pin::new(from).poll_read(cx, &mut read);
        let end = read.filled().len();
        if end > 0 {
            self.held = Held::Bytes { buffer, start: 0, end };
        }
        outcome.map_ok(|()| end)
    }

    /// Writes once; what is held is given back when all of it is written.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        let (count, is_all) = match &mut self.held {
            Held::Nothing => return Poll::Ready(Ok(())),
            Held::Bytes { buffer, start, end } => {
                let waiting = buffer.get(*start..*end).unwrap_or_default();
                let count = ready!(Pin::new(to).poll_write(cx, waiting))?;
                *start += count;
                (count, start == end)
            }
            Held::Piped(pipe) => match ready!(to.poll_drain(cx, pipe)) {
                Ok(count) => (count, pipe.is_empty()),
                Err(error) if is_unsupported(&error) => return Poll::Ready(self.copy_from_now_on()),
                Err(error) => return Poll::Ready(Err(error)),
            },
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.moved += count as u64;
        self.unflushed = true;
        if is_all {
            self.held = Held::Nothing;
        }
        Poll::Ready(Ok(()))
    }

    fn copy_from_now_on(&mut self) -> io::Result<()> {
        self.copies = true;
        if let Held::Piped(pipe) = std::mem::take(&mut self.held) {
            let buffer = Buffer::own(pipe.into_bytes()?);
            self.held = Held::Bytes { start: 0, end: buffer.len(), buffer };
        }
        Ok(())
    }

    /// The source has nothing more for now.
    const fn end_burst(&mut self) {
        if self.burst < BURST_BYTES {
            self.bulk = 0;
        }
        self.burst = 0;
    }

    /// Gives a large buffer back that holds little: who must wait may wait for long. What is left has one of its own size.
    fn shrink(&mut self) {
        if let Held::Bytes { buffer, start, end } = &mut self.held
            && *end - *start <= SMALL_BYTES
            && buffer.len() > SMALL_BYTES
        {
            let rest = buffer.get(*start..*end).unwrap_or_default().to_vec();
            (*start, *end) = (0, rest.len());
            *buffer = Buffer::own(rest);
        }
    }
}
