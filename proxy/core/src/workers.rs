//! How many worker threads a proxy runs.
//!
//! A thread beyond the CPU quota only takes turns with the others until the kernel throttles them all, and each costs
//! memory for its pools. The number follows the cgroup's quota where it is below the number of cores. A sidecar needs
//! little: two workers are enough to keep one busy connection from delaying the rest, and a fleet of sidecars must not
//! crowd out the applications.

use std::num::NonZeroUsize;

/// Most workers of a sidecar.
const SIDECAR_WORKERS_MAX: usize = 2;

/// A CPU quota as cgroups state it: so many microseconds of CPU time in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuQuota {
    quota_us: u64,
    period_us: u64,
}

impl CpuQuota {
    /// From cgroup v1's `cpu.cfs_quota_us` and `cpu.cfs_period_us`. `None` when unlimited (-1) or nonsense.
    #[must_use]
    pub fn new(quota_us: i64, period_us: i64) -> Option<Self> {
        let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
        Some(Self { quota_us: positive(quota_us)?, period_us: positive(period_us)? })
    }

    /// From the text of cgroup v2's `cpu.max`, `"150000 100000"` or `"max 100000"`. `None` when unlimited or nonsense.
    #[must_use]
    pub fn parse_v2(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (quota, period) = (words.next()?, words.next()?);
        Self::new(quota.parse().ok()?, period.parse().ok()?)
    }

    /// The smaller of two quotas: each level of the cgroup tree can set one, and all apply.
    #[must_use]
    pub fn smaller(self, other: Self) -> Self {
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let ours_is_less = product(self.quota_us, other.period_us) <= product(other.quota_us, self.period_us);
        if ours_is_less { self } else { other }
    }

    /// Whole cores that hold this quota, at least 1: of one and a half cores both can be busy.
    fn cores(self) -> usize {
        usize::try_from(self.quota_us.div_ceil(self.period_us)).unwrap_or(usize::MAX).max(1)
    }
}

/// What the proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Beside one workload, whose CPU it shares.
    Sidecar,
    /// At the edge, with its CPU to itself.
    Gateway,
}

/// Number of worker threads for a proxy that may run on `cores` cores within `quota`.
#[must_use]
pub fn worker_count(place: Place, cores: NonZeroUsize, quota: Option<CpuQuota>) -> NonZeroUsize {
    let usable = quota.map_or(usize::MAX, CpuQuota::cores).min(cores.get());
    let count = match place {
        Place::Sidecar => usable.min(SIDECAR_WORKERS_MAX),
        Place::Gateway => usable,
    };
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_follow_quota_and_cores() {
        let check = |place, cores, quota: &str, expected| {
            let cores = NonZeroUsize::new(cores).unwrap();
            assert_eq!(worker_count(place, cores, CpuQuota::parse_v2(quota)).get(), expected, "{cores} {quota}");
        };
        check(Place::Sidecar, 1, "max 100000", 1);
        check(Place::Sidecar, 64, "max 100000", 2);
        check(Place::Sidecar, 64, "50000 100000\n", 1);
        check(Place::Sidecar, 64, "100000 100000", 1);
        check(Place::Sidecar, 64, "150000 100000", 2);
        check(Place::Gateway, 1, "max 100000", 1);
        check(Place::Gateway, 64, "max 100000", 64);
        check(Place::Gateway, 64, "1 100000", 1);
        check(Place::Gateway, 64, "800001 100000", 9);
        check(Place::Gateway, 4, "800000 100000", 4);
        check(Place::Gateway, 4, "9223372036854775807 1", 4);
        for nonsense in ["", "max", "100000", "-1 100000", "0 100000", "100000 0", "x y", "100000 -5", "1e5 100000"] {
            assert_eq!(CpuQuota::parse_v2(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_smaller_quota_of_a_tree_counts() {
        let quota = |text| CpuQuota::parse_v2(text).unwrap();
        let (half, two) = (quota("25000 50000"), quota("200000 100000"));
        assert_eq!((half.smaller(two), two.smaller(half)), (half, half));
        assert_eq!(CpuQuota::new(-1, 100_000), None);
    }
}
