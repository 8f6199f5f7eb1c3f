//! DNS names that serve services: keeps the last good answer of each in the store, where the index finds it.
//!
//! One task decides when which name is asked for ([`schedule`]) and writes what changed; lookups run beside it. It is the
//! only one that writes and deletes answers, so that an answer which arrives after its service is gone is found and
//! deleted, whatever happened in which order and whichever process wrote it.

pub mod answer;
pub mod resolver;
pub mod schedule;
pub mod steady;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use weft_core::model::ServiceKey;

use crate::metrics::Counter;
use crate::registry::Index;
use crate::registry::feed::dns_key;
use crate::registry::handle::Registry;
use crate::shutdown::Shutdown;
use crate::store::{Expect, Store, StoreError};
use answer::{Answer, LookupError};
use resolver::Source;
use schedule::{Schedule, Turn};

/// How long changes of the index gather before they are looked at.
const GATHER: Duration = Duration::from_millis(100);

/// Lookups so far, for metrics.
#[derive(Debug, Default)]
pub struct LookupCounts {
    /// With a usable answer.
    pub answered: Counter,
    /// Without.
    pub failed: Counter,
    failing: AtomicUsize,
}

impl LookupCounts {
    /// Names whose last lookup failed.
    #[must_use]
    pub fn failing(&self) -> usize {
        self.failing.load(Ordering::Relaxed)
    }
}

type Lookups = JoinSet<(String, Result<Answer, LookupError>)>;

/// Keeps answers.
#[derive(Debug)]
pub struct Names {
    store: Arc<dyn Store>,
    registry: Registry,
    source: Source,
    counts: Arc<LookupCounts>,
    schedule: Schedule,
}

impl Names {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, registry: Registry, source: Source, counts: Arc<LookupCounts>) -> Self {
        Self { store, registry, source, counts, schedule: Schedule::default() }
    }

    /// Asks and writes until shutdown. A failure keeps the last answer.
    pub async fn keep(self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.run() => {}
        }
    }

    async fn run(mut self) {
        let mut changes = self.registry.changes();
        let mut lookups = Lookups::new();
        let mut look_at = Some(Instant::now());
        loop {
            let now = Instant::now();
            if look_at.is_some_and(|at| at <= now) {
                look_at = None;
                self.look(now).await;
            }
            self.start_due(now, &mut lookups).await;
            let wake = look_at.into_iter().chain(self.schedule.next_due()).min();
            tokio::select! {
                Some(ended) = lookups.join_next(), if !lookups.is_empty() => match ended {
                    Ok((name, outcome)) => self.take(&name, outcome).await,
                    Err(error) => tracing::error!(%error, "a DNS lookup was ended"),
                },
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    look_at = look_at.or_else(|| Some(Instant::now() + GATHER));
                }
            }
        }
    }

    /// Takes over which names the index wants, and deletes the answers that no service is served by.
    async fn look(&mut self, now: Instant) {
        let index = self.registry.snapshot();
        let known = |key: &ServiceKey, name: &str| known(&index, key, name).to_vec();
        for name in self.schedule.want(index.dns_names(), known, now) {
            self.serve(&name).await;
        }
        for key in index.unwanted_answers() {
            self.forget(&key).await;
        }
    }

    async fn start_due(&mut self, now: Instant, lookups: &mut Lookups) {
        let due = self.schedule.take_due(now);
        if due.is_empty() {
            return;
        }
        let asker = self.source.asker().await;
        for name in due {
            let asker = asker.clone();
            lookups.spawn(async move {
                let outcome = match asker {
                    Ok(asker) => asker.lookup(&name).await,
                    Err(error) => Err(error),
                };
                (name, outcome)
            });
        }
    }

    async fn take(&mut self, name: &str, outcome: Result<Answer, LookupError>) {
        let turn = self.schedule.ended(name, &outcome, Instant::now());
        self.counts.failing.store(self.schedule.failing(), Ordering::Relaxed);
        match &outcome {
            Ok(_) => self.counts.answered.increment(),
            Err(_) => self.counts.failed.increment(),
        }
        match (turn, &outcome) {
            (Turn::Fails, Err(error)) => {
                tracing::warn!(name, %error, "DNS name not resolved; its last answer stays, and it is asked for again");
            }
            (Turn::Recovers, _) => tracing::info!(name, "DNS name resolved again"),
            (Turn::Same | Turn::Fails, _) => {}
        }
        if outcome.is_ok() {
            self.serve(name).await;
        }
    }

    /// Writes the addresses of a name for each of its services that is not served by just these.
    async fn serve(&mut self, name: &str) {
        let (services, addresses) = self.schedule.served(name);
        for key in services {
            let same = self.registry.read(|index| known(index, &key, name) == addresses);
            if same || addresses.is_empty() {
                continue;
            }
            if let Err(error) = self.write(&key, name, &addresses).await {
                tracing::error!(service = %key, %error, "DNS answer not stored; tried again");
                self.schedule.again(name, Instant::now());
            }
        }
    }

    /// The last good answer is kept in the store: a control plane that starts while DNS is away must not take endpoints
    /// from proxies that hold them. The index learns of it by the watch, as of everything.
    async fn write(&self, key: &ServiceKey, name: &str, addresses: &[IpAddr]) -> Result<(), StoreError> {
        let value = serde_json::to_vec(&(name, addresses));
        let value = value.map_err(|error| StoreError::Corrupt { detail: error.to_string() })?;
        self.store.put(dns_key(key)?, value.into(), Expect::Any).await?;
        tracing::debug!(service = %key, name, count = addresses.len(), "DNS answer changed");
        Ok(())
    }

    async fn forget(&self, key: &ServiceKey) {
        let forgetting = async { self.store.delete(dns_key(key)?, Expect::Any).await };
        match forgetting.await {
            // An answer for a service of the same name that is made next must not be compared with the one deleted here.
            Ok(revision) => {
                self.registry.caught_up(revision).await;
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => tracing::warn!(service = %key, %error, "DNS answer without a service stays for now"),
        }
    }
}

/// What a service is served by, if that is an answer for this name.
fn known<'a>(index: &'a Index, key: &ServiceKey, name: &str) -> &'a [IpAddr] {
    let resolved = index.resolved(key).filter(|(asked, _)| asked == name);
    resolved.map(|(_, addresses)| addresses.as_slice()).unwrap_or_default()
}
