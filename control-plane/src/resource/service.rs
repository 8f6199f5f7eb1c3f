//! `v1 Service`, with Kubernetes' own fields.
//!
//! Three ways say who serves it: `spec.selector` over the labels of workloads of the same namespace; the annotation
//! `weft.dev/static-endpoints` with addresses, separated by commas; or `type: ExternalName` with a DNS name. The last two
//! have no identity: they are spoken to in the clear, with policy applied at the client. Fields of Kubernetes that mean
//! nothing here are accepted, so that one file works in both worlds; unknown ones are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use weft_core::model::decode::{app_protocol, is_dns_label};
use weft_proto::v1::ServicePort;

use super::fields::{Fields, Findings};
use super::{Problems, Stored};

/// Names the addresses of a service without workloads.
pub const STATIC_ENDPOINTS: &str = "weft.dev/static-endpoints";

/// Names the service accounts whose workloads may serve a service, separated by commas. Labels are what a workload says of
/// itself; without this annotation everybody in the namespace who carries them serves, as in Kubernetes everybody who may
/// create pods there.
pub const SERVICE_ACCOUNTS: &str = "weft.dev/service-accounts";

/// Ports of one service.
const PORTS_MAX: usize = 64;

/// Addresses in the annotation.
const STATIC_MAX: usize = 1000;

/// Fields of Kubernetes' ServiceSpec that have no meaning here.
const IGNORED: [&str; 13] = [
    "sessionAffinity",
    "sessionAffinityConfig",
    "ipFamilies",
    "ipFamilyPolicy",
    "internalTrafficPolicy",
    "externalTrafficPolicy",
    "publishNotReadyAddresses",
    "allocateLoadBalancerNodePorts",
    "loadBalancerIP",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
    "healthCheckNodePort",
    "trafficDistribution",
];

/// A service as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its ports.
    pub ports: Vec<Port>,
    /// Who serves it.
    pub backing: Backing,
    /// Service accounts that may; `None`: all of the namespace.
    pub accounts: Option<BTreeSet<String>>,
    /// Address it is reached at.
    pub address: Address,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// As clients see it.
    pub service: ServicePort,
    /// Where workloads serve it.
    pub target: Target,
}

/// Where a workload serves a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By number.
    Number(u16),
    /// By the name that the workload registered.
    Name(String),
}

/// Who serves a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Workloads of the namespace with all of these labels; an empty selector selects nobody.
    Selector(BTreeMap<String, String>),
    /// Fixed addresses.
    Static(Vec<IpAddr>),
    /// Whatever a DNS name resolves to.
    Dns(String),
}

/// Which virtual address is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Any.
    Virtual,
    /// Exactly this one.
    Fixed(IpAddr),
    /// None (`clusterIP: None`).
    Headless,
}

/// Reads a service that somebody wants to apply.
///
/// # Errors
/// Every problem with its field path.
pub fn read(stored: &Stored) -> Result<ServiceSpec, Problems> {
    let mut problems = Problems::default();
    let spec = check(stored, &mut problems);
    problems.into_result()?;
    Ok(spec)
}

/// Reads a service that somebody wants to apply, and adds its problems to those that were found before.
pub fn check(stored: &Stored, problems: &mut Problems) -> ServiceSpec {
    let (spec, mut findings) = examine(stored);
    // Of a spec that is not even JSON no more needs to be said.
    if problems.0.iter().any(|problem| problem.field == "spec") {
        findings.problems.0.retain(|problem| problem.field != "spec");
    }
    problems.0.append(&mut findings.problems.0);
    spec
}

/// Reads a service that was accepted once. Rules that came later, and fields of later versions, do not take it away.
///
/// # Errors
/// Fields that are not even of the right shape.
pub fn understand(stored: &Stored) -> Result<ServiceSpec, Problems> {
    let (spec, findings) = examine(stored);
    if findings.misshapen { Err(findings.problems) } else { Ok(spec) }
}

