//! The index as the rest of the process uses it: immutable for whoever reads it, replaced by one task that follows the
//! store, with word of each change to the streams that it concerns.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_proto::v1::OutboundMode;

use super::concerns::{Concerns, Listener, News};
use super::feed;
use super::index::{Index, InstanceName, Settings, instance_name};
use super::instance;
use super::lease::Leases;
use crate::bootstrap::{self, ServeArgs};
use crate::metrics::Counter;
use crate::shutdown::Shutdown;
use crate::store::{Event, Expect, Key, Revision, Store, StoreError};

/// How often leases are looked at.
const LEASE_LOOK: Duration = Duration::from_millis(500);

/// How long a failed store is left alone.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How long a writer waits for the index to reflect its write.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Key under which the settings last told to proxies lie, so that their version grows when flags change.
const MESH_KEY: &str = "mesh/settings";

/// Shared access to what exists. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<dyn Store>,
    index: Arc<ArcSwap<Index>>,
    /// Held by whoever makes the next index.
    changing: Arc<Mutex<()>>,
    concerns: Concerns,
    leases: Arc<Mutex<Leases>>,
    held_back: Arc<AtomicUsize>,
    changed: watch::Sender<u64>,
    settings: Settings,
    lease_expiries: Arc<Counter>,
}

impl Registry {
    /// Loads everything from the store. Nothing is answered from a half-loaded index: it exists only when whole.
    ///
    /// # Errors
    /// When the store cannot be read, or holds an entry that this build does not understand.
    pub async fn load(store: Arc<dyn Store>, args: &ServeArgs) -> Result<(Self, Revision), StoreError> {
        let settings = settings(args);
        let mesh_version = mesh_version(&*store, &settings).await?;
        let registry = Self {
            index: Arc::new(ArcSwap::from_pointee(Index::new(settings.clone(), mesh_version))),
            changing: Arc::default(),
            concerns: Concerns::default(),
            leases: Arc::new(Mutex::new(Leases::new(args.lease()))),
            held_back: Arc::default(),
            changed: watch::Sender::new(0),
            settings,
            store,
            lease_expiries: Arc::default(),
        };
        let from = registry.reload(true).await?;
        Ok((registry, from))
    }

    /// What the flags say.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Instances removed because their lease was missed.
    #[must_use]
    pub fn lease_expiries(&self) -> &Counter {
        &self.lease_expiries
    }

