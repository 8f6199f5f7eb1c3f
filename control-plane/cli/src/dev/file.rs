//! The YAML of `weft dev up`: which applications there are. Parsed strictly (an unknown field is an error, because a
//! misspelt one would be silently ignored) and checked as a whole, so that every problem is reported at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

/// Instances in one mesh; each gets one address of a /16, and this machine has limits long before that.
pub const INSTANCES_MAX: u32 = 200;

/// A mesh on one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DevFile {
    /// Name of the mesh, a DNS label; meshes of different names run side by side. Default "dev".
    #[serde(default)]
    pub name: Option<String>,
    /// The applications.
    #[serde(default)]
    pub apps: Vec<App>,
    /// Doors into the mesh on this machine.
    #[serde(default)]
    pub gateways: Vec<Gateway>,
    /// What sidecars do with destinations the mesh does not know.
    #[serde(default)]
    pub outbound_mode: OutboundMode,
    /// Give every instance an IPv6 address beside its IPv4 one.
    #[serde(default)]
    pub ipv6: bool,
    /// Seconds without a renewal after which the control plane forgets an instance. Default 10.
    #[serde(default)]
    pub lease_seconds: Option<u32>,
    /// Log filter of the control plane and of the proxies. Default "info".
    #[serde(default)]
    pub log: Option<String>,
    /// Write an access record per request and connection. Default true.
    #[serde(default = "yes")]
    pub access_log: bool,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct App {
    /// Name, a DNS label. Also the label `app` of its instances, which are called NAME-0, NAME-1, …
    pub name: String,
    /// Program and arguments, or one string for `sh -c`.
    pub command: Command,
    /// Ports it listens on. `up` waits until it does.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// How many instances. Default 1.
    #[serde(default = "one")]
    pub replicas: u32,
    /// The service it gives; by default one of its own name with its own ports, if it has ports.
    #[serde(default)]
    pub service: Service,
    /// Added to the environment of `weft dev up`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whether a sidecar captures its traffic. Default true.
    #[serde(default = "yes")]
    pub sidecar: bool,
    /// Default "default".
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Default: the application's name.
    #[serde(default)]
    pub service_account: Option<String>,
    /// Further labels of its instances.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// UID (and GID) it runs as. Default: whoever called sudo, else whoever runs `weft`.
    #[serde(default)]
    pub user: Option<u32>,
    /// Whether its sidecar takes plaintext from others.
    #[serde(default)]
    pub inbound_mode: InboundMode,
    /// Further arguments for `weft-proxy run`.
    #[serde(default)]
    pub proxy_args: Vec<String>,
    /// Further arguments for `weft-proxy init`.
    #[serde(default)]
    pub init_args: Vec<String>,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Command {
    /// For `sh -c`.
    Shell(String),
    /// Program and arguments.
    Argv(Vec<String>),
}

impl Command {
    /// Program and arguments.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Shell(line) => vec!["sh".to_owned(), "-c".to_owned(), line.clone()],
            Self::Argv(argv) => argv.clone(),
        }
    }
}

/// A port of an application.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Where it listens.
    pub port: u16,
    /// "http", "grpc", "kubernetes.io/h2c", "tcp"; empty: detect.
    #[serde(default)]
    pub protocol: String,
    /// Port of the service that leads here. Default: `port`.
    #[serde(default)]
    pub service_port: Option<u16>,
}

impl Port {
    /// The port of the service that leads here.
    #[must_use]
    pub fn of_service(&self) -> u16 {
        self.service_port.unwrap_or(self.port)
    }
}

/// The service of an application.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Service {
    /// `false`: none; `true`: one of the application's name.
    Wanted(bool),
    /// One of this name. Several applications may share it if their ports agree.
    Named(String),
}

impl Default for Service {
    fn default() -> Self {
        Self::Wanted(true)
    }
}

/// A gateway: listens on this machine and leads to a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// Name, a DNS label. Default "gateway".
    #[serde(default = "gateway_name")]
    pub name: String,
    /// For example "127.0.0.1:8080".
    pub listen: SocketAddr,
    /// "NAMESPACE/NAME" or "NAMESPACE/NAME:PORT".
    pub service: String,
}

/// What sidecars do with destinations the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutboundMode {
    /// Let them through in the clear.
    #[default]
    Passthrough,
    /// Refuse them.
    RegistryOnly,
}

impl OutboundMode {
    /// As the control plane's flag.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::RegistryOnly => "registry-only",
        }
    }
}

/// Whether a sidecar takes plaintext from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InboundMode {
    /// Mutual TLS and plaintext.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl InboundMode {
    /// As the proxy's flag.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }
}

impl App {
    /// The service account of its identity.
    #[must_use]
    pub fn account(&self) -> &str {
        self.service_account.as_deref().unwrap_or(&self.name)
    }

