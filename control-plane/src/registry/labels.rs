//! Who may select whom, by label: among thousands of services and instances, only those that have one in common are looked
//! at.

use rpds::{HashTrieMapSync, RedBlackTreeSetSync};
use weft_core::model::ServiceKey;

use super::index::InstanceName;
use super::instance::Instance;
use crate::resource::service::{Backing, ServiceSpec};

/// Namespace, name and value.
type Label = (String, String, String);

/// Services by one label of their selectors, and instances by all of theirs.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels {
    services: HashTrieMapSync<Label, RedBlackTreeSetSync<ServiceKey>>,
    instances: HashTrieMapSync<Label, RedBlackTreeSetSync<InstanceName>>,
}

impl Labels {
    pub(super) fn put_service(&mut self, key: &ServiceKey, spec: &ServiceSpec) {
        if let Some(label) = of_selector(key, spec) {
            join(&mut self.services, label, key.clone());
        }
    }

    /// It was put with the same `spec`.
    pub(super) fn remove_service(&mut self, key: &ServiceKey, spec: &ServiceSpec) {
        if let Some(label) = of_selector(key, spec) {
            leave(&mut self.services, &label, key);
        }
    }

    pub(super) fn put_instance(&mut self, name: &InstanceName, instance: &Instance) {
        of_instance(instance).for_each(|label| join(&mut self.instances, label, name.clone()));
    }

    /// It was put as it is here.
    pub(super) fn remove_instance(&mut self, name: &InstanceName, instance: &Instance) {
        of_instance(instance).for_each(|label| leave(&mut self.instances, &label, name));
    }

    /// All services whose selector takes this instance, and perhaps others.
    pub(super) fn perhaps_selecting(&self, instance: &Instance) -> impl Iterator<Item = &ServiceKey> {
        of_instance(instance).filter_map(|label| self.services.get(&label)).flatten()
    }

    /// All instances that the selector takes, and perhaps others.
    pub(super) fn perhaps_selected(&self, key: &ServiceKey, spec: &ServiceSpec) -> impl Iterator<Item = &InstanceName> {
        of_selector(key, spec).and_then(|label| self.instances.get(&label)).into_iter().flatten()
    }
}

/// Any label of a selector will do: an instance has them all, or is not selected.
fn of_selector(key: &ServiceKey, spec: &ServiceSpec) -> Option<Label> {
    let Backing::Selector(selector) = &spec.backing else { return None };
    let (name, value) = selector.iter().next()?;
    Some((key.namespace.to_string(), name.clone(), value.clone()))
}

fn of_instance(instance: &Instance) -> impl Iterator<Item = Label> {
    instance.labels.iter().map(|(name, value)| (instance.namespace.clone(), name.clone(), value.clone()))
}

fn join<T: Clone + Ord>(map: &mut HashTrieMapSync<Label, RedBlackTreeSetSync<T>>, label: Label, member: T) {
    let members = map.get(&label).cloned().unwrap_or_default();
    map.insert_mut(label, members.insert(member));
}

fn leave<T: Clone + Ord>(map: &mut HashTrieMapSync<Label, RedBlackTreeSetSync<T>>, label: &Label, member: &T) {
    let Some(members) = map.get(label).map(|members| members.remove(member)) else { return };
    if members.is_empty() {
        map.remove_mut(label);
    } else {
        map.insert_mut(label.clone(), members);
    }
}
