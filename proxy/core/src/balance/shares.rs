//! Weights of a list of endpoints, prepared for drawing; made when a snapshot is built.
//!
//! In parts, so that a change of one endpoint in thousands prepares its own part anew and no other.

use std::sync::Arc;

use crate::entropy::Entropy;
use crate::model::Weight;

/// The weights of a list of endpoints, in its order.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    len: usize,
    total: u64,
    parts: Box<[Placed]>,
    /// All weights are equal, the common case.
    equal: bool,
}

/// The weights of neighbours in the list.
#[derive(Debug)]
pub struct Part {
    len: usize,
    total: u64,
    /// The weight of each, if all are equal.
    each: Option<Weight>,
    /// Otherwise sums of the weights up to and including each.
    sums: Box<[u64]>,
}

#[derive(Clone, Debug)]
struct Placed {
    /// Endpoints and weights in the parts before.
    first: usize,
    before: u64,
    part: Arc<Part>,
}

impl Part {
    /// Of endpoints with these weights.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = Weight>) -> Self {
        let (mut total, mut first, mut equal) = (0_u64, None, true);
        let add = |weight: Weight| {
            equal &= *first.get_or_insert(weight) == weight;
            total = total.saturating_add(u64::from(weight.get()));
            total
        };
        let sums: Box<[u64]> = weights.into_iter().map(add).collect();
        let each = first.filter(|_| equal);
        Self { len: sums.len(), total, each, sums: if equal { Box::default() } else { sums } }
    }

    /// The one in whose share `at` is, counted in weight.
    fn at(&self, at: u64) -> usize {
        match self.each {
            Some(each) => usize::try_from(at / u64::from(each.get())).unwrap_or(usize::MAX),
            None => self.sums.partition_point(|sum| *sum <= at),
        }
    }

    fn weight(&self, index: usize) -> Option<u64> {
        match self.each {
            Some(each) => (index < self.len).then(|| u64::from(each.get())),
            None => {
                let before = index.checked_sub(1).and_then(|i| self.sums.get(i)).copied().unwrap_or(0);
                self.sums.get(index).map(|sum| sum - before)
            }
        }
    }
}

impl Shares {
    /// Of all these, one after the other.
    #[must_use]
    pub fn new(parts: impl IntoIterator<Item = Arc<Part>>) -> Self {
        let (mut len, mut total, mut first, mut equal) = (0, 0_u64, None, true);
        let place = |part: Arc<Part>| {
            equal &= part.each.is_some() && *first.get_or_insert(part.each) == part.each;
            let placed = Placed { first: len, before: total, part };
            len += placed.part.len;
            total = total.saturating_add(placed.part.total);
            placed
        };
        let parts = parts.into_iter().filter(|part| part.len > 0).map(place).collect();
        Self { len, total, parts, equal }
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

    /// Number of the part that an endpoint is in, and its place there.
    #[must_use]
    pub fn place(&self, index: usize) -> Option<(usize, usize)> {
        let part = self.parts.partition_point(|placed| placed.first <= index).checked_sub(1)?;
        Some((part, index - self.parts.get(part)?.first))
    }

    /// One endpoint, by weight.
    pub(super) fn draw(&self, entropy: &mut impl Entropy) -> Option<usize> {
        if self.equal {
            return (self.len > 0).then(|| entropy.below(self.len));
        }
        let at = u64::try_from((u128::from(entropy.next_u64()) * u128::from(self.total)) >> 64).unwrap_or(0);
        let placed = self.parts.partition_point(|placed| placed.before <= at).checked_sub(1)?;
        let placed = self.parts.get(placed)?;
        Some(placed.first + placed.part.at(at - placed.before).min(placed.part.len - 1))
    }

    /// A second endpoint. Another one than `first` when weights are equal and there is another; else drawn by weight, and
    /// once more if it is the same.
    pub(super) fn draw_other(&self, first: usize, entropy: &mut impl Entropy) -> usize {
        if self.equal {
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
        if self.equal {
            return 1.0;
        }
        let weight = self.place(index).and_then(|(part, at)| self.parts.get(part)?.part.weight(at));
        #[allow(clippy::cast_precision_loss, reason = "a ratio of sums far below 2^53")]
        weight.map_or(1.0, |weight| weight as f64 * self.len as f64 / self.total as f64)
    }
}
