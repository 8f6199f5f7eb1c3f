//! From API messages to model types: the one gate for what comes from the control plane or a file.
//!
//! Every problem of a message is reported, each with the path of its field, so that an author corrects all of them at
//! once. Nothing panics, and every list and text has a bound: a control plane gone mad must not take the proxy's memory
//! with it. The control plane checks user input with the same functions.

mod listener;
mod problems;
#[cfg(test)]
mod tests;
mod update;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use weft_proto::v1;

use super::{
    AppProtocol, Endpoint, EndpointPort, Mesh, OutboundMode, Resolution, Service, ServiceKey, ServicePort, Verdict,
    Weight,
};
use crate::identity::spiffe::{SpiffeId, TrustDomain};
pub use listener::listener;
use problems::Path;
pub use problems::{PROBLEMS_MAX, Problem, Problems};
pub use update::{Decoded, Refusal, UPDATE_RESOURCES_MAX, name_of, update};

/// Ports of one service or endpoint. Kubernetes services rarely pass 20; ranges of ports are not one service each.
pub const PORTS_MAX: usize = 256;

/// Virtual IPs of one service: one per family and some to spare for several networks.
pub const VIRTUAL_IPS_MAX: usize = 16;

/// Ranges of the mesh: pod and service ranges of both families for many networks. Each connection to an unknown address
/// looks through all of them.
pub const RANGES_MAX: usize = 256;

/// Bytes of free text (ids, localities, reasons): enough for a Kubernetes object name (253).
pub const TEXT_BYTES_MAX: usize = 253;

/// Bytes of a DNS label (RFC 1035 section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// Checks and takes facts about the mesh.
///
/// # Errors
/// Every problem with its field path.
pub fn mesh(message: &v1::Mesh) -> Result<Mesh, Problems> {
    let mut problems = Problems::default();
    let root = Path::root();
    let trust_domain = TrustDomain::new(&message.trust_domain);
    let trust_domain = problems.keep(&root.field("trustDomain"), trust_domain);
    let mut ranges = Vec::new();
    for (path, text) in problems.bounded(&root.field("ranges"), &message.ranges, RANGES_MAX) {
        let range = text.parse::<IpNet>().map_err(|_| format!("{:?} is no CIDR such as 10.0.0.0/8", clip(text)));
        ranges.extend(problems.keep(&path, range).map(|range| range.trunc()));
    }
    let outbound_mode = match v1::OutboundMode::try_from(message.outbound_mode) {
        Ok(v1::OutboundMode::Unspecified | v1::OutboundMode::Passthrough) => OutboundMode::Passthrough,
        Ok(v1::OutboundMode::RegistryOnly) => OutboundMode::RegistryOnly,
        Err(_) => problems.add_or(&root.field("outboundMode"), "unknown mode", OutboundMode::RegistryOnly),
    };
    problems.finish(trust_domain.map(|trust_domain| Mesh { trust_domain, ranges, outbound_mode }))
}

