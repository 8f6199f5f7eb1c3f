//! From addresses to ports and endpoints. Rebuilt when any service or endpoint changed: a pure function of the services,
//! so that no order of updates can leave a trace in it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{EndpointTarget, PortEntry, ServiceEntry};
use crate::model::ServiceKey;

/// Where addresses lead. Of several claimants of one address the first by service name (then port, then endpoint id)
/// wins: arbitrary, but the same everywhere and always.
#[derive(Debug, Default)]
pub(super) struct Index {
    virtual_ips: HashSet<IpAddr>,
    virtual_addresses: HashMap<SocketAddr, Arc<PortEntry>>,
    workloads: HashMap<SocketAddr, (Arc<PortEntry>, Arc<EndpointTarget>)>,
}

impl Index {
    pub(super) fn build(services: &HashMap<ServiceKey, Arc<ServiceEntry>>) -> Self {
        let mut sorted: Vec<&Arc<ServiceEntry>> = services.values().collect();
        sorted.sort_by(|a, b| a.service.key.cmp(&b.service.key));
        let mut index = Self::default();
        for entry in sorted {
            index.add(entry);
        }
        index
    }

    fn add(&mut self, entry: &ServiceEntry) {
        let mut ports: Vec<&Arc<PortEntry>> = entry.ports.iter().collect();
        ports.sort_by_key(|port| port.port.port);
        self.virtual_ips.extend(&entry.service.virtual_ips);
        for port in ports {
            for ip in &entry.service.virtual_ips {
                let address = SocketAddr::new(*ip, port.port.port.get());
                self.virtual_addresses.entry(address).or_insert_with(|| Arc::clone(port));
            }
            for endpoint in &port.endpoints {
                let found = || (Arc::clone(port), Arc::clone(endpoint));
                self.workloads.entry(endpoint.address).or_insert_with(found);
            }
        }
    }

    /// The port of a service behind a virtual address.
    pub(super) fn virtual_address(&self, address: SocketAddr) -> Option<&Arc<PortEntry>> {
        self.virtual_addresses.get(&address)
    }

    /// Some service has this virtual IP, on whatever port.
    pub(super) fn is_virtual_ip(&self, ip: IpAddr) -> bool {
        self.virtual_ips.contains(&ip)
    }

    /// The endpoint at a workload's own address, and the port it serves.
    pub(super) fn workload(&self, address: SocketAddr) -> Option<&(Arc<PortEntry>, Arc<EndpointTarget>)> {
        self.workloads.get(&address)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.virtual_ips.is_empty() && self.virtual_addresses.is_empty() && self.workloads.is_empty()
    }
}
