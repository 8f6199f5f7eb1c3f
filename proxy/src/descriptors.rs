//! What the process's limit on descriptors suffices for.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Connections from downstream at most, in total; the limit is raised to carry it.
pub(crate) const CONNECTIONS_MAX: usize = 65_536;

/// Descriptors for everything but connections from downstream and one upstream for each: listeners, logs, the control
/// plane, idle connections, pipes.
const KEPT: usize = 1024;

/// How the descriptors are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Connections from downstream; each may need one upstream as well.
    pub(crate) connections: usize,
    /// Pipes that each worker may have open, of two descriptors.
    pub(crate) pipes: usize,
}

impl Budget {
    /// Of a process that may have so many. A quarter of them, at most [`KEPT`], is for everything but connections, so that
    /// no crowd at the doors keeps the proxy from renewing its identity or from serving whom it has let in; half of that is
    /// for the pipes of all workers, without which they do their work as well.
    const fn of(descriptors: usize, workers: usize) -> Self {
        let kept = if descriptors / 4 < KEPT { descriptors / 4 } else { KEPT };
        let sharing = if workers > 0 { workers } else { 1 };
        Self { connections: (descriptors - kept) / 2, pipes: kept / 2 / 2 / sharing }
    }

    /// Of this process, under the limit it has now.
    pub(crate) fn of_this_process(workers: usize) -> Self {
        let descriptors = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((limit, _)) => usize::try_from(limit).unwrap_or(usize::MAX),
            Err(error) => {
                tracing::warn!(%error, "descriptor limit is unknown");
                usize::MAX
            }
        };
        Self::of(descriptors, workers)
    }
}

/// Many connections need many descriptors; the hard limit is ours to use.
pub(crate) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        let wanted = hard.min((2 * CONNECTIONS_MAX + KEPT) as u64);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "descriptor limit stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_need_no_more_than_there_are() {
        for descriptors in [0, 7, 64, 256, 1024, 4096, 20_000, 2 * CONNECTIONS_MAX + KEPT, usize::MAX] {
            for workers in [0, 1, 2, 5, 64] {
                let Budget { connections, pipes } = Budget::of(descriptors, workers);
                let left = descriptors - 2 * connections;
                assert!(left <= KEPT + 1 && 2 * (2 * pipes * workers) <= left, "{descriptors}, {workers}");
            }
        }
    }

    #[test]
    fn connections_have_the_most_and_pipes_a_part_of_the_rest() {
        assert_eq!(Budget::of(1024, 1), Budget { connections: 384, pipes: 64 });
        assert_eq!(Budget::of(1024, 4), Budget { connections: 384, pipes: 16 });
        assert_eq!(Budget::of(2 * CONNECTIONS_MAX + KEPT, 4), Budget { connections: CONNECTIONS_MAX, pipes: 64 });
    }
}
