//! Chance as decisions see it: handed in, so that a test can replay it.

/// A source of uniformly distributed bits. Quality of a fast generator is enough: nothing secret comes from here.
pub trait Entropy {
    /// 64 fresh bits.
    fn next_u64(&mut self) -> u64;

    /// A number below `bound`, or 0 if `bound` is 0. The bias is below `bound / 2^64`.
    fn below(&mut self, bound: usize) -> usize {
        let product = u128::from(self.next_u64()) * (bound as u128);
        usize::try_from(product >> 64).unwrap_or(0)
    }
}
