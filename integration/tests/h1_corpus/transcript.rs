//! What one side received, taken apart without loss, so that rules can change parts of it.
//!
//! Only what a script of the corpus sends must be understood; whatever looks different stays in [`Transcript::rest`] and
//! is compared as it is.

use weft_integration::raw::{End, find, shown};

use crate::run::Side;

/// All that one side received on its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transcript {
    pub(crate) messages: Vec<Message>,
    /// After the last message: a tunnel, or a part of a message.
    pub(crate) rest: Vec<u8>,
    pub(crate) end: End,
    /// As [`Side::told`].
    pub(crate) told: bool,
}

/// One message; lines are without their CRLF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Empty lines before it.
    pub(crate) before: usize,
    pub(crate) start: Vec<u8>,
    pub(crate) fields: Vec<Vec<u8>>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// As it is: by its length, until the end, or none.
    Plain(Vec<u8>),
    /// Chunks (line, data).
    Chunked { chunks: Vec<(Vec<u8>, Vec<u8>)>, last: Option<Last> },
}

/// The last chunk: its line, and trailers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) line: Vec<u8>,
    pub(crate) trailers: Vec<Vec<u8>>,
}

impl Message {
    /// The value of the first field of this name (in lower case).
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|line| name_of(line) == name.as_bytes()).map(|line| value_of(line))
    }

    /// Removes all fields of this name (in lower case), and gives them.
    pub(crate) fn take(&mut self, name: &str) -> Vec<Vec<u8>> {
        let is = |line: &Vec<u8>| name_of(line) == name.as_bytes();
        let taken = self.fields.iter().filter(|line| is(line)).cloned().collect();
        self.fields.retain(|line| !is(line));
        taken
    }
}

/// Name of a field line, in lower case.
pub(crate) fn name_of(line: &[u8]) -> Vec<u8> {
    line.split(|byte| *byte == b':').next().unwrap_or_default().to_ascii_lowercase()
}

/// Value of a field line, with blanks around it removed.
pub(crate) fn value_of(line: &[u8]) -> &[u8] {
    let at = line.iter().position(|byte| *byte == b':').map_or(line.len(), |at| at + 1);
    line[at..].trim_ascii()
}

/// Whether one of the elements of the list in `value` is `token`.
pub(crate) fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|byte| *byte == b',').any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Requests, as a server received them.
pub(crate) fn requests(side: &Side) -> Transcript {
    let mut rest = &side.received[..];
    let mut messages = Vec::new();
    while let Some(message) = head(&mut rest, |start| find(start, b" HTTP/1.").is_some()) {
        let body = if is_chunked(&message) {
            chunked(&mut rest)
        } else {
            Body::Plain(plain(&mut rest, length(&message).unwrap_or_default()))
        };
        messages.push(Message { body, ..message });
    }
    Transcript { messages, rest: rest.to_vec(), end: side.end, told: side.told }
}

/// Responses to requests of these methods, as a client received them.
pub(crate) fn responses(side: &Side, methods: &[Vec<u8>]) -> Transcript {
    let mut rest = &side.received[..];
    let mut messages = Vec::new();
    let mut asked = methods.iter();
    let mut method = asked.next();
    while let Some(message) = head(&mut rest, |start| start.starts_with(b"HTTP/1.")) {
        let status = message.start.get(9..12).unwrap_or_default();
        let interim = status.starts_with(b"1");
        let is = |name: &str| method.is_some_and(|method| method == name.as_bytes());
        let tunnel = status == b"101" || (is("CONNECT") && status.starts_with(b"2"));
        let bodiless = interim || tunnel || is("HEAD") || status == b"204" || status == b"304";
        let body = match (is_chunked(&message), length(&message)) {
            _ if bodiless => Body::Plain(Vec::new()),
            (true, _) => chunked(&mut rest),
            (false, Some(length)) => Body::Plain(plain(&mut rest, length)),
            (false, None) => Body::Plain(std::mem::take(&mut rest).to_vec()),
        };
        messages.push(Message { body, ..message });
        if tunnel {
            break;
        }
        if !interim {
            method = asked.next();
        }
    }
    Transcript { messages, rest: rest.to_vec(), end: side.end, told: side.told }
}

