//! All differences that the mesh may make to an HTTP/1 exchange. Each has its reason; an exchange names those it needs.
//!
//! A rule makes both sides equal in its one respect, or leaves them alone.

use weft_integration::raw::{CLIENT_ID, End, SERVER_ID, find};

use crate::transcript::{Body, Message, Transcript, has_token, name_of, value_of};

type Change = fn(direct: &mut Transcript, mesh: &mut Transcript);

/// One permitted difference.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    /// What it changes of the requests that the server received.
    request: Option<Change>,
    /// What it changes of the responses that the client received.
    response: Option<Change>,
    /// How the server sees its connection end: directly, and through the mesh.
    pub(crate) server_end: Ending,
    /// As `server_end`, for the client.
    pub(crate) client_end: Ending,
    /// Whether an exchange needs it is up to the portions in which bytes happen to arrive.
    pub(crate) by_chance: bool,
}

/// Pairs: so directly, so through the mesh.
pub(crate) type Ending = &'static [(End, End)];

const NONE: Rule = Rule { name: "", request: None, response: None, server_end: &[], client_end: &[], by_chance: false };

pub(crate) const HALF_CLOSE_HELD: &str = "half-close-held";

pub(crate) const RULES: &[Rule] = &[
    Rule { name: "blanks", request: Some(blanks), response: Some(blanks), ..NONE },
    Rule { name: "trace-continued", request: Some(trace_continued), ..NONE },
    Rule { name: "empty-line", request: Some(empty_line), ..NONE },
    Rule { name: "own-version", request: Some(own_version), response: Some(own_version), ..NONE },
    Rule { name: "hop-by-hop", request: Some(hop_by_hop), response: Some(hop_by_hop), ..NONE },
    Rule { name: "te", request: Some(te), ..NONE },
    Rule { name: "upgrade-nominated", response: Some(upgrade_nominated), ..NONE },
    Rule { name: "upgrade-ends", request: Some(upgrade_ends), response: Some(upgrade_ends), ..NONE },
    Rule { name: "rechunked", request: Some(rechunked), response: Some(rechunked), by_chance: true, ..NONE },
    Rule { name: "framing-field", request: Some(framing_field), response: Some(framing_field), ..NONE },
    Rule { name: "end-made-explicit", response: Some(end_made_explicit), ..NONE },
    Rule { name: "persistence-said", response: Some(persistence_said), ..NONE },
    Rule { name: "incomplete-answered", response: Some(incomplete_answered), ..NONE },
    Rule { name: HALF_CLOSE_HELD, request: Some(half_close_held), ..NONE },
    Rule { name: "status-line-blank", response: Some(status_line_blank), ..NONE },
    Rule { name: "host-supplied", request: Some(host_supplied), ..NONE },
    // Whether a connection is kept after an exchange is between its two ends (RFC 9110 section 7.6.1, RFC 9112 section
    // 9.3): a proxy keeps connections to the server for later requests, and one of its client whatever the server does.
    Rule { name: "upstream-kept", server_end: &[(End::Fin, End::Open), (End::Reset, End::Open)], ..NONE },
    Rule { name: "downstream-kept", client_end: &[(End::Fin, End::Open)], ..NONE },
    // And it closes one that cannot be used again, where an HTTP client may leave it open.
    Rule { name: "upstream-closed", server_end: &[(End::Open, End::Fin)], ..NONE },
    Rule { name: "downstream-closed", client_end: &[(End::Open, End::Fin)], ..NONE },
    // A reset of one hop ends the exchange on the other; there it is the message's framing that shows that it is
    // incomplete (RFC 9112 section 8), not the way the connection ends.
    Rule { name: "reset-ends", server_end: &[(End::Reset, End::Fin)], client_end: &[(End::Reset, End::Fin)], ..NONE },
];

/// Blanks around a field's value are no part of it (RFC 9112 section 5.1); one stands before it through the mesh.
fn blanks(direct: &mut Transcript, mesh: &mut Transcript) {
    for line in [direct, mesh].into_iter().flat_map(Transcript::field_lines) {
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            *line = [&line[..colon], b": ", value_of(line)].concat();
        }
    }
}

