//! Static mode: a YAML file that holds what the streams would have pushed, in the canonical JSON names of the same
//! messages, so that it meets the same decoder. Unknown names are refused, all problems are reported at once.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use weft_core::model::decode::{self, Problem, Problems};
use weft_core::model::{DecodedUpdate, ListenerRole, ListenerSpec, Resource, ServiceKey, Upsert};
use weft_core::snapshot::{Snapshot, apply};
use weft_proto::v1;

/// Largest file read.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most nodes of YAML in it, and most events that make them: enough for ten thousand services with an endpoint each, four
/// times what the reader allows by itself. Memory while reading is some hundred bytes a node.
const NODES_MAX: usize = 1_000_000;

/// All that static mode needs to start.
#[derive(Debug)]
pub struct StaticSetup {
    /// What the proxy knows; complete, so nothing is ever asked.
    pub snapshot: Snapshot,
    /// What it listens on. At least one.
    pub listeners: Vec<ListenerSpec>,
    /// Where its identity is; `None`: it has none, and nothing in the file needs one.
    pub tls: Option<TlsPaths>,
}

/// PEM files; relative ones are relative to the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPaths {
    /// Leaf first.
    pub certificate_chain: PathBuf,
    /// Must not be readable by others.
    pub private_key: PathBuf,
    /// Roots of the mesh's trust domain.
    pub trust_bundle: PathBuf,
}

/// Why a file makes no set-up.
#[derive(Debug, thiserror::Error)]
pub enum StaticConfigError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It is no YAML, with the position.
    #[error("no valid YAML: {0}")]
    Syntax(String),
    /// It is YAML with something wrong in it: `field: reason`, one a line.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads and decodes a file. Blocks; called once, at start.
///
/// # Errors
/// [`StaticConfigError`].
pub fn load(path: &Path) -> Result<StaticSetup, StaticConfigError> {
    let failed = |source| StaticConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(std::io::Error::other("is larger than 16 MiB")));
    }
    decode(&std::fs::read_to_string(path).map_err(failed)?)
}

/// Decodes the text of a file.
///
/// # Errors
/// [`StaticConfigError::Syntax`] or [`StaticConfigError::Invalid`].
pub fn decode(yaml: &str) -> Result<StaticSetup, StaticConfigError> {
    let budget = serde_saphyr::budget! { max_nodes: NODES_MAX, max_events: 2 * NODES_MAX };
    let options = serde_saphyr::options! { budget: budget };
    let document: serde_json::Value = serde_saphyr::from_str_with_options(yaml, options)
        .map_err(|error| StaticConfigError::Syntax(error.to_string()))?;
    let mut reader = Reader::default();
    let setup = reader.setup(document);
    match setup {
        Some(setup) if reader.problems.is_empty() => Ok(setup),
        Some(_) | None => Err(StaticConfigError::Invalid(reader.problems)),
    }
}

/// Collects problems on the way down.
#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
}