fn examine(stored: &Stored) -> (ServiceSpec, Findings) {
    let mut findings = Findings::default();
    let mut fields = Fields::of("spec".to_owned(), &stored.spec, &mut findings);
    let readable = stored.spec.is_object();
    let backing = backing(stored, &mut fields, &mut findings);
    let addressed = !matches!(backing, Backing::Selector(_));
    let listed = fields.list("ports", &mut findings);
    let ports = match listed {
        Some(listed) => ports(listed, addressed, &mut findings),
        None if readable && !findings.misshapen => ports(&[], addressed, &mut findings),
        None => Vec::new(),
    };
    let accounts = accounts(stored, &backing, &mut findings);
    let address = address(&mut fields, &mut findings);
    fields.end(&IGNORED, "a Service", &mut findings);
    (ServiceSpec { ports, backing, accounts, address }, findings)
}

/// `addressed` when plain addresses serve them, which have no names for ports.
fn ports(listed: &[Value], addressed: bool, findings: &mut Findings) -> Vec<Port> {
    if listed.is_empty() || listed.len() > PORTS_MAX {
        findings.add("spec.ports", format!("must hold 1 to {PORTS_MAX} ports, but holds {}", listed.len()));
    }
    let mut ports: Vec<Port> = Vec::new();
    for (index, value) in listed.iter().enumerate().take(PORTS_MAX) {
        let mut fields = Fields::of(format!("spec.ports[{index}]"), value, findings);
        if value.is_object() {
            let port = port(&mut fields, addressed, &ports, findings);
            ports.push(port);
        }
        fields.end(&["nodePort"], "a port of a Service", findings);
    }
    ports
}

fn port(fields: &mut Fields<'_>, addressed: bool, before: &[Port], findings: &mut Findings) -> Port {
    let number = number(fields, findings);
    if before.iter().any(|port| Some(port.service.port) == number.map(u32::from)) {
        findings.add(fields.at("port"), "is there twice; give each port of the service its own number");
    }
    let name = fields.text("name", findings).unwrap_or_default();
    if !name.is_empty() && before.iter().any(|port| port.service.name == name) {
        findings.add(fields.at("name"), format!("{name:?} is there twice; give each port its own name"));
    }
    if fields.text("protocol", findings).is_some_and(|protocol| protocol != "TCP") {
        findings.add(fields.at("protocol"), "only TCP is carried; write TCP or leave it out");
    }
    let protocol = fields.text("appProtocol", findings).unwrap_or_default();
    if app_protocol(protocol).is_none() {
        let text = "is unknown; write http, kubernetes.io/h2c or tcp, or leave it out";
        findings.add(fields.at("appProtocol"), format!("{protocol:?} {text}"));
    }
    let number = number.unwrap_or(1);
    let target = target(fields, number, findings);
    if let (Target::Name(name), true) = (&target, addressed) {
        let reason = "names a port, but only registered workloads have names for ports; give its number";
        findings.add(fields.at("targetPort"), format!("{name:?} {reason}"));
    }
    let service = ServicePort { port: number.into(), name: name.to_owned(), app_protocol: protocol.to_owned() };
    Port { service, target }
}

fn number(fields: &mut Fields<'_>, findings: &mut Findings) -> Option<u16> {
    let Some(value) = fields.take("port") else {
        findings.add(fields.at("port"), "is missing; give the port that clients connect to (1-65535)");
        return None;
    };
    let Some(number) = value.as_i64() else {
        fields.wrong("port", "a number (1-65535)", value, findings);
        return None;
    };
    let port = port_number(number);
    if port.is_none() {
        findings.add(fields.at("port"), format!("{number} is no port (1-65535)"));
    }
    port
}

fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn target(fields: &mut Fields<'_>, default: u16, findings: &mut Findings) -> Target {
    let found = match fields.take("targetPort") {
        None => Ok(Target::Number(default)),
        Some(Value::Number(number)) => {
            number.as_i64().and_then(port_number).map(Target::Number).ok_or_else(|| number.to_string())
        }
        Some(Value::String(name)) if !name.is_empty() && name.len() <= 63 => Ok(Target::Name(name.clone())),
        Some(other) => Err(other.to_string()),
    };
    found.unwrap_or_else(|found| {
        let reason = "is neither a port (1-65535) nor the name of one (at most 63 characters)";
        findings.add(fields.at("targetPort"), format!("{found} {reason}"));
        Target::Number(default)
    })
}

