//! How a value lies on the disk, so that damage never passes for data.
//!
//! redb checks its pages, but only when asked, and damage to its header can bring an older tree back. So every record
//! carries a digest over key, revision and value, and the sum of all digests stands beside the store's revision: a
//! changed, missing, added or older record does not add up.

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::store::{Key, Revision, Versioned};

/// Bytes before the value: the digest and the revision.
const HEAD: usize = DIGEST + 8;
const DIGEST: usize = 16;

/// A commutative sum of record digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(pub(crate) u128);

impl Sum {
    /// With a record added.
    #[must_use]
    pub(crate) fn plus(self, record: &Versioned) -> Self {
        Self(self.0.wrapping_add(digest_of(record.key.as_str(), record.revision, &record.value)))
    }

    /// With a record taken away.
    #[must_use]
    pub(crate) fn minus(self, record: &Versioned) -> Self {
        Self(self.0.wrapping_sub(digest_of(record.key.as_str(), record.revision, &record.value)))
    }
}

/// The bytes to store.
pub(crate) fn encode(record: &Versioned) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + record.value.len());
    bytes.extend_from_slice(&digest_of(record.key.as_str(), record.revision, &record.value).to_be_bytes());
    bytes.extend_from_slice(&record.revision.0.to_be_bytes());
    bytes.extend_from_slice(&record.value);
    bytes
}

/// The record that was stored, or `None` if these are not the bytes that were.
pub(crate) fn decode(key: &str, bytes: &[u8]) -> Option<Versioned> {
    let (digest, rest) = bytes.split_first_chunk::<DIGEST>()?;
    let (revision, value) = rest.split_first_chunk::<8>()?;
    let revision = Revision(u64::from_be_bytes(*revision));
    if u128::from_be_bytes(*digest) != digest_of(key, revision, value) {
        return None;
    }
    Some(Versioned { key: Key::new(key).ok()?, value: Bytes::copy_from_slice(value), revision })
}

/// Eight bytes that tell accidental damage to `bytes`.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 8] {
    let full = digest::digest(&digest::SHA256, bytes);
    full.as_ref().first_chunk::<8>().copied().unwrap_or_default()
}

/// SHA-256 cut to 128 bits: against accidents, where a cut one is far more than enough.
fn digest_of(key: &str, revision: Revision, value: &[u8]) -> u128 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(key.len() as u64).to_be_bytes());
    context.update(key.as_bytes());
    context.update(&revision.0.to_be_bytes());
    context.update(value);
    let full = context.finish();
    full.as_ref().first_chunk::<DIGEST>().map_or(0, |cut| u128::from_be_bytes(*cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Versioned {
        Versioned { key: Key::new("a/b").unwrap(), value: Bytes::from_static(b"value"), revision: Revision(7) }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = encode(&record());
        assert_eq!(decode("a/b", &bytes), Some(record()));
        assert_eq!(decode("a/c", &bytes), None);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode("a/b", &damaged), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decode("a/b", &bytes[..len]), None, "length {len}");
        }
    }

    #[test]
    fn a_sum_forgets_what_was_taken_away() {
        let other = Versioned { revision: Revision(8), ..record() };
        let both = Sum::default().plus(&record()).plus(&other);
        assert_eq!(both, Sum::default().plus(&other).plus(&record()));
        assert_eq!(both.minus(&record()), Sum::default().plus(&other));
        assert_ne!(both, Sum::default().plus(&other));
    }
}
