//! Which virtual addresses a service gets: pure.
//!
//! A service has one address of each family that the ranges hold, keeps them for life, and where it is made again soon
//! after a deletion has them again. An address that was freed is not given to another service for a while: applications
//! hold on to what a name resolved to, and must not reach a stranger by it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use weft_core::model::ServiceKey;

/// How long a freed address is kept from other services, unless there is no other.
const QUARANTINE: Duration = Duration::from_secs(600);

/// Freed addresses that are remembered.
const FREED_MAX: usize = 65_536;

/// Addresses of a range that are looked at.
const LOOKED_AT_MAX: u128 = 1 << 20;

/// Addresses that were freed lately, on a clock of the caller's.
#[derive(Debug, Default)]
pub struct Freed {
    by: HashMap<IpAddr, (ServiceKey, Duration)>,
}

/// All addresses of a family are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no virtual {0} address is free; give another --virtual-range")]
pub struct Exhausted(&'static str);

impl Freed {
    /// `key` no longer has these.
    pub fn free(&mut self, key: &ServiceKey, addresses: &[IpAddr], now: Duration) {
        self.by.retain(|_, (_, at)| now.saturating_sub(*at) < QUARANTINE);
        for address in addresses.iter().take(FREED_MAX.saturating_sub(self.by.len())) {
            self.by.insert(*address, (key.clone(), now));
        }
    }

    fn keeps_from(&self, address: IpAddr, key: &ServiceKey, now: Duration) -> bool {
        let freed = self.by.get(&address);
        freed.is_some_and(|(holder, at)| holder != key && now.saturating_sub(*at) < QUARANTINE)
    }
}

/// The addresses of a service: those of `present` that are still good, else free ones.
///
/// # Errors
/// [`Exhausted`].
pub fn assign(
    ranges: &[IpNet],
    key: &ServiceKey,
    present: &[IpAddr],
    taken: impl Fn(IpAddr) -> bool,
    freed: &Freed,
    now: Duration,
) -> Result<Vec<IpAddr>, Exhausted> {
    let mut assigned = Vec::new();
    for (family, is_ipv4) in [("IPv4", true), ("IPv6", false)] {
        let ranges: Vec<&IpNet> = ranges.iter().filter(|range| range.addr().is_ipv4() == is_ipv4).collect();
        if ranges.is_empty() {
            continue;
        }
        let good = |address: &&IpAddr| ranges.iter().any(|range| range.contains(*address)) && !taken(**address);
        let address = present.iter().find(good).copied();
        let address =
            address.or_else(|| free(&ranges, key, |address| taken(address) || freed.keeps_from(address, key, now)));
        let address = address.or_else(|| free(&ranges, key, &taken));
        assigned.push(address.ok_or(Exhausted(family))?);
    }
    Ok(assigned)
}

/// A free address, from a place in the range that depends on the name, so that a service tends to get the same one.
fn free(ranges: &[&IpNet], key: &ServiceKey, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let hash = key
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    ranges.iter().find_map(|range| {
        let (size, base) = match range {
            IpNet::V4(net) => (1_u128 << (32 - net.prefix_len()), u128::from(u32::from(net.network()))),
            // The first 2^32 addresses are plenty.
            IpNet::V6(net) => (1_u128 << (128 - net.prefix_len()).min(32), u128::from(net.network())),
        };
        // Neither the network's own nor the broadcast address.
        let usable = size.saturating_sub(2);
        let start = u128::from(hash).checked_rem(usable)?;
        (0..usable.min(LOOKED_AT_MAX)).find_map(|step| {
            let number = base + 1 + (start + step) % usable;
            let address = match range {
                IpNet::V4(_) => IpAddr::V4(u32::try_from(number).ok()?.into()),
                IpNet::V6(_) => IpAddr::V6(number.into()),
            };
            (!taken(address)).then_some(address)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: "n".into(), name: name.into() }
    }

    fn one(
        ranges: &[&str],
        name: &str,
        present: &[IpAddr],
        taken: &[IpAddr],
        freed: &Freed,
    ) -> Result<Vec<IpAddr>, Exhausted> {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        assign(&ranges, &key(name), present, |address| taken.contains(&address), freed, 100 * SECOND)
    }

    #[test]
    fn addresses_are_stable_free_and_run_out() {
        let ranges = ["10.9.0.0/29"];
        let mut given = Vec::new();
        for name in ["a", "b", "c", "d", "e", "f"] {
            let address = one(&ranges, name, &[], &given, &Freed::default()).unwrap();
            assert_eq!(address.len(), 1);
            assert!(!given.contains(&address[0]));
            given.extend(address);
        }
        assert_eq!(one(&ranges, "g", &[], &given, &Freed::default()), Err(Exhausted("IPv4")));
        assert_eq!(one(&ranges, "a", &[], &[], &Freed::default()), Ok(vec![given[0]]));
        assert!(!given.iter().any(|address| ["10.9.0.0", "10.9.0.7"].contains(&address.to_string().as_str())));
    }

    #[test]
    fn each_family_has_an_address_and_keeps_it() {
        let ranges = ["10.9.0.0/24", "fd00::/112"];
        let first = one(&ranges, "a", &[], &[], &Freed::default()).unwrap();
        assert!(matches!(first.as_slice(), [IpAddr::V4(_), IpAddr::V6(_)]), "{first:?}");
        let kept: Vec<IpAddr> = vec!["10.9.0.77".parse().unwrap()];
        let grown = one(&ranges, "a", &kept, &[], &Freed::default()).unwrap();
        assert_eq!(grown, [kept[0], first[1]], "a family that comes later is added");
        let outside = one(&["10.8.0.0/24"], "a", &kept, &[], &Freed::default()).unwrap();
        assert!(outside[0].to_string().starts_with("10.8.0."), "a range that is gone: {outside:?}");
        let lost = one(&ranges, "a", &kept, &kept, &Freed::default()).unwrap();
        assert_ne!(lost[0], kept[0], "another has it");
    }

    #[test]
    fn a_freed_address_goes_to_its_service_or_waits() {
        let ranges = ["10.9.0.0/24"];
        let address = one(&ranges, "a", &[], &[], &Freed::default()).unwrap();
        let mut freed = Freed::default();
        freed.free(&key("b"), &address, 90 * SECOND);
        assert_ne!(one(&ranges, "a", &[], &[], &freed).unwrap(), address);
        freed.free(&key("a"), &address, 90 * SECOND);
        assert_eq!(one(&ranges, "a", &[], &[], &freed).unwrap(), address, "its own again");
        freed.free(&key("b"), &address, 90 * SECOND);
        let later = 90 * SECOND + QUARANTINE;
        let ranges: Vec<IpNet> = vec!["10.9.0.0/24".parse().unwrap()];
        assert_eq!(assign(&ranges, &key("a"), &[], |_| false, &freed, later).unwrap(), address, "after a while");
    }

    #[test]
    fn without_another_a_freed_address_is_used() {
        let only: Vec<IpAddr> = vec!["10.9.0.1".parse().unwrap()];
        let mut freed = Freed::default();
        freed.free(&key("b"), &only, 90 * SECOND);
        let taken: Vec<IpAddr> = vec!["10.9.0.2".parse().unwrap()];
        assert_eq!(one(&["10.9.0.0/30"], "a", &[], &taken, &freed), Ok(only));
    }
}
