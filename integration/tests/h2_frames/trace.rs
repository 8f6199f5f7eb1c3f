//! What an end has received, as far as it means something: field sections, bytes, ends and resets of each stream. Where
//! DATA is cut into frames, padding, windows and settings mean nothing to an application.

use std::collections::BTreeMap;

use anyhow::Context as _;
use weft_integration::raw::h2::Event;
use weft_integration::raw::h2_frame::kind;
use weft_integration::raw::h2_hpack::Field;

use crate::script::{LAST, Stage};

/// One thing received on a stream.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Fields { fields: Vec<Field>, end: bool },
    Data { bytes: Vec<u8>, end: bool },
    Reset(u32),
    Goaway(u32),
    Frame(u8),
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fields { fields, end } => {
                let text = |bytes: &[u8]| match bytes.get(..200) {
                    Some(start) => format!("{}... {} bytes", start.escape_ascii(), bytes.len()),
                    None => bytes.escape_ascii().to_string(),
                };
                let lines = fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value)));
                write!(f, "Fields(end={end}) {:#?}", lines.collect::<Vec<_>>())
            }
            Self::Data { bytes, end } => {
                let start = bytes.get(..bytes.len().min(60)).unwrap_or_default().escape_ascii();
                write!(f, "Data(end={end}) {} bytes: {start}", bytes.len())
            }
            Self::Reset(code) => write!(f, "Reset({code})"),
            Self::Goaway(code) => write!(f, "Goaway({code})"),
            Self::Frame(kind) => write!(f, "Frame({kind})"),
        }
    }
}

/// Items by stream; 0 is the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) streams: BTreeMap<u32, Vec<Item>>,
    /// Why the end stopped before the end of its script.
    pub(crate) failed: Option<String>,
}

/// Makes a trace of events.
#[derive(Debug)]
pub(crate) struct Recorder {
    trace: Trace,
    /// The client's numbers of streams, by those on the wire. Between proxies they change.
    numbers: Option<BTreeMap<u32, u32>>,
}

impl Recorder {
    pub(crate) fn client() -> Self {
        Self { trace: Trace::default(), numbers: None }
    }

    pub(crate) fn server() -> Self {
        Self { trace: Trace::default(), numbers: Some(BTreeMap::new()) }
    }

    pub(crate) fn finish(mut self, failed: Option<String>) -> Trace {
        self.trace.streams.remove(&LAST);
        self.trace.failed = failed;
        self.trace
    }

    /// Number on the wire of a stream that the client gave this number.
    pub(crate) fn on_wire(&self, stream: u32) -> anyhow::Result<u32> {
        match &self.numbers {
            Some(numbers) if stream != 0 => {
                let found = numbers.iter().find(|(_, number)| **number == stream);
                found.map(|(wire, _)| *wire).with_context(|| format!("no request on stream {stream}"))
            }
            _ => Ok(stream),
        }
    }

    pub(crate) fn note(&mut self, event: Event) {
        let (wire, item) = match event {
            Event::Headers { stream, fields, end } => {
                self.number(stream, &fields);
                (stream, Item::Fields { fields, end })
            }
            Event::Data { stream, bytes, end } => (stream, Item::Data { bytes, end }),
            Event::Reset { stream, code } => (stream, Item::Reset(code)),
            Event::Goaway { code, .. } => (0, Item::Goaway(code)),
            Event::Ping(_) => (0, Item::Frame(kind::PING)),
            Event::Other(frame) => (0, Item::Frame(frame.kind)),
            Event::Settings(_)
            | Event::SettingsAck
            | Event::Pong(_)
            | Event::WindowUpdate { .. }
            | Event::Closed(_) => return,
        };
        let stream = self.numbers.as_ref().and_then(|numbers| numbers.get(&wire).copied()).unwrap_or(wire);
        let items = self.trace.streams.entry(stream).or_default();
        if let (Some(Item::Data { bytes, end: false }), Item::Data { bytes: more, end }) = (items.last_mut(), &item) {
            bytes.extend_from_slice(more);
            let bytes = std::mem::take(bytes);
            items.pop();
            items.push(Item::Data { bytes, end: *end });
        } else {
            items.push(item);
        }
    }

    fn number(&mut self, wire: u32, fields: &[Field]) {
        let Some(numbers) = &mut self.numbers else { return };
        if let Some((_, value)) = fields.iter().find(|(name, _)| name == b"x-stream")
            && let Some(number) = str::from_utf8(value).ok().and_then(|value| value.parse().ok())
        {
            numbers.entry(wire).or_insert(number);
        }
    }

    pub(crate) fn has(&self, stage: Stage) -> bool {
        let items = |stream: u32| self.trace.streams.get(&stream).map_or([].as_slice(), Vec::as_slice);
        let ends = |item: &Item| matches!(item, Item::Fields { end: true, .. } | Item::Data { end: true, .. });
        match stage {
            Stage::Sections(stream, n) => {
                items(stream).iter().filter(|item| matches!(item, Item::Fields { .. })).count() >= n
            }
            Stage::Bytes(stream, n) => {
                let of = |item: &Item| if let Item::Data { bytes, .. } = item { bytes.len() } else { 0 };
                items(stream).iter().map(of).sum::<usize>() >= n
            }
            Stage::End(stream) => items(stream).iter().any(ends),
            Stage::Reset(stream) => items(stream).iter().any(|item| matches!(item, Item::Reset(_))),
            Stage::Over(stream) => items(stream).iter().any(|item| ends(item) || matches!(item, Item::Reset(_))),
        }
    }
}
