//! User resources: how each kind is read, and how one is stored.
//!
//! A resource is stored as the JSON of [`Stored`] under `config/<group>/<kind>/<namespace>/<name>`; its revision is the
//! store's. A kind is known here or refused at the door.

mod fields;
pub mod service;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_proto::v1::UserResource;

use crate::store::{Key, StoreError};

/// Kinds that can be applied, for messages.
pub const KINDS: &str = "v1 Service";

/// Prefix of all user resources in the store.
pub const PREFIX: &str = "config/";

/// Bounds of one resource.
const SPEC_BYTES_MAX: usize = 256 * 1024;
const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 253;
const ANNOTATION_BYTES_MAX: usize = 64 * 1024;

/// Problems in one message, and characters of each part of them: together they fit into the headers of an answer.
const SHOWN_MAX: usize = 16;
const CHARACTERS_MAX: usize = 240;

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path, for example `spec.ports[1].port`.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// All that is wrong with a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds one. What it quotes of the user's is cut, so that the answer can be sent.
    pub fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push(Problem { field: cut(field.into()), reason: cut(reason.into()) });
    }

    /// `Ok` when there is none.
    ///
    /// # Errors
    /// Itself.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, problem) in self.0.iter().take(SHOWN_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", problem.field, problem.reason)?;
        }
        match self.0.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// A resource as it lies in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stored {
    /// `v1`, …
    pub api_version: String,
    /// `Service`, …
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `spec`.
    pub spec: serde_json::Value,
    /// `status`, ours.
    pub status: serde_json::Value,
}

impl Stored {
    /// Reads what a user sent, adding every problem outside the spec; the namespace defaults to `default`. The fields of
    /// the spec are its kind's business.
    pub fn from_user(user: &UserResource, problems: &mut Problems) -> Self {
        let namespace = if user.namespace.is_empty() { "default" } else { &user.namespace };
        for (field, value) in [("metadata.namespace", namespace), ("metadata.name", &user.name)] {
            if !weft_core::model::decode::is_dns_label(value) {
                problems.add(field, format!("{value:?} is no DNS label (a-z 0-9 -, at most 63)"));
            }
        }
        if user.spec_json.len() > SPEC_BYTES_MAX {
            problems.add("spec", format!("is larger than {SPEC_BYTES_MAX} bytes"));
        }
        check_texts("metadata.labels", &user.labels, LABEL_BYTES_MAX, problems);
        check_texts("metadata.annotations", &user.annotations, ANNOTATION_BYTES_MAX, problems);
        let spec = if user.spec_json.is_empty() { "{}" } else { &user.spec_json };
        let spec = serde_json::from_str(spec).unwrap_or_else(|error| {
            problems.add("spec", format!("is not JSON: {error}"));
            serde_json::Value::Null
        });
        Self {
            api_version: user.api_version.clone(),
            kind: user.kind.clone(),
            namespace: namespace.to_owned(),
            name: user.name.clone(),
            labels: user.labels.clone().into_iter().collect(),
            annotations: user.annotations.clone().into_iter().collect(),
            spec,
            status: serde_json::Value::Null,
        }
    }

    /// As a user sees it.
    #[must_use]
    pub fn to_user(&self, revision: u64) -> UserResource {
        let text = |value: &serde_json::Value| if value.is_null() { String::new() } else { value.to_string() };
        UserResource {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: self.labels.clone().into_iter().collect(),
            annotations: self.annotations.clone().into_iter().collect(),
            spec_json: text(&self.spec),
            status_json: text(&self.status),
            revision,
        }
    }

    /// Where it lies.
    ///
    /// # Errors
    /// When a part makes no store key.
    pub fn key(&self) -> Result<Key, StoreError> {
        key(&self.api_version, &self.kind, &self.namespace, &self.name)
    }
}

/// Where a resource lies. The slash of an API group becomes a dot.
///
/// # Errors
/// When a part makes no store key.
pub fn key(api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<Key, StoreError> {
    let group = api_version.replace('/', ".");
    Key::new(format!("{PREFIX}{group}/{kind}/{namespace}/{name}"))
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(CHARACTERS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn check_texts<'a, M>(field: &str, texts: M, bytes_max: usize, problems: &mut Problems)
where
    M: IntoIterator<Item = (&'a String, &'a String)>,
{
    for (count, (key, value)) in texts.into_iter().enumerate() {
        if count == LABELS_MAX {
            problems.add(field, format!("has more than {LABELS_MAX} entries"));
        }
        if key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > bytes_max {
            problems.add(format!("{field}[{}]", key.chars().take(64).collect::<String>()), "is empty or too long");
        }
    }
}
