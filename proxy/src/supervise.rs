//! Keeps going what a proxy cannot do without: a task that a defect ends is started again, because a proxy that serves on
//! without it would fail much later, when its certificate expires or its knowledge is old, or let nobody in.
//!
//! Whoever starts a task gives what makes one attempt at it; what must outlast an attempt is owned by that maker. Tasks
//! that run for ever say so in their type, so here only panics are an end too early. Connections are no such tasks: a
//! defect ends the one that meets it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// First and longest pause before a task is started again. The longest is short beside a certificate's life.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// An attempt that lasted this long was a good one: the pauses begin anew.
const STEADY: Duration = Duration::from_secs(60);

/// A task of the proxy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Obtains and renews the certificate.
    Identity,
    /// Writes the identity to the disk.
    Storage,
    /// Follows what the control plane says of the mesh.
    Discovery,
    /// Keeps the instance in the registry.
    Registration,
    /// Answers the control plane's questions.
    Diagnostics,
    /// Sees when the proxy becomes ready.
    Readiness,
    /// Answers the workload's questions for names.
    Dns,
    /// Lets connections in; one for each door of a worker, one for what it is handed by others, and one for those that
    /// come back to it after they have waited.
    Accept,
    /// Gives the handshakes of a worker their turns.
    Handshakes,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Identity,
        Self::Storage,
        Self::Discovery,
        Self::Registration,
        Self::Diagnostics,
        Self::Readiness,
        Self::Dns,
        Self::Accept,
        Self::Handshakes,
    ];

    /// As logs and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Storage => "storage",
            Self::Discovery => "discovery",
            Self::Registration => "registration",
            Self::Diagnostics => "diagnostics",
            Self::Readiness => "readiness",
            Self::Dns => "dns",
            Self::Accept => "accept",
            Self::Handshakes => "handshakes",
        }
    }
}

/// Starts tasks again, and counts how often. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    restarts: Arc<[AtomicU64; Task::ALL.len()]>,
}

impl Supervisor {
    /// Each task with the number of times that it was started again.
    pub fn restarts(&self) -> impl Iterator<Item = (Task, u64)> {
        Task::ALL.into_iter().zip(self.restarts.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Runs attempts at a task until one comes to its end, and gives what that gave. After a panic there is another one,
    /// with jittered, growing back-off. Cancelling ends the attempt, or the pause.
    pub async fn keep<T, F: Future<Output = T>>(&self, task: Task, mut attempt: impl FnMut() -> F) -> T {
        let mut backoff = BACKOFF_MIN;
        loop {
            let begun = Instant::now();
            // Whatever an attempt was changing is its maker's to make whole again.
            if let Ok(ended) = AssertUnwindSafe(async { attempt().await }).catch_unwind().await {
                return ended;
            }
            self.count(task);
            if begun.elapsed() >= STEADY {
                backoff = BACKOFF_MIN;
            }
            let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
            tracing::error!(task = task.name(), again_in = ?pause, "a task was ended by a defect of this proxy and is started again; please report it");
            tokio::time::sleep(pause).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// [`Supervisor::keep`] as a task of this runtime.
    pub fn spawn<T: Send + 'static, F: Future<Output = T> + Send>(
        &self,
        task: Task,
        attempt: impl FnMut() -> F + Send + 'static,
    ) -> JoinHandle<T> {
        let supervisor = self.clone();
        tokio::spawn(async move { supervisor.keep(task, attempt).await })
    }

    fn count(&self, task: Task) {
        for (one, count) in Task::ALL.iter().zip(self.restarts.iter()) {
            count.fetch_add((*one == task).into(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    fn restarts(supervisor: &Supervisor, task: Task) -> u64 {
        supervisor.restarts().find(|(one, _)| *one == task).unwrap().1
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_runs_again_until_it_ends() {
        let supervisor = Supervisor::default();
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            // One defect before the task's first step, others behind a pause.
            assert_ne!(attempts.get(), 1, "a defect");
            async {
                tokio::task::yield_now().await;
                assert!(attempts.get() > 5, "a defect");
                "ended"
            }
        };
        assert_eq!(supervisor.keep(Task::Discovery, attempt).await, "ended");
        assert_eq!(attempts.get(), 6);
        assert_eq!(restarts(&supervisor, Task::Discovery), 5);
        assert_eq!(supervisor.restarts().map(|(_, count)| count).sum::<u64>(), 5, "each under its own name");
    }

    /// Goal: pauses grow to a bound, and begin anew after an attempt that lasted.
    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_are_bounded() {
        let (supervisor, attempts) = (Supervisor::default(), Cell::new(0));
        let (ended, pauses) = (Cell::new(Instant::now()), Cell::new(Vec::new()));
        let attempt = async || {
            attempts.set(attempts.get() + 1);
            let mut all = pauses.take();
            all.push(ended.get().elapsed());
            pauses.set(all);
            if attempts.get() == 20 {
                tokio::time::sleep(STEADY).await;
            }
            ended.set(Instant::now());
            assert_eq!(attempts.get(), 21, "a defect");
        };
        supervisor.keep(Task::Identity, attempt).await;
        let pauses = pauses.take();
        let at_most = |index: usize, most: Duration| {
            // The clock of a paused runtime goes by milliseconds.
            let least = most / 2;
            assert!(pauses[index] >= least && pauses[index] <= most + Duration::from_millis(1), "{index}: {pauses:?}");
        };
        at_most(1, BACKOFF_MIN);
        at_most(2, BACKOFF_MIN * 2);
        at_most(3, BACKOFF_MIN * 4);
        (9..20).for_each(|index| at_most(index, BACKOFF_MAX));
        at_most(20, BACKOFF_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_an_attempt_and_a_pause() {
        let supervisor = Supervisor::default();
        for defect in [false, true] {
            let (held, ended) = tokio::sync::oneshot::channel::<()>();
            let held = Arc::new(held);
            let (begin, mut begun) = tokio::sync::mpsc::channel(1);
            let task = supervisor.spawn(Task::Storage, move || {
                let (held, begin) = (Arc::clone(&held), begin.clone());
                async move {
                    begin.send(()).await.unwrap();
                    assert!(!defect, "a defect");
                    pending::<()>().await;
                    drop(held);
                }
            });
            begun.recv().await.unwrap();
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            ended.await.unwrap_err();
        }
    }
}
