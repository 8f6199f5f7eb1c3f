//! `x-request-id`: one name for a request on all its hops, for people and logs.
//!
//! Whoever meets a request first names it; inside the mesh the name is passed on unchanged. It is echoed into logs and
//! headers everywhere, so one that is overlong or has odd characters is replaced.

use std::fmt;

use super::write_hex;
use crate::entropy::Entropy;
use crate::fields::Fields;

/// Name of the field.
pub const REQUEST_ID: &str = "x-request-id";

/// Longest id that is passed on. A UUID has 36 characters; some systems chain two or add a prefix.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Whether an id that a request brings is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Inside the mesh: pass it on.
    PassOn,
    /// At the edge: always name the request anew, or a client could make its requests look like another's.
    Replace,
}

/// A request's id, held without allocating.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    len: u8,
    bytes: [u8; REQUEST_ID_BYTES_MAX],
}

impl RequestId {
    /// The id as it is on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        // Only ASCII gets in.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// `None` when empty, longer than [`REQUEST_ID_BYTES_MAX`], or of other characters than letters, digits and
    /// `-_.:/+=@~`, those that UUIDs, Base64 and the usual trace notations consist of.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let legal = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(b);
        if value.is_empty() || !value.iter().all(legal) {
            return None;
        }
        let mut id = Self { len: u8::try_from(value.len()).ok()?, bytes: [0; REQUEST_ID_BYTES_MAX] };
        id.bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(id)
    }

    /// A fresh one: a random UUID (RFC 9562 section 5.4).
    #[must_use]
    pub fn generate(entropy: &mut impl Entropy) -> Self {
        let random = u128::from(entropy.next_u64()) << 64 | u128::from(entropy.next_u64());
        // Version 4 in bits 76 to 79, variant 10 in bits 62 and 63.
        let uuid = random & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
        let mut digits = [0; 32];
        write_hex(&uuid.to_be_bytes(), &mut digits);
        let mut id = Self { len: 36, bytes: [0; REQUEST_ID_BYTES_MAX] };
        let mut digits = digits.iter();
        for (at, slot) in id.bytes.iter_mut().enumerate().take(36) {
            *slot = if matches!(at, 8 | 13 | 18 | 23) { b'-' } else { *digits.next().unwrap_or(&b'0') };
        }
        id
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestId").field(&self.as_str()).finish()
    }
}

/// Makes sure that the request has exactly one good id, and returns it.
pub fn ensure(fields: &mut Fields, trust: Trust, entropy: &mut impl Entropy) -> RequestId {
    // Of several the first counts.
    let first = fields.get(REQUEST_ID).filter(|_| trust == Trust::PassOn);
    let brought = first.and_then(RequestId::parse);
    if let (Some(id), 1) = (brought, fields.get_all(REQUEST_ID).count()) {
        return id;
    }
    let id = brought.unwrap_or_else(|| RequestId::generate(entropy));
    fields.set(REQUEST_ID, id.as_str());
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propagate::testing::{Counting, fields, lines};

    const FRESH: &str = "00000000-0000-4001-8000-000000000002";

    #[test]
    fn one_good_id() {
        let check = |trust, input: &[&str], expected: &[&str]| {
            let mut fields = fields(input);
            let id = ensure(&mut fields, trust, &mut Counting(0));
            assert_eq!(lines(&fields), expected, "{input:?}");
            assert_eq!(fields.get_str(REQUEST_ID), Some(id.as_str()));
        };
        let fresh = format!("x-request-id: {FRESH}");
        check(Trust::PassOn, &["a: b"], &["a: b", &fresh]);
        check(Trust::PassOn, &["X-Request-Id: abc-123", "a: b"], &["X-Request-Id: abc-123", "a: b"]);
        check(Trust::PassOn, &["x-request-id: first", "x-request-id: second"], &["x-request-id: first"]);
        check(Trust::PassOn, &["x-request-id:"], &[&fresh]);
        check(Trust::PassOn, &["x-request-id: a b"], &[&fresh]);
        check(Trust::PassOn, &["x-request-id: <script>"], &[&fresh]);
        check(Trust::Replace, &["x-request-id: abc-123"], &[&fresh]);
        let longest = format!("x-request-id: {}", "a".repeat(128));
        check(Trust::PassOn, &[&longest], &[&longest]);
        let longer = format!("{longest}a");
        check(Trust::PassOn, &[&longer], &[&fresh]);
        check(Trust::PassOn, &[&format!("x-request-id: {}", "a".repeat(300))], &[&fresh]);
    }
}
