//! When a certificate is renewed: at half of its life, moved by up to 5% of it at random, so that a fleet started at once
//! does not renew at once, and half a life is left to retry in (S4).

use crate::entropy::Entropy;

/// When to renew a certificate valid from `not_before` to `not_after`, in the unit of both (Unix seconds).
pub fn renew_at(not_before: i64, not_after: i64, entropy: &mut impl Entropy) -> i64 {
    let life = not_after.saturating_sub(not_before).max(0);
    let spread = usize::try_from(life / 10).unwrap_or(usize::MAX);
    let moved = i64::try_from(entropy.below(spread.saturating_add(1))).unwrap_or(0);
    not_before.saturating_add(life / 2).saturating_sub(life / 20).saturating_add(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fixed(u64);

    impl Entropy for Fixed {
        fn next_u64(&mut self) -> u64 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn stays_within_five_percent_of_half(start in 0_i64..4_000_000_000, life in 100_i64..100_000_000, chance: u64) {
            let at = renew_at(start, start + life, &mut Fixed(chance)) - start;
            prop_assert!(at >= life * 44 / 100 - 1 && at <= life * 56 / 100 + 1, "{at} of {life}");
        }

        #[test]
        fn total(not_before: i64, not_after: i64, chance: u64) {
            renew_at(not_before, not_after, &mut Fixed(chance));
        }
    }
}
