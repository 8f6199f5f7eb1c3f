//! A registered workload instance as it lies in the store under `instance/<namespace>/<id>`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_core::identity::spiffe::SpiffeId;
use weft_core::model::decode::{app_protocol, is_dns_label};
use weft_proto::v1::RegisterRequest;

use crate::resource::Problems;
use crate::store::{Key, StoreError};

/// Prefix of all instances in the store.
pub const PREFIX: &str = "instance/";

const ADDRESSES_MAX: usize = 2;
const PORTS_MAX: usize = 256;
const LABELS_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 253;

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Namespace of the SVID that registered it.
    pub namespace: String,
    /// Stable name.
    pub id: String,
    /// Service account of the SVID that registered it.
    pub service_account: String,
    /// One or two.
    pub addresses: Vec<IpAddr>,
    /// Ports the application listens on.
    pub ports: Vec<Port>,
    /// What services select by.
    pub labels: BTreeMap<String, String>,
    /// "region/zone", or empty.
    pub locality: String,
    /// Whether it may receive traffic.
    pub ready: bool,
}

/// One port of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Number.
    pub port: u16,
    /// Name, or empty.
    pub name: String,
    /// What it speaks.
    pub app_protocol: String,
    /// A sidecar captures it.
    pub captured: bool,
}

impl Instance {
    /// From a registration by `caller`. Starts as not ready.
    ///
    /// # Errors
    /// Every problem with its field path.
    pub fn register(request: RegisterRequest, caller: &SpiffeId) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        if !is_dns_label(&request.instance_id) {
            problems.add("instance_id", format!("{:?} is no DNS label", request.instance_id));
        }
        let addresses = addresses(&request.addresses, &mut problems);
        let ports = ports(&request, &mut problems);
        if request.labels.len() > LABELS_MAX {
            problems.add("labels", format!("has more than {LABELS_MAX} entries"));
        }
        if request.labels.iter().any(|(key, value)| key.is_empty() || key.len().max(value.len()) > TEXT_BYTES_MAX) {
            problems.add("labels", format!("a key is empty, or a text longer than {TEXT_BYTES_MAX} bytes"));
        }
        if request.locality.len() > TEXT_BYTES_MAX || request.locality.chars().any(char::is_control) {
            problems.add("locality", format!("is longer than {TEXT_BYTES_MAX} bytes, or has control characters"));
        }
        problems.into_result()?;
        Ok(Self {
            namespace: caller.namespace().to_owned(),
            id: request.instance_id,
            service_account: caller.service_account().to_owned(),
            addresses,
            ports,
            labels: request.labels.into_iter().collect(),
            locality: request.locality,
            ready: false,
        })
    }

    /// Whether `caller` is who registered it.
    #[must_use]
    pub fn belongs_to(&self, caller: &SpiffeId) -> bool {
        self.namespace == caller.namespace() && self.service_account == caller.service_account()
    }
}

/// Where an instance lies.
///
/// # Errors
/// When a part makes no store key.
pub fn key(namespace: &str, id: &str) -> Result<Key, StoreError> {
    Key::new(format!("{PREFIX}{namespace}/{id}"))
}

fn addresses(texts: &[String], problems: &mut Problems) -> Vec<IpAddr> {
    if texts.is_empty() || texts.len() > ADDRESSES_MAX {
        problems.add("addresses", "must hold one or two IP addresses");
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, text) in texts.iter().take(ADDRESSES_MAX).enumerate() {
        match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) if address.is_unspecified() || address.is_loopback() || address.is_multicast() => {
                problems.add(format!("addresses[{index}]"), format!("{address} cannot be reached by others"));
            }
            Ok(address) if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) => {
                problems.add(format!("addresses[{index}]"), "second address of one family");
            }
            Ok(address) => addresses.push(address),
            Err(_) => problems.add(format!("addresses[{index}]"), format!("{text:?} is no IP address")),
        }
    }
    addresses
}

fn ports(request: &RegisterRequest, problems: &mut Problems) -> Vec<Port> {
    if request.ports.len() > PORTS_MAX {
        problems.add("ports", format!("holds more than {PORTS_MAX}"));
    }
    let mut ports: Vec<Port> = Vec::new();
    for (index, port) in request.ports.iter().take(PORTS_MAX).enumerate() {
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0);
        let Some(number) = number.filter(|number| ports.iter().all(|other| other.port != *number)) else {
            problems.add(format!("ports[{index}].port"), format!("{} is no port or is there twice", port.port));
            continue;
        };
        if app_protocol(&port.app_protocol).is_none() {
            problems.add(format!("ports[{index}].app_protocol"), format!("{:?} is unknown", port.app_protocol));
        }
        if port.name.len() > 63 {
            problems.add(format!("ports[{index}].name"), "is longer than 63 bytes");
        }
        ports.push(Port {
            port: number,
            name: port.name.clone(),
            app_protocol: port.app_protocol.clone(),
            captured: port.captured,
        });
    }
    ports
}
