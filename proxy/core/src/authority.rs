//! Host and port as `Host`, `:authority` and request-targets carry them.
//!
//! Routing and authorization decide by this value, so everything that two parsers could read differently is refused
//! instead of repaired: userinfo, paths, lists, blanks, empty ports, broken percent-encoding. That is stricter than
//! RFC 3986 section 3.2, which allows an empty port and commas in names; no client that browsers or libraries ship
//! sends them. Underscores stay allowed, because container names have them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::byte_set::ByteSet;
use crate::model::ServiceKey;

/// A valid authority, split. The host is as written (case, brackets of an IPv6 address), without the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Registered name, IPv4 address, or IPv6 address in brackets.
    pub host: &'a [u8],
    /// Port from 1 to 65535 when one is written.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Parses `host [":" port]` (RFC 9110 section 7.2, without userinfo); `None` if it is not exactly that.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (host, port) = if bytes.first() == Some(&b'[') {
            let end = bytes.iter().position(|b| *b == b']')?;
            let (host, rest) = bytes.split_at_checked(end + 1)?;
            let literal = std::str::from_utf8(host.get(1..end)?).ok()?;
            literal.parse::<Ipv6Addr>().ok()?;
            (host, rest)
        } else {
            // What ends an ordinary name is its port, or nothing.
            let plain = bytes.iter().position(|b| !REG_NAME.has(*b)).unwrap_or(bytes.len());
            let encoded = bytes.get(plain) == Some(&b'%');
            let end = if encoded { bytes.iter().position(|b| *b == b':').unwrap_or(bytes.len()) } else { plain };
            let (host, rest) = bytes.split_at_checked(end)?;
            (if encoded { is_reg_name(host) } else { !host.is_empty() }).then_some((host, rest))?
        };
        let port = match port {
            [] => None,
            [b':', digits @ ..] => Some(parse_port(digits)?),
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// Whether both name the same host and port, ignoring case and taking `default_port` for an absent one.
    #[must_use]
    pub fn same_as(&self, other: &Authority<'_>, default_port: Option<u16>) -> bool {
        self.host.eq_ignore_ascii_case(other.host) && self.port.or(default_port) == other.port.or(default_port)
    }

    /// Whether it names this address of this service: by the address itself or by a name that the service has
    /// (`name`, `name.namespace`, `name.namespace.svc` and that in any cluster's domain), and by the port.
    #[must_use]
    pub fn names(&self, address: SocketAddr, service: &ServiceKey) -> bool {
        let host = std::str::from_utf8(self.host).unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let named = match literal {
            Ok(ip) => ip.to_canonical() == address.ip().to_canonical(),
            Err(_) => is_name_of(host, service),
        };
        named && self.port == Some(address.port())
    }
}

/// Port that a scheme implies: 80, 443, or none for any other.
#[must_use]
pub fn default_port(scheme: &[u8]) -> Option<u16> {
    if scheme.eq_ignore_ascii_case(b"http") {
        Some(80)
    } else if scheme.eq_ignore_ascii_case(b"https") {
        Some(443)
    } else {
        None
    }
}

fn is_name_of(host: &str, service: &ServiceKey) -> bool {
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is = |label: Option<&str>, expected: &str| label.is_some_and(|label| label.eq_ignore_ascii_case(expected));
    let mut is_or_ends = |expected: &str| match labels.next() {
        None => true,
        label => is(label, expected),
    };
    !host.is_empty() && is_or_ends(&service.name) && is_or_ends(&service.namespace) && is_or_ends("svc")
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    // Five digits hold 65535; more would only be leading zeros, which some parsers read as octal.
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = std::str::from_utf8(digits).ok()?.parse::<u16>().ok()?;
    (port != 0).then_some(port)
}

/// Non-empty registered name: unreserved, sub-delims without the comma, and whole percent-encoded bytes.
fn is_reg_name(host: &[u8]) -> bool {
    let mut bytes = host.iter();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'%' => {
                matches!((bytes.next(), bytes.next()), (Some(a), Some(b)) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
            }
            other => REG_NAME.has(*other),
        };
        if !fine {
            return false;
        }
    }
    !host.is_empty()
}

