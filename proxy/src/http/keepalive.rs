//! PING on HTTP/2 connections: a peer behind a black hole is noticed while streams wait for it.
//!
//! Any byte that arrives after the PING is a sign of life: on a slow link the answer stands behind megabytes, and an
//! application that is busy answers late.
//!
//! An idle connection is not pinged: nobody waits, and a fleet of idle proxies must cost nothing but one timer tick each.
//! It is given up after the idle timeout. Servers other than sidecars are never pinged: those of gRPC count PINGs and end
//! connections with more than they like. A head whose end does not come blocks all streams, as nothing may stand between
//! its frames, and ends the connection.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::HttpLimits;
use super::h2_drive::Drive;

/// A stream that its client resets sooner than this after opening it was not worth opening: concurrent streams bound how
/// many longer ones there can be.
const PREMATURE: Duration = Duration::from_millis(10);

/// How many streams of a connection are open, and how many have ever been.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Cell<usize>,
    opened: Cell<u64>,
    premature: Cell<usize>,
}

impl Streams {
    /// Streams open now.
    pub(crate) const fn open(&self) -> usize {
        self.open.get()
    }

    /// By how many more streams were reset as soon as they were open than were not.
    pub(crate) const fn premature(&self) -> usize {
        self.premature.get()
    }
}

/// Counts one stream as open while it lives.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<Streams>);

impl InFlight {
    pub(crate) fn begin(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.opened.set(streams.opened.get() + 1);
        Self(Rc::clone(streams))
    }

    /// It has ended: reset by its client, or otherwise.
    pub(crate) fn end(self, begun: Instant, reset: bool) {
        let premature = &self.0.premature;
        let counts = reset && begun.elapsed() < PREMATURE;
        premature.set(if counts { premature.get() + 1 } else { premature.get().saturating_sub(1) });
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer owes the answer to a PING.
    Gone,
    /// No stream was open for the idle timeout.
    Idle,
    /// The end of a head did not come in time.
    Stuck,
}

/// Sends a PING each interval while there are streams, and waits for a sign of life.
pub(crate) struct KeepAlive {
    /// Whether the peer is to be asked.
    pings: bool,
    streams: Rc<Streams>,
    heard_before: u64,
    opened: u64,
    idle: Duration,
    idle_timeout: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    interval: Duration,
    timeout: Duration,
    head_timeout: Duration,
}

impl KeepAlive {
    pub(crate) fn new(pings: bool, streams: &Rc<Streams>, limits: &HttpLimits) -> Self {
        let (interval, timeout) = (limits.ping_interval, limits.ping_timeout);
        Self {
            pings,
            streams: Rc::clone(streams),
            heard_before: 0,
            opened: 0,
            idle: Duration::ZERO,
            idle_timeout: limits.idle_timeout,
            timer: Box::pin(sleep(interval)),
            waiting: false,
            interval,
            timeout,
            head_timeout: limits.head_timeout,
        }
    }

    /// Ready when the connection is to be closed; within one interval after the idle timeout for an idle one.
    pub(crate) fn poll(&mut self, drive: &Drive, cx: &mut Context<'_>) -> Poll<Verdict> {
        loop {
            if self.waiting && drive.bytes_read() != self.heard_before {
                // A PING that was answered by other bytes stays under way.
                self.waiting = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            if drive.section_older_than(self.head_timeout) {
                return Poll::Ready(Verdict::Stuck);
            }
            if self.waiting {
                return Poll::Ready(Verdict::Gone);
            }
            self.heard_before = drive.bytes_read();
            let active = self.streams.open() > 0;
            let quiet = !active && self.opened == self.streams.opened.get();
            self.opened = self.streams.opened.get();
            self.idle = if quiet { self.idle + self.interval } else { Duration::ZERO };
            if quiet && self.idle >= self.idle_timeout {
                // Time for what is on its way, before the verdict is repeated.
                self.timer.as_mut().reset(Instant::now() + self.interval);
                return Poll::Ready(Verdict::Idle);
            }
            self.waiting = self.pings && active && drive.shared().borrow_mut().ping();
            let next = if self.waiting { self.timeout } else { self.interval };
            self.timer.as_mut().reset(Instant::now() + next);
        }
    }
}
