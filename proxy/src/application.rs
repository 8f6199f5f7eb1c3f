//! What deliveries tell of the local application: one that died stops accepting connections, and is then no longer told to
//! others as ready. Nothing is probed while it serves: some servers count connections that say nothing against their
//! sender (MySQL's `max_connect_errors`).

use std::sync::atomic::{AtomicU32, Ordering};

/// Connections refused in a row after which an application seems to be gone.
const REFUSALS_MAX: u32 = 3;

/// The application as the workers find it. Shared by all.
#[derive(Debug, Default)]
pub struct Application {
    refused: AtomicU32,
}

impl Application {
    /// It took a connection.
    pub fn accepted(&self) {
        // A plain look first: this is on the path of every connection.
        if self.refused.load(Ordering::Relaxed) != 0 {
            self.refused.store(0, Ordering::Relaxed);
        }
    }

    /// It refused a connection.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it has refused every connection lately.
    #[must_use]
    pub fn seems_gone(&self) -> bool {
        self.refused.load(Ordering::Relaxed) >= REFUSALS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_a_row_count() {
        let application = Application::default();
        for _ in 0..5 {
            application.refused();
            application.refused();
            application.accepted();
        }
        assert!(!application.seems_gone());
        (0..3).for_each(|_| application.refused());
        assert!(application.seems_gone());
        application.accepted();
        assert!(!application.seems_gone());
    }
}