impl Reader {
    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.problems.push(Problem { field: field.into(), reason: reason.into() });
    }

    fn setup(&mut self, document: serde_json::Value) -> Option<StaticSetup> {
        let serde_json::Value::Object(mut top) = document else {
            self.add("", "the file must be a mapping with mesh, tls, listeners, services, endpoints");
            return None;
        };
        let mesh = match top.remove("mesh") {
            Some(mesh) => self.one("mesh", mesh, decode::mesh),
            None => {
                self.add("mesh", "is required, at least with trustDomain");
                None
            }
        };
        let tls =
            top.remove("tls").and_then(|tls| self.message::<v1::TlsMaterial>("tls", tls)).map(|tls| self.tls(tls));
        let listeners = self.list(top.remove("listeners"), "listeners", decode::listener);
        let services = self.list(top.remove("services"), "services", decode::service);
        let endpoints = self.list(top.remove("endpoints"), "endpoints", decode::endpoint);
        for unknown in top.keys() {
            self.add(unknown, "is unknown; known are mesh, tls, listeners, services, endpoints");
        }
        self.unique("services", services.iter().map(|(at, service)| (*at, &service.key)));
        let ids = endpoints.iter().map(|(at, endpoint)| (*at, (&endpoint.service, &endpoint.id)));
        self.unique("endpoints", ids);
        self.unique("listeners", listeners.iter().map(|(at, listener)| (*at, &listener.name)));
        let declared: HashSet<&ServiceKey> = services.iter().map(|(_, service)| &service.key).collect();
        for (at, endpoint) in &endpoints {
            if !declared.contains(&endpoint.service) {
                self.add(format!("endpoints[{at}].service"), format!("no service {} in this file", endpoint.service));
            }
        }
        let mesh = mesh.map(Resource::Mesh);
        let services = services.into_iter().map(|(_, service)| Resource::Service(service));
        let endpoints = endpoints.into_iter().map(|(_, endpoint)| Resource::Endpoint(endpoint));
        let resources = mesh.into_iter().chain(services).chain(endpoints);
        let upserts = resources.map(|resource| Upsert { version: 1, resource }).collect();
        let update = DecodedUpdate { revision: 1, upserts, removals: Vec::new() };
        let snapshot = apply(&Snapshot::empty(), update).into_complete();
        self.listeners(&listeners, &snapshot, tls.is_some());
        Some(StaticSetup { snapshot, listeners: listeners.into_iter().map(|(_, listener)| listener).collect(), tls })
    }

    /// What listeners refer to must be there, identity included.
    fn listeners(&mut self, listeners: &[(usize, ListenerSpec)], snapshot: &Snapshot, has_tls: bool) {
        if listeners.is_empty() && self.problems.is_empty() {
            self.add("listeners", "at least one is required");
        }
        for (at, listener) in listeners {
            let (field, service, port) = match &listener.role {
                ListenerRole::ReverseProxy(service, port) => ("reverseProxy", service, port),
                ListenerRole::Outbound(service, port) => ("outbound", service, port),
                ListenerRole::Inbound { .. } if has_tls => continue,
                ListenerRole::Inbound { .. } => {
                    self.add(format!("listeners[{at}].inbound"), "terminates TLS and needs the section tls");
                    continue;
                }
            };
            let Some(entry) = snapshot.service(service).and_then(|entry| entry.port(port.get())) else {
                self.add(
                    format!("listeners[{at}].{field}"),
                    format!("no service {service} with port {port} in this file"),
                );
                continue;
            };
            if !has_tls && entry.endpoints.iter().any(|endpoint| endpoint.mesh_tls) {
                self.add(
                    format!("listeners[{at}].{field}"),
                    "leads to captured endpoints with an identity and needs the section tls",
                );
            }
        }
    }

    fn tls(&mut self, tls: v1::TlsMaterial) -> TlsPaths {
        let paths = [
            ("tls.certificateChainPath", &tls.certificate_chain_path),
            ("tls.privateKeyPath", &tls.private_key_path),
            ("tls.trustBundlePath", &tls.trust_bundle_path),
        ];
        for (field, path) in paths {
            if path.is_empty() {
                self.add(field, "is required");
            }
        }
        TlsPaths {
            certificate_chain: tls.certificate_chain_path.into(),
            private_key: tls.private_key_path.into(),
            trust_bundle: tls.trust_bundle_path.into(),
        }
    }

    fn list<M: DeserializeOwned, T>(
        &mut self,
        value: Option<serde_json::Value>,
        field: &str,
        decode: impl Fn(&M) -> Result<T, Problems>,
    ) -> Vec<(usize, T)> {
        let items = match value {
            None | Some(serde_json::Value::Null) => return Vec::new(),
            Some(serde_json::Value::Array(items)) => items,
            Some(_) => {
                self.add(field, "must be a list");
                return Vec::new();
            }
        };
        let decoded = |(at, item)| Some((at, self.one(&format!("{field}[{at}]"), item, &decode)?));
        items.into_iter().enumerate().filter_map(decoded).collect()
    }

    fn one<M: DeserializeOwned, T>(
        &mut self,
        field: &str,
        value: serde_json::Value,
        decode: impl Fn(&M) -> Result<T, Problems>,
    ) -> Option<T> {
        let message = self.message::<M>(field, value)?;
        decode(&message).map_err(|problems| self.problems.extend(problems.within(field))).ok()
    }

    /// The message itself: names and types.
    fn message<M: DeserializeOwned>(&mut self, field: &str, value: serde_json::Value) -> Option<M> {
        serde_json::from_value(value).map_err(|error| self.add(field, error.to_string())).ok()
    }

    fn unique<K: Eq + std::hash::Hash>(&mut self, field: &str, keys: impl Iterator<Item = (usize, K)>) {
        let mut seen = HashSet::new();
        for (at, key) in keys {
            if !seen.insert(key) {
                self.add(format!("{field}[{at}]"), "is declared twice");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVERSE_PROXY: &str = include_str!("../../../deploy/examples/static/reverse-proxy.yaml");
    const OUTBOUND: &str = include_str!("../../../deploy/examples/static/outbound.yaml");
    const INBOUND: &str = include_str!("../../../deploy/examples/static/inbound.yaml");

    fn check(yaml: &str, fields: &[&str]) {
        let found: Vec<String> = match decode(yaml) {
            Ok(_) => Vec::new(),
            Err(StaticConfigError::Invalid(problems)) => problems.into_iter().map(|problem| problem.field).collect(),
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(found, fields);
    }

    #[test]
    fn a_file_may_hold_ten_thousand_services() {
        let mut yaml = "mesh: { trustDomain: cluster.local }\nlisteners:\n  - { name: a, address: '127.0.0.1:0', \
                        reverseProxy: { namespace: default, name: s-0, port: 80 } }\nservices:\n"
            .to_owned();
        for index in 0..10_000 {
            let ports = "[{ port: 80, name: web, appProtocol: http }]";
            yaml.push_str(&format!("  - {{ namespace: default, name: s-{index}, ports: {ports} }}\n"));
        }
        yaml.push_str("endpoints:\n");
        for index in 0..10_000 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + index);
            let ports = "[{ servicePort: 80, targetPort: 8080, captured: false }]";
            yaml.push_str(&format!(
                "  - {{ namespace: default, service: s-{index}, id: e, address: {address}, ports: {ports} }}\n"
            ));
        }
        let setup = decode(&yaml).unwrap();
        assert_eq!(setup.snapshot.services().filter(|entry| entry.ports[0].endpoints.len() == 1).count(), 10_000);
    }

    #[test]
    fn the_examples_are_sound() {
        let plain = decode(REVERSE_PROXY).unwrap();
        assert!(plain.tls.is_none() && plain.snapshot.is_ready());
        let ListenerRole::ReverseProxy(service, port) = &plain.listeners[0].role else { panic!("{plain:?}") };
        let entry = plain.snapshot.service(service).unwrap().port(port.get()).unwrap();
        assert_eq!(entry.endpoints.len(), 2);

        let outbound = decode(OUTBOUND).unwrap();
        assert_eq!(outbound.tls.unwrap().private_key, PathBuf::from("/etc/weft/client.key"));
        assert!(outbound.snapshot.services().all(|service| service.ports[0].endpoints.get(0).unwrap().mesh_tls));

        let inbound = decode(INBOUND).unwrap();
        assert_eq!(inbound.listeners.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        check("[]", &[""]);
        check("mesh: { trustDomain: a, extra: 1 }", &["mesh"]);
        check("mesh: { trustDomain: a }\nroutes: []", &["routes"]);
        check("mesh: { trustDomain: a }", &["listeners"]);
        check(&REVERSE_PROXY.replace("port: 80 }", "port: 81 }"), &["listeners[0].reverseProxy"]);
        check(&REVERSE_PROXY.replace("targetPort: 9002", "targetPort: 0"), &["endpoints[1].ports[0].targetPort"]);
        check(&REVERSE_PROXY.replace("id: backend-2", "id: backend-1"), &["endpoints[1]"]);
        check(
            &REVERSE_PROXY.replace("service: backend\n    id: backend-2", "service: b\n    id: x"),
            &["endpoints[1].service"],
        );
        let no_tls =
            OUTBOUND.replace("tls:\n", "").replace("  certificateChainPath", "#").replace("  privateKeyPath", "#");
        check(&no_tls.replace("  trustBundlePath", "#"), &["listeners[0].outbound", "listeners[1].outbound"]);
        let no_role = "mesh: { trustDomain: a }\nlisteners: [{ name: x, address: '127.0.0.1:0' }]";
        check(no_role, &["listeners[0]"]);
        check(&INBOUND.replace("INBOUND_MODE_STRICT", "SOMETIMES"), &["listeners[0]", "listeners[1]"]);
    }

    #[test]
    fn a_broken_file_tells_where() {
        let Err(StaticConfigError::Syntax(text)) = decode("mesh:\n  trustDomain: [a\nlisteners: {") else {
            panic!("must be refused")
        };
        assert!(text.contains("line"), "{text}");
    }
}
