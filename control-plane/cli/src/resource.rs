//! User resources as YAML in the Kubernetes manner, to and from the API's message.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_proto::v1::UserResource;

/// Bytes of one file of resources.
const FILE_MAX: u64 = 16 << 20;

/// One YAML document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// For example "v1".
    pub api_version: String,
    /// For example "Service".
    pub kind: String,
    /// Name and labels.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub spec: Value,
    /// What the control plane says of it; ignored when applied.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub status: Value,
}

/// `metadata` of a document. Fields that only Kubernetes uses are accepted and ignored, so that the output of
/// `kubectl get -o yaml` can be applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Unique in its kind and namespace.
    pub name: String,
    /// Default: that of the command line, or "default".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// For selection.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// For everything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Revision that the change is based on; absent: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl Document {
    /// As the API's message.
    ///
    /// # Errors
    /// `metadata.resourceVersion` is not a number.
    pub fn to_message(&self, namespace: &str) -> anyhow::Result<UserResource> {
        let version = self.metadata.resource_version.as_deref().map(str::parse::<u64>).transpose();
        let revision =
            version.with_context(|| format!("{}: metadata.resourceVersion is not a number", self.title()))?;
        Ok(UserResource {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            namespace: self.metadata.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
            name: self.metadata.name.clone(),
            labels: self.metadata.labels.clone().into_iter().collect(),
            annotations: self.metadata.annotations.clone().into_iter().collect(),
            spec_json: if self.spec.is_null() { "{}".to_owned() } else { self.spec.to_string() },
            status_json: String::new(),
            revision: revision.unwrap_or(0),
        })
    }

    /// From the API's message.
    ///
    /// # Errors
    /// Its JSON is not such.
    pub fn from_message(message: UserResource) -> anyhow::Result<Self> {
        let json = |text: &str| if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(text) };
        Ok(Self {
            spec: json(&message.spec_json).context("spec")?,
            status: json(&message.status_json).context("status")?,
            api_version: message.api_version,
            kind: message.kind,
            metadata: Metadata {
                name: message.name,
                namespace: Some(message.namespace),
                labels: message.labels.into_iter().collect(),
                annotations: message.annotations.into_iter().collect(),
                resource_version: Some(message.revision.to_string()),
            },
        })
    }

    /// "Service shop/cart".
    #[must_use]
    pub fn title(&self) -> String {
        let namespace = self.metadata.namespace.as_deref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        format!("{} {namespace}{}", self.kind, self.metadata.name)
    }
}

/// Reads all documents of a file, or of standard input for "-".
///
/// # Errors
/// It cannot be read, is too long, or a document is not a resource (with its place).
pub fn read(path: &Path) -> anyhow::Result<Vec<Document>> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(FILE_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text))
    };
    let length = read.with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(u64::try_from(length)? <= FILE_MAX, "{} is longer than {FILE_MAX} bytes", path.display());
    parse(&text).with_context(|| path.display().to_string())
}

/// Parses a stream of documents; empty ones are skipped.
///
/// # Errors
/// A document is not a resource.
pub fn parse(text: &str) -> anyhow::Result<Vec<Document>> {
    let documents: Vec<Option<Document>> = serde_saphyr::from_multiple(text)?;
    let documents: Vec<Document> = documents.into_iter().flatten().collect();
    anyhow::ensure!(!documents.is_empty(), "no resource in it");
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "apiVersion: v1
kind: Service
metadata: {name: a, labels: {x: y}}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop, uid: abc, resourceVersion: '7'}
spec: {}
---
";

    #[test]
    fn documents_become_messages_and_back() {
        let documents = parse(TWO).unwrap();
        let messages: Vec<_> = documents.iter().map(|one| one.to_message("default").unwrap()).collect();
        assert_eq!((messages[0].namespace.as_str(), messages[0].revision), ("default", 0));
        assert_eq!(messages[0].spec_json, r#"{"ports":[{"port":80}]}"#);
        assert_eq!((messages[1].namespace.as_str(), messages[1].revision), ("shop", 7));
        let back = Document::from_message(messages[1].clone()).unwrap();
        assert_eq!(back.title(), "HTTPRoute shop/r");
        assert_eq!(back.to_message("other").unwrap(), messages[1]);
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |text: &str, expected: &str| {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        };
        check("", "no resource");
        check("kind: Service", "apiVersion");
        check("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspce: {}", "spce");
    }
}
