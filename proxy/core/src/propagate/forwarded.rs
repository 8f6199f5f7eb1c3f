//! Where a request came from, noted at the edge: `x-forwarded-for`, `-proto` and `-host`.
//!
//! Only gateways write these; inside the mesh they pass unchanged. Anyone can send them, so of the addresses only the ones
//! that trusted proxies appended count, from the right. RFC 7239 `Forwarded` is removed with an untrusted client: two
//! stories about one origin would let it choose which is believed.

use std::io::Write as _;
use std::net::IpAddr;

use crate::fields::{Fields, Known, Names};
use crate::text::push_ipv4;

const FOR: Known = Known::ForwardedFor;
const PROTO: Known = Known::ForwardedProto;
const HOST: Known = Known::ForwardedHost;

/// The connection a gateway received a request on.
#[derive(Clone, Copy, Debug)]
pub struct Edge<'a> {
    /// Address of the connection's other end.
    pub peer: IpAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Authority as the client named it.
    pub host: Option<&'a [u8]>,
    /// Trusted proxies in front of this one (load balancers, a content network); 0 by default.
    pub trusted_hops: usize,
}

/// Notes the request's origin and returns the client's address: the peer, or with N trusted proxies in front the Nth
/// address from the right of those they appended; the peer again where that is missing or no address.
pub fn note_origin(fields: &mut Fields, edge: Edge<'_>) -> IpAddr {
    let peer = edge.peer.to_canonical();
    let client = nth_from_right(fields, edge.trusted_hops).unwrap_or(peer);
    add_to_chain(fields, peer);
    let believed = edge.trusted_hops > 0;
    if !believed {
        fields.remove(Known::Forwarded);
    }
    // Servers that make variables of fields take both for one (WSGI, PHP, Rack); no proxy writes them so.
    if fields.may_have(Names::OF_PROXIES) {
        fields.retain(|name, _| !is_disguised(name));
    }
    // Of several, readers pick different ones: that is nobody's word.
    let said_once = |fields: &Fields, name: Known| believed && fields.get_all(name).count() == 1;
    if !(said_once(fields, PROTO) && is_proto(fields.get(PROTO))) {
        fields.set_with(PROTO, |out| out.extend_from_slice(if edge.tls { &b"https"[..] } else { b"http" }));
    }
    match edge.host {
        _ if said_once(fields, HOST) => {}
        Some(host) => fields.set(HOST, host),
        None => {
            fields.remove(HOST);
        }
    }
    client
}

fn add_to_chain(fields: &mut Fields, peer: IpAddr) {
    if !fields.contains(FOR) {
        return fields.append_with(FOR, |out| push_address(out, peer));
    }
    let mut chain = Vec::new();
    for value in fields.get_all(FOR).filter(|value| !value.is_empty()) {
        chain.extend_from_slice(value);
        chain.extend_from_slice(b", ");
    }
    push_address(&mut chain, peer);
    fields.set(FOR, chain);
}

/// As the formatter writes it.
fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => push_ipv4(out, address),
        // Writing to a vector cannot fail.
        IpAddr::V6(address) => write!(out, "{address}").unwrap_or_default(),
    }
}

/// `x_forwarded_for` and the like.
fn is_disguised(name: &[u8]) -> bool {
    const FAMILY: &[u8] = b"x-forwarded-";
    let plain = |b: &u8| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.contains(&b'_')
        && name.get(..FAMILY.len()).is_some_and(|start| start.iter().map(plain).eq(FAMILY.iter().copied()))
}

fn nth_from_right(fields: &Fields, n: usize) -> Option<IpAddr> {
    if n == 0 {
        return None;
    }
    let mut addresses: Vec<&[u8]> = fields.list(FOR).collect();
    // What the trusted proxies appended: the outermost of them wrote the client, n from the right.
    let at = addresses.len().checked_sub(n)?;
    let text = std::str::from_utf8(addresses.swap_remove(at)).ok()?;
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn is_proto(value: Option<&[u8]>) -> bool {
    value.is_some_and(|v| v.eq_ignore_ascii_case(b"http") || v.eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propagate::testing::{fields, lines};

    fn check(trusted_hops: usize, tls: bool, input: &[&str], expected: &[&str], client: &str) {
        let mut fields = fields(input);
        let edge = Edge { peer: "::ffff:10.0.0.9".parse().unwrap(), tls, host: Some(b"shop.example"), trusted_hops };
        assert_eq!(note_origin(&mut fields, edge).to_string(), client, "{input:?}");
        assert_eq!(lines(&fields), expected, "{input:?}");
    }

    #[test]
    fn addresses_are_written_as_the_formatter_does() {
        for address in ["0.0.0.0", "9.10.99.100", "255.199.200.1", "::", "2001:db8::1", "fe80::10.0.0.1"] {
            let mut out = Vec::new();
            push_address(&mut out, address.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), address.parse::<IpAddr>().unwrap().to_string());
        }
    }

    #[test]
    fn untrusted_clients() {
        let rest = ["x-forwarded-proto: https", "x-forwarded-host: shop.example"];
        check(0, true, &[], &["x-forwarded-for: 10.0.0.9", rest[0], rest[1]], "10.0.0.9");
        let spoofed =
            ["X-Forwarded-For: 1.1.1.1", "x-forwarded-proto: http", "x-forwarded-host: evil", "forwarded: for=x"];
        check(0, true, &spoofed, &["X-Forwarded-For: 1.1.1.1, 10.0.0.9", rest[0], rest[1]], "10.0.0.9");
        let twice = ["x-forwarded-for: 1.1.1.1, 2.2.2.2", "a: b", "x-forwarded-for: 3.3.3.3"];
        let joined =
            ["x-forwarded-for: 1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9", "a: b", "x-forwarded-proto: http", rest[1]];
        check(0, false, &twice, &joined, "10.0.0.9");
    }

    #[test]
    fn behind_trusted_proxies() {
        let said = [
            "x-forwarded-for: 6.6.6.6, 1.1.1.1",
            "x-forwarded-proto: https",
            "x-forwarded-host: a",
            "forwarded: for=x",
        ];
        let kept = ["x-forwarded-for: 6.6.6.6, 1.1.1.1, 10.0.0.9", said[1], said[2], said[3]];
        check(1, false, &said, &kept, "1.1.1.1");
        check(2, false, &said, &kept, "6.6.6.6");
        check(3, false, &said, &kept, "10.0.0.9");
        let odd = ["x-forwarded-for: unknown", "x-forwarded-proto: gopher"];
        let mended =
            ["x-forwarded-for: unknown, 10.0.0.9", "x-forwarded-proto: http", "x-forwarded-host: shop.example"];
        check(1, false, &odd, &mended, "10.0.0.9");
        let said_twice =
            ["x-forwarded-proto: https", "x-forwarded-proto: http", "x-forwarded-host: a", "x-forwarded-host: b"];
        let own = ["x-forwarded-proto: http", "x-forwarded-host: shop.example", "x-forwarded-for: 10.0.0.9"];
        check(1, false, &said_twice, &own, "10.0.0.9");
    }

    #[test]
    fn what_passes_for_a_forwarded_field_is_dropped() {
        let input = ["X_Forwarded_For: 1.2.3.4", "x-forwarded_proto: https", "X_Forwarded: a", "x_other: b"];
        let expected = [
            "X_Forwarded: a",
            "x_other: b",
            "x-forwarded-for: 10.0.0.9",
            "x-forwarded-proto: http",
            "x-forwarded-host: shop.example",
        ];
        check(0, false, &input, &expected, "10.0.0.9");
    }
}
