//! Names that the proxy itself decides by or writes, told apart once for each field, when it is stored.
//!
//! Nearly all questions about a message are whether one of these is there, and nearly always none is: a set of them
//! answers that without a look at any field.

use super::is_token_byte;

macro_rules! known {
    ($($variant:ident $name:literal,)+) => {
        /// A name that the proxy asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Known {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl Known {
            /// The name, in lower case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$variant),+];
        }
    };
}

known! {
    B3 "b3",
    B3Flags "x-b3-flags",
    B3ParentSpanId "x-b3-parentspanid",
    B3Sampled "x-b3-sampled",
    B3SpanId "x-b3-spanid",
    B3TraceId "x-b3-traceid",
    Connection "connection",
    ContentLength "content-length",
    ContentType "content-type",
    Expect "expect",
    Forwarded "forwarded",
    ForwardedFor "x-forwarded-for",
    ForwardedHost "x-forwarded-host",
    ForwardedProto "x-forwarded-proto",
    GrpcStatus "grpc-status",
    Host "host",
    Http2Settings "http2-settings",
    KeepAlive "keep-alive",
    ProxyConnection "proxy-connection",
    RequestId "x-request-id",
    Te "te",
    TraceParent "traceparent",
    TraceState "tracestate",
    TransferEncoding "transfer-encoding",
    Upgrade "upgrade",
}

impl Known {
    /// Which one a name is, in any case of its letters.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        let first = name.first()?.to_ascii_lowercase();
        // Length and first letter dismiss most names without another look.
        let candidate = match (name.len(), first) {
            (2, b'b') => Self::B3,
            (2, b't') => Self::Te,
            (4, b'h') => Self::Host,
            (6, b'e') => Self::Expect,
            (7, b'u') => Self::Upgrade,
            (9, b'f') => Self::Forwarded,
            (10, b'c') => Self::Connection,
            (10, b'k') => Self::KeepAlive,
            (10, b't') => Self::TraceState,
            (10, b'x') => Self::B3Flags,
            (11, b'g') => Self::GrpcStatus,
            (11, b't') => Self::TraceParent,
            (11, b'x') => Self::B3SpanId,
            (12, b'c') => Self::ContentType,
            // Of these the third and the sixth differ.
            (12, b'x') => match (name.get(2)?, name.get(5)?) {
                (b'r' | b'R', _) => Self::RequestId,
                (_, b't' | b'T') => Self::B3TraceId,
                _ => Self::B3Sampled,
            },
            (14, b'c') => Self::ContentLength,
            (14, b'h') => Self::Http2Settings,
            (15, b'x') => Self::ForwardedFor,
            (16, b'p') => Self::ProxyConnection,
            (16, b'x') => Self::ForwardedHost,
            (17, b't') => Self::TransferEncoding,
            (17, b'x') if matches!(name.get(2)?, b'f' | b'F') => Self::ForwardedProto,
            (17, b'x') => Self::B3ParentSpanId,
            _ => return None,
        };
        same(name, candidate.as_str().as_bytes()).then_some(candidate)
    }
}

/// Whether two names of one length, at most 24 bytes, are the same but for the case of letters; `lower` has none in upper
/// case.
fn same(name: &[u8], lower: &[u8]) -> bool {
    // Only letters have the seventh bit there, and only they may differ in the sixth.
    const SIXTH: u64 = 0x2020_2020_2020_2020;
    let differ = |a: u64, b: u64| (a ^ b) & !((b >> 1) & SIXTH);
    match (words(name), words(lower)) {
        (Some([a, b, c]), Some([x, y, z])) => differ(a, x) | differ(b, y) | differ(c, z) == 0,
        _ => match (halves(name), halves(lower)) {
            (Some(a), Some(x)) => differ(a, x) == 0,
            _ => name.eq_ignore_ascii_case(lower),
        },
    }
}

/// The first eight bytes, the next eight and the last eight, some of them twice; `None` of a shorter text.
fn words(text: &[u8]) -> Option<[u64; 3]> {
    let (first, last) = (text.first_chunk()?, text.last_chunk()?);
    let middle = text.get(8..).and_then(<[u8]>::first_chunk).unwrap_or(last);
    Some([u64::from_ne_bytes(*first), u64::from_ne_bytes(*middle), u64::from_ne_bytes(*last)])
}

/// The first four bytes and the last four, some of them twice; `None` of a shorter text.
fn halves(text: &[u8]) -> Option<u64> {
    let (first, last): (&[u8; 4], &[u8; 4]) = (text.first_chunk()?, text.last_chunk()?);
    Some(u64::from(u32::from_ne_bytes(*first)) << 32 | u64::from(u32::from_ne_bytes(*last)))
}

