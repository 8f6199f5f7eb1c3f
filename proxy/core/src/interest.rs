//! Which original destinations stay subscribed: those in use, and a bounded number, so that a port scanner beside the
//! proxy cannot grow its memory or the control plane's state.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Moment;

/// Destinations subscribed at once. A workload talks to tens, a crawler to thousands.
pub const ADDRESSES_MAX: usize = 4096;

/// A destination not used for this long is withdrawn. Long enough for jobs that run every few minutes to find the answer
/// there, short enough that the mesh's churn is not pushed to those who no longer care.
pub const IDLE_AFTER: Duration = Duration::from_secs(300);

/// Share of the destinations let go when there is no room: one sorting pays for many questions.
const EVICTED_SHARE: usize = 8;

/// Destinations asked about, with when.
#[derive(Debug, Default)]
pub struct Interests {
    asked: HashMap<SocketAddr, Moment>,
}

impl Interests {
    /// Notes a question. Returns the destinations to withdraw to make room: those longest unused, and of those first the
    /// ones without traffic (`used` is `None`), which are a scanner's.
    pub fn ask(
        &mut self,
        address: SocketAddr,
        now: Moment,
        used: impl Fn(SocketAddr) -> Option<Moment>,
    ) -> Vec<SocketAddr> {
        let known = self.asked.insert(address, now).is_some();
        if known || self.asked.len() <= ADDRESSES_MAX {
            return Vec::new();
        }
        let others = self.asked.iter().filter(|(other, _)| **other != address);
        let mut ranked: Vec<(Option<Moment>, Moment, SocketAddr)> =
            others.map(|(other, asked)| (used(*other), *asked, *other)).collect();
        ranked.sort_unstable();
        let evicted: Vec<SocketAddr> =
            ranked.into_iter().take(ADDRESSES_MAX / EVICTED_SHARE).map(|(_, _, address)| address).collect();
        for address in &evicted {
            self.asked.remove(address);
        }
        evicted
    }

    /// Destinations unused for [`IDLE_AFTER`], to withdraw; they are forgotten here.
    pub fn sweep(&mut self, now: Moment, used: impl Fn(SocketAddr) -> Option<Moment>) -> Vec<SocketAddr> {
        let idle = |(address, asked): (&SocketAddr, &Moment)| {
            let last = used(*address).unwrap_or(*asked).max(*asked);
            (now.since(last) >= IDLE_AFTER).then_some(*address)
        };
        let idle: Vec<SocketAddr> = self.asked.iter().filter_map(idle).collect();
        for address in &idle {
            self.asked.remove(address);
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn address(n: usize) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from(u32::try_from(n).unwrap()).into(), 80)
    }

    #[test]
    fn idle_destinations_go_and_used_ones_stay() {
        let mut interests = Interests::default();
        for n in 0..3 {
            assert!(interests.ask(address(n), at(0), |_| None).is_empty());
        }
        let used = |asked: SocketAddr| (asked == address(1)).then_some(at(200));
        assert!(interests.sweep(at(299), used).is_empty());
        let mut gone = interests.sweep(at(300), used);
        gone.sort();
        assert_eq!(gone, [address(0), address(2)]);
        assert_eq!(interests.sweep(at(500), used), [address(1)]);
    }

    /// Goal: a scanner pushes out its own questions, never a destination with traffic.
    #[test]
    fn a_scanner_stays_bounded_and_harms_nobody() {
        let mut interests = Interests::default();
        let used = |asked: SocketAddr| (asked == address(0)).then_some(at(1));
        let mut subscribed = std::collections::HashSet::new();
        for n in 0..3 * ADDRESSES_MAX {
            subscribed.insert(address(n));
            for gone in interests.ask(address(n), at(10), used) {
                assert!(subscribed.remove(&gone));
            }
            assert!(subscribed.len() <= ADDRESSES_MAX);
        }
        assert!(subscribed.contains(&address(0)));
    }
}