/// A request with a trace context gets a span of its own at each proxy, in the same trace (B3 propagation; W3C Trace
/// Context section 3.4). Whether it is sampled stays.
fn trace_continued(direct: &mut Transcript, mesh: &mut Transcript) {
    for (asked, forwarded) in pairs(direct, mesh) {
        let same = |name: &str| asked.value(name).is_none_or(|value| forwarded.value(name) == Some(value));
        let parent = |message: &Message| {
            let parts = message.value("traceparent").map(|value| value.split(|byte| *byte == b'-').map(<[u8]>::to_vec));
            parts.map(|parts| parts.enumerate().filter(|(at, _)| *at != 2).collect::<Vec<_>>())
        };
        let continued = asked.value("traceparent").is_none_or(|_| parent(asked) == parent(forwarded));
        if same("x-b3-traceid") && same("x-b3-sampled") && continued {
            for name in TRACE {
                asked.take(name);
                forwarded.take(name);
            }
        }
    }
}

/// Empty lines before a request are ignored (RFC 9112 section 2.2).
fn empty_line(direct: &mut Transcript, mesh: &mut Transcript) {
    for (asked, forwarded) in pairs(direct, mesh) {
        if forwarded.before == 0 {
            asked.before = 0;
        }
    }
}

/// A proxy sends its own version (RFC 9112 section 2.3).
fn own_version(direct: &mut Transcript, mesh: &mut Transcript) {
    for (one, other) in pairs(direct, mesh) {
        if let Some(at) = find(&one.start, b"HTTP/1.0")
            && find(&other.start, b"HTTP/1.1") == Some(at)
        {
            one.start[at..at + 8].copy_from_slice(b"HTTP/1.1");
        }
    }
}

/// Options of `Connection` that take no field away, of those that occur.
const NOT_NOMINATED: [&str; 5] = ["authorization", "x-forwarded-for", "set-cookie", "te", "upgrade"];

/// `Connection`, what it nominates, and the fields that go with it end at each hop (RFC 9110 section 7.6.1); a proxy says
/// its own. What the mesh and applications rely on is not for a sender to nominate away. `te` and `upgrade` are passed on
/// where what they speak of is.
fn hop_by_hop(direct: &mut Transcript, mesh: &mut Transcript) {
    for (one, other) in pairs(direct, mesh) {
        let (asked, said) = (options(one), options(other));
        if said.iter().all(|option| option == "close" || asked.contains(option)) {
            one.take("connection");
            other.take("connection");
        }
        for name in asked.iter().filter(|name| !NOT_NOMINATED.contains(&name.as_str())) {
            one.take(name);
        }
        for name in ["keep-alive", "proxy-connection"] {
            one.take(name);
        }
    }
}

/// The options of all its `Connection` fields.
fn options(message: &Message) -> Vec<String> {
    let lines = message.fields.iter().filter(|line| name_of(line) == b"connection");
    let elements = lines.flat_map(|line| value_of(line).split(|byte| *byte == b','));
    elements.map(|option| String::from_utf8_lossy(option.trim_ascii()).to_ascii_lowercase()).collect()
}

/// `TE` speaks of one hop (RFC 9110 section 10.1.4): its transfer codings end, `trailers` is passed on.
fn te(direct: &mut Transcript, mesh: &mut Transcript) {
    for (asked, forwarded) in pairs(direct, mesh) {
        let trailers = asked.value("te").is_some_and(|value| has_token(value, "trailers"));
        if trailers == forwarded.value("te").is_some_and(|value| value == b"trailers") {
            asked.take("te");
            forwarded.take("te");
        }
    }
}

