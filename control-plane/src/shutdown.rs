//! The request to end, as everything that must notice it holds it.

use tokio::sync::watch;

/// Asks for the end, once. Dropping it asks, too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Waits for the request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Both ends.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Asks for the end.
    pub fn pull(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns once the end was asked for. Streams that would last for ever select on it. Cancelling loses nothing.
    pub async fn requested(&self) {
        // An error means that the trigger is gone, which asks for the end, too.
        drop(self.0.clone().wait_for(|asked| *asked).await);
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}
