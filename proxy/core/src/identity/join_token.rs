//! The one string that lets a proxy join: `weft1.<secret>.<SHA-256 of the root>`, both parts lower-case hexadecimal of 32
//! bytes.
//!
//! The secret proves the proxy to the control plane, the hash proves the control plane to the proxy: the secret is sent
//! only after the server's chain led to that root.

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "weft1.";

/// A parsed join token. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: String,
    root_sha256: [u8; 32],
}

/// Why a text is no join token. It never repeats the text, which may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// It does not begin with `weft1.`.
    #[error("join token must begin with weft1. (print one with `weft token create`)")]
    Prefix,
    /// It is not two parts of 64 lower-case hexadecimal digits.
    #[error("join token must be weft1.<64 hex digits>.<64 hex digits>; was it copied whole?")]
    Shape,
}

impl JoinToken {
    /// From a fresh random secret and the hash of the root certificate's DER.
    #[must_use]
    pub fn new(secret: &[u8; 32], root_sha256: [u8; 32]) -> Self {
        Self { secret: hex(secret), root_sha256 }
    }

    /// What is sent as `IssueRequest.join_token`: 64 hexadecimal digits.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The root that the server's chain must hold.
    #[must_use]
    pub fn root_sha256(&self) -> &[u8; 32] {
        &self.root_sha256
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(JoinTokenError::Prefix)?;
        let (secret, hash) = rest.split_once('.').ok_or(JoinTokenError::Shape)?;
        unhex(secret).ok_or(JoinTokenError::Shape)?;
        let root_sha256 = unhex(hash).ok_or(JoinTokenError::Shape)?;
        Ok(Self { secret: secret.to_owned(), root_sha256 })
    }
}

/// The whole token, secret included: for printing it once to its operator.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}.{}", self.secret, hex(&self.root_sha256))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("root_sha256", &hex(&self.root_sha256)).finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let token = JoinToken::new(&[0x0a; 32], [0xff; 32]);
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(token.secret()));
        let check = |text: &str, expected: JoinTokenError| {
            assert_eq!(text.parse::<JoinToken>(), Err(expected), "{text}");
        };
        check("", JoinTokenError::Prefix);
        check("weft2.a.b", JoinTokenError::Prefix);
        check("weft1.", JoinTokenError::Shape);
        check(&text[..text.len() - 1], JoinTokenError::Shape);
        check(&text.to_uppercase().replace("WEFT1", "weft1"), JoinTokenError::Shape);
        check(&format!("{text}.00"), JoinTokenError::Shape);
    }
}
