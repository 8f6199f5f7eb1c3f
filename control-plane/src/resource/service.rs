//! `v1 Service`, with Kubernetes' own fields.
//!
//! Three ways say who serves it: `spec.selector` over the labels of workloads of the same namespace; the annotation
//! `weft.dev/static-endpoints` with addresses, separated by commas; or `type: ExternalName` with a DNS name. The last two
//! have no identity: they are spoken to in the clear, with policy applied at the client. Fields of Kubernetes that mean
//! nothing here are accepted, so that one file works in both worlds; unknown ones are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;
use weft_core::model::decode::{app_protocol, is_dns_label};
use weft_proto::v1::ServicePort;

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

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    selector: BTreeMap<String, String>,
    ports: Vec<RawPort>,
    r#type: Option<String>,
    external_name: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    _cluster_ips: Vec<String>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPort {
    name: String,
    port: i64,
    target_port: Option<serde_json::Value>,
    app_protocol: String,
    protocol: Option<String>,
    #[serde(rename = "nodePort")]
    _node_port: Option<i64>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

/// Reads a service that somebody wants to apply.
///
/// # Errors
/// Every problem with its field path.
pub fn read(stored: &Stored) -> Result<ServiceSpec, Problems> {
    let (spec, problems) = lenient(stored)?;
    problems.into_result()?;
    Ok(spec)
}

/// Reads a service that was accepted once. Rules that came later, and fields of later versions, do not take it away.
///
/// # Errors
/// Fields that are not even of the right shape.
pub fn understand(stored: &Stored) -> Result<ServiceSpec, Problems> {
    Ok(lenient(stored)?.0)
}

fn lenient(stored: &Stored) -> Result<(ServiceSpec, Problems), Problems> {
    let mut problems = Problems::default();
    let raw: Raw = serde_json::from_value(stored.spec.clone()).map_err(|error| {
        let mut problems = Problems::default();
        problems.add("spec", error.to_string());
        problems
    })?;
    for field in raw.other.keys().filter(|field| !IGNORED.contains(&field.as_str())) {
        problems.add(format!("spec.{field}"), "is no field of a Service");
    }
    let ports = ports(&raw.ports, &mut problems);
    let backing = backing(stored, &raw, &mut problems);
    let accounts = accounts(stored, &backing, &mut problems);
    let address = address(&raw, &mut problems);
    Ok((ServiceSpec { ports, backing, accounts, address }, problems))
}

fn ports(raw: &[RawPort], problems: &mut Problems) -> Vec<Port> {
    if raw.is_empty() || raw.len() > PORTS_MAX {
        problems.add("spec.ports", format!("must hold 1 to {PORTS_MAX} ports"));
    }
    let mut ports: Vec<Port> = Vec::new();
    for (index, raw) in raw.iter().enumerate().take(PORTS_MAX) {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        for field in raw.other.keys() {
            problems.add(at(field), "is no field of a port of a Service");
        }
        let number = port_number(raw.port);
        if number.is_none() {
            problems.add(at("port"), format!("{} is no port (1-65535)", raw.port));
        }
        if raw.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            problems.add(at("protocol"), "only TCP is carried");
        }
        if app_protocol(&raw.app_protocol).is_none() {
            let text = "is unknown; write http, kubernetes.io/h2c or tcp, or leave it out";
            problems.add(at("appProtocol"), format!("{:?} {text}", raw.app_protocol));
        }
        let number = number.unwrap_or(1);
        if ports.iter().any(|port| port.service.port == u32::from(number)) {
            problems.add(at("port"), format!("{number} is there twice"));
        }
        if !raw.name.is_empty() && ports.iter().any(|port| port.service.name == raw.name) {
            problems.add(at("name"), format!("{:?} is there twice", raw.name));
        }
        let target = target(raw.target_port.as_ref(), number).unwrap_or_else(|reason| {
            problems.add(at("targetPort"), reason);
            Target::Number(number)
        });
        let service =
            ServicePort { port: number.into(), name: raw.name.clone(), app_protocol: raw.app_protocol.clone() };
        ports.push(Port { service, target });
    }
    ports
}

fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn target(raw: Option<&serde_json::Value>, default: u16) -> Result<Target, String> {
    match raw {
        None | Some(serde_json::Value::Null) => Ok(Target::Number(default)),
        Some(serde_json::Value::Number(number)) => {
            number.as_i64().and_then(port_number).map(Target::Number).ok_or_else(|| format!("{number} is no port"))
        }
        Some(serde_json::Value::String(name)) if !name.is_empty() && name.len() <= 63 => Ok(Target::Name(name.clone())),
        Some(other) => Err(format!("{other} is neither a port number nor a port's name")),
    }
}

fn backing(stored: &Stored, raw: &Raw, problems: &mut Problems) -> Backing {
    let listed = stored.annotations.get(STATIC_ENDPOINTS);
    match (raw.r#type.as_deref().unwrap_or("ClusterIP"), &raw.external_name, listed) {
        ("ExternalName", Some(name), None) if is_dns_name(name) => {
            if !raw.selector.is_empty() {
                problems.add("spec.selector", "does not go with type ExternalName");
            }
            Backing::Dns(name.clone())
        }
        ("ExternalName", _, _) => {
            problems.add("spec.externalName", "must be a DNS name when type is ExternalName");
            Backing::Dns(String::new())
        }
        ("ClusterIP", None, Some(text)) => {
            if !raw.selector.is_empty() {
                problems.add("spec.selector", format!("does not go with the annotation {STATIC_ENDPOINTS}"));
            }
            Backing::Static(static_addresses(text, problems))
        }
        ("ClusterIP" | "NodePort" | "LoadBalancer", None, None) => Backing::Selector(raw.selector.clone()),
        (kind, external, _) => {
            let reason = if external.is_some() { "externalName needs type ExternalName" } else { "is not supported" };
            problems.add("spec.type", format!("{kind:?}: {reason}"));
            Backing::Selector(BTreeMap::new())
        }
    }
}

