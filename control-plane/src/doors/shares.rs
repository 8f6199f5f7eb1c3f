//! What one caller may take of something that all share: so that no single one can keep the others out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Shares by caller.
#[derive(Debug)]
pub struct Shares<K> {
    each_max: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// One share, until it is dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    caller: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Nobody has more than `each_max`.
    #[must_use]
    pub fn new(each_max: usize) -> Arc<Self> {
        Arc::new(Self { each_max, taken: Mutex::default() })
    }

    /// One more for this caller; `None` when it has all it may.
    #[must_use]
    pub fn take(self: &Arc<Self>, caller: K) -> Option<Share<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(&caller).copied().unwrap_or(0);
        if count >= self.each_max {
            return None;
        }
        taken.insert(caller.clone(), count + 1);
        Some(Share { shares: Arc::clone(self), caller })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

/// One customer usually holds a whole /64 of IPv6; IPv4 addresses stay themselves.
#[must_use]
pub fn aggregate(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_his_share() {
        let shares = Shares::new(2);
        let held = [shares.take("a").unwrap(), shares.take("a").unwrap()];
        assert!(shares.take("a").is_none());
        assert!(shares.take("b").is_some(), "another has his own");
        drop(held);
        assert!(shares.taken.lock().unwrap().is_empty(), "nobody is remembered");
        assert!(shares.take("a").is_some());
    }
}
