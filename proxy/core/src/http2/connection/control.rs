//! Frames about streams and the connection that came (RFC 9113 sections 6.3 to 6.9).

use super::window::QUESTION;
use super::{Broken, Connection, Fatal, Going, Role};
use crate::http2::frame::{self, FrameHead, Reason, WINDOW_MAX, flag, kind, number, setting};

/// Payload of the PING that asks whether the peer lives.
pub(super) const LIFE: [u8; 8] = *b"weft-png";

/// Payload of the PING after GOAWAY: what was on its way before its answer has come then.
pub(super) const LAST: [u8; 8] = *b"weft-end";

impl Connection {
    /// Section 6.3; what it says is ignored.
    pub(super) fn take_priority(&mut self, head: FrameHead) -> Result<(), Fatal> {
        if head.stream == 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        if head.length == 5 {
            return Ok(());
        }
        match self.streams.find(head.stream) {
            Some(key) => self.misused(key, Broken::Misused(Reason::FRAME_SIZE_ERROR), Reason::FRAME_SIZE_ERROR),
            None if self.is_remembered(head.stream) => Ok(()),
            None => Err(Fatal(Reason::FRAME_SIZE_ERROR)),
        }
    }

    /// Section 6.4.
    pub(super) fn take_reset(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        if head.length != 4 {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR));
        }
        if self.is_idle(head.stream) {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        let reason = Reason(number(payload).unwrap_or_default());
        let Some(key) = self.streams.find(head.stream) else { return Ok(()) };
        self.breaks(key, Broken::Reset(reason));
        self.weigh_resets()
    }

    /// Section 6.5.
    pub(super) fn take_settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        if head.stream != 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        if head.has(flag::ACK) {
            return self.take_settings_answer(head);
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR));
        }
        let window = self.peer.window;
        for [i0, i1, v0, v1, v2, v3] in settings {
            self.take_setting(u16::from_be_bytes([*i0, *i1]), u32::from_be_bytes([*v0, *v1, *v2, *v3]))?;
        }
        self.peer.said = true;
        self.peer_window_changed(self.peer.window - window)?;
        frame::put_frame(self.out(), kind::SETTINGS, flag::ACK, 0, &[]);
        self.answers += frame::HEADER_BYTES;
        self.wake_openers();
        Ok(())
    }

    /// Section 6.5.2. What is unknown is ignored.
    fn take_setting(&mut self, id: u16, value: u32) -> Result<(), Fatal> {
        let fault = match id {
            setting::HEADER_TABLE_SIZE => {
                self.encoder.set_peer_table_size(value);
                None
            }
            setting::ENABLE_PUSH => {
                let server_wants = self.config.role == Role::Client && value == 1;
                (value > 1 || server_wants).then_some(Reason::PROTOCOL_ERROR)
            }
            setting::MAX_CONCURRENT_STREAMS => {
                self.peer.streams_max = value;
                None
            }
            setting::INITIAL_WINDOW_SIZE => {
                self.peer.window = i64::from(value);
                (value > WINDOW_MAX).then_some(Reason::FLOW_CONTROL_ERROR)
            }
            setting::MAX_FRAME_SIZE => (!(16_384..1 << 24).contains(&value)).then_some(Reason::PROTOCOL_ERROR),
            setting::ENABLE_CONNECT_PROTOCOL => {
                self.peer.connect_protocol = value == 1;
                (value > 1).then_some(Reason::PROTOCOL_ERROR)
            }
            _ => None,
        };
        fault.map_or(Ok(()), |reason| Err(Fatal(reason)))
    }

    /// Section 6.9.2: it changes the windows of all streams, below zero too.
    fn peer_window_changed(&mut self, by: i64) -> Result<(), Fatal> {
        if by == 0 {
            return Ok(());
        }
        for stream in self.streams.all() {
            stream.send_window += by;
            if stream.send_window > i64::from(WINDOW_MAX) {
                return Err(Fatal(Reason::FLOW_CONTROL_ERROR));
            }
            if by > 0 && stream.send_window > 0 {
                stream.wake_writer();
            }
        }
        Ok(())
    }

    /// Section 6.5.3: from here on the peer keeps to what we have said.
    fn take_settings_answer(&mut self, head: FrameHead) -> Result<(), Fatal> {
        if head.length != 0 {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR));
        }
        self.settings_unanswered = self.settings_unanswered.checked_sub(1).ok_or(Fatal(Reason::PROTOCOL_ERROR))?;
        let by = i64::from(self.config.stream_window) - self.own_window;
        self.own_window += by;
        self.streams.all().for_each(|stream| stream.window.begins(by));
        Ok(())
    }

    /// Section 6.7.
    pub(super) fn take_ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        if head.stream != 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        if head.length != 8 {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR));
        }
        if !head.has(flag::ACK) {
            frame::put_frame(self.out(), kind::PING, flag::ACK, 0, payload);
            self.answers += frame::HEADER_BYTES + payload.len();
        } else if payload == LIFE {
            self.ping_unanswered = false;
        } else if payload == QUESTION {
            self.answer_to_growth();
        } else if payload == LAST && self.going == Going::Announced {
            self.going = Going::Last(self.last_peer);
            let last = self.last_peer;
            frame::put_goaway(self.out(), last, Reason::NO_ERROR);
        }
        Ok(())
    }

    /// Section 6.8: streams above the last one were not processed, and can be sent again elsewhere.
    pub(super) fn take_goaway(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        if head.stream != 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        let Some(last) = number(payload).filter(|_| payload.len() >= 8) else {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR));
        };
        let last = last & WINDOW_MAX;
        self.peer.goaway = Some(self.peer.goaway.map_or(last, |before| before.min(last)));
        if self.config.role == Role::Client {
            for key in self.streams.keys().into_iter().filter(|key| key.id() > last) {
                self.breaks(key, Broken::Unprocessed);
            }
        }
        self.wake_openers();
        self.wake_task();
        Ok(())
    }

    /// Section 6.9.
    pub(super) fn take_window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        let more = number(payload).filter(|_| head.length == 4).ok_or(Fatal(Reason::FRAME_SIZE_ERROR))? & WINDOW_MAX;
        if head.stream == 0 {
            if more == 0 {
                return Err(Fatal(Reason::PROTOCOL_ERROR));
            }
            self.send_window += i64::from(more);
            if self.send_window > i64::from(WINDOW_MAX) {
                return Err(Fatal(Reason::FLOW_CONTROL_ERROR));
            }
            return Ok(());
        }
        if self.is_idle(head.stream) {
            return Err(Fatal(Reason::PROTOCOL_ERROR));
        }
        let Some(key) = self.streams.find(head.stream) else { return Ok(()) };
        let Some(stream) = self.streams.get(key).filter(|stream| stream.broken.is_none()) else { return Ok(()) };
        if more == 0 {
            return self.misused(key, Broken::Misused(Reason::PROTOCOL_ERROR), Reason::PROTOCOL_ERROR);
        }
        stream.send_window += i64::from(more);
        if stream.send_window > i64::from(WINDOW_MAX) {
            return self.misused(key, Broken::Misused(Reason::FLOW_CONTROL_ERROR), Reason::FLOW_CONTROL_ERROR);
        }
        stream.wake_writer();
        Ok(())
    }
}