impl AsRef<[u8]> for Known {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

/// The name of the fields that are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub(super) known: Option<Known>,
    pub(super) text: &'a str,
}

impl From<Known> for Wanted<'_> {
    #[inline]
    fn from(known: Known) -> Self {
        Self { known: Some(known), text: known.as_str() }
    }
}

impl<'a> From<&'a str> for Wanted<'a> {
    fn from(text: &'a str) -> Self {
        Self { known: Known::of(text.as_bytes()), text }
    }
}

impl<'a> From<&'a String> for Wanted<'a> {
    fn from(text: &'a String) -> Self {
        text.as_str().into()
    }
}

/// A set of known names, and whether there are names by which proxies speak to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(u64);

impl Names {
    pub(super) const NONE: Self = Self(0);

    /// Names that may be of a family by which proxies speak to each other, or pass for one: see [`of_proxies`].
    pub(crate) const OF_PROXIES: Self = Self(1 << 63);

    pub(crate) const fn of(names: &[Known]) -> Self {
        let (mut set, mut rest) = (0, names);
        while let [known, more @ ..] = rest {
            set |= 1 << *known as u8;
            rest = more;
        }
        Self(set)
    }

    pub(super) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds a name, of which it is told whether it is known.
    #[inline]
    pub(super) fn add(&mut self, known: Option<Known>, name: &[u8]) {
        self.0 |= match known {
            Some(known) => 1 << known as u8,
            None if of_proxies(name) => Self::OF_PROXIES.0,
            None => 0,
        };
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn drop(&mut self, names: Self) {
        self.0 &= !names.0;
    }
}

/// Whether the name may begin with `x-weft-`, `x-envoy-`, `x-forwarded` or `l5d-`, with `_` for any `-`: by a few letters
/// only, because those who ask look closer.
fn of_proxies(name: &[u8]) -> bool {
    debug_assert!(name.iter().all(|byte| is_token_byte(*byte)), "{name:?}");
    match name {
        [b'x' | b'X', b'-' | b'_', third, ..] => matches!(third.to_ascii_lowercase(), b'w' | b'e' | b'f'),
        [b'l' | b'L', b'5', ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for known in Known::ALL {
            let name = known.as_str();
            assert_eq!(Known::of(name.as_bytes()), Some(*known), "{name}");
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), Some(*known), "{name}");
            assert_eq!(name, name.to_ascii_lowercase());
            assert!(name.len() <= 24, "{name}");
            assert_eq!(Known::of(format!("{name}x").as_bytes()), None, "{name}");
            // Any other byte anywhere makes another name.
            for (at, byte) in (0..name.len()).flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
                let mut other = name.as_bytes().to_vec();
                other[at] = byte;
                let found = Known::of(&other).is_some_and(|found| found == *known);
                assert_eq!(found, other.eq_ignore_ascii_case(name.as_bytes()), "{name} with {byte} at {at}");
            }
            assert_eq!(Known::of(name.replace('-', "_").as_bytes()).is_some(), !name.contains('-'), "{name}");
        }
        assert_eq!(Known::of(b""), None);
        assert_eq!(Known::of(b"cookie"), None);
    }

    #[test]
    fn sets_hold_what_was_added() {
        let mut names = Names::default();
        for known in Known::ALL {
            assert!(!names.meets(Names::of(&[*known])) && !names.meets(Names::OF_PROXIES));
            names.add(Some(*known), known.as_str().as_bytes());
            assert!(names.meets(Names::of(&[*known])));
        }
        for known in Known::ALL {
            names.drop(Names::of(&[*known]));
            assert!(!names.meets(Names::of(&[*known])));
        }
        assert_eq!(names, Names::default());
    }

    #[test]
    fn proxies_families_in_disguise() {
        let check = |name: &str, expected: bool| {
            let mut names = Names::default();
            names.add(Known::of(name.as_bytes()), name.as_bytes());
            assert_eq!(names.meets(Names::OF_PROXIES), expected, "{name}");
        };
        for name in
            ["X-Weft-A", "x_weft_b", "x_Envoy-c", "L5D-d", "l5d_e", "x_forwarded_for", "X-Forwarded-Client-Cert"]
        {
            check(name, true);
        }
        for name in ["x-api-key", "accept", "link", "x", "x-", "X-Forwarded-For", "x-request-id"] {
            check(name, false);
        }
    }
}
