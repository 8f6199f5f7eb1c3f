//! `x-request-id`: one name for a request on all its hops, for people and logs.
//!
//! Whoever meets a request first names it; inside the mesh the name is passed on unchanged. It is echoed into logs and
//! headers everywhere, so one that is overlong or has odd characters is replaced.

use std::fmt;
use std::ops::Range;

use super::hex;
use crate::byte_set::ByteSet;
use crate::entropy::Entropy;
use crate::fields::{Fields, Known};

/// Name of the field.
pub const REQUEST_ID: &str = Known::RequestId.as_str();

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

/// A request's id; up to [`INLINE`] bytes are held without allocating.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(Held);

/// Room for a UUID, and little more: an id is moved several times.
const INLINE: usize = 38;

#[derive(Clone, PartialEq, Eq)]
enum Held {
    Short { len: u8, bytes: [u8; INLINE] },
    Long(Box<[u8]>),
}

impl RequestId {
    /// The id as it is on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The same, without a look at each of its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Held::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Held::Long(bytes) => bytes,
        }
    }

    /// `None` when empty, longer than [`REQUEST_ID_BYTES_MAX`], or of other characters than letters, digits and
    /// `-_.:/+=@~`, those that UUIDs, Base64 and the usual trace notations consist of.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.is_empty() || value.len() > REQUEST_ID_BYTES_MAX || !value.iter().all(|b| LEGAL.has(*b)) {
            return None;
        }
        let mut bytes = [0; INLINE];
        let Some(start) = bytes.get_mut(..value.len()) else { return Some(Self(Held::Long(value.into()))) };
        start.copy_from_slice(value);
        Some(Self(Held::Short { len: u8::try_from(value.len()).ok()?, bytes }))
    }

    /// A fresh one: a random UUID (RFC 9562 section 5.4).
    #[must_use]
    pub fn generate(entropy: &mut impl Entropy) -> Self {
        // Version 4 in the last four bits but twelve of the first half, variant 10 in the first two of the second.
        let first = hex::digits(entropy.next_u64() & !(0xf << 12) | 4 << 12);
        let second = hex::digits(entropy.next_u64() & !(0b11 << 62) | 0b10 << 62);
        let mut bytes = *b"________-____-____-____-____________\0\0";
        for (to, from) in [(0..8, 0..8), (9..13, 8..12), (14..18, 12..16)] {
            copy(&mut bytes, to, &first, from);
        }
        for (to, from) in [(19..23, 0..4), (24..36, 4..16)] {
            copy(&mut bytes, to, &second, from);
        }
        Self(Held::Short { len: 36, bytes })
    }
}

/// What UUIDs, Base64 and the usual trace notations consist of.
static LEGAL: ByteSet = ByteSet::alphanumeric_and(b"-_.:/+=@~");

#[inline]
fn copy(bytes: &mut [u8; INLINE], to: Range<usize>, digits: &[u8; 16], from: Range<usize>) {
    if let (Some(to), Some(from)) = (bytes.get_mut(to), digits.get(from)) {
        to.copy_from_slice(from);
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
    let first = fields.get(Known::RequestId).filter(|_| trust == Trust::PassOn);
    let brought = first.and_then(RequestId::parse);
    if brought.is_some() && fields.get_all(Known::RequestId).count() == 1 {
        return brought.unwrap_or_else(|| RequestId::generate(entropy));
    }
    let id = brought.unwrap_or_else(|| RequestId::generate(entropy));
    say(fields, &id);
    id
}

/// Makes the message say this id.
pub fn say(fields: &mut Fields, id: &RequestId) {
    fields.set_with(Known::RequestId, |out| out.extend_from_slice(id.as_bytes()));
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