/// Who says `Upgrade` says it in `Connection` too (RFC 9110 section 7.8), and a proxy does where a server forgot.
fn upgrade_nominated(direct: &mut Transcript, mesh: &mut Transcript) {
    for (one, other) in pairs(direct, mesh) {
        let switching = one.start.starts_with(b"HTTP/1.1 101") && one.value("connection").is_none();
        if switching && other.value("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"upgrade")) {
            other.take("connection");
        }
    }
}

/// An upgrade that was not asked for rightly, or is only offered, ends at the hop (RFC 9110 section 7.8).
fn upgrade_ends(direct: &mut Transcript, mesh: &mut Transcript) {
    for (one, other) in pairs(direct, mesh) {
        if other.value("upgrade").is_none() {
            one.take("upgrade");
        }
    }
}

/// The limits of chunks carry no meaning, and their extensions are for the next hop only (RFC 9112 sections 7.1, 7.1.1).
fn rechunked(direct: &mut Transcript, mesh: &mut Transcript) {
    for message in [direct, mesh].into_iter().flat_map(|transcript| &mut transcript.messages) {
        if let Body::Chunked { chunks, last } = &mut message.body {
            let data: Vec<u8> = chunks.drain(..).flat_map(|(_, data)| data).collect();
            chunks.push((b"all".to_vec(), data));
            if let Some(last) = last {
                last.line = b"0".to_vec();
            }
        }
    }
}

/// `Transfer-Encoding` describes this hop's message and is said anew by each sender (RFC 9112 section 6.1), at the end of
/// the head; the order of different fields is of no significance (RFC 9110 section 5.3). Where nothing is transferred, in
/// answers to HEAD and in 304, it is not said.
fn framing_field(direct: &mut Transcript, mesh: &mut Transcript) {
    for (one, other) in pairs(direct, mesh) {
        let chunked = |message: &Message| message.value("transfer-encoding").map(<[u8]>::to_ascii_lowercase);
        let nothing = one.body == Body::Plain(Vec::new()) && chunked(other).is_none();
        if chunked(one).is_some_and(|coding| coding == b"chunked") && (nothing || chunked(one) == chunked(other)) {
            one.take("transfer-encoding");
            other.take("transfer-encoding");
        }
    }
}

/// A body until the end of the connection is given an end of its own, so that its truncation can be told from its end
/// (RFC 9112 sections 6.3 and 8).
fn end_made_explicit(direct: &mut Transcript, mesh: &mut Transcript) {
    for (one, other) in pairs(direct, mesh) {
        let implicit = one.value("content-length").is_none() && matches!(one.body, Body::Plain(_));
        if let Body::Chunked { chunks, last: Some(_) } = &other.body
            && implicit
        {
            other.body = Body::Plain(chunks.iter().flat_map(|(_, data)| data.clone()).collect());
            other.take("transfer-encoding");
        }
    }
}

/// A proxy answers a request that was cut short (RFC 9112 section 8) where the server does not.
fn incomplete_answered(direct: &mut Transcript, mesh: &mut Transcript) {
    let cut = |message: &Message| message.value("x-weft-error") == Some(b"downstream_reset");
    if mesh.messages.len() == direct.messages.len() + 1 && mesh.messages.last().is_some_and(cut) {
        mesh.messages.pop();
    }
}

/// A client that has ended its direction after a request still reads (RFC 9112 section 9.6). Its end is not the end of the
/// proxy's connection to the server, which carries other requests, so the server is not told.
fn half_close_held(direct: &mut Transcript, mesh: &mut Transcript) {
    mesh.told = direct.told;
}

/// A proxy says whether it keeps the client's connection, which is between the two (RFC 9112 section 9.3).
fn persistence_said(_: &mut Transcript, mesh: &mut Transcript) {
    for message in &mut mesh.messages {
        message.fields.retain(|line| line != b"Connection: close" && line != b"Connection: keep-alive");
    }
}

/// The blank after the status code is sent, as RFC 9112 section 4 wants, where a server leaves it out.
fn status_line_blank(direct: &mut Transcript, mesh: &mut Transcript) {
    for (one, other) in pairs(direct, mesh) {
        if one.start.len() == "HTTP/1.1 200".len() && other.start.ends_with(b" ") {
            one.start.push(b' ');
        }
    }
}

