//! Frames that carry nothing, weighed against those that do.
//!
//! Windows, PINGs, settings, resets and unknown frames are legal in any number, and cost their sender nothing. A peer may
//! send them as it likes at first, later in proportion to what the messages of both ends carry, and to time.

/// What a peer may send in frames that carry nothing of a message, headers included: 60,000 PINGs at once.
const IDLE_BYTES_MAX: i64 = 1024 * 1024;

/// By which each byte of messages, either way, makes up for such frames: windows are given back with what was read, some
/// peers do it for every byte.
const IDLE_PER_BYTE: usize = 8;

/// By which each frame of messages that we send does.
const IDLE_PER_FRAME: usize = 64;

/// By which each second does.
const IDLE_BYTES_PER_SECOND: u64 = 16 * 1024;

/// Streams that a peer may have misused, beyond as many that it has not.
const MISUSED_MAX: u32 = 1024;

/// What a peer may still send for nothing.
#[derive(Debug)]
pub(super) struct Budget {
    idle_left: i64,
    misused: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { idle_left: IDLE_BYTES_MAX, misused: 0 }
    }
}

impl Budget {
    /// A frame came that carries nothing.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.idle_left = self.idle_left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A frame came that carries so much.
    pub(super) fn received(&mut self, bytes: usize) {
        self.add(bytes.saturating_mul(IDLE_PER_BYTE));
    }

    /// We have sent a frame that carries so much.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.add(bytes.saturating_mul(IDLE_PER_BYTE).saturating_add(IDLE_PER_FRAME));
    }

    /// So much time has passed since it was asked last.
    pub(super) fn passed(&mut self, millis: u64) {
        self.add(usize::try_from(millis.saturating_mul(IDLE_BYTES_PER_SECOND) / 1000).unwrap_or(usize::MAX));
    }

    pub(super) const fn is_overdrawn(&self) -> bool {
        self.idle_left < 0
    }

    /// The peer has misused a stream; whether it has been too often.
    pub(super) const fn misuse(&mut self) -> bool {
        self.misused += 1;
        self.misused > MISUSED_MAX
    }

    /// A stream has ended as it should, in both directions: until then its peer may still misuse it.
    pub(super) const fn ended_well(&mut self) {
        self.misused = self.misused.saturating_sub(1);
    }

    fn add(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.idle_left = self.idle_left.saturating_add(bytes).min(IDLE_BYTES_MAX);
    }
}
