//! The index as the rest of the process uses it: behind a lock that is never held across an await, fed by one task that
//! follows the store, and with a counter that tells streams that something changed.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_core::model::ServiceKey;
use weft_proto::v1::OutboundMode;

use super::index::{Index, InstanceName, Settings, instance_name};
use super::instance::{self, Instance};
use super::lease::Leases;
use crate::bootstrap::{self, ServeArgs};
use crate::resource::{self, Stored, service};
use crate::shutdown::Shutdown;
use crate::store::{Event, Expect, Key, Revision, Store, StoreError, Versioned};

/// How often leases are looked at.
const LEASE_LOOK: Duration = Duration::from_millis(500);

/// How often DNS names are resolved again; answers carry no TTL through the system resolver.
const DNS_EVERY: Duration = Duration::from_secs(10);

/// How long a failed store is left alone.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How long a writer waits for the index to reflect its write.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Prefix of the last good DNS answers in the store.
const DNS_PREFIX: &str = "dns/";

/// Key under which the settings last told to proxies lie, so that their version grows when flags change.
const MESH_KEY: &str = "mesh/settings";

/// Shared access to what exists. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<dyn Store>,
    index: Arc<Mutex<Index>>,
    leases: Arc<Mutex<Leases>>,
    started: Instant,
    changed: watch::Sender<u64>,
    settings: Settings,
}

