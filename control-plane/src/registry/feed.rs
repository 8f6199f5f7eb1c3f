//! From entries as they lie in the store to the index.
//!
//! Reading is not admission: whatever an earlier version of this software let in is understood here, even where today's
//! rules for new resources are stricter.

use std::fmt;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use weft_core::model::ServiceKey;

use super::index::{Index, instance_name};
use super::instance::{self, Instance};
use crate::resource::{self, Stored, service};
use crate::store::{Event, Key, StoreError, Versioned};

/// Prefix of the last good DNS answers in the store.
const DNS_PREFIX: &str = "dns/";

/// What an operator does about a [`Misread`] at the start.
pub const REMEDY: &str = "Nothing is served from a store that is understood only in part: start the version that wrote it, \
                          or restore a backup (`weft-control-plane restore FILE`)";

/// An entry that this build does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// Where it lies.
    pub key: Key,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stored entry {} is not understood: {}", self.key, self.reason)
    }
}

/// Feeds one event of the store to the index.
///
/// # Errors
/// [`Misread`]; the index keeps what it knew, but has come to the event's revision.
pub fn apply(index: &mut Index, event: &Event) -> Result<(), Misread> {
    let fed = match event {
        Event::Put(versioned) => put(index, versioned).map_err(|reason| Misread { key: versioned.key.clone(), reason }),
        Event::Delete { key, revision } => {
            delete(index, key.as_str(), revision.0);
            Ok(())
        }
    };
    index.advance(event.revision().0);
    fed
}

/// Takes over into a new index what an old one knew of an entry that cannot be read.
pub fn keep(new: &mut Index, old: &Index, key: &str) {
    if let Some((instance, revision)) = instance_name(key).and_then(|name| old.versioned_instance(&name)) {
        new.put_instance(instance.clone(), *revision);
    }
    if let Some(key) = service_key(key)
        && let Some(known) = old.service(&key)
    {
        new.put_service(&key, known.spec.clone(), known.virtual_ips.clone(), known.revision);
    }
    if let Some(key) = answered_service(key)
        && let Some((name, addresses)) = old.resolved(&key)
    {
        new.put_resolved(&key, name.clone(), addresses.clone());
    }
}

fn put(index: &mut Index, versioned: &Versioned) -> Result<(), String> {
    let (key, revision) = (versioned.key.as_str(), versioned.revision.0);
    if key.starts_with(instance::PREFIX) {
        index.put_instance(parse::<Instance>(versioned)?, revision);
    } else if let Some(key) = service_key(key) {
        let stored = parse::<Stored>(versioned)?;
        let spec = service::understand(&stored).map_err(|problems| problems.to_string())?;
        index.put_service(&key, spec, virtual_ips(&stored), revision);
    } else if let Some(key) = answered_service(key) {
        let (name, addresses) = parse::<(String, Vec<IpAddr>)>(versioned)?;
        index.put_resolved(&key, name, addresses);
    }
    Ok(())
}

fn delete(index: &mut Index, key: &str, revision: u64) {
    if let Some(name) = instance_name(key) {
        index.remove_instance(&name, revision);
    }
    if let Some(key) = service_key(key) {
        index.remove_service(&key, revision);
    }
    if let Some(key) = answered_service(key) {
        index.remove_resolved(&key);
    }
}

fn parse<T: DeserializeOwned>(versioned: &Versioned) -> Result<T, String> {
    serde_json::from_slice(&versioned.value).map_err(|error| error.to_string())
}

/// Where the last good DNS answer of a service lies.
///
/// # Errors
/// When its name makes no store key.
pub fn dns_key(key: &ServiceKey) -> Result<Key, StoreError> {
    Key::new(format!("{DNS_PREFIX}{key}"))
}

/// Virtual IPs as the control plane noted them in the status.
#[must_use]
pub fn virtual_ips(stored: &Stored) -> Vec<IpAddr> {
    let noted = stored.status.get("virtualIPs").and_then(serde_json::Value::as_array);
    let texts = noted.into_iter().flatten().filter_map(serde_json::Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn service_key(key: &str) -> Option<ServiceKey> {
    key.strip_prefix(resource::PREFIX)?.strip_prefix("v1/Service/").and_then(namespaced)
}

fn answered_service(key: &str) -> Option<ServiceKey> {
    key.strip_prefix(DNS_PREFIX).and_then(namespaced)
}

fn namespaced(text: &str) -> Option<ServiceKey> {
    let (namespace, name) = text.split_once('/')?;
    Some(ServiceKey { namespace: namespace.into(), name: name.into() })
}