/// Checks and takes a service.
///
/// # Errors
/// Every problem with its field path.
pub fn service(message: &v1::Service) -> Result<Service, Problems> {
    let mut problems = Problems::default();
    let root = Path::root();
    let key = service_key(
        &mut problems,
        (&root.field("namespace"), &message.namespace),
        (&root.field("name"), &message.name),
    );
    let ports_path = root.field("ports");
    if message.ports.is_empty() {
        problems.add(&ports_path, "a service needs at least one port");
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    for (path, port) in problems.bounded(&ports_path, &message.ports, PORTS_MAX) {
        let Some(port) = service_port(&mut problems, &path, port) else { continue };
        if ports.iter().any(|other| other.port == port.port) {
            problems.add(&path.field("port"), format!("port {} is declared twice", port.port));
        }
        if !port.name.is_empty() && ports.iter().any(|other| other.name == port.name) {
            problems.add(&path.field("name"), format!("name {:?} is used twice", port.name));
        }
        ports.push(port);
    }
    let mut virtual_ips = Vec::new();
    for (path, text) in problems.bounded(&root.field("virtualIps"), &message.virtual_ips, VIRTUAL_IPS_MAX) {
        virtual_ips.extend(ip(&mut problems, &path, text));
    }
    problems.finish(key.map(|key| Service { key, ports, virtual_ips }))
}

fn service_port(problems: &mut Problems, path: &Path<'_>, message: &v1::ServicePort) -> Option<ServicePort> {
    let number = port(problems, &path.field("port"), message.port);
    let name = text(problems, &path.field("name"), &message.name);
    let protocol = app_protocol(&message.app_protocol);
    if protocol.is_none() {
        problems.add(&path.field("appProtocol"), APP_PROTOCOL_FORM);
    }
    Some(ServicePort { port: number?, name: name?, protocol: protocol? })
}

const APP_PROTOCOL_FORM: &str = "must be empty (detect), http, kubernetes.io/h2c, grpc, http2 or tcp";

/// What an `appProtocol` means; `None` if it means nothing here.
#[must_use]
pub fn app_protocol(text: &str) -> Option<AppProtocol> {
    match text {
        "" => Some(AppProtocol::Detect),
        "http" => Some(AppProtocol::Http1),
        "kubernetes.io/h2c" | "grpc" | "http2" => Some(AppProtocol::H2c),
        "tcp" => Some(AppProtocol::Tcp),
        _ => None,
    }
}

/// Checks and takes an endpoint.
///
/// # Errors
/// Every problem with its field path.
pub fn endpoint(message: &v1::Endpoint) -> Result<Endpoint, Problems> {
    let mut problems = Problems::default();
    let root = Path::root();
    let names = ((&root.field("namespace"), &*message.namespace), (&root.field("service"), &*message.service));
    let service = service_key(&mut problems, names.0, names.1);
    let id = required_text(&mut problems, &root.field("id"), &message.id);
    let address = ip(&mut problems, &root.field("address"), &message.address);
    let mut ports: Vec<EndpointPort> = Vec::new();
    for (path, port) in problems.bounded(&root.field("ports"), &message.ports, PORTS_MAX) {
        let Some(port) = endpoint_port(&mut problems, &path, *port) else { continue };
        if ports.iter().any(|other| other.service_port == port.service_port) {
            problems.add(&path.field("servicePort"), format!("port {} is served twice", port.service_port));
        }
        ports.push(port);
    }
    let identity = (!message.spiffe_id.is_empty()).then(|| SpiffeId::parse(&message.spiffe_id));
    let identity = identity.and_then(|identity| problems.keep(&root.field("spiffeId"), identity));
    let weight = Weight::new(message.weight.max(1)).ok_or("must be 0 to 1000000");
    let weight = problems.keep(&root.field("weight"), weight);
    let locality = text(&mut problems, &root.field("locality"), &message.locality);
    let whole = (|| {
        Some(Endpoint {
            service: service?,
            id: id?,
            address: address?,
            ports,
            identity,
            weight: weight?,
            locality: locality?,
        })
    })();
    problems.finish(whole)
}

fn endpoint_port(problems: &mut Problems, path: &Path<'_>, message: v1::EndpointPort) -> Option<EndpointPort> {
    let service_port = port(problems, &path.field("servicePort"), message.service_port);
    let target_port = port(problems, &path.field("targetPort"), message.target_port);
    Some(EndpointPort { service_port: service_port?, target_port: target_port?, captured: message.captured })
}

/// Checks and takes an answer about an original destination.
///
/// # Errors
/// Every problem with its field path.
pub fn resolution(message: &v1::Resolution) -> Result<Resolution, Problems> {
    let mut problems = Problems::default();
    let root = Path::root();
    let address = ip(&mut problems, &root.field("address"), &message.address);
    let port_number = port(&mut problems, &root.field("port"), message.port);
    let verdict = match v1::resolution::Verdict::try_from(message.verdict) {
        Ok(v1::resolution::Verdict::Found) => found(&mut problems, message),
        Ok(v1::resolution::Verdict::Denied) => {
            text(&mut problems, &root.field("reason"), &message.reason).map(|reason| Verdict::Denied { reason })
        }
        Ok(v1::resolution::Verdict::Unknown) => Some(Verdict::Unknown),
        Ok(v1::resolution::Verdict::Unspecified) | Err(_) => {
            problems.add_or(&root.field("verdict"), "must be found, denied or unknown", None)
        }
    };
    let whole = (|| Some(Resolution { address: SocketAddr::new(address?, port_number?.get()), verdict: verdict? }))();
    problems.finish(whole)
}

fn found(problems: &mut Problems, message: &v1::Resolution) -> Option<Verdict> {
    let root = Path::root();
    let names = ((&root.field("namespace"), &*message.namespace), (&root.field("service"), &*message.service));
    let service = service_key(problems, names.0, names.1);
    let service_port = port(problems, &root.field("servicePort"), message.service_port);
    let endpoint = text(problems, &root.field("endpointId"), &message.endpoint_id)?;
    let endpoint = (!endpoint.is_empty()).then_some(endpoint);
    Some(Verdict::Found { service: service?, port: service_port?, endpoint })
}

/// Parts of a service's name, both DNS labels.
fn service_key(
    problems: &mut Problems,
    (namespace_path, namespace): (&Path<'_>, &str),
    (name_path, name): (&Path<'_>, &str),
) -> Option<ServiceKey> {
    let namespace = label(problems, namespace_path, namespace);
    let name = label(problems, name_path, name);
    Some(ServiceKey { namespace: namespace?, name: name? })
}

fn label(problems: &mut Problems, path: &Path<'_>, text: &str) -> Option<Arc<str>> {
    if is_dns_label(text) {
        return Some(text.into());
    }
    problems.add_or(path, "must be a DNS label: 1-63 of a-z 0-9 and inner -", None)
}

/// RFC 1123 section 2.1 in lower case, as Kubernetes has it.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= LABEL_BYTES_MAX
        && text.bytes().all(legal)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn text(problems: &mut Problems, path: &Path<'_>, text: &str) -> Option<Arc<str>> {
    if text.len() > TEXT_BYTES_MAX {
        return problems.add_or(path, format!("is longer than {TEXT_BYTES_MAX} bytes"), None);
    }
    if text.chars().any(char::is_control) {
        return problems.add_or(path, "holds a control character", None);
    }
    Some(text.into())
}

fn required_text(problems: &mut Problems, path: &Path<'_>, value: &str) -> Option<Arc<str>> {
    if value.is_empty() {
        return problems.add_or(path, "is required", None);
    }
    text(problems, path, value)
}

fn port(problems: &mut Problems, path: &Path<'_>, number: u32) -> Option<NonZeroU16> {
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    problems.keep(path, port.ok_or_else(|| format!("{number} is no port (1-65535)")))
}

/// An address that one can connect to, in one spelling: IPv4 in IPv6 clothes becomes IPv4.
fn ip(problems: &mut Problems, path: &Path<'_>, text: &str) -> Option<IpAddr> {
    match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
            problems.add_or(path, format!("{ip} is no address of a host"), None)
        }
        Ok(ip) => Some(ip),
        Err(_) => problems.add_or(path, format!("{:?} is no IP literal", clip(text)), None),
    }
}

/// The beginning of a text, for messages about it.
fn clip(text: &str) -> &str {
    let end = text.char_indices().nth(64).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or(text)
}
