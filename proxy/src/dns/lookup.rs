//! What is known of a service by name: what Discovery said, which is always fresh, else what the control plane answers.
//!
//! An answer is used for a moment without asking again, and for as long as the control plane is away.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use weft_core::model::ServiceKey;
use weft_core::names::Known;
use weft_core::snapshot::Snapshot;
use weft_core::time::Moment;
use weft_proto::v1;
use weft_proto::v1::LookupRequest;
use weft_proto::v1::names_client::NamesClient;

use crate::clock::Clock;
use crate::identity::{ControlPlane, IdentityWatch};
use crate::supervise::{Supervisor, Task};

/// An answer is as good as new for this long.
const FRESH: Duration = Duration::from_secs(3);

/// Answers kept, of those that exist and of those that do not, which a program that tries names could make many.
const KEPT_MAX: usize = 4096;

/// Services in one call, as the API allows.
const BATCH_MAX: usize = 64;

/// Questions that wait for a call.
const WAITING_MAX: usize = 256;

/// A call, connecting included, gets this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// For this long after a failure nobody waits for the control plane.
const AWAY: Duration = Duration::from_secs(2);

type Wish = (ServiceKey, oneshot::Sender<Option<Known>>);

/// Knows services by name. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    snapshot: Arc<ArcSwap<Snapshot>>,
    kept: Arc<Mutex<Kept>>,
    /// `None`: what the snapshot does not have does not exist.
    asker: Option<mpsc::Sender<Wish>>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Kept {
    present: HashMap<ServiceKey, (Moment, Vec<IpAddr>)>,
    absent: HashMap<ServiceKey, Moment>,
}

impl Lookup {
    /// Without a control plane, in static mode.
    pub(super) fn offline(snapshot: Arc<ArcSwap<Snapshot>>, clock: Clock) -> Self {
        Self { snapshot, kept: Arc::default(), asker: None, clock }
    }

    /// With one; starts a task that asks it for as long as this lives.
    pub(super) fn online(
        supervisor: &Supervisor,
        snapshot: Arc<ArcSwap<Snapshot>>,
        control_plane: ControlPlane,
        identity: IdentityWatch,
        clock: Clock,
    ) -> Self {
        let calls = move || Calls { control_plane: control_plane.clone(), identity: identity.clone(), channel: None };
        Self { snapshot, kept: Arc::default(), asker: Some(answering(supervisor, calls, clock)), clock }
    }

    /// What is known of a service.
    pub(super) async fn service(&self, key: &ServiceKey) -> Known {
        if let Some(entry) = self.snapshot.load().service(key) {
            return Known::At(entry.service.virtual_ips.clone());
        }
        let Some(asker) = &self.asker else { return Known::Absent };
        let (kept, fresh) = self.kept(key);
        if fresh {
            return kept;
        }
        match ask(asker, key).await {
            Some(known) => {
                self.keep(key, &known);
                known
            }
            None => kept,
        }
    }

    /// What was last answered, and whether that was just now.
    fn kept(&self, key: &ServiceKey) -> (Known, bool) {
        let now = self.clock.now();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, addresses)) = kept.present.get(key) {
            return (Known::At(addresses.clone()), now.since(*at) < FRESH);
        }
        kept.absent.get(key).map_or((Known::Unsaid, false), |at| (Known::Absent, now.since(*at) < FRESH))
    }

    fn keep(&self, key: &ServiceKey, known: &Known) {
        let now = self.clock.now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.present.remove(key);
        kept.absent.remove(key);
        match known {
            Known::At(addresses) => {
                if kept.present.len() >= KEPT_MAX {
                    let oldest = kept.present.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone());
                    oldest.and_then(|oldest| kept.present.remove(&oldest));
                }
                kept.present.insert(key.clone(), (now, addresses.clone()));
            }
            Known::Absent => {
                if kept.absent.len() >= KEPT_MAX {
                    kept.absent.clear();
                }
                kept.absent.insert(key.clone(), now);
            }
            Known::Unsaid => {}
        }
    }
}

async fn ask(asker: &mpsc::Sender<Wish>, key: &ServiceKey) -> Option<Known> {
    let (answer, answered) = oneshot::channel();
    // Where too many wait already, one more would wait too long.
    asker.try_send((key.clone(), answer)).ok()?;
    answered.await.ok().flatten()
}

