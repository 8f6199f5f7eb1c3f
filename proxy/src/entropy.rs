//! Chance for decisions: the thread's fast generator. Nothing secret comes from it.

use weft_core::entropy::Entropy;

/// The calling thread's generator, seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadEntropy;

impl Entropy for ThreadEntropy {
    fn next_u64(&mut self) -> u64 {
        fastrand::u64(..)
    }
}
