//! The signal that the proxy drains: connections finish what they have and end.

use tokio::sync::watch;

/// Turns the signal on, once and for good. Kept by whoever handles SIGTERM and the admin door.
#[derive(Debug)]
pub struct DrainTrigger(watch::Sender<bool>);

impl DrainTrigger {
    /// Starts draining. Has no effect when it already runs.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

/// Sees the signal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DrainSignal(watch::Receiver<bool>);

/// A trigger and its signal.
#[must_use]
pub fn drain() -> (DrainTrigger, DrainSignal) {
    let (trigger, signal) = watch::channel(false);
    (DrainTrigger(trigger), DrainSignal(signal))
}

impl DrainSignal {
    /// Whether the proxy drains.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the drain to start; for ever when the trigger is gone without having fired. Cancel at will.
    pub async fn draining(&self) {
        let mut signal = self.0.clone();
        if signal.wait_for(|on| *on).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
