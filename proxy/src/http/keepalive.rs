//! PING on HTTP/2 connections: a peer behind a black hole is noticed while streams wait for it.
//!
//! An idle connection is left alone: nobody waits, and a fleet of idle proxies must cost nothing but one timer tick each.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::HttpLimits;

/// Sends a PING each interval while there are streams, and waits for its answer.
pub(crate) struct KeepAlive {
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    interval: Duration,
    timeout: Duration,
}

impl KeepAlive {
    pub(crate) fn new(pings: Option<PingPong>, limits: &HttpLimits) -> Self {
        let (interval, timeout) = (limits.ping_interval, limits.ping_timeout);
        Self { pings, timer: Box::pin(sleep(interval)), waiting: false, interval, timeout }
    }

    /// Ready once the peer owes an answer for too long. `active`: whether streams are open.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, active: bool) -> Poll<()> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        loop {
            if self.waiting && matches!(pings.poll_pong(cx), Poll::Ready(Ok(_))) {
                self.waiting = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            if self.waiting {
                return Poll::Ready(());
            }
            self.waiting = active && pings.send_ping(Ping::opaque()).is_ok();
            let next = if self.waiting { self.timeout } else { self.interval };
            self.timer.as_mut().reset(Instant::now() + next);
        }
    }
}
