//! Weights of a list of endpoints, prepared for drawing; made once when a snapshot is built.

use crate::entropy::Entropy;
use crate::model::Weight;

/// The weights of a list of endpoints, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    len: usize,
    /// Sum of the weights up to and including each endpoint; empty when all weights are equal, the common case.
    sums: Box<[u64]>,
}

impl Shares {
    /// Of endpoints with these weights.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = Weight>) -> Self {
        let (mut sum, mut first, mut equal) = (0_u64, None, true);
        let add = |weight: Weight| {
            equal &= *first.get_or_insert(weight) == weight;
            sum = sum.saturating_add(u64::from(weight.get()));
            sum
        };
        let sums: Box<[u64]> = weights.into_iter().map(add).collect();
        Self { len: sums.len(), sums: if equal { Box::default() } else { sums } }
    }

    /// Number of endpoints.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no endpoint.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One endpoint, by weight.
    pub(super) fn draw(&self, entropy: &mut impl Entropy) -> Option<usize> {
        match self.sums.last() {
            None => (self.len > 0).then(|| entropy.below(self.len)),
            Some(total) => {
                let at = (u128::from(entropy.next_u64()) * u128::from(*total)) >> 64;
                Some(self.sums.partition_point(|sum| u128::from(*sum) <= at))
            }
        }
    }

    /// A second endpoint. Another one than `first` when weights are equal and there is another; else drawn by weight, and
    /// once more if it is the same.
    pub(super) fn draw_other(&self, first: usize, entropy: &mut impl Entropy) -> usize {
        if self.sums.is_empty() {
            let other = entropy.below(self.len.saturating_sub(1));
            return if self.len > 1 && other >= first { other + 1 } else { other };
        }
        match self.draw(entropy) {
            Some(other) if other != first => other,
            Some(_) | None => self.draw(entropy).unwrap_or(first),
        }
    }

    /// Weight of an endpoint relative to the mean weight; 1 where weights are equal or there is no such endpoint.
    pub(super) fn relative(&self, index: usize) -> f64 {
        let before = index.checked_sub(1).and_then(|i| self.sums.get(i)).copied().unwrap_or(0);
        match (self.sums.get(index), self.sums.last()) {
            #[allow(clippy::cast_precision_loss, reason = "a ratio of sums far below 2^53")]
            (Some(sum), Some(total)) => (sum - before) as f64 * self.len as f64 / *total as f64,
            (None, _) | (_, None) => 1.0,
        }
    }
}
