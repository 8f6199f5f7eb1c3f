//! What a connection waits for besides its next message: that its time is over, or that the proxy drains.
//!
//! Both would cost more than reading the message if they were asked anew for each: a timer goes into the runtime's wheel
//! and out again, and so does who waits for a signal, every time under a lock. So each is asked once and stays asked. A
//! timer that goes off too early, because messages came meanwhile, is set again then and not before.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep};

use crate::runtime::drain::Draining;

/// Waits for one task, which may ask as often as it likes.
pub(crate) struct Standby<'a, D> {
    timer: Pin<&'a mut Sleep>,
    draining: Pin<&'a mut D>,
    drain: &'a Draining,
    /// Who is woken when the proxy drains, and by the timer if that runs.
    asked_by: Option<Waker>,
    timer_runs: bool,
}

impl<'a, D: Future<Output = ()>> Standby<'a, D> {
    /// `draining`: of `drain`.
    pub(crate) const fn new(timer: Pin<&'a mut Sleep>, draining: Pin<&'a mut D>, drain: &'a Draining) -> Self {
        Self { timer, draining, drain, asked_by: None, timer_runs: false }
    }

    /// Whether the proxy drains.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }

    /// Ready at `deadline`.
    pub(crate) fn poll_deadline(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.ask(cx);
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        } else if self.timer_runs && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        self.timer_runs = true;
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Ready once the proxy drains.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ask(cx);
        if self.is_draining() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn ask(&mut self, cx: &mut Context<'_>) {
        if self.asked_by.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            return;
        }
        (self.asked_by, self.timer_runs) = (Some(cx.waker().clone()), false);
        if !self.is_draining() {
            let begins = self.draining.as_mut().poll(cx).is_ready();
            debug_assert!(!begins || self.is_draining(), "should it begin just now, the signal says so");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::task::LocalSet;
    use tokio::time::sleep;

    use super::*;
    use crate::runtime::drain::drain;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn deadlines_move_both_ways() {
        LocalSet::new().run_until(deadlines()).await;
    }

    async fn deadlines() {
        let (_trigger, signal) = drain();
        let drain = signal.here();
        let (timer, draining) = (pin!(sleep(10 * SECOND)), pin!(drain.draining()));
        let mut standby = Standby::new(timer, draining, &drain);
        let begun = Instant::now();
        for (asked, then, expected) in [(10, 15, 15), (100, 16, 16), (17, 40, 40)] {
            let mut wakes = 0;
            poll_fn(|cx| {
                wakes += 1;
                if wakes == 1 {
                    assert!(standby.poll_deadline(begun + asked * SECOND, cx).is_pending());
                }
                standby.poll_deadline(begun + then * SECOND, cx)
            })
            .await;
            assert_eq!(begun.elapsed().as_secs(), expected);
            assert!(wakes <= 3, "{wakes}: a timer that goes off too early is set once");
        }
    }

    #[tokio::test]
    async fn the_drain_is_heard_by_whoever_waits_now() {
        LocalSet::new().run_until(drained()).await;
    }

    async fn drained() {
        let (trigger, signal) = drain();
        let drain = signal.here();
        let (timer, draining) = (pin!(sleep(10 * SECOND)), pin!(drain.draining()));
        let mut standby = Standby::new(timer, draining, &drain);
        assert!(standby.poll_drain(&mut Context::from_waker(Waker::noop())).is_pending());
        let starting = async {
            tokio::task::yield_now().await;
            trigger.start();
        };
        let waiting = poll_fn(|cx| standby.poll_drain(cx));
        let both = tokio::time::timeout(30 * SECOND, futures_util::future::join(waiting, starting));
        both.await.expect("nobody was told");
        assert!(standby.poll_drain(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}
