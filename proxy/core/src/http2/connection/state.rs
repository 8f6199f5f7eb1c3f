//! How streams and the connection end (RFC 9113 sections 5.1, 5.4 and 6.8).

use super::control::{LAST, LIFE};
use super::streams::Key;
use super::{Broken, Connection, Fatal, Going, OUT_BYTES_MAX, Role};
use crate::http2::frame::{self, Reason, STREAM_MAX, kind};

impl Connection {
    /// Whether nobody has opened this stream yet; stream 0 never is open.
    pub(super) const fn is_idle(&self, id: u32) -> bool {
        let next = match self.config.role {
            Role::Server => self.last_peer + 1,
            Role::Client => self.next_own,
        };
        // Servers open none, as push is refused.
        id.is_multiple_of(2) || id >= next
    }

    /// Whether we have reset this stream not long ago: what was on its way for it is ignored.
    pub(super) fn is_remembered(&self, id: u32) -> bool {
        self.remembered.contains(&id)
    }

    pub(super) fn remember(&mut self, id: u32) {
        while self.remembered.len() >= self.config.resets_remembered_max.max(1) {
            self.remembered.pop_front();
        }
        self.remembered.push_back(id);
    }

    fn put_reset(&mut self, id: u32, reason: Reason) {
        frame::put_reset(self.out(), id, reason);
        self.resets_sent = self.resets_sent.saturating_add(1);
        self.remember(id);
    }

    /// Resets a stream that we know nothing of (any more), for what the peer sent.
    pub(super) fn reset_unknown(&mut self, id: u32, reason: Reason) -> Result<(), Fatal> {
        self.put_reset(id, reason);
        self.answers += frame::HEADER_BYTES + 4;
        if self.budget.misuse() { Err(Fatal(Reason::ENHANCE_YOUR_CALM)) } else { Ok(()) }
    }

    /// The peer has done on a stream what it may not: it is reset. Too many of these end the connection, as each costs us
    /// what was begun for it.
    pub(super) fn misused(&mut self, key: Key, broken: Broken, reason: Reason) -> Result<(), Fatal> {
        self.put_reset(key.id(), reason);
        self.answers += frame::HEADER_BYTES + 4;
        self.breaks(key, broken);
        if self.budget.misuse() { Err(Fatal(Reason::ENHANCE_YOUR_CALM)) } else { self.weigh_resets() }
    }

    /// Whether streams are reset faster than anybody sees them: by the peer, or by us for what it did on them, which is the
    /// same to us (CVE-2023-44487, CVE-2025-8671).
    pub(super) const fn weigh_resets(&self) -> Result<(), Fatal> {
        if self.pending_resets > self.config.pending_resets_max {
            return Err(Fatal(Reason::ENHANCE_YOUR_CALM));
        }
        Ok(())
    }

    /// Resets a stream for reasons of our own.
    pub fn reset(&mut self, key: Key, reason: Reason) {
        if self.streams.get(key).is_some_and(|stream| !stream.is_over()) && self.ended.is_none() {
            self.put_reset(key.id(), reason);
            self.breaks(key, Broken::Left(reason));
        }
    }

    /// The stream is over before its time.
    pub(super) fn breaks(&mut self, key: Key, broken: Broken) {
        let Some(stream) = self.streams.get(key).filter(|stream| !stream.is_over()) else { return };
        stream.broken = Some(broken);
        stream.wake_reader();
        stream.wake_writer();
        if !stream.taken && stream.asked.is_none() {
            self.pending_resets += 1;
        }
        self.settle(key);
    }

