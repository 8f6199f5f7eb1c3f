//! Who the caller is, told to the application (S11), and what an unproven caller may not claim.
//!
//! The application cannot see the TLS handshake, so inbound writes the proven identity into two fields. Both are removed
//! from every request first, whoever sent it: they state what *this* proxy has verified. Names are compared with `_` as
//! `-`, because CGI-like servers (WSGI, PHP, Rack) hand both to the application under one name.

use crate::fields::{Fields, Line, Names};
use crate::identity::spiffe::SpiffeId;
use crate::propagate::hex;

/// `x-forwarded-client-cert`, in the notation that Envoy introduced.
pub const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// The caller's SPIFFE ID alone, for applications that only compare a string.
pub const CLIENT_ID: &str = "x-weft-client-id";

/// Families of fields by which proxies speak to each other. An unproven caller has no say in them.
const BETWEEN_PROXIES: [&str; 3] = ["x-weft-", "x-envoy-", "l5d-"];

/// A caller that proved its identity.
#[derive(Clone, Copy, Debug)]
pub struct ProvenPeer<'a> {
    /// Its SPIFFE ID.
    pub id: &'a SpiffeId,
    /// SHA-256 of its certificate (DER).
    pub certificate_sha256: &'a [u8; 32],
    /// Its certificate's subject, where it has one; SVIDs of this mesh have none.
    pub subject: Option<&'a str>,
}

/// What the application is told of a caller, made once for all requests of a connection.
#[derive(Debug)]
pub struct Introduction {
    client_cert: Option<Line>,
    client_id: Option<Line>,
}

impl Introduction {
    /// Of a peer who reached the identity `own`.
    #[must_use]
    pub fn of(peer: ProvenPeer<'_>, own: &SpiffeId) -> Self {
        Self {
            client_cert: Line::new(CLIENT_CERT, &client_cert(own, peer)),
            client_id: Line::new(CLIENT_ID, &peer.id.to_string()),
        }
    }
}

/// Replaces what the request claims of its caller by what is proven: the peer's identity, or nothing.
///
/// For a plaintext caller, and at a gateway, call [`drop_between_proxies`] too.
pub fn set_client_identity(fields: &mut Fields, caller: Option<&Introduction>) {
    drop_client_identity(fields);
    for line in caller.into_iter().flat_map(|caller| [&caller.client_cert, &caller.client_id]).flatten() {
        fields.append_line(line);
    }
}

/// Removes what a message claims of its caller. Also for trailers, which some servers merge into the head (RFC 9110 section
/// 6.5.1): nothing is ever proven by a trailer.
pub fn drop_client_identity(fields: &mut Fields) {
    if fields.may_have(Names::OF_PROXIES) {
        fields.retain(|name, _| !same_name(name, CLIENT_CERT) && !same_name(name, CLIENT_ID));
    }
}

/// Removes `x-weft-*`, `x-envoy-*` and `l5d-*`, which only proxies of the mesh may say; returns how many there were.
pub fn drop_between_proxies(fields: &mut Fields) -> usize {
    if !fields.may_have(Names::OF_PROXIES) {
        return 0;
    }
    let before = fields.len();
    let claimed = |name: &[u8], prefix: &str| name.get(..prefix.len()).is_some_and(|start| same_name(start, prefix));
    fields.retain(|name, _| !BETWEEN_PROXIES.iter().any(|prefix| claimed(name, prefix)));
    before - fields.len()
}

/// One element: `By=…;Hash=…;Subject="…";URI=…`. SPIFFE IDs have no character that would need quotes.
fn client_cert(own: &SpiffeId, peer: ProvenPeer<'_>) -> String {
    let (words, _) = peer.certificate_sha256.as_chunks();
    let hash: Vec<u8> = words.iter().flat_map(|word| hex::digits(u64::from_be_bytes(*word))).collect();
    let hash = std::str::from_utf8(&hash).unwrap_or_default();
    let subject = peer.subject.map(|subject| format!("Subject={};", quoted(subject))).unwrap_or_default();
    format!("By={own};Hash={hash};{subject}URI={}", peer.id)
}

/// In double quotes, with `"` and `\` escaped; control characters become spaces.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out.push('"');
    out
}

/// `other` is in lower case and has no `_`.
fn same_name(name: &[u8], other: &str) -> bool {
    let plain = |b: &u8| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == other.len() && name.iter().map(plain).eq(other.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propagate::testing::{fields, lines};

    fn id(account: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap()
    }

    #[test]
    fn identity_is_what_was_proven() {
        let (own, caller) = (id("cart"), id("web"));
        let claims = [
            "X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/admin",
            "x_forwarded_client_cert: a",
            "X-Weft-Client-Id: b",
            "X_Weft-Client_ID: c",
            "a: b",
        ];
        let mut plaintext = fields(&claims);
        set_client_identity(&mut plaintext, None);
        assert_eq!(lines(&plaintext), ["a: b"]);

        let mut proven = fields(&claims);
        let mut peer = ProvenPeer { id: &caller, certificate_sha256: &[0xab; 32], subject: None };
        set_client_identity(&mut proven, Some(&Introduction::of(peer, &own)));
        let (by, uri, hash) =
            ("By=spiffe://cluster.local/ns/shop/sa/cart", "URI=spiffe://cluster.local/ns/shop/sa/web", "ab".repeat(32));
        let element = format!("x-forwarded-client-cert: {by};Hash={hash};{uri}");
        assert_eq!(lines(&proven), ["a: b", &element, "x-weft-client-id: spiffe://cluster.local/ns/shop/sa/web"]);

        peer.subject = Some("CN=a\"b\\c\n,O=d;e");
        set_client_identity(&mut proven, Some(&Introduction::of(peer, &own)));
        let element = format!("{by};Hash={hash};Subject=\"CN=a\\\"b\\\\c ,O=d;e\";{uri}");
        assert_eq!(proven.get_str(CLIENT_CERT), Some(element.as_str()));
        assert_eq!(proven.len(), 3);
    }

    #[test]
    fn the_words_of_proxies_are_dropped() {
        let mut input = fields(&[
            "X-Weft-Anything: 1",
            "x_weft_b: 2",
            "x-envoy-max-retries: 3",
            "L5d-Dst-Override: 4",
            "x-weft: 5",
            "x-we: 6",
        ]);
        assert_eq!(drop_between_proxies(&mut input), 4);
        assert_eq!(lines(&input), ["x-weft: 5", "x-we: 6"]);
    }
}