impl Registry {
    /// Loads everything from the store. Nothing is answered from a half-loaded index: it exists only when whole.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>, args: &ServeArgs) -> Result<(Self, Revision), StoreError> {
        let settings = settings(args);
        let mesh_version = mesh_version(&*store, &settings).await?;
        let registry = Self {
            index: Arc::new(Mutex::new(Index::new(settings.clone(), mesh_version))),
            leases: Arc::new(Mutex::new(Leases::new(args.lease()))),
            started: Instant::now(),
            changed: watch::Sender::new(0),
            settings,
            store,
        };
        let from = registry.reload().await?;
        let now = registry.now();
        let names: Vec<InstanceName> = registry.read(|index| {
            index.instances().map(|instance| (instance.namespace.clone(), instance.id.clone())).collect()
        });
        let mut leases = registry.leases();
        for name in names {
            leases.restore(name, now);
        }
        drop(leases);
        Ok((registry, from))
    }

    /// What the flags say.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Looks into the index. `look` must be quick.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index())
    }

    /// Sees each change of the index.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until the index reflects a write, so that the writer's next read sees it; for [`CATCH_UP`] at most, because
    /// the write itself is done and a store whose watch is being repaired must not hold its writers.
    pub async fn caught_up(&self, revision: Revision) {
        let mut changes = self.changes();
        let catching_up = async {
            while self.read(Index::revision) < revision.0 {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(CATCH_UP, catching_up).await.is_err() {
            tracing::warn!(revision = revision.0, "index is behind the store");
        }
    }

    /// Extends a lease.
    pub fn renew(&self, name: InstanceName) {
        let now = self.now();
        self.leases().renew(name, now);
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
                    match self.reload().await {
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
            loop {
                tokio::time::sleep(LEASE_LOOK).await;
                let expired = self.leases().expired(self.now());
                for name in expired {
                    tracing::info!(namespace = %name.0, instance = %name.1, "lease missed: instance removed");
                    match self.delete(&name).await {
                        Ok(()) => {
                            let now = self.now();
                            self.leases().forget_expired(&name, now);
                        }
                        Err(error) => tracing::error!(%error, "instance not removed; tried again"),
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.requested() => {}
            () = expiring => {}
        }
    }

    /// Resolves DNS names, until shutdown. A failure keeps the last answer.
    pub async fn resolve_names(self, shutdown: Shutdown) {
        let mut changes = self.changes();
        let resolving = async {
            loop {
                for (key, name) in self.read(Index::dns_names) {
                    self.resolve_name(&key, &name).await;
                }
                let again = tokio::time::sleep(DNS_EVERY);
                tokio::pin!(again);
                tokio::select! {
                    () = &mut again => {}
                    changed = changes.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        // A burst of changes is one reason to look.
                        tokio::time::sleep(STORE_PAUSE).await;
                        changes.mark_unchanged();
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.requested() => {}
            () = resolving => {}
        }
    }

    async fn resolve_name(&self, key: &ServiceKey, name: &str) {
        match tokio::net::lookup_host((name, 0)).await {
            Ok(answers) => {
                let mut addresses: Vec<IpAddr> = answers.map(|address| address.ip()).collect();
                addresses.sort_unstable();
                addresses.dedup();
                let answer = (name.to_owned(), addresses);
                let known = self.read(|index| index.resolved(key) == Some(&answer));
                // An empty answer is no reason to take away what was served.
                if !known && !answer.1.is_empty() {
                    self.note_resolved(key, &answer).await;
                }
            }
            Err(error) => tracing::warn!(service = %key, name, %error, "DNS name not resolved; last answer stays"),
        }
    }

    /// The last good answer is kept in the store: a control plane that starts while DNS is away must not take endpoints
    /// from proxies that hold them. The index learns of it by the watch, as of everything.
    async fn note_resolved(&self, key: &ServiceKey, answer: &(String, Vec<IpAddr>)) {
        let noted = async {
            let value =
                serde_json::to_vec(answer).map_err(|error| StoreError::Corrupt { detail: error.to_string() })?;
            self.store.put(dns_key(key)?, value.into(), Expect::Any).await
        };
        if let Err(error) = noted.await {
            tracing::error!(service = %key, %error, "DNS answer not stored; tried again");
        }
    }

    /// Removes an instance whose lease has run out, unless it was renewed or registered again meanwhile.
    async fn delete(&self, name: &InstanceName) -> Result<(), StoreError> {
        let key = instance::key(&name.0, &name.1)?;
        let Some(stored) = self.store.get(&key).await? else { return Ok(()) };
        if !self.leases().is_expired(name, self.now()) {
            return Ok(());
        }
        match self.store.delete(key, Expect::Revision(stored.revision)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn follow_from(&self, from: Revision) -> Result<std::convert::Infallible, StoreError> {
        let mut watch = self.store.watch("", from).await?;
        loop {
            let event = watch.next().await;
            let event = event.map_err(|error| StoreError::Unavailable { detail: error.to_string() })?;
            self.change(|index| apply(index, &event));
            if let Event::Put(versioned) = &event
                && let Some(name) = instance_name(versioned.key.as_str())
            {
                let now = self.now();
                self.leases().adopt(name, now);
            }
        }
    }

    async fn reload(&self) -> Result<Revision, StoreError> {
        let listing = self.store.list("").await?;
        let mesh_version = mesh_version(&*self.store, &self.settings).await?;
        let mut index = Index::new(self.settings.clone(), mesh_version);
        for entry in listing.entries {
            apply(&mut index, &Event::Put(entry));
        }
        index.advance(listing.revision.0);
        self.change(|held| *held = index);
        Ok(listing.revision)
    }

    fn change(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.index());
        self.changed.send_modify(|count| *count += 1);
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Feeds one event of the store to the index. An entry that cannot be read keeps what was known and is reported.
fn apply(index: &mut Index, event: &Event) {
    let key = event.key().as_str();
    let revision = event.revision().0;
    if key.starts_with(instance::PREFIX) {
        match (event, instance_name(key)) {
            (Event::Put(versioned), _) => match serde_json::from_slice::<Instance>(&versioned.value) {
                Ok(instance) => index.put_instance(instance, revision),
                Err(error) => tracing::error!(key, %error, "stored instance is not understood"),
            },
            (Event::Delete { .. }, Some(name)) => index.remove_instance(&name, revision),
            (Event::Delete { .. }, None) => {}
        }
    } else if key.starts_with(resource::PREFIX) {
        match event {
            Event::Put(versioned) => put_resource(index, versioned),
            Event::Delete { .. } => {
                if let Some(key) = service_key(key) {
                    index.remove_service(&key, revision);
                }
            }
        }
    }
    if let Some(key) = key.strip_prefix(DNS_PREFIX).and_then(namespaced) {
        match event {
            Event::Put(versioned) => match serde_json::from_slice::<(String, Vec<IpAddr>)>(&versioned.value) {
                Ok((name, addresses)) => index.put_resolved(&key, name, addresses),
                Err(error) => tracing::error!(service = %key, %error, "stored DNS answer is not understood"),
            },
            Event::Delete { .. } => index.remove_resolved(&key),
        }
    }
    index.advance(revision);
}

/// Where the last good DNS answer of a service lies.
///
/// # Errors
/// When its name makes no store key.
pub fn dns_key(key: &ServiceKey) -> Result<Key, StoreError> {
    Key::new(format!("{DNS_PREFIX}{key}"))
}

fn put_resource(index: &mut Index, versioned: &Versioned) {
    let Some(key) = service_key(versioned.key.as_str()) else { return };
    let read = serde_json::from_slice::<Stored>(&versioned.value)
        .map_err(|error| error.to_string())
        .and_then(|stored| Ok((service::read(&stored).map_err(|problems| problems.to_string())?, stored)));
    match read {
        Ok((spec, stored)) => index.put_service(&key, spec, virtual_ips(&stored), versioned.revision.0),
        Err(error) => tracing::error!(key = %versioned.key, error, "stored service is not understood"),
    }
}

/// Virtual IPs as the control plane noted them in the status.
#[must_use]
pub fn virtual_ips(stored: &Stored) -> Vec<IpAddr> {
    let noted = stored.status.get("virtualIPs").and_then(serde_json::Value::as_array);
    let texts = noted.into_iter().flatten().filter_map(serde_json::Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn service_key(key: &str) -> Option<ServiceKey> {
    key.strip_prefix("config/v1/Service/").and_then(namespaced)
}

fn namespaced(text: &str) -> Option<ServiceKey> {
    let (namespace, name) = text.split_once('/')?;
    Some(ServiceKey { namespace: namespace.into(), name: name.into() })
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
