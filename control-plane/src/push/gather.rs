//! Changes gather for a moment, so that a burst of them is one update.

use std::time::Duration;

use tokio::time::Instant;

/// Changes gather until it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(20);

/// But for this long at most: changes without end must not hold up those that came first.
const GATHER_MAX: Duration = Duration::from_millis(200);

/// Changes that wait to be pushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    quiet: Instant,
    latest: Instant,
}

impl Gathering {
    /// One more change, or the first.
    pub(super) fn note(gathering: Option<Self>, now: Instant) -> Self {
        let latest = gathering.map_or(now + GATHER_MAX, |gathering| gathering.latest);
        Self { quiet: now + QUIET, latest }
    }

    /// When they are pushed.
    pub(super) fn due(self) -> Instant {
        self.quiet.min(self.latest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn neither_a_burst_nor_a_stream_of_changes_waits_longer_than_it_should(
            pauses in proptest::collection::vec(0..22_u64, 0..60),
        ) {
            let first = Instant::now();
            let (mut now, mut gathering) = (first, Gathering::note(None, first));
            for pause in pauses {
                let next = now + Duration::from_millis(pause);
                if next >= gathering.due() {
                    break;
                }
                now = next;
                gathering = Gathering::note(Some(gathering), now);
            }
            prop_assert_eq!(gathering.due(), (now + QUIET).min(first + GATHER_MAX));
        }
    }
}