    /// Name of its service, if it gives one.
    #[must_use]
    pub fn service_name(&self) -> Option<&str> {
        match &self.service {
            _ if self.ports.is_empty() => None,
            Service::Wanted(false) => None,
            Service::Wanted(true) => Some(&self.name),
            Service::Named(name) => Some(name),
        }
    }
}

impl DevFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, is not such YAML (with line and column), or fails [`DevFile::problems`].
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Parses and checks YAML.
    ///
    /// # Errors
    /// As [`DevFile::read`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let file: Self = serde_saphyr::from_str(text)?;
        let problems = file.problems();
        anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(file)
    }

    /// Name of the mesh.
    #[must_use]
    pub fn mesh_name(&self) -> &str {
        self.name.as_deref().unwrap_or("dev")
    }

    /// Everything that is wrong, one line each with the field's path; empty if nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut label = |path: String, value: &str, max: usize| {
            if !is_label(value, max) {
                problems.push(format!("{path}: {value:?} is not a DNS label of at most {max} characters"));
            }
        };
        label("name".to_owned(), self.mesh_name(), 32);
        for (index, app) in self.apps.iter().enumerate() {
            // The instance's number is appended to the name.
            label(format!("apps[{index}].name"), &app.name, 58);
            label(format!("apps[{index}].namespace"), &app.namespace, 63);
            label(format!("apps[{index}].serviceAccount"), app.account(), 63);
            if let Some(service) = app.service_name() {
                label(format!("apps[{index}].service"), service, 63);
            }
        }
        for (index, gateway) in self.gateways.iter().enumerate() {
            label(format!("gateways[{index}].name"), &gateway.name, 63);
        }
        self.app_problems(&mut problems);
        problems
    }

    fn app_problems(&self, problems: &mut Vec<String>) {
        let mut names = BTreeSet::new();
        for (index, app) in self.apps.iter().enumerate() {
            if !names.insert(&app.name) {
                problems.push(format!("apps[{index}].name: {:?} is there twice", app.name));
            }
            if app.command.argv().first().is_none_or(String::is_empty) {
                problems.push(format!("apps[{index}].command: is empty"));
            }
            let mut ports = BTreeSet::new();
            for (place, port) in app.ports.iter().enumerate() {
                if port.port == 0 || port.of_service() == 0 || !ports.insert(port.of_service()) {
                    problems.push(format!("apps[{index}].ports[{place}]: ports are unique and not 0"));
                }
            }
        }
        if self.apps.iter().fold(0_u32, |sum, app| sum.saturating_add(app.replicas)) > INSTANCES_MAX {
            problems.push(format!("apps: more than {INSTANCES_MAX} instances"));
        }
        let mut gateways = BTreeSet::new();
        for (index, gateway) in self.gateways.iter().enumerate() {
            if !gateways.insert(&gateway.name) {
                problems.push(format!("gateways[{index}].name: {:?} is there twice", gateway.name));
            }
        }
    }
}

fn is_label(text: &str, max: usize) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=max).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn gateway_name() -> String {
    "gateway".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_documented_ones() {
        let file =
            DevFile::parse("apps: [{name: web, command: [python3, -m, http.server], ports: [{port: 8000}]}]").unwrap();
        let app = &file.apps[0];
        assert_eq!(file.mesh_name(), "dev");
        assert_eq!((app.replicas, app.sidecar, app.namespace.as_str(), app.account()), (1, true, "default", "web"));
        assert_eq!(app.service_name(), Some("web"));
        assert_eq!(app.ports[0].of_service(), 8000);
        let shell = DevFile::parse("apps: [{name: a, command: 'x | y', service: false}]").unwrap();
        assert_eq!(shell.apps[0].command.argv(), ["sh", "-c", "x | y"]);
        assert_eq!(shell.apps[0].service_name(), None);
    }

    #[test]
    fn problems_name_the_field() {
        let check = |yaml: &str, expected: &str| {
            let error = format!("{:#}", DevFile::parse(yaml).unwrap_err());
            assert!(error.contains(expected), "{yaml}: {error}");
        };
        check("apps: [{name: Web, command: [x]}]", "apps[0].name");
        check("apps: [{name: w, command: []}]", "apps[0].command");
        check("apps: [{name: w, command: [x]}, {name: w, command: [x]}]", "apps[1].name");
        check("apps: [{name: w, command: [x], ports: [{port: 0}]}]", "apps[0].ports[0]");
        check("apps: [{name: w, command: [x], replicas: 4000000000}]", "apps: more than");
        check("apps: [{name: w, command: [x], sidecars: true}]", "sidecars");
        check("name: a.b", "name:");
    }
}