/// A head at the front of `rest`, taken away.
fn head(rest: &mut &[u8], is_start: impl Fn(&[u8]) -> bool) -> Option<Message> {
    let mut at = *rest;
    let mut before = 0;
    while let Some(after) = at.strip_prefix(b"\r\n") {
        (at, before) = (after, before + 1);
    }
    let start = line(&mut at).filter(|start| is_start(start))?;
    let fields = section(&mut at)?;
    *rest = at;
    Some(Message { before, start, fields, body: Body::Plain(Vec::new()) })
}

fn section(rest: &mut &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    loop {
        match line(rest)? {
            empty if empty.is_empty() => return Some(lines),
            line => lines.push(line),
        }
    }
}

fn line(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let end = find(rest, b"\r\n")?;
    let line = rest[..end].to_vec();
    *rest = &rest[end + 2..];
    Some(line)
}

fn is_chunked(message: &Message) -> bool {
    message.value("transfer-encoding").is_some_and(|value| has_token(value, "chunked"))
}

fn length(message: &Message) -> Option<usize> {
    std::str::from_utf8(message.value("content-length")?).ok()?.parse().ok()
}

/// At most so many bytes.
fn plain(rest: &mut &[u8], length: usize) -> Vec<u8> {
    let (body, after) = rest.split_at(length.min(rest.len()));
    *rest = after;
    body.to_vec()
}

/// Whole chunks; what is left of one that was cut is left in `rest`.
fn chunked(rest: &mut &[u8]) -> Body {
    let mut chunks = Vec::new();
    loop {
        let mut at = *rest;
        let Some(line) = line(&mut at) else { return Body::Chunked { chunks, last: None } };
        let digits = line.split(|byte| matches!(byte, b';' | b' ')).next().unwrap_or_default();
        let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        match size {
            Some(0) => {
                let Some(trailers) = section(&mut at) else { return Body::Chunked { chunks, last: None } };
                *rest = at;
                return Body::Chunked { chunks, last: Some(Last { line, trailers }) };
            }
            Some(size) if at.get(size..size + 2) == Some(b"\r\n") => {
                chunks.push((line, at[..size].to_vec()));
                *rest = &at[size + 2..];
            }
            _ => return Body::Chunked { chunks, last: None },
        }
    }
}

impl Transcript {
    /// All fields, of heads and trailers.
    pub(crate) fn field_lines(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        self.messages.iter_mut().flat_map(|message| {
            let last = match &mut message.body {
                Body::Chunked { last: Some(last), .. } => Some(last),
                Body::Chunked { last: None, .. } | Body::Plain(_) => None,
            };
            message.fields.iter_mut().chain(last.into_iter().flat_map(|last| &mut last.trailers))
        })
    }

    /// For people and for comparing: a line for each line or piece of body, escaped, and the end.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let text = |bytes: &[u8]| shown(bytes).trim_matches('"').to_owned();
        for message in &self.messages {
            lines.extend((0..message.before).map(|_| "\\r\\n".to_owned()));
            let head = [&message.start].into_iter().chain(&message.fields);
            lines.extend(head.map(|line| text(line) + "\\r\\n"));
            lines.push("\\r\\n".to_owned());
            match &message.body {
                Body::Plain(bytes) if bytes.is_empty() => {}
                Body::Plain(bytes) => lines.push(text(bytes)),
                Body::Chunked { chunks, last } => {
                    lines.extend(chunks.iter().map(|(line, data)| format!("{}\\r\\n{}\\r\\n", text(line), text(data))));
                    let tail = last.iter().flat_map(|last| [&last.line].into_iter().chain(&last.trailers));
                    lines.extend(tail.map(|line| text(line) + "\\r\\n"));
                    lines.extend(last.as_ref().map(|_| "\\r\\n".to_owned()));
                }
            }
        }
        if !self.rest.is_empty() {
            lines.push(text(&self.rest));
        }
        lines.push(format!("<{:?}>", self.end));
        lines.extend((!self.told).then(|| "<not told of the end in between>".to_owned()));
        lines
    }
}
