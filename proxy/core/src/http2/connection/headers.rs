//! Field sections that came: heads and trailers (RFC 9113 sections 5.1 and 8.1).

use super::streams::Key;
use super::{Broken, Connection, Fatal, Going, Opened, Refused, Role, Unseen};
use crate::h1::HeadFault;
use crate::http2::frame::Reason;
use crate::http2::head;
use crate::http2::hpack::{Block, BlockLimits};
use crate::message::{Asked, BodyFraming, ParsedResponse};

/// A list of fields so many times larger than may be is no mistake: few bytes on the wire stand for it.
const BOMB: usize = 8;

impl Connection {
    pub(super) fn take_section(&mut self, id: u32, end: bool, fragment: &[u8], block: &mut Block) -> Result<(), Fatal> {
        let limits = BlockLimits { list_bytes_max: self.config.list_bytes_max };
        self.decoder.decode(fragment, limits, block).map_err(|_| Fatal(Reason::COMPRESSION_ERROR))?;
        if block.list_bytes() > self.config.list_bytes_max.saturating_mul(BOMB) {
            return Err(Fatal(Reason::ENHANCE_YOUR_CALM));
        }
        let found = self.streams.find(id);
        match (self.config.role, found) {
            (Role::Server, None) => self.take_request(id, end, block),
            (Role::Server, Some(key)) => self.take_trailers(key, end, block),
            (Role::Client, found) => {
                // A server may send some heads for each request, no more, on whatever stream.
                self.heads_left = self.heads_left.checked_sub(1).ok_or(Fatal(Reason::ENHANCE_YOUR_CALM))?;
                match found {
                    Some(key) => self.take_response(key, end, block),
                    None => self.ignore_late(id),
                }
            }
        }
    }

    /// Fields on a stream that is no more are an error of the connection, unless we have reset it.
    fn ignore_late(&self, id: u32) -> Result<(), Fatal> {
        match (self.is_idle(id), self.is_remembered(id)) {
            (true, _) => Err(Fatal(Reason::PROTOCOL_ERROR)),
            (false, true) => Ok(()),
            (false, false) => Err(Fatal(Reason::STREAM_CLOSED)),
        }
    }

    fn take_request(&mut self, id: u32, end: bool, block: &mut Block) -> Result<(), Fatal> {
        if id.is_multiple_of(2) {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        if id <= self.last_peer {
            return self.ignore_late(id);
        }
        self.last_peer = id;
        self.turn_streams += 1;
        if matches!(self.going, Going::Last(_)) {
            // Section 6.8: the client knows that it is not processed.
            self.remember(id);
            return Ok(());
        }
        if self.open >= self.config.streams_max {
            // Section 5.1.2.
            self.unseen.push(Unseen::TooMany);
            return self.reset_unknown(id, Reason::REFUSED_STREAM);
        }
        let request = match head::request(block, end, &self.config.message) {
            Err(fault) if head::is_malformed(fault) => return self.malformed(id),
            Ok(parsed) if parsed.head.protocol.is_some() && !self.config.connect_protocol => {
                // RFC 8441 section 3: it was not offered.
                return self.malformed(id);
            }
            Err(fault) => Err(Refused { fault, method: block.method().cloned() }),
            Ok(parsed) => Ok(parsed),
        };
        let mut stream = self.new_stream(id);
        stream.received = end;
        stream.announced = match &request {
            Ok(parsed) => length(parsed.framing),
            Err(_) => None,
        };
        self.open += 1;
        let key = self.streams.add(stream);
        self.opened.push_back(Opened { key, request });
        Ok(())
    }

    fn malformed(&mut self, id: u32) -> Result<(), Fatal> {
        self.unseen.push(Unseen::Malformed);
        self.reset_unknown(id, Reason::PROTOCOL_ERROR)
    }

    fn take_response(&mut self, key: Key, end: bool, block: &mut Block) -> Result<(), Fatal> {
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if stream.headed || stream.broken.is_some() || stream.received {
            return self.take_trailers(key, end, block);
        }
        let asked = stream.asked.unwrap_or(Asked { head: false, connect: false, upgrade: false });
        match head::response(block, asked, end, &self.config.message) {
            Err(fault) => self.refuse_head(key, fault),
            Ok(parsed) if parsed.head.is_interim() => self.take_interim(key, end, parsed),
            Ok(parsed) => {
                let tunnel = parsed.tunnel;
                stream.announced = if tunnel { None } else { length(parsed.framing) };
                (stream.headed, stream.head) = (true, Some(parsed));
                stream.wake_reader();
                if end { self.end_received(key) } else { Ok(()) }
            }
        }
    }

    /// Section 8.1: an interim response does not end the stream, and there are not many.
    fn take_interim(&mut self, key: Key, end: bool, parsed: ParsedResponse) -> Result<(), Fatal> {
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if end || stream.interims_come >= self.config.interims_max {
            return self.refuse_head(key, HeadFault::StatusCode);
        }
        stream.interims_come += 1;
        stream.interims.push_back(parsed.head);
        stream.wake_reader();
        Ok(())
    }

    fn refuse_head(&mut self, key: Key, fault: HeadFault) -> Result<(), Fatal> {
        self.misused(key, Broken::Head(fault), Reason::PROTOCOL_ERROR)
    }

    fn take_trailers(&mut self, key: Key, end: bool, block: &mut Block) -> Result<(), Fatal> {
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if stream.broken.is_some() {
            return Ok(());
        }
        if stream.received {
            return Err(Fatal(Reason::STREAM_CLOSED));
        }
        if !end {
            // Section 8.1: trailers end the stream.
            return self.misused(key, Broken::Misused(Reason::PROTOCOL_ERROR), Reason::PROTOCOL_ERROR);
        }
        match head::trailers(block, &self.config.message) {
            Ok(fields) => {
                stream.trailers = Some(Box::new(fields));
                self.end_received(key)
            }
            Err(fault) => self.misused(key, Broken::Trailers(fault), Reason::PROTOCOL_ERROR),
        }
    }
}

/// Bytes that a body must have, where that was announced.
const fn length(framing: BodyFraming) -> Option<u64> {
    match framing {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::None | BodyFraming::Chunked | BodyFraming::UntilClose => None,
    }
}
