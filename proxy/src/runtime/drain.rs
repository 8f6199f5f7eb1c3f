//! The signal that the proxy drains: connections finish what they have and end.
//!
//! It is given on another thread than those that heed it. Each worker waits for it once and wakes its connections, which
//! wait for it all their lives: as [`Draining`] that costs them hardly anything.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;

/// Turns the signal on, once and for good. Kept by whoever handles SIGTERM and the admin door.
#[derive(Debug)]
pub struct DrainTrigger {
    on: Arc<Switch>,
    wake: watch::Sender<()>,
}

impl DrainTrigger {
    /// Starts draining. Has no effect when it already runs.
    pub fn start(&self) {
        self.on.0.store(true, Ordering::Release);
        self.wake.send_replace(());
    }
}

/// Sees the signal, on any thread.
#[derive(Clone, Debug)]
pub struct DrainSignal {
    on: Arc<Switch>,
    wake: watch::Receiver<()>,
}

/// Looked at for every request by every worker, and written once: a look at the channel itself would take its lock, which
/// all workers share. In a line of the cache of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Switch(AtomicBool);

impl Switch {
    fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A trigger and its signal.
#[must_use]
pub fn drain() -> (DrainTrigger, DrainSignal) {
    let on = Arc::<Switch>::default();
    let (trigger, signal) = watch::channel(());
    (DrainTrigger { on: Arc::clone(&on), wake: trigger }, DrainSignal { on, wake: signal })
}

impl DrainSignal {
    /// The signal for the connections of this thread; for ever off when the trigger is gone without having fired. Must be
    /// called where local tasks can be spawned.
    #[must_use]
    pub fn here(self) -> Draining {
        let Self { on, mut wake } = self;
        let all = Rc::new(All { on, waiting: Notify::new() });
        let woken = Rc::clone(&all);
        spawn_local(async move {
            if wake.wait_for(|()| woken.is_on()).await.is_ok() {
                woken.waiting.notify_waiters();
            }
        });
        Draining { all, own: None }
    }
}

/// Whether a connection is to finish: because all of its kind are, or for a reason of its own.
#[derive(Clone, Debug)]
pub struct Draining {
    all: Rc<All>,
    own: Option<Rc<Flag>>,
}

#[derive(Debug)]
struct All {
    on: Arc<Switch>,
    waiting: Notify,
}

impl Draining {
    /// The same, or when this flag is raised.
    #[must_use]
    pub fn or(&self, own: Rc<Flag>) -> Self {
        Self { all: Rc::clone(&self.all), own: Some(own) }
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.all.is_on() || self.own.as_ref().is_some_and(|own| own.on.get())
    }

    /// Waits for the drain to start. Cancel at will.
    pub async fn draining(&self) {
        match &self.own {
            None => self.all.raised().await,
            Some(own) => tokio::select! {
                () = self.all.raised() => {}
                () = own.raised() => {}
            },
        }
    }
}

impl All {
    /// At once, whether its worker has woken for it or not.
    fn is_on(&self) -> bool {
        self.on.is_on()
    }

    async fn raised(&self) {
        let waiting = self.waiting.notified();
        if !self.is_on() {
            waiting.await;
        }
    }
}

/// Raised once, and seen by all who wait on this thread.
#[derive(Debug, Default)]
pub struct Flag {
    on: Cell<bool>,
    waiting: Notify,
}

impl Flag {
    /// For good.
    pub fn raise(&self) {
        self.on.set(true);
        self.waiting.notify_waiters();
    }

    async fn raised(&self) {
        let waiting = self.waiting.notified();
        if !self.on.get() {
            waiting.await;
        }
    }
}
