//! Which addresses a workload may register as its own.
//!
//! Clients expect the identity of whoever registered an address, so a registration of another's address cuts that other
//! off. An address is accepted when the caller proves that it holds it, by calling from it, or when the operator has said
//! by `--mesh-range` that addresses there are handed out by somebody trusted; and as long as no other instance holds
//! the same address and port. Who proves an address takes it over: the former holder has lost it, or never had it.

use std::net::IpAddr;

use super::index::{Index, InstanceName};
use super::instance::Instance;
use crate::resource::Problems;

/// Instances of one identity. More than any one service has; a single stolen key cannot fill the store.
pub const INSTANCES_PER_IDENTITY_MAX: usize = 10_000;

/// Why an instance is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Addresses that are not the caller's to register.
    #[error("{0}")]
    Addresses(Problems),
    /// Another instance holds an address and port.
    #[error(
        "addresses: {address} port {port} is held by instance {holder}; it is free once that is deregistered or its lease \
         has run out, and at once for a proxy that calls from {address}"
    )]
    Held {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// `namespace/id`.
        holder: String,
    },
    /// The identity has [`INSTANCES_PER_IDENTITY_MAX`] already.
    #[error("this identity has {INSTANCES_PER_IDENTITY_MAX} instances, the most there may be; deregister some")]
    TooMany,
}

/// What a caller shows for its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Where the call comes from, for messages.
    pub from: Option<IpAddr>,
    /// Addresses that the caller is known to hold.
    pub held: Vec<IpAddr>,
}

/// Checks what `fresh` claims against what exists. Answers the instances that lose an address by it and must be removed
/// first.
///
/// # Errors
/// [`Refusal`].
pub fn check(index: &Index, fresh: &Instance, proof: &Proof) -> Result<Vec<InstanceName>, Refusal> {
    check_addresses(index, fresh, proof).into_result().map_err(Refusal::Addresses)?;
    let known = index.instance(&fresh.namespace, &fresh.id).is_some();
    if !known && index.instances_of(&fresh.namespace, &fresh.service_account) >= INSTANCES_PER_IDENTITY_MAX {
        return Err(Refusal::TooMany);
    }
    let mut displaced = Vec::new();
    for address in &fresh.addresses {
        for other in index.instances_at(*address).filter(|other| !same(other, fresh)) {
            let Some(port) = shared_port(other, fresh) else { continue };
            if !proof.held.contains(address) {
                let holder = format!("{}/{}", other.namespace, other.id);
                return Err(Refusal::Held { address: *address, port, holder });
            }
            displaced.push((other.namespace.clone(), other.id.clone()));
        }
    }
    Ok(displaced)
}

fn check_addresses(index: &Index, fresh: &Instance, proof: &Proof) -> Problems {
    let settings = index.settings();
    let mut problems = Problems::default();
    for (position, address) in fresh.addresses.iter().enumerate() {
        let field = format!("addresses[{position}]");
        if settings.virtual_ranges.iter().any(|range| range.contains(address)) {
            problems.add(field, format!("{address} lies in the range of virtual addresses of services"));
        } else if !proof.held.contains(address) && !settings.ranges.iter().any(|range| range.contains(address)) {
            let from = proof.from.map_or_else(|| "an unknown address".to_owned(), |from| from.to_string());
            problems.add(
                field,
                format!(
                    "{address} is neither where this call comes from ({from}) nor in a range of the mesh (--mesh-range \
                     of the control plane)"
                ),
            );
        }
    }
    problems
}

fn same(a: &Instance, b: &Instance) -> bool {
    a.namespace == b.namespace && a.id == b.id
}

fn shared_port(a: &Instance, b: &Instance) -> Option<u16> {
    a.ports.iter().map(|port| port.port).find(|number| b.ports.iter().any(|port| port.port == *number))
}

#[cfg(test)]
mod tests {
    use weft_proto::v1::OutboundMode;

    use super::*;
    use crate::registry::index::Settings;
    use crate::registry::instance::Port;

    fn index(held: &[Instance]) -> Index {
        let virtual_range = "240.240.0.0/16".parse().unwrap();
        let settings = Settings {
            trust_domain: weft_core::identity::spiffe::TrustDomain::new("cluster.local").unwrap(),
            virtual_ranges: vec![virtual_range],
            ranges: vec![virtual_range, "10.0.0.0/8".parse().unwrap()],
            outbound_mode: OutboundMode::Passthrough,
        };
        let mut index = Index::new(settings, 1);
        for (revision, instance) in (2..).zip(held) {
            index.put_instance(instance.clone(), revision);
        }
        index
    }

    fn proof(address: &str) -> Proof {
        let address = address.parse().unwrap();
        Proof { from: Some(address), held: vec![address] }
    }

    fn instance(id: &str, account: &str, address: &str, port: u16) -> Instance {
        Instance {
            namespace: "shop".to_owned(),
            id: id.to_owned(),
            service_account: account.to_owned(),
            addresses: vec![address.parse().unwrap()],
            ports: vec![Port { port, name: String::new(), app_protocol: "http".to_owned(), captured: true }],
            labels: std::collections::BTreeMap::new(),
            locality: String::new(),
            ready: false,
        }
    }

    #[test]
    fn an_address_is_proven_or_of_the_mesh() {
        let check = |address: &str, source: &str, expected: bool| {
            let fresh = instance("a", "a", address, 80);
            let found = check(&index(&[]), &fresh, &proof(source));
            assert_eq!(found.is_ok(), expected, "{address} from {source}: {found:?}");
        };
        check("10.1.1.1", "10.1.1.1", true);
        check("10.1.1.1", "10.9.9.9", true);
        check("8.8.8.8", "10.1.1.1", false);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.8", "192.0.2.7", false);
        check("240.240.0.9", "240.240.0.9", false);
    }

    #[test]
    fn another_holder_keeps_its_address_until_somebody_proves_it() {
        let held = [instance("a", "a", "10.1.1.1", 80)];
        let check = |fresh: Instance, source: &str| check(&index(&held), &fresh, &proof(source));
        let refused = check(instance("b", "b", "10.1.1.1", 80), "10.1.1.2").unwrap_err();
        assert!(matches!(&refused, Refusal::Held { port: 80, holder, .. } if holder == "shop/a"), "{refused}");
        let displaced = check(instance("b", "b", "10.1.1.1", 80), "10.1.1.1").unwrap();
        assert_eq!(displaced, [("shop".to_owned(), "a".to_owned())]);
        assert_eq!(check(instance("b", "b", "10.1.1.1", 81), "10.1.1.2"), Ok(vec![]), "another port of one machine");
        assert_eq!(check(instance("a", "a", "10.1.1.1", 80), "10.1.1.2"), Ok(vec![]), "itself again");
    }

    #[test]
    fn one_identity_has_a_bounded_number_of_instances() {
        let address = |number: usize| format!("10.0.{}.{}", number / 250, number % 250 + 1);
        let many: Vec<Instance> = (0..INSTANCES_PER_IDENTITY_MAX)
            .map(|number| instance(&format!("i{number}"), "a", &address(number), 80))
            .collect();
        let index = index(&many);
        let source = &proof("10.200.0.1");
        assert_eq!(check(&index, &instance("new", "a", "10.200.0.1", 80), source), Err(Refusal::TooMany));
        assert_eq!(check(&index, &instance("i0", "a", "10.200.0.1", 80), source), Ok(vec![]), "a known one may change");
        assert_eq!(check(&index, &instance("new", "b", "10.200.0.1", 80), source), Ok(vec![]), "another identity");
    }
}
