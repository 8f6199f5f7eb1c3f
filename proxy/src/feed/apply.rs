//! From a step of the stream to the snapshot that everybody reads.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_core::model::decode::name_of;
use weft_core::snapshot::{Snapshot, apply};
use weft_core::sync::Step;
use weft_proto::v1;

use super::status::FeedStatus;

/// Refused resources that are remembered, for the gauge only.
const REJECTED_MAX: usize = 10_000;

/// The place where knowledge is published.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) status: Arc<FeedStatus>,
    swaps: watch::Sender<u64>,
    bundle: watch::Sender<Option<v1::TrustBundle>>,
    rejected: HashSet<(i32, String)>,
}

impl Publisher {
    pub(super) fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        swaps: watch::Sender<u64>,
        bundle: watch::Sender<Option<v1::TrustBundle>>,
    ) -> Self {
        Self { snapshot, status: Arc::default(), swaps, bundle, rejected: HashSet::new() }
    }

    /// Publishes a step: the next snapshot is built aside, then swapped, then those who wait are woken.
    pub(super) fn publish(&mut self, step: &Step) {
        if let Some(bundle) = &step.bundle {
            self.bundle.send_if_modified(|held| {
                let changed = held.as_ref() != Some(bundle);
                *held = Some(bundle.clone());
                changed
            });
        }
        if !step.is_update() {
            return;
        }
        self.note_rejections(step);
        let next = apply(&self.snapshot.load(), step.update.clone());
        self.status.applied(next.revision(), self.rejected.len());
        self.snapshot.store(Arc::new(next));
        self.swaps.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn note_rejections(&mut self, step: &Step) {
        let accepted = step.update.upserts.iter().map(|upsert| upsert.resource.id());
        for id in accepted.chain(step.update.removals.iter().cloned()) {
            let name = name_of(&id);
            self.rejected.remove(&(name.kind, name.name));
        }
        for refusal in &step.refusals {
            tracing::warn!(resource = %refusal.name.name, problems = %refusal.problems, "configuration refused; its last good form stays");
            if self.rejected.len() < REJECTED_MAX {
                self.rejected.insert((refusal.name.kind, refusal.name.name.clone()));
            }
        }
    }
}