    /// Looks into the index.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.load())
    }

    /// The index as it is now; later changes make another one.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Index> {
        self.index.load_full()
    }

    /// What was touched since a listener last heard, and the index at which that is all.
    pub fn hear(&self, listener: &Listener) -> (Option<News>, Arc<Index>) {
        self.concerns.hear(listener, || self.snapshot())
    }

    /// For a stream that wants word of changes that concern it.
    #[must_use]
    pub fn listen(&self) -> Listener {
        self.concerns.listen()
    }

    /// Sees each change of the index.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until the index reflects a write, so that the writer's next read sees it; for [`CATCH_UP`] at most, because
    /// the write itself is done and a store whose watch is being repaired must not hold its writers. False when it is
    /// still behind: nothing may be decided by what it shows.
    pub async fn caught_up(&self, revision: Revision) -> bool {
        let mut changes = self.changes();
        let catching_up = async {
            while self.read(Index::revision) < revision.0 {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let caught_up = tokio::time::timeout(CATCH_UP, catching_up).await.is_ok();
        if !caught_up {
            tracing::warn!(revision = revision.0, "index is behind the store");
        }
        caught_up
    }

    /// Gives an instance a lease. True when it was about to be removed, which only a write to the store stops.
    pub fn begin_lease(&self, name: InstanceName) -> bool {
        self.leases().register(name)
    }

    /// Extends a lease. False when it has run out and the instance is being removed.
    #[must_use]
    pub fn renew(&self, name: InstanceName) -> bool {
        self.leases().renew(name)
    }

    /// Ends a lease.
    pub fn forget(&self, name: &InstanceName) {
        self.leases().forget(name);
    }

    /// Follows the store until shutdown. Where the watch has gaps everything is read again; nothing is ever forgotten
    /// because a read failed.
    pub async fn follow(self, mut from: Revision, shutdown: Shutdown) {
        let following = async {
            loop {
                match self.follow_from(from).await {
                    Ok(never) => match never {},
                    Err(error) => tracing::warn!(%error, "store watch interrupted; reading everything again"),
                }
                loop {
                    match self.reload(false).await {
                        Ok(revision) => {
                            from = revision;
                            break;
                        }
                        Err(error) => {
                            tracing::error!(%error, "store cannot be read; what is known stays in force");
                            tokio::time::sleep(STORE_PAUSE).await;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.requested() => {}
            () = following => {}
        }
    }

    /// Removes instances whose lease has run out, until shutdown.
    pub async fn expire(self, shutdown: Shutdown) {
        let expiring = async {
            let mut last = Instant::now();
            loop {
                tokio::time::sleep(LEASE_LOOK).await;
                // Of a pause of this process no more counts than one look: who called meanwhile waits to be heard.
                let step = last.elapsed().min(LEASE_LOOK * 2);
                last = Instant::now();
                let ended = {
                    let mut leases = self.leases();
                    leases.tick(step);
                    leases.end()
                };
                self.note_held_back(ended.held_back);
                for name in ended.names {
                    match self.delete(&name).await {
                        Ok(()) => self.leases().forget_ended(&name),
                        // The store says once that it fails.
                        Err(error) => tracing::debug!(%error, "instance not removed; tried again"),
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.requested() => {}
            () = expiring => {}
        }
    }

    fn note_held_back(&self, count: usize) {
        let before = self.held_back.swap(count, Ordering::Relaxed);
        if before == 0 && count > 0 {
            tracing::warn!(count, "most leases have run out at once: is this control plane cut off? None ends for now");
        }
    }

    /// Leases that have run out and are held back, because most have.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Removes an instance whose lease has run out, unless it was registered again meanwhile. A registration clears the
    /// mark before it writes: either the mark is gone here, or the write makes this deletion a conflict.
    async fn delete(&self, name: &InstanceName) -> Result<(), StoreError> {
        let key = instance::key(&name.0, &name.1)?;
        let Some(stored) = self.store.get(&key).await? else { return Ok(()) };
        if !self.leases().is_ending(name) {
            return Ok(());
        }
        match self.store.delete(key, Expect::Revision(stored.revision)).await {
            Ok(_) => {
                tracing::info!(namespace = %name.0, instance = %name.1, "lease missed: instance removed");
                self.lease_expiries.increment();
                Ok(())
            }
            Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn follow_from(&self, from: Revision) -> Result<std::convert::Infallible, StoreError> {
        let mut watch = self.store.watch("", from).await?;
        loop {
            let event = watch.next().await;
            let event = event.map_err(|error| StoreError::Unavailable { detail: error.to_string() })?;
            self.change(|index| {
                if let Err(misread) = feed::apply(index, &event) {
                    tracing::error!(%misread, "what was known stays in force");
                }
            });
            if let Event::Put(versioned) = &event
                && let Some(name) = instance_name(versioned.key.as_str())
            {
                self.leases().adopt(name);
            }
        }
    }

    /// Reads everything into a new index and puts it in force. An entry that this build cannot read is an error when the
    /// process starts, and later keeps what was known: a list never shrinks because something could not be read.
    async fn reload(&self, starting: bool) -> Result<Revision, StoreError> {
        let listing = self.store.list("").await?;
        let mesh_version = mesh_version(&*self.store, &self.settings).await?;
        let mut index = Index::new(self.settings.clone(), mesh_version);
        let mut misread = Vec::new();
        for entry in listing.entries {
            misread.extend(feed::apply(&mut index, &Event::Put(entry)).err());
        }
        if starting && let Some(first) = misread.first() {
            let others = misread.len() - 1;
            let detail = format!("{first} ({others} others). {}", feed::REMEDY);
            return Err(StoreError::Corrupt { detail });
        }
        index.advance(listing.revision.0);
        self.change(|held| {
            for misread in &misread {
                tracing::error!(%misread, "what was known stays in force");
                feed::keep(&mut index, held, misread.key.as_str());
            }
            *held = index;
        });
        let names: Vec<InstanceName> = self.read(|index| {
            index.instances().map(|instance| (instance.namespace.clone(), instance.id.clone())).collect()
        });
        let mut leases = self.leases();
        for name in names {
            leases.adopt(name);
        }
        drop(leases);
        Ok(listing.revision)
    }

    fn change(&self, change: impl FnOnce(&mut Index)) {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = Index::clone(&self.index.load());
        change(&mut index);
        let touched = index.take_touched();
        self.concerns.notify(&touched, tokio::time::Instant::now(), || self.index.store(Arc::new(index)));
        drop(changing);
        self.changed.send_modify(|count| *count += 1);
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settings(args: &ServeArgs) -> Settings {
    let mut ranges = args.virtual_ranges.clone();
    ranges.extend(args.mesh_ranges.iter().copied());
    Settings {
        trust_domain: args.trust_domain.clone(),
        virtual_ranges: args.virtual_ranges.clone(),
        ranges,
        outbound_mode: match args.outbound_mode {
            bootstrap::OutboundMode::Passthrough => OutboundMode::Passthrough,
            bootstrap::OutboundMode::RegistryOnly => OutboundMode::RegistryOnly,
        },
    }
}

/// The revision at which the settings became what they are; written when they differ from the stored ones.
async fn mesh_version(store: &dyn Store, settings: &Settings) -> Result<u64, StoreError> {
    let key = Key::new(MESH_KEY)?;
    let ranges: Vec<String> = settings.ranges.iter().map(ToString::to_string).collect();
    let text = format!("{}\n{}\n{:?}", settings.trust_domain, ranges.join(","), settings.outbound_mode);
    match store.get(&key).await? {
        Some(stored) if stored.value == text.as_bytes() => Ok(stored.revision.0),
        Some(_) | None => Ok(store.put(key, text.into(), Expect::Any).await?.0),
    }
}