fn accounts(stored: &Stored, backing: &Backing, problems: &mut Problems) -> Option<BTreeSet<String>> {
    let text = stored.annotations.get(SERVICE_ACCOUNTS)?;
    let field = format!("metadata.annotations[{SERVICE_ACCOUNTS}]");
    if !matches!(backing, Backing::Selector(_)) {
        problems.add(&*field, "goes with a selector only: other endpoints have no identity");
    }
    let accounts: BTreeSet<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
    for account in accounts.iter().filter(|account| !is_dns_label(account)) {
        problems.add(&*field, format!("{account:?} is no name of a service account"));
    }
    Some(accounts)
}

fn static_addresses(text: &str, problems: &mut Problems) -> Vec<IpAddr> {
    let field = format!("metadata.annotations[{STATIC_ENDPOINTS}]");
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<IpAddr>() {
            Ok(address) if addresses.len() < STATIC_MAX => addresses.push(address),
            Ok(_) => problems.add(&*field, format!("holds more than {STATIC_MAX} addresses")),
            Err(_) => problems.add(&*field, format!("{part:?} is no IP address")),
        }
    }
    addresses
}

/// Whether an address can be nobody's endpoint: it means nobody, many, or whoever uses it (and so the proxy itself).
#[must_use]
pub fn leads_nowhere(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast
}

fn address(raw: &Raw, problems: &mut Problems) -> Address {
    match raw.cluster_ip.as_deref() {
        None | Some("") => Address::Virtual,
        Some("None") => Address::Headless,
        Some(text) => text.parse().map(Address::Fixed).unwrap_or_else(|_| {
            problems.add("spec.clusterIP", format!("{text:?} is neither an IP address nor None"));
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
mod tests {
    use super::*;

    fn service(spec: &str, endpoints: Option<&str>) -> Result<ServiceSpec, Problems> {
        let annotations = endpoints.map(|text| (STATIC_ENDPOINTS.to_owned(), text.to_owned()));
        let stored = Stored {
            spec: serde_json::from_str(spec).unwrap(),
            annotations: annotations.into_iter().collect(),
            ..Stored::default()
        };
        read(&stored)
    }

    #[test]
    fn every_problem_is_named() {
        let check = |spec: &str, endpoints: Option<&str>, expected: &[&str]| {
            let problems = service(spec, endpoints).unwrap_err();
            for part in expected {
                assert!(problems.to_string().contains(part), "{problems} lacks {part}");
            }
            assert_eq!(problems.0.len(), expected.len(), "{problems}");
        };
        check("{}", None, &["spec.ports: must hold"]);
        check(r#"{"ports":[{"port":0},{"port":80},{"port":80}]}"#, None, &["spec.ports[0].port", "spec.ports[2].port"]);
        check(r#"{"ports":[{"port":80,"protocol":"UDP"}],"bogus":1}"#, None, &["spec.bogus", "only TCP"]);
        check(r#"{"ports":[{"port":80,"appProtocol":"ftp"}]}"#, None, &["spec.ports[0].appProtocol"]);
        check(r#"{"ports":[{"port":80,"targetPort":true}]}"#, None, &["spec.ports[0].targetPort"]);
        check(r#"{"ports":[{"port":80}],"type":"ExternalName"}"#, None, &["spec.externalName"]);
        check(r#"{"ports":[{"port":80}],"clusterIP":"x"}"#, None, &["spec.clusterIP"]);
        check(r#"{"ports":[{"port":80}]}"#, Some("1.2.3.4,x"), &["static-endpoints"]);
        check(r#"{"ports":[{"port":80}],"selector":{"a":"b"}}"#, Some("1.2.3.4"), &["spec.selector"]);
        check(r#"{"ports":"x"}"#, None, &["spec: invalid type"]);
    }

    #[test]
    fn the_three_ways_and_kubernetes_fields() {
        let spec = r#"{"selector":{"app":"web"},"ports":[{"port":80,"targetPort":"http","appProtocol":"http","protocol":"TCP"}],
            "type":"ClusterIP","sessionAffinity":"None","clusterIP":"None"}"#;
        let read = service(spec, None).unwrap();
        assert_eq!(read.backing, Backing::Selector([("app".to_owned(), "web".to_owned())].into()));
        assert_eq!((read.ports[0].target.clone(), read.address), (Target::Name("http".to_owned()), Address::Headless));
        let read = service(r#"{"ports":[{"port":80}]}"#, Some("1.2.3.4, ::1")).unwrap();
        assert_eq!(read.backing, Backing::Static(vec!["1.2.3.4".parse().unwrap(), "::1".parse().unwrap()]));
        let read = service(r#"{"ports":[{"port":80}],"type":"ExternalName","externalName":"db.example."}"#, None);
        assert_eq!(read.unwrap().backing, Backing::Dns("db.example.".to_owned()));
    }
}
