//! Every reason for which a message is refused, each with a stable code and the status that a client gets for it.
//!
//! One table per kind of fault, so that a new variant cannot be added without its code, status and text. The texts
//! name what was found and never quote it: the bytes are hostile and end up in logs.

use thiserror::Error;

macro_rules! faults {
    ($(#[$meta:meta])* $name:ident { $($variant:ident $code:literal $status:literal $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
        pub enum $name {
            $(#[doc = $text] #[error($text)] $variant,)+
        }

        impl $name {
            /// All variants, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Stable, searchable code, the same in records, metrics and headers.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// Status that answers a request with this fault. When a *response* has it the client gets 502.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }
        }
    };
}

faults! {
    /// Why a message head was refused. After any of these the connection must be closed: where the message ends is
    /// not known (RFC 9112 section 9.6).
    HeadFault {
        HeadTooLarge "head_too_large" 431 "message head is longer than the limit";
        TooManyFields "too_many_fields" 431 "message has more header fields than the limit";
        TargetTooLong "target_too_long" 414 "request line is longer than the limit";
        EmptyLine "empty_line_before_message" 400 "more than one empty line before the message";
        BareCr "bare_cr" 400 "carriage return without line feed";
        BareLf "bare_lf" 400 "line feed without carriage return";
        RequestLine "bad_request_line" 400 "request line is not method, target and version with single spaces";
        Method "bad_method" 400 "request method is not a token";
        Target "bad_target" 400 "request target has a forbidden form or byte";
        TargetAuthority "bad_target_authority" 400 "authority in the request target is invalid";
        ConnectTarget "bad_connect_target" 400 "CONNECT needs host and port as its target";
        AsteriskTarget "bad_asterisk_target" 400 "the target * is for OPTIONS only";
        VersionMalformed "bad_version" 400 "HTTP version is malformed";
        VersionUnsupported "version_unsupported" 505 "HTTP version is neither 1.0 nor 1.1";
        StatusLine "bad_status_line" 400 "status line is malformed";
        StatusCode "bad_status_code" 400 "status code is outside 100 to 999";
        ObsFold "obs_fold" 400 "header field is folded over several lines";
        SpaceBeforeColon "space_before_colon" 400 "whitespace between field name and colon";
        EmptyName "empty_field_name" 400 "header field has an empty name";
        MissingColon "missing_colon" 400 "header line has no colon";
        FieldName "bad_field_name" 400 "field name is not a token";
        FieldValue "bad_field_value" 400 "field value has a control character";
        ContentLength "bad_content_length" 400 "Content-Length is not a decimal number within 64 bits";
        ContentLengthRepeated "content_length_repeated" 400 "more than one Content-Length";
        ContentLengthForbidden "content_length_forbidden" 400 "Content-Length in a response that cannot have a body";
        LengthAndTransferEncoding "length_and_transfer_encoding" 400 "both Content-Length and Transfer-Encoding";
        TransferEncoding "bad_transfer_encoding" 400 "Transfer-Encoding is malformed or does not end in one chunked";
        TransferEncodingUnsupported "transfer_coding_unsupported" 501 "transfer coding other than chunked";
        TransferEncodingForbidden "transfer_encoding_forbidden" 400 "Transfer-Encoding where it cannot be: HTTP/1.0, 1xx, 204";
        BodyOnConnect "body_on_connect" 400 "CONNECT with a body";
        HostMissing "host_missing" 400 "request without Host";
        HostRepeated "host_repeated" 400 "more than one Host";
        HostInvalid "host_invalid" 400 "Host is not a host name or address with an optional port";
        HostMismatch "host_mismatch" 400 "Host differs from the authority of the request target";
        Expectation "expectation_unsupported" 417 "Expect is not 100-continue";
        UnsolicitedUpgrade "unsolicited_upgrade" 400 "101 for a request that asked for no upgrade";
        ConnectionSpecific "connection_specific_field" 400 "connection-specific field in HTTP/2";
        TeNotTrailers "te_not_trailers" 400 "te in HTTP/2 is not trailers";
        Path "bad_path" 400 "path pseudo-header is empty or malformed";
        Scheme "bad_scheme" 400 "scheme is missing or neither http nor https";
        AuthorityMissing "authority_missing" 400 "request names no authority";
        AuthorityInvalid "authority_invalid" 400 "authority is not a host name or address with an optional port";
        PseudoUnknown "unknown_pseudo_field" 400 "pseudo-header field that a message of this kind does not have";
        PseudoRepeated "pseudo_field_repeated" 400 "more than one of a pseudo-header field";
        PseudoLate "pseudo_field_after_fields" 400 "pseudo-header field after other fields";
        PseudoMissing "pseudo_field_missing" 400 "request without method or response without status in HTTP/2";
        LengthWithoutBody "length_without_body" 400 "Content-Length announces a body but the stream ended";
        TargetNotTranslatable "target_not_translatable" 400 "request target is too long or too odd for HTTP/2";
        UpgradeOverHttp2 "upgrade_over_http2" 400 "HTTP/1.1 upgrade cannot be translated to HTTP/2";
    }
}

faults! {
    /// Why a message body was refused. Sender and receiver no longer agree on where it ends, so the connection, or the
    /// HTTP/2 stream, must be closed.
    BodyFault {
        ChunkSize "bad_chunk_size" 400 "chunk size is not a hexadecimal number within 64 bits";
        ChunkExtension "bad_chunk_extension" 400 "chunk extension has a forbidden byte or line end";
        ChunkExtensionsTooLong "chunk_extensions_too_long" 400 "chunk extensions are longer than the limit";
        ChunkEnd "bad_chunk_end" 400 "chunk data is not followed by CRLF";
        TrailersTooLarge "trailers_too_large" 431 "trailer section is longer than the limit";
        TooManyTrailers "too_many_trailers" 431 "message has more trailer fields than the limit";
        TrailerField "bad_trailer_field" 400 "trailer field is malformed";
        TrailerForbidden "trailer_forbidden" 400 "trailer field that decides about framing or routing";
        Truncated "body_truncated" 400 "connection closed before the end of the body";
        TooLong "body_too_long" 400 "body is longer than announced";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Codes are what operators search for and what metrics are labelled with.
    #[test]
    fn codes_are_unique_and_stable_in_form() {
        let heads = HeadFault::ALL.iter().map(|f| (f.code(), f.status(), f.to_string()));
        let bodies = BodyFault::ALL.iter().map(|f| (f.code(), f.status(), f.to_string()));
        let mut seen = HashSet::new();
        for (code, status, text) in heads.chain(bodies) {
            assert!(seen.insert(code), "{code} twice");
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{code}");
            assert!([400, 414, 417, 431, 501, 505].contains(&status), "{code} has status {status}");
            assert!(!text.is_empty() && !text.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn sizes_versions_and_codings_have_statuses_of_their_own() {
        fn check(fault: HeadFault, status: u16) {
            assert_eq!(fault.status(), status, "{fault}");
        }
        check(HeadFault::HeadTooLarge, 431);
        check(HeadFault::TooManyFields, 431);
        check(HeadFault::TargetTooLong, 414);
        check(HeadFault::VersionUnsupported, 505);
        check(HeadFault::TransferEncodingUnsupported, 501);
        check(HeadFault::Expectation, 417);
        check(HeadFault::BareLf, 400);
        assert_eq!(BodyFault::TrailersTooLarge.status(), 431);
        assert_eq!(BodyFault::ChunkSize.status(), 400);
    }
}
