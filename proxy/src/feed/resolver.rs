//! How a worker learns where an original destination leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::FeedStatus;
use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use weft_core::snapshot::{Snapshot, Target};

/// How long a connection waits for the control plane's answer about its destination.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// Questions on their way to the control thread. A full queue makes askers wait, within their deadline.
pub(super) const QUESTIONS_MAX: usize = 1024;

/// As [`ANSWER_DEADLINE`], while the stream is lost: it may be back at any moment.
const AWAY_DEADLINE: Duration = Duration::from_millis(50);

/// A worker's handle to the feed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Resolver {
    snapshot: Arc<ArcSwap<Snapshot>>,
    questions: mpsc::Sender<SocketAddr>,
    swaps: watch::Receiver<u64>,
    status: Arc<FeedStatus>,
}

impl Resolver {
    pub(super) fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        questions: mpsc::Sender<SocketAddr>,
        swaps: watch::Receiver<u64>,
        status: Arc<FeedStatus>,
    ) -> Self {
        Self { snapshot, questions, swaps, status }
    }

    /// One without a control plane, for static mode: what the snapshot does not know is not asked.
    #[must_use]
    pub fn offline(snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        let (questions, _) = mpsc::channel(1);
        let (_, swaps) = watch::channel(0);
        Self { snapshot, questions, swaps, status: Arc::default() }
    }

    /// The snapshot of the moment is behind this.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<ArcSwap<Snapshot>> {
        &self.snapshot
    }

    /// Where a connection to `dst` goes: at once if that is known, else after asking the control plane, at most
    /// `deadline` later (usually [`ANSWER_DEADLINE`]). Never [`Target::Ask`]. Cancelling loses nothing: an answer that
    /// comes later serves the next connection.
    pub async fn resolve(&self, dst: SocketAddr, deadline: Duration) -> Target {
        let target = self.snapshot.load().outbound_target(dst);
        let Target::Ask { .. } = target else { return target };
        // A control plane that is away does not answer; waiting for it would slow down every new connection.
        let away = self.status.connects() > 0 && !self.status.is_connected();
        let deadline = if away { deadline.min(AWAY_DEADLINE) } else { deadline };
        match tokio::time::timeout(deadline, self.ask(dst)).await {
            Ok(Some(target)) => target,
            Ok(None) | Err(_) => {
                let snapshot = self.snapshot.load();
                match snapshot.outbound_target(dst) {
                    Target::Ask { mesh_range } => snapshot.unanswered(mesh_range),
                    target @ (Target::Service { .. } | Target::Passthrough | Target::Refused(_)) => target,
                }
            }
        }
    }

    /// `None`: nobody will answer.
    async fn ask(&self, dst: SocketAddr) -> Option<Target> {
        let mut swaps = self.swaps.clone();
        // Marked before the question, so that no answer falls between.
        swaps.mark_unchanged();
        self.questions.send(dst).await.ok()?;
        loop {
            match self.snapshot.load().outbound_target(dst) {
                Target::Ask { .. } => swaps.changed().await.ok()?,
                target @ (Target::Service { .. } | Target::Passthrough | Target::Refused(_)) => return Some(target),
            }
        }
    }
}
