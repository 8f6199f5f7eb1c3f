//! Who watches idle connections: one task for all of a shelf, which sleeps until one of them ends or has been idle for too
//! long.
//!
//! Being entered for the socket's end, and giving its buffers back, would cost a connection something each time that it
//! becomes idle; most are used again at once. So the task looks at new ones together, a moment later, and not at all where
//! nothing is new.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{sleep, sleep_until};
use weft_core::time::Moment;

use crate::clock::Clock;

/// So much later new ones are looked at.
const SETTLE: Duration = Duration::from_millis(250);

/// The task, as those know it who have something for it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    runs: Cell<bool>,
    /// There are connections that it does not watch yet.
    new: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Watch {
    /// One more connection is idle. Whether nobody watches: then the caller has [`Self::run`] run.
    pub(super) fn add(&self) -> bool {
        if !self.new.replace(true) {
            self.wake();
        }
        !self.runs.replace(true)
    }

    /// Has it look again: something else is known of how long connections may be idle.
    pub(super) fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// How late it may be noticed now that a connection has ended.
    pub(super) fn late(&self) -> Duration {
        if self.new.get() { SETTLE } else { Duration::ZERO }
    }

    /// Looks at all when new ones have settled, when one of them has something to say, when it is woken, and at the moment
    /// that the last look named; until that is none.
    ///
    /// Without the runtime's budget: it would be used up after some connections, and they would be looked at again.
    pub(super) async fn run(&self, clock: Clock, mut look: impl FnMut(&mut Context<'_>) -> Option<Moment>) {
        let looking = async {
            loop {
                if self.new.get() {
                    sleep(SETTLE).await;
                }
                let next = poll_fn(|cx| {
                    self.task.replace(Some(cx.waker().clone()));
                    Poll::Ready(look(cx))
                });
                let Some(next) = next.await else { return };
                self.new.set(false);
                woken_or_at(clock.instant(next)).await;
            }
        };
        unconstrained(looking).await;
        self.task.take();
        self.new.set(false);
        self.runs.set(false);
    }
}

/// Until the task is woken for whatever reason, at the latest at this time.
async fn woken_or_at(time: tokio::time::Instant) {
    let mut timer = pin!(sleep_until(time));
    let mut begun = false;
    poll_fn(|cx| if std::mem::replace(&mut begun, true) { Poll::Ready(()) } else { timer.as_mut().poll(cx) }).await;
}
