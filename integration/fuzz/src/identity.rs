//! Names that decide who somebody is: one spelling each.

use weft_core::authority::Authority;
use weft_core::identity::join_token::JoinToken;
use weft_core::identity::spiffe::{SPIFFE_ID_BYTES_MAX, SpiffeId, TrustDomain};

/// SPIFFE IDs, trust domains, authorities and join tokens.
pub(crate) fn names(data: &[u8]) {
    authority(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.to_string(), text, "one spelling");
        assert!(text.len() <= SPIFFE_ID_BYTES_MAX && text.is_ascii());
        let again = SpiffeId::new(id.trust_domain().clone(), id.namespace(), id.service_account());
        assert_eq!(again, Ok(id.clone()));
        assert!(!text.contains("/../") && !text.contains('%') && !text.contains('?') && !text.contains('#'));
        // RFC 3986, appendix B, by hand: the parts are where any parser of URIs finds them.
        let (scheme, rest) = text.split_once("://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        assert_eq!((scheme, host), ("spiffe", id.trust_domain().as_str()));
        assert_eq!(path, format!("ns/{}/sa/{}", id.namespace(), id.service_account()));
    }
    if let Ok(domain) = TrustDomain::new(text) {
        assert_eq!(domain.as_str(), text);
        assert!(SpiffeId::new(domain, "a", "b").is_ok_and(|id| SpiffeId::parse(&id.to_string()) == Ok(id)));
    }
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string(), text.trim());
        // The hash of the root does show; only a made-up secret is the same.
        let made_up = token.to_string().matches(token.secret()).count() > 1;
        assert!(made_up || !format!("{token:?}").contains(token.secret()), "a secret never shows");
    }
}

fn authority(data: &[u8]) {
    let Some(parsed) = Authority::parse(data) else { return };
    assert!(data.is_ascii() && !data.iter().any(|b| b.is_ascii_control() || b" /?#@\\,\"<>".contains(b)));
    assert!(data.starts_with(parsed.host) && !parsed.host.is_empty() && parsed.port != Some(0));
    assert!(parsed.same_as(&parsed, None));
    // Another parser of authorities sees the same.
    if let Ok(other) = http::uri::Authority::try_from(data) {
        assert_eq!(other.host().as_bytes(), parsed.host);
        assert_eq!(other.port_u16(), parsed.port);
    }
}