    /// After a change: a stream that is over counts no more, and is forgotten once nobody holds it.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key).filter(|stream| stream.is_over()) else { return };
        let (counted, held) = (std::mem::take(&mut stream.counted), stream.handles > 0);
        let well = stream.broken.is_none();
        if counted {
            if well {
                self.budget.ended_well();
            }
            self.open = self.open.saturating_sub(1);
            self.wake_openers();
            if self.is_finished() {
                self.wake_task();
            }
        }
        if !held {
            self.streams.remove(key);
        }
    }

    /// One more holds the stream.
    pub fn hold(&mut self, key: Key) {
        if let Some(stream) = self.streams.get(key) {
            stream.handles += 1;
        }
    }

    /// One who held the stream lets go of it. The last one leaves it: with `NO_ERROR` where the whole response is out, which
    /// stops the request (section 8.1), else with `CANCEL`.
    pub fn let_go(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        stream.handles = stream.handles.saturating_sub(1);
        if stream.handles > 0 {
            return;
        }
        let unread = std::mem::take(&mut stream.data).len() + std::mem::take(&mut stream.lent);
        let whole = stream.sent && self.config.role == Role::Server;
        if stream.is_over() {
            self.streams.remove(key);
        } else {
            self.reset(key, if whole { Reason::NO_ERROR } else { Reason::CANCEL });
        }
        self.give_back(None, unread);
    }

    /// Nobody reads the stream any more; what comes is dropped.
    pub fn discard(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key) else { return };
        stream.discarding = true;
        let unread = std::mem::take(&mut stream.data).len();
        self.give_back(None, unread);
    }

    /// Tells the peer to open no more streams; those on their way are taken until it has heard so (section 6.8).
    pub fn go_away(&mut self) {
        if self.going == Going::On && self.ended.is_none() {
            self.going = Going::Announced;
            frame::put_goaway(self.out(), STREAM_MAX, Reason::NO_ERROR);
            frame::put_frame(self.out(), kind::PING, 0, 0, &LAST);
        }
    }

    /// Whether no stream is left, and none can come.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        let last = match self.config.role {
            Role::Server => matches!(self.going, Going::Last(_)),
            Role::Client => self.dismissed || self.peer.goaway.is_some(),
        };
        last && self.open == 0
    }

    /// Whether streams can be opened, now or when others have ended.
    #[must_use]
    pub const fn takes_streams(&self) -> bool {
        self.ended.is_none() && self.peer.goaway.is_none() && self.next_own <= STREAM_MAX
    }

    /// Nobody opens streams any more: the connection is over with the last of them.
    pub fn dismiss(&mut self) {
        self.dismissed = true;
        self.wake_task();
    }

    /// Ends the connection with GOAWAY, for what the peer did.
    pub fn fail(&mut self, reason: Reason) {
        if self.ended.is_none() {
            let last = self.last_taken();
            frame::put_goaway(self.out(), last, reason);
            self.end(Broken::Ended);
        }
    }

    /// The connection has ended by itself, or is of no use any more.
    pub fn close(&mut self) {
        if self.ended.is_none() {
            self.end(Broken::Closed);
        }
    }

    /// Says that nothing is wrong before the connection is closed.
    pub fn say_goodbye(&mut self) {
        if self.ended.is_none() {
            let last = self.last_taken();
            frame::put_goaway(self.out(), last, Reason::NO_ERROR);
            self.end(Broken::Closed);
        }
    }

    /// The last stream that may have been processed.
    const fn last_taken(&self) -> u32 {
        if let Going::Last(last) = self.going { last } else { self.last_peer }
    }

    fn end(&mut self, broken: Broken) {
        self.ended = Some(broken);
        for key in self.streams.keys() {
            self.breaks(key, broken);
        }
        self.wake_openers();
        self.wake_task();
    }

    /// Asks whether the peer lives; whether an answer is owed.
    pub fn ping(&mut self) -> bool {
        if !self.ping_unanswered && self.ended.is_none() {
            self.ping_unanswered = true;
            frame::put_frame(self.out(), kind::PING, 0, 0, &LIFE);
        }
        self.ping_unanswered
    }

    /// Wakes as many of those who wait as there is room for; all, where none ever will be.
    pub(super) fn wake_openers(&mut self) {
        let room = if self.takes_streams() { self.rooms() } else { usize::MAX };
        self.openers.wake(room);
    }

    /// Streams that can be opened now.
    pub(super) fn rooms(&self) -> usize {
        let left = if self.peer.said { self.peer.streams_max.saturating_sub(self.open) } else { 0 };
        if self.out.len() < OUT_BYTES_MAX { usize::try_from(left).unwrap_or(usize::MAX) } else { 0 }
    }
}