/// Unreserved and sub-delims without the comma (RFC 3986 section 2).
static REG_NAME: ByteSet = ByteSet::alphanumeric_and(b"-._~!$&'()*+;=");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_host_and_port() {
        fn check(input: &str, host: &str, port: Option<u16>) {
            let got = Authority::parse(input.as_bytes());
            assert_eq!(got, Some(Authority { host: host.as_bytes(), port }), "{input}");
        }
        check("example.com", "example.com", None);
        check("EXAMPLE.com:8080", "EXAMPLE.com", Some(8080));
        check("my_service", "my_service", None);
        check("127.0.0.1:1", "127.0.0.1", Some(1));
        check("[::1]", "[::1]", None);
        check("[2001:db8::1]:65535", "[2001:db8::1]", Some(65535));
        check("[::ffff:1.2.3.4]:80", "[::ffff:1.2.3.4]", Some(80));
        check("a%2Db", "a%2Db", None);
        check("xn--bcher-kva.example", "xn--bcher-kva.example", None);
        check("a.b.c.", "a.b.c.", None);
    }

    #[test]
    fn refuses_everything_else() {
        for input in [
            "",
            ":",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:000080",
            "a:+80",
            "a:8o",
            "a:80:80",
            "a b",
            " a",
            "a ",
            "a,b",
            "a@b",
            "u:p@b",
            "a/b",
            "a/",
            "/a",
            "a?b",
            "a#b",
            "a\\b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[]",
            "[v1.a]",
            "[fe80::1%25eth0]",
            "[1.2.3.4]",
            "a%",
            "a%2",
            "a%zz",
            "a\0",
            "a\tb",
            "a\"b",
            "a<b",
            "a|b",
            "a^b",
            "{a}",
            "b\u{fc}cher",
            "a\x7f",
            "http://a",
            "[::1]a:80",
            "[[::1]]",
        ] {
            assert_eq!(Authority::parse(input.as_bytes()), None, "{input:?}");
        }
    }

    #[test]
    fn names_of_a_service_and_its_address() {
        let service = ServiceKey { namespace: "shop".into(), name: "cart".into() };
        let check = |authority: &str, address: &str, expected: bool| {
            let parsed = Authority::parse(authority.as_bytes()).unwrap();
            assert_eq!(parsed.names(address.parse().unwrap(), &service), expected, "{authority} at {address}");
        };
        let v4 = "240.240.0.1:80";
        for same in [
            "240.240.0.1:80",
            "[::ffff:240.240.0.1]:80",
            "cart:80",
            "CART.shop:80",
            "cart.shop.:80",
            "cart.shop.svc:80",
            "cart.shop.svc.cluster.local:80",
            "cart.shop.svc.other.example:80",
        ] {
            check(same, v4, true);
        }
        for other in [
            "240.240.0.2:80",
            "240.240.0.1:81",
            "240.240.0.1",
            "cart",
            "cart:81",
            "card:80",
            "cart.other:80",
            "cart.shop.com:80",
            "shop:80",
            "www.example.com:80",
        ] {
            check(other, v4, false);
        }
        check("[fd00::1]:80", "[fd00::1]:80", true);
        check("[fd00:0::1]:80", "[fd00::1]:80", true);
        check("[fd00::2]:80", "[fd00::1]:80", false);
    }

    #[test]
    fn same_host_ignores_case_and_default_port() {
        fn check(a: &str, b: &str, default: Option<u16>, same: bool) {
            let (a, b) = (Authority::parse(a.as_bytes()).unwrap(), Authority::parse(b.as_bytes()).unwrap());
            assert_eq!(a.same_as(&b, default), same, "{a:?} {b:?}");
            assert_eq!(b.same_as(&a, default), same, "{b:?} {a:?}");
        }
        check("a.example", "A.EXAMPLE", None, true);
        check("a:80", "a", Some(80), true);
        check("a:80", "a", Some(443), false);
        check("a:80", "a", None, false);
        check("a:81", "a:82", None, false);
        check("a", "b", None, false);
    }
}
