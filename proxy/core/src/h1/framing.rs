//! Where a body ends, decided from the fields that may say so (RFC 9112 section 6).

use http::Method;

use super::fault::HeadFault;
use crate::fields::{Known, is_token, trim_ows};
use crate::message::{Asked, BodyFraming, RequestHead, ResponseHead, Version};

/// What `Transfer-Encoding` said so far, over all its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// `chunked`, once, last.
    Chunked,
    /// Only codings that we do not speak.
    Unknown,
    /// `chunked` last, after codings that we do not speak.
    UnknownThenChunked,
}

/// The fields of one head that decide about framing and authority, noted in one pass while its spans are collected.
#[derive(Debug, Default)]
pub(crate) struct Notes<'a> {
    /// Value of the only `Host`.
    pub(crate) host: Option<&'a [u8]>,
    length: Option<u64>,
    coding: Option<Coding>,
}

impl<'a> Notes<'a> {
    /// Takes note of a field of a request. Faults are those of the field alone, or of its repetition.
    pub(crate) fn note_request(&mut self, name: Option<Known>, value: &'a [u8]) -> Result<(), HeadFault> {
        match name {
            Some(Known::Host) => once(&mut self.host, value, HeadFault::HostRepeated),
            // RFC 9110 section 10.1.1 allows 417. Servers that read an unknown expectation differently have been
            // desynchronised by it, and nothing but 100-continue was ever defined.
            Some(Known::Expect) if !value.eq_ignore_ascii_case(b"100-continue") => Err(HeadFault::Expectation),
            _ => self.note(name, value),
        }
    }

    /// Takes note of a field that frames a message of either kind.
    pub(crate) fn note(&mut self, name: Option<Known>, value: &[u8]) -> Result<(), HeadFault> {
        match name {
            Some(Known::ContentLength) => {
                once(&mut self.length, parse_length(value)?, HeadFault::ContentLengthRepeated)
            }
            Some(Known::TransferEncoding) => {
                value.split(|b| *b == b',').try_for_each(|coding| self.note_coding(trim_ows(coding)))
            }
            _ => Ok(()),
        }
    }

    fn note_coding(&mut self, coding: &[u8]) -> Result<(), HeadFault> {
        self.coding = Some(match (self.coding, coding.eq_ignore_ascii_case(b"chunked")) {
            (None, true) => Coding::Chunked,
            (Some(Coding::Unknown), true) => Coding::UnknownThenChunked,
            (None | Some(Coding::Unknown), false) if is_token(coding) => Coding::Unknown,
            // Nothing may follow chunked, and an empty or quoted element is an attempt to hide something.
            _ => return Err(HeadFault::TransferEncoding),
        });
        Ok(())
    }

    /// Whether the sole transfer coding is `chunked`, where the version allows one.
    fn chunked(&self, version: Version) -> Result<bool, HeadFault> {
        let Some(coding) = self.coding else { return Ok(false) };
        if version == Version::Http10 {
            return Err(HeadFault::TransferEncodingForbidden);
        }
        if self.length.is_some() {
            return Err(HeadFault::LengthAndTransferEncoding);
        }
        match coding {
            Coding::Chunked => Ok(true),
            Coding::Unknown => Err(HeadFault::TransferEncoding),
            Coding::UnknownThenChunked => Err(HeadFault::TransferEncodingUnsupported),
        }
    }

    /// Framing of a request body: chunked, a length, or none. CONNECT can have none: what follows its head is the
    /// tunnel, and a peer that reads it as a body instead would be desynchronised (RFC 9110 section 9.3.6).
    pub(crate) fn request_framing(&self, version: Version, method: &Method) -> Result<BodyFraming, HeadFault> {
        let framing = if self.chunked(version)? {
            BodyFraming::Chunked
        } else {
            self.length.map_or(BodyFraming::None, BodyFraming::Length)
        };
        if *method == Method::CONNECT && !framing.is_empty() {
            return Err(HeadFault::BodyOnConnect);
        }
        Ok(framing)
    }

    /// Framing of a response body, and whether the connection becomes a tunnel. The order of the rules is that of
    /// RFC 9112 section 6.3.
    pub(crate) fn response_framing(
        &self,
        version: Version,
        status: u16,
        asked: Asked,
    ) -> Result<(BodyFraming, bool), HeadFault> {
        if status == 101 && !asked.upgrade {
            return Err(HeadFault::UnsolicitedUpgrade);
        }
        let opens_tunnel = status == 101 || (asked.connect && (200..300).contains(&status));
        if asked.connect && (200..300).contains(&status) {
            // RFC 9110 section 9.3.6: a client ignores both fields here.
            return Ok((BodyFraming::None, true));
        }
        let chunked = self.chunked(version)?;
        if status < 200 || status == 204 {
            // RFC 9112 section 6.1 forbids both fields here. A zero length is a common and harmless mistake.
            if chunked {
                return Err(HeadFault::TransferEncodingForbidden);
            }
            if self.length.is_some_and(|n| n > 0) {
                return Err(HeadFault::ContentLengthForbidden);
            }
            return Ok((BodyFraming::None, opens_tunnel));
        }
        if asked.head || status == 304 {
            return Ok((BodyFraming::None, false));
        }
        if chunked {
            return Ok((BodyFraming::Chunked, false));
        }
        Ok((self.length.map_or(BodyFraming::UntilClose, BodyFraming::Length), false))
    }
}

/// Whether an HTTP/1 connection may carry another exchange after this one (RFC 9112 section 9.3): both sides keep it
/// open and the response has an end of its own. Ask with the heads as they were on that connection.
#[must_use]
pub fn persistent(request: &RequestHead, response: &ResponseHead, response_framing: BodyFraming) -> bool {
    request.keeps_alive() && response.keeps_alive() && response_framing != BodyFraming::UntilClose
}

fn once<T>(slot: &mut Option<T>, value: T, repeated: HeadFault) -> Result<(), HeadFault> {
    slot.replace(value).map_or(Ok(()), |_| Err(repeated))
}

/// `1*DIGIT` within 64 bits: no sign, blank, list or other base (RFC 9110 section 8.6).
pub(super) fn parse_length(value: &[u8]) -> Result<u64, HeadFault> {
    if value.is_empty() {
        return Err(HeadFault::ContentLength);
    }
    value.iter().try_fold(0_u64, |n, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'));
        digit.and_then(|d| n.checked_mul(10)?.checked_add(d)).ok_or(HeadFault::ContentLength)
    })
}
