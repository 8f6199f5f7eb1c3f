//! One field as tables and blocks hold it: as a line of HTTP/1, and with what its name means in HTTP/2.

use crate::fields::{Known, is_token_byte};
use crate::http2::path;

/// What stands between name and value of a line, and after the value.
pub(super) const COLON: &[u8] = b": ";
pub(super) const CRLF: &[u8] = b"\r\n";

/// What HPACK counts for a field beside its bytes (RFC 7541 section 4.1).
pub(super) const FIELD_BYTES: usize = 32;

/// What a name is to HTTP/2 (RFC 9113 sections 8.2 and 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Cookie,
    Te,
    /// Allowed in HTTP/1 only.
    ConnectionSpecific,
    /// Not a token in lower case.
    Malformed,
    Pseudo(Pseudo),
}

/// Pseudo-fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    /// One that nobody has defined.
    Unknown,
}

/// What is told once of a field, when it is first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) name: Name,
    /// The value has no byte that no value may have.
    pub(super) sound: bool,
    /// It is a value that `:path` or `:authority` may have, if it is one of them.
    pub(super) fit: bool,
    /// Bytes of name and value as they came, blanks around the value too, and what a field counts for beside them.
    pub(super) size: u32,
}

/// What is told once of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) len: u32,
    pub(super) kind: Kind,
    pub(super) known: Option<Known>,
}

impl Name {
    pub(super) fn of(name: &[u8]) -> Self {
        let known = Known::of(name);
        let kind = match (name, known) {
            ([b':', rest @ ..], _) => Kind::Pseudo(pseudo(rest)),
            _ if !is_lower_token(name) => Kind::Malformed,
            (b"cookie", _) => Kind::Cookie,
            (_, Some(Known::Te)) => Kind::Te,
            (_, Some(known)) if is_connection_specific(known) => Kind::ConnectionSpecific,
            _ => Kind::Plain,
        };
        Self { len: u32::try_from(name.len()).unwrap_or(u32::MAX), kind, known }
    }
}

/// Whether HTTP/2 forbids the field with this name, whatever its value (RFC 9113 section 8.2.2). `http2-settings` is the
/// companion of the withdrawn h2c upgrade.
pub(super) const fn is_connection_specific(name: Known) -> bool {
    matches!(
        name,
        Known::Connection
            | Known::Http2Settings
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade
    )
}

const fn pseudo(name: &[u8]) -> Pseudo {
    match name {
        b"method" => Pseudo::Method,
        b"scheme" => Pseudo::Scheme,
        b"authority" => Pseudo::Authority,
        b"path" => Pseudo::Path,
        b"protocol" => Pseudo::Protocol,
        b"status" => Pseudo::Status,
        _ => Pseudo::Unknown,
    }
}

fn is_lower_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| is_token_byte(*byte) && !byte.is_ascii_uppercase())
}

/// Whether the value is one that this pseudo-field may have, as far as that is asked of a path or an authority.
pub(super) fn is_fit(kind: Kind, value: &[u8]) -> bool {
    match kind {
        Kind::Pseudo(Pseudo::Authority) => path::authority(value).is_some(),
        Kind::Pseudo(Pseudo::Path) => path::is_valid(value),
        Kind::Plain | Kind::Cookie | Kind::Te | Kind::ConnectionSpecific | Kind::Malformed | Kind::Pseudo(_) => true,
    }
}

/// A field of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) line: &'a [u8],
    pub(super) shape: Shape,
}

impl<'a> Field<'a> {
    #[inline]
    pub(super) fn name(&self) -> &'a [u8] {
        self.line.get(..self.shape.name.len as usize).unwrap_or_default()
    }

    #[inline]
    pub(super) fn value(&self) -> &'a [u8] {
        value_of(self.line, self.shape.name.len as usize)
    }
}

/// Value of a line whose name has that length.
#[inline]
pub(super) fn value_of(line: &[u8], name_len: usize) -> &[u8] {
    let end = line.len().saturating_sub(CRLF.len());
    line.get(name_len + COLON.len()..end).unwrap_or_default()
}
