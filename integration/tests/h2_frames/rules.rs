//! What may differ between a direct exchange and one through the mesh, each rule with its reason and the exchanges that it is
//! for. A rule that some of them do not need fails the test, and nowhere else it is applied.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use weft_integration::raw::h2_frame::code;
use weft_integration::raw::h2_hpack::Field;
use weft_integration::raw::{CLIENT_ID, SERVER_ID};

use crate::script::Outcome;
use crate::trace::{Item, Trace};

/// A direct exchange, and the same through the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Both {
    pub(crate) direct: Outcome,
    pub(crate) meshed: Outcome,
}

/// SHA-256 of the certificate that the client's proxy proves itself with, in hexadecimal.
pub(crate) static CLIENT_HASH: OnceLock<String> = OnceLock::new();

/// One permitted difference: the outcomes become the same where it is the only one.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    /// Beginnings of the names of those exchanges that it is for.
    pub(crate) of: &'static [&'static str],
    pub(crate) apply: fn(&mut Both),
}

/// Every exchange: what is on the wire between proxies, and what they add, does not depend on it.
const ALL: &[&str] = &[""];

pub(crate) const RULES: [Rule; 12] = [
    // SETTINGS, PING, PRIORITY and GOAWAY are about one connection, and unknown frames may only be ignored (RFC 9113
    // sections 5.5 and 6.3 to 6.8): each hop has its own. An exchange on its way is finished in spite of GOAWAY.
    Rule { name: "frames of a connection end with it", of: ALL, apply: |both| each_trace(both, connection_frames) },
    // RFC 9113 section 8.3: they come before all others; nothing is said of their order.
    Rule {
        name: "pseudo-header fields have no order",
        of: ALL,
        apply: |both| each_section(both, |fields| order(fields, true)),
    },
    // RFC 9110 section 5.3: only the order of fields with the same name means something.
    Rule { name: "names have no order", of: ALL, apply: |both| each_section(both, |fields| order(fields, false)) },
    // RFC 9113 section 8.2.3.
    Rule {
        name: "cookie crumbs are one field",
        of: &["request fields: cookie crumbs"],
        apply: |both| each_section(both, join_cookies),
    },
    // RFC 9113 section 8.3.1: an intermediary makes `:authority` of `host`, and only the former counts.
    Rule { name: "host becomes :authority", of: &["authority: host"], apply: |both| each_section(both, host) },
    // Ids, a trace context and who called, for the server. Where the client sent the field, its value counts.
    Rule { name: "the mesh adds fields to requests", of: ALL, apply: added },
    // A hop is a span of its own in the caller's trace (W3C Trace Context section 3.4; the specification of B3).
    Rule {
        name: "a hop is a span",
        of: &["request fields: trace context"],
        apply: |both| each_section(both, hide_span),
    },
    // Who called is what its certificate says, whatever the request claims; what is said instead is judged as always.
    Rule {
        name: "claims of identity are replaced",
        of: &["request fields: claims of who called"],
        apply: |both| sections(&mut both.direct.server).for_each(drop_claims),
    },
    // RFC 9110 sections 9.3.2, 15.3.5 and 15.4.5: no body can follow, so the head may end the stream.
    Rule {
        name: "the head of an answer without body ends the stream",
        of: &["HEAD ended by an empty frame", "204 ended by an empty frame"],
        apply: |both| each_stream(both, head_ends),
    },
    // RFC 9110 section 15.6.3: the client is told that the server is to blame, and can read why. A gRPC client is told in
    // its own way.
    Rule {
        name: "a server that resets instead of answering is a bad gateway's",
        of: &["reset: by the server before its answer", "reset: the server gives"],
        apply: |both| each_stream(both, no_answer),
    },
    // To clients that take NO_ERROR for an end, a cut body would look whole. The other way round nothing is permitted.
    Rule {
        name: "a cut body is an error",
        of: &["reset: by the server within its answer, code 0"],
        apply: |both| both.direct.client.streams.values_mut().for_each(cut),
    },
    // RFC 9113 section 7: whichever code a client gives, it is no longer interested in the stream, which is what CANCEL says.
    Rule {
        name: "a client that leaves cancels",
        of: &["reset: by the client within the answer"],
        apply: |both| each_client_reset(both, code::CANCEL),
    },
];

impl Rule {
    pub(crate) fn is_for(&self, exchange: &str) -> bool {
        self.of.iter().any(|beginning| exchange.starts_with(beginning))
    }
}

fn each_trace(both: &mut Both, change: fn(&mut Trace)) {
    for outcome in [&mut both.direct, &mut both.meshed] {
        change(&mut outcome.client);
        change(&mut outcome.server);
    }
}

fn each_section(both: &mut Both, change: fn(&mut Vec<Field>)) {
    for outcome in [&mut both.direct, &mut both.meshed] {
        sections(&mut outcome.client).chain(sections(&mut outcome.server)).for_each(change);
    }
}

fn sections(trace: &mut Trace) -> impl Iterator<Item = &mut Vec<Field>> {
    trace.streams.values_mut().flatten().filter_map(|item| match item {
        Item::Fields { fields, .. } => Some(fields),
        Item::Data { .. } | Item::Reset(_) | Item::Goaway(_) | Item::Frame(_) => None,
    })
}

/// What the client received on each stream.
fn each_stream(both: &mut Both, change: fn(&mut Vec<Item>)) {
    for outcome in [&mut both.direct, &mut both.meshed] {
        outcome.client.streams.iter_mut().filter(|(stream, _)| **stream != 0).for_each(|(_, items)| change(items));
    }
}