/// HTTP/1.1 demands `Host` (RFC 9112 section 3.2); for an HTTP/1.0 request without it, it is the address that the
/// connection was made to.
fn host_supplied(direct: &mut Transcript, mesh: &mut Transcript) {
    for (asked, forwarded) in pairs(direct, mesh) {
        let supplied = forwarded.fields.first().is_some_and(|line| line.starts_with(b"host: 127.0.0.1:"));
        if asked.value("host").is_none() && supplied {
            forwarded.fields.remove(0);
        }
    }
}

fn pairs<'a>(
    direct: &'a mut Transcript,
    mesh: &'a mut Transcript,
) -> impl Iterator<Item = (&'a mut Message, &'a mut Message)> {
    direct.messages.iter_mut().zip(&mut mesh.messages)
}

impl Rule {
    pub(crate) fn apply(
        &self,
        asked: &mut Transcript,
        forwarded: &mut Transcript,
        answered: &mut Transcript,
        relayed: &mut Transcript,
    ) {
        if let Some(change) = self.request {
            change(asked, forwarded);
        }
        if let Some(change) = self.response {
            change(answered, relayed);
        }
        for (end, direct, mesh) in [(self.server_end, asked, forwarded), (self.client_end, answered, relayed)] {
            if end.contains(&(direct.end, mesh.end)) {
                mesh.end = direct.end;
            }
        }
    }
}

/// What the mesh is there for: the caller's proven identity, an id of the request and a trace. Every request has them
/// once; an id or a trace that the client gave is passed on instead.
pub(crate) fn added_by_the_mesh(asked: &Transcript, forwarded: &mut Transcript) -> Result<(), String> {
    for (at, message) in forwarded.messages.iter_mut().enumerate() {
        let has = |names: &[&str]| {
            names.iter().any(|name| asked.messages.get(at).is_some_and(|message| message.value(name).is_some()))
        };
        for (name, is) in ADDED {
            let alike: &[&str] = if TRACE.contains(name) { TRACE } else { &[name] };
            if has(alike) {
                continue;
            }
            match &message.take(name)[..] {
                [line] if line.starts_with(name.as_bytes()) && is(value_of(line)) => {}
                lines => {
                    let lines: Vec<String> = lines.iter().map(|line| line.escape_ascii().to_string()).collect();
                    return Err(format!("{name} of request {}: {lines:?}", at + 1));
                }
            }
        }
    }
    Ok(())
}

const TRACE: &[&str] = &["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "traceparent"];

type Check = fn(&[u8]) -> bool;

const ADDED: &[(&str, Check)] = &[
    ("x-forwarded-client-cert", |value| {
        let (start, end) = (format!("By={SERVER_ID};Hash="), format!(";URI={CLIENT_ID}"));
        let hash = value.strip_prefix(start.as_bytes()).and_then(|rest| rest.strip_suffix(end.as_bytes()));
        hash.is_some_and(|hash| is_hex(hash, 64))
    }),
    ("x-weft-client-id", |value| value == CLIENT_ID.as_bytes()),
    ("x-request-id", |value| {
        value.split(|byte| *byte == b'-').zip([8, 4, 4, 4, 12]).all(|(part, digits)| is_hex(part, digits))
    }),
    ("x-b3-traceid", |value| is_hex(value, 32)),
    ("x-b3-spanid", |value| is_hex(value, 16)),
    ("x-b3-parentspanid", |value| is_hex(value, 16)),
    ("x-b3-sampled", |value| value == b"1" || value == b"0"),
    ("traceparent", |value| {
        value.split(|byte| *byte == b'-').zip([2, 32, 16, 2]).all(|(part, digits)| is_hex(part, digits))
    }),
];

fn is_hex(digits: &[u8], count: usize) -> bool {
    digits.len() == count && digits.iter().all(u8::is_ascii_hexdigit)
}