/// Starts what answers the wishes that come in here. Those under way when it is started again are not answered.
fn answering<C: Directory>(
    supervisor: &Supervisor,
    calls: impl Fn() -> C + Send + Sync + 'static,
    clock: Clock,
) -> mpsc::Sender<Wish> {
    let (asker, wishes) = mpsc::channel(WAITING_MAX);
    let (wishes, calls) = (Arc::new(tokio::sync::Mutex::new(wishes)), Arc::new(calls));
    supervisor.spawn(Task::Dns, move || {
        let (wishes, calls) = (Arc::clone(&wishes), Arc::clone(&calls));
        async move { answer_all(&*calls, &mut *wishes.lock().await, clock).await }
    });
    asker
}

/// Answers wishes in batches, one call at a time.
async fn answer_all<C: Directory>(calls: &(impl Fn() -> C + Sync), wishes: &mut mpsc::Receiver<Wish>, clock: Clock) {
    let mut directory = calls();
    let mut away_until = Moment::ORIGIN;
    let mut batch = Vec::new();
    while wishes.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if clock.now() < away_until {
            batch.clear();
            continue;
        }
        let keys: Vec<ServiceKey> = batch.iter().map(|(key, _)| key.clone()).collect();
        match tokio::time::timeout(CALL_TIMEOUT, directory.lookup(&keys)).await {
            Ok(Ok(mut present)) => {
                for (key, answer) in batch.drain(..) {
                    let known = present.get_mut(&key).map_or(Known::Absent, |addresses| Known::At(addresses.clone()));
                    // Who no longer waits is not told.
                    answer.send(Some(known)).unwrap_or_default();
                }
            }
            failed => {
                let reason = failed.map_or_else(|_| "no answer in time".to_owned(), |failed| format!("{failed:?}"));
                tracing::debug!(reason, "--dns: the control plane does not say which names there are");
                directory = calls();
                away_until = clock.now() + AWAY;
                batch.clear();
            }
        }
    }
}

/// Who knows services.
trait Directory: Send + 'static {
    /// Those of the services that exist.
    fn lookup(
        &mut self,
        keys: &[ServiceKey],
    ) -> impl Future<Output = Result<HashMap<ServiceKey, Vec<IpAddr>>, String>> + Send;
}

/// Calls to the control plane, over one channel while it lasts.
struct Calls {
    control_plane: ControlPlane,
    identity: IdentityWatch,
    channel: Option<Channel>,
}

impl Directory for Calls {
    /// A channel that has ended is replaced once: the control plane ends those whose
    /// certificate has.
    async fn lookup(&mut self, keys: &[ServiceKey]) -> Result<HashMap<ServiceKey, Vec<IpAddr>>, String> {
        if let Some(channel) = self.channel.clone()
            && let Ok(found) = call(channel, keys).await
        {
            return Ok(found);
        }
        let identity = self.identity.borrow().clone().ok_or("no identity yet")?;
        let channel = self.control_plane.dial(&identity).await.map_err(|error| error.to_string())?;
        self.channel = Some(channel.clone());
        call(channel, keys).await.map_err(|status| status.message().to_owned())
    }
}

async fn call(channel: Channel, keys: &[ServiceKey]) -> Result<HashMap<ServiceKey, Vec<IpAddr>>, tonic::Status> {
    let wanted = |key: &ServiceKey| v1::ServiceKey { namespace: key.namespace.to_string(), name: key.name.to_string() };
    let request = LookupRequest { services: keys.iter().map(wanted).collect() };
    let response = NamesClient::new(channel).lookup(request).await?.into_inner();
    let named = response.services.into_iter().filter_map(|named| {
        let service = named.service?;
        let key = ServiceKey { namespace: service.namespace.as_str().into(), name: service.name.as_str().into() };
        Some((key, named.virtual_ips.iter().filter_map(|ip| ip.parse().ok()).collect()))
    });
    Ok(named.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Knows everything, after one defect.
    struct Defective(Arc<AtomicBool>);

    impl Directory for Defective {
        async fn lookup(&mut self, keys: &[ServiceKey]) -> Result<HashMap<ServiceKey, Vec<IpAddr>>, String> {
            assert!(self.0.swap(true, Ordering::Relaxed), "a defect");
            Ok(keys.iter().map(|key| (key.clone(), vec!["240.0.0.7".parse().unwrap()])).collect())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_defect_names_are_answered_again() {
        let (supervisor, over) = (Supervisor::default(), Arc::default());
        let asker = answering(&supervisor, move || Defective(Arc::clone(&over)), Clock::start());
        let key = ServiceKey { namespace: "shop".into(), name: "cart".into() };
        assert_eq!(ask(&asker, &key).await, None, "the defect's victim");
        assert_eq!(ask(&asker, &key).await, Some(Known::At(vec!["240.0.0.7".parse().unwrap()])));
        let restarts = supervisor.restarts().find(|(task, _)| *task == Task::Dns).unwrap().1;
        assert_eq!(restarts, 1);
    }
}