fn each_client_reset(both: &mut Both, code: u32) {
    for outcome in [&mut both.direct, &mut both.meshed] {
        for item in outcome.server.streams.values_mut().flatten() {
            if let Item::Reset(any) = item {
                *any = code;
            }
        }
    }
}

fn connection_frames(trace: &mut Trace) {
    trace.streams.remove(&0);
}

fn order(fields: &mut [Field], pseudo: bool) {
    let begin = fields.iter().take_while(|(name, _)| name.starts_with(b":")).count();
    let (first, rest) = fields.split_at_mut(begin);
    // Stable: fields of one name stay in order.
    if pseudo { first } else { rest }.sort_by(|(a, _), (b, _)| a.cmp(b));
}

fn join_cookies(fields: &mut Vec<Field>) {
    let Some(at) = fields.iter().position(|(name, _)| name == b"cookie") else { return };
    let crumbs: Vec<_> = fields.extract_if(.., |(name, _)| name == b"cookie").map(|(_, value)| value).collect();
    fields.insert(at, (b"cookie".to_vec(), crumbs.join(b"; ".as_slice())));
}

fn host(fields: &mut Vec<Field>) {
    let Some(at) = fields.iter().position(|(name, _)| name == b"host") else { return };
    let (_, value) = fields.remove(at);
    if !fields.iter().any(|(name, _)| name == b":authority") {
        fields.insert(0, (b":authority".to_vec(), value));
    }
}

const ADDED: [&[u8]; 6] =
    [b"traceparent", b"x-request-id", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled"];

const IDENTITY: [&[u8]; 2] = [b"x-forwarded-client-cert", b"x-weft-client-id"];

fn added(both: &mut Both) {
    let sent: BTreeSet<Vec<u8>> = sections(&mut both.direct.server).flatten().map(|(name, _)| name.clone()).collect();
    for fields in sections(&mut both.meshed.server) {
        fields.retain(|(name, _)| sent.contains(name) || !ADDED.contains(&name.as_slice()));
        if fields.iter().any(|(name, _)| name == b":method") {
            identity(fields);
        }
    }
}

/// Takes who called out of the head of a request, if it is said once and exactly as the certificate does.
fn identity(fields: &mut Vec<Field>) {
    let hash = CLIENT_HASH.get().expect("the client's certificate");
    let certificate = format!("By={SERVER_ID};Hash={hash};URI={CLIENT_ID}").into_bytes();
    let expected = [certificate, CLIENT_ID.as_bytes().to_vec()];
    for (name, value) in IDENTITY.into_iter().zip(expected) {
        let said: Vec<_> = fields.iter().filter(|field| field.0 == name).collect();
        if let [(_, one)] = said.as_slice()
            && *one == value
        {
            fields.retain(|field| field.0 != name);
        }
    }
}

fn hide_span(fields: &mut Vec<Field>) {
    for (name, value) in fields {
        let (before, length) = match name.as_slice() {
            b"traceparent" => ("00-".len() + 32 + "-".len(), 16),
            b"b3" => (32 + "-".len(), 16),
            _ => continue,
        };
        value.get_mut(before..before + length).expect("a whole span").fill(b'.');
        // What follows the decision in b3 is the parent.
        if name == b"b3" {
            value.truncate(before + length + "-1".len());
        }
    }
}

fn drop_claims(fields: &mut Vec<Field>) {
    fields.retain(|(name, _)| !IDENTITY.contains(&name.as_slice()));
}

fn status(item: &Item) -> &[u8] {
    let Item::Fields { fields, .. } = item else { return b"" };
    fields.iter().find(|(name, _)| name == b":status").map_or(b"", |(_, value)| value)
}

fn head_ends(items: &mut Vec<Item>) {
    let empty = matches!(items.get(1), Some(Item::Data { bytes, end: true }) if bytes.is_empty());
    let status = items.first().map_or(b"".as_slice(), status);
    let length = |fields: &[Field]| fields.iter().any(|(name, value)| name == b"content-length" && value != b"0");
    if let Some(Item::Fields { fields, .. }) = items.first()
        && empty
        && (status == b"204" || length(fields))
    {
        let fields = fields.clone();
        items.splice(..2, [Item::Fields { fields, end: true }]);
    }
}

fn no_answer(items: &mut Vec<Item>) {
    let of_mesh = |item: &Item| {
        let Item::Fields { fields, .. } = item else { return false };
        let says = |name: &[u8], value: &[u8]| fields.iter().any(|field| field.0 == name && field.1 == value);
        (status(item) == b"502" || says(b"grpc-status", b"14")) && says(b"x-weft-error", b"upstream_reset")
    };
    let hint = |item: &Item| status(item).starts_with(b"1");
    let Some(at) = items.iter().position(|item| !hint(item)) else { return };
    let answer = items.split_off(at);
    // REFUSED_STREAM is more than a failure: who sent the request may send it again.
    let reset = matches!(answer.as_slice(), [Item::Reset(code)] if *code != code::REFUSED_STREAM);
    let told = match answer.as_slice() {
        [head, rest @ ..] if of_mesh(head) => matches!(
            rest,
            [] | [Item::Data { end: true, .. }]
                | [Item::Reset(code::NO_ERROR)]
                | [Item::Data { end: true, .. }, Item::Reset(code::NO_ERROR)]
        ),
        _ => false,
    };
    items.extend(if reset || told { vec![Item::Frame(u8::MAX)] } else { answer });
}

fn cut(items: &mut Vec<Item>) {
    if let [before @ .., Item::Reset(code)] = items.as_mut_slice()
        && *code == code::NO_ERROR
        && let Some(Item::Fields { end: false, .. } | Item::Data { end: false, .. }) = before.last()
    {
        *code = code::INTERNAL_ERROR;
    }
}