fn backing(stored: &Stored, fields: &mut Fields<'_>, findings: &mut Findings) -> Backing {
    let kind = fields.text("type", findings).unwrap_or("ClusterIP");
    let external = fields.text("externalName", findings);
    let selector = fields.texts("selector", findings);
    let listed = stored.annotations.get(STATIC_ENDPOINTS).map(|text| static_addresses(text, findings));
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        let wanted = "write ClusterIP, NodePort, LoadBalancer or ExternalName, or leave it out";
        findings.add("spec.type", format!("{kind:?} is unknown; {wanted}"));
    }
    if kind == "ExternalName" {
        if !selector.is_empty() {
            findings.add("spec.selector", "does not go with type ExternalName; keep one of the two");
        }
        if listed.is_some() {
            findings.add(annotation(), "does not go with type ExternalName; keep one of the two");
        }
        let name = external.unwrap_or_default();
        check_external_name(name, findings);
        return Backing::Dns(name.to_owned());
    }
    if external.is_some() {
        findings.add("spec.externalName", "needs type: ExternalName; set that, or remove it");
    }
    let Some(addresses) = listed else { return Backing::Selector(selector) };
    if !selector.is_empty() {
        let reason = format!("does not go with the annotation {STATIC_ENDPOINTS}; keep one of the two");
        findings.add("spec.selector", reason);
    }
    Backing::Static(addresses)
}

fn check_external_name(name: &str, findings: &mut Findings) {
    if name.strip_suffix('.').unwrap_or(name).parse::<IpAddr>().is_ok() {
        let reason = format!("{name:?} is an address; list it in the annotation {STATIC_ENDPOINTS} instead");
        findings.add("spec.externalName", reason);
    } else if !is_dns_name(name) {
        findings.add("spec.externalName", format!("{name:?} is no DNS name, which type ExternalName needs"));
    }
}

fn annotation() -> String {
    format!("metadata.annotations[{STATIC_ENDPOINTS}]")
}

fn static_addresses(text: &str, findings: &mut Findings) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut seen = BTreeSet::new();
    let parts = text.split(',').map(str::trim);
    if parts.clone().count() > STATIC_MAX {
        findings.add(annotation(), format!("holds more than {STATIC_MAX} addresses; use a DNS name for so many"));
    }
    for part in parts.take(STATIC_MAX) {
        if part.is_empty() {
            findings.add(annotation(), "has an empty entry; write addresses with a comma between each two");
            continue;
        }
        let Ok(address) = part.parse::<IpAddr>() else {
            findings.add(annotation(), format!("{part:?} is no IP address; ports belong into spec.ports"));
            continue;
        };
        if leads_nowhere(address) {
            let reason = "is unspecified, loopback, multicast or broadcast; give the address that serves it";
            findings.add(annotation(), format!("{address} {reason}"));
        }
        if !seen.insert(address.to_canonical()) {
            findings.add(annotation(), format!("{address} is there twice; remove one"));
        }
        addresses.push(address);
    }
    addresses
}

fn accounts(stored: &Stored, backing: &Backing, findings: &mut Findings) -> Option<BTreeSet<String>> {
    let text = stored.annotations.get(SERVICE_ACCOUNTS)?;
    let field = format!("metadata.annotations[{SERVICE_ACCOUNTS}]");
    if !matches!(backing, Backing::Selector(_)) {
        findings.add(&*field, "goes with a selector only, because other endpoints have no identity; remove it");
    }
    let accounts: BTreeSet<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
    for account in accounts.iter().filter(|account| !is_dns_label(account)) {
        findings.add(&*field, format!("{account:?} is no name of a service account (a-z 0-9 -, at most 63); write names with commas between them"));
    }
    Some(accounts)
}

/// Whether an address can be nobody's endpoint: it means nobody, many, or whoever uses it (and so the proxy itself).
#[must_use]
pub fn leads_nowhere(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast
}

fn address(fields: &mut Fields<'_>, findings: &mut Findings) -> Address {
    fields.take("clusterIPs");
    match fields.text("clusterIP", findings) {
        None | Some("") => Address::Virtual,
        Some("None") => Address::Headless,
        Some(text) => text.parse().map(Address::Fixed).unwrap_or_else(|_| {
            let reason = format!("{text:?} is neither an IP address nor None; leave it out to get one");
            findings.add("spec.clusterIP", reason);
            Address::Virtual
        }),
    }
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        !label.is_empty() && label.len() <= 63 && label.bytes().all(legal)
    };
    name.len() <= 253 && name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

#[cfg(test)]
mod tests;
