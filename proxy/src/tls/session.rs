//! What two peers say to each other in TLS after the handshake: data, tickets, new keys, the end.

use std::fmt;
use std::io::IoSlice;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ContentType, Error, ExtractedSecrets, HandshakeType, InvalidMessage, PeerMisbehaved};

use super::records::{Keys, OVERHEAD, PAYLOAD_MAX, Payload, place_of_payload};

/// Room for a record that carries one of the messages that are not data.
pub(super) const SMALL_RECORD: usize = OVERHEAD + 8;

/// Records with nothing in them that a peer may send in a row.
const EMPTY_MAX: u8 = 32;

/// New keys that a peer may announce between two records of data.
const UPDATES_MAX: u8 = 32;

/// Warnings that a peer may give.
const WARNINGS_MAX: u8 = 4;

/// Most that a message of the handshake's kind may have.
const MESSAGE_MAX: usize = 0xffff;

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// A message that says that its sender changes keys: type, length, and whether the other shall, too.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

/// The library's part after the handshake: it knows the next keys and keeps tickets.
pub(super) enum Secrets {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

/// What was in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// So many bytes of the application's.
    Data(usize),
    /// Something for this session.
    Ours,
    /// The peer says that it will send nothing more.
    Closed,
}

/// Both directions of an established connection.
pub(super) struct Session {
    secrets: Secrets,
    opening: Keys,
    sealing: Keys,
    /// Records that one key may seal.
    seals_max: u64,
    /// The beginning of a message whose rest has not come.
    partial: Vec<u8>,
    empty: u8,
    updates: u8,
    warnings: u8,
    /// The peer asked for new keys of ours.
    owes_keys: bool,
}

impl Session {
    pub(super) fn new(extracted: ExtractedSecrets, secrets: Secrets) -> Result<Self, Error> {
        let suite = match &secrets {
            Secrets::Server(server) => server.negotiated_cipher_suite(),
            Secrets::Client(client) => client.negotiated_cipher_suite(),
        };
        let suite = suite.tls13().ok_or_else(|| Error::General("only TLS 1.3 is spoken".to_owned()))?;
        Ok(Self {
            secrets,
            opening: Keys::new(extracted.rx)?,
            sealing: Keys::new(extracted.tx)?,
            seals_max: suite.common.confidentiality_limit,
            partial: Vec::new(),
            empty: 0,
            updates: 0,
            warnings: 0,
            owes_keys: false,
        })
    }

    /// Opens a whole record into `out`.
    ///
    /// # Errors
    /// What the peer did wrong, or says of us. Nothing more can be read then.
    pub(super) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<Opened, Error> {
        let (kind, count) = self.opening.open(record, out)?;
        let payload = out.get(..count).unwrap_or_default();
        if kind != ContentType::Handshake && !self.partial.is_empty() {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        self.empty = if count == 0 { self.empty + 1 } else { 0 };
        if self.empty > EMPTY_MAX {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        }
        match kind {
            ContentType::ApplicationData => {
                self.updates = 0;
                Ok(Opened::Data(count))
            }
            ContentType::Handshake => {
                self.partial.extend_from_slice(payload);
                self.hear_messages()?;
                Ok(Opened::Ours)
            }
            ContentType::Alert => self.hear_alert(payload),
            ContentType::ChangeCipherSpec => Err(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into()),
            ContentType::Heartbeat | ContentType::Unknown(_) | _ => {
                let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert];
                Err(Error::InappropriateMessage { expect_types, got_type: kind })
            }
        }
    }

    fn hear_alert(&mut self, alert: &[u8]) -> Result<Opened, Error> {
        let &[level, description] = alert else { return Err(InvalidMessage::MissingData("AlertDescription").into()) };
        let description = AlertDescription::from(description);
        if description == AlertDescription::CloseNotify {
            return Ok(Opened::Closed);
        }
        let is_heeded = description != AlertDescription::UserCanceled || level != WARNING;
        if is_heeded || self.warnings == WARNINGS_MAX {
            return Err(Error::AlertReceived(description));
        }
        self.warnings += 1;
        Ok(Opened::Ours)
    }

    /// What is whole of what was said.
    fn hear_messages(&mut self) -> Result<(), Error> {
        let mut said = std::mem::take(&mut self.partial);
        let mut rest = said.as_slice();
        while let Some((&[kind, a, b, c], body)) = rest.split_first_chunk() {
            let count = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            if count > MESSAGE_MAX {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            let Some((body, behind)) = body.split_at_checked(count) else { break };
            rest = behind;
            match (HandshakeType::from(kind), &mut self.secrets) {
                (HandshakeType::KeyUpdate, _) if !rest.is_empty() => {
                    return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                }
                (HandshakeType::KeyUpdate, _) => self.hear_update(body)?,
                (HandshakeType::NewSessionTicket, Secrets::Client(client)) => client.handle_new_session_ticket(body)?,
                (got_type, _) => {
                    let expect_types = vec![HandshakeType::KeyUpdate];
                    return Err(Error::InappropriateHandshakeMessage { expect_types, got_type });
                }
            }
        }
        if !rest.is_empty() {
            let heard = said.len() - rest.len();
            said.drain(..heard);
            self.partial = said;
        }
        Ok(())
    }

    fn hear_update(&mut self, body: &[u8]) -> Result<(), Error> {
        self.updates += 1;
        if self.updates > UPDATES_MAX {
            return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
        }
        match body {
            [0] => {}
            [1] => self.owes_keys = true,
            _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
        }
        self.opening = Keys::new(match &mut self.secrets {
            Secrets::Server(server) => server.update_rx_secret(),
            Secrets::Client(client) => client.update_rx_secret(),
        }?)?;
        Ok(())
    }

    /// Seals data into `out` until that is full: how much data, and into how much.
    ///
    /// # Errors
    /// Nothing more can be sealed.
    pub(super) fn seal(&mut self, from: &[IoSlice<'_>], out: &mut [u8]) -> Result<(usize, usize), Error> {
        let (mut from, mut taken, mut end) = (Gather { slices: from, start: 0 }, 0, 0);
        if self.owes_keys {
            self.owes_keys = false;
            end += self.renew(false, out)?;
        }
        loop {
            if self.sealing.sequence().saturating_add(1) >= self.seals_max {
                end += self.renew(true, out.get_mut(end..).unwrap_or_default())?;
            }
            let room = out.get_mut(end..).unwrap_or_default();
            if room.len() < OVERHEAD + PAYLOAD_MAX + SMALL_RECORD {
                return Ok((taken, end));
            }
            let Some((payload, count)) = from.next(place_of_payload(room)) else { return Ok((taken, end)) };
            taken += count;
            end += self.sealing.seal(ContentType::ApplicationData, payload, room)?;
        }
    }

    /// Says that new keys follow, and takes them.
    fn renew(&mut self, asks_for_the_peers: bool, out: &mut [u8]) -> Result<usize, Error> {
        let [kind, a, b, c] = KEY_UPDATE;
        let message = [kind, a, b, c, u8::from(asks_for_the_peers)];
        let count = self.sealing.seal(ContentType::Handshake, Payload::At(&message), out)?;
        self.change_keys()?;
        Ok(count)
    }

    /// What is sealed from now on has new keys.
    pub(super) fn change_keys(&mut self) -> Result<(), Error> {
        self.sealing = Keys::new(match &mut self.secrets {
            Secrets::Server(server) => server.update_tx_secret(),
            Secrets::Client(client) => client.update_tx_secret(),
        }?)?;
        Ok(())
    }

    /// Says that nothing more follows.
    pub(super) fn seal_close(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let alert = [WARNING, AlertDescription::CloseNotify.into()];
        self.sealing.seal(ContentType::Alert, Payload::At(&alert), out)
    }

    /// Says what the peer did wrong; nothing when it has given up by itself.
    pub(super) fn seal_complaint(&mut self, of: &Error, out: &mut [u8]) -> Result<usize, Error> {
        if matches!(of, Error::AlertReceived(_)) {
            return Ok(0);
        }
        let description = if *of == Error::DecryptError {
            AlertDescription::BadRecordMac
        } else if *of == Error::PeerSentOversizedRecord {
            AlertDescription::RecordOverflow
        } else if *of == Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) {
            AlertDescription::IllegalParameter
        } else if matches!(of, Error::InvalidMessage(_)) {
            AlertDescription::DecodeError
        } else {
            AlertDescription::UnexpectedMessage
        };
        self.sealing.seal(ContentType::Alert, Payload::At(&[FATAL, description.into()]), out)
    }

    /// Lets a key seal no more than this.
    #[cfg(test)]
    pub(super) fn limit_keys(&mut self, seals_max: u64) {
        self.seals_max = seals_max;
    }

    /// Seals a message that this side would not send by itself.
    #[cfg(test)]
    pub(super) fn seal_message(&mut self, kind: ContentType, message: &[u8], out: &mut [u8]) -> usize {
        self.sealing.seal(kind, Payload::At(message), out).unwrap()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opening, sealing, .. } = self;
        out.debug_struct("Session").field("opening", opening).field("sealing", sealing).finish_non_exhaustive()
    }
}

/// Payloads of records out of slices.
struct Gather<'a> {
    slices: &'a [IoSlice<'a>],
    /// Of the first slice, so much is taken.
    start: usize,
}

impl<'a> Gather<'a> {
    /// The next record's payload. What lies in pieces is put in place; a whole record's worth, or the last slice, is sealed
    /// from where it is.
    fn next(&mut self, place: &mut [u8]) -> Option<(Payload<'a>, usize)> {
        let first = self.first()?;
        let is_last = self.slices.iter().skip(1).all(|slice| slice.is_empty());
        if is_last || first.len() >= PAYLOAD_MAX {
            let bytes = first.get(..PAYLOAD_MAX).unwrap_or(first);
            self.start += bytes.len();
            return Some((Payload::At(bytes), bytes.len()));
        }
        let mut filled = 0;
        while let Some(slice) = self.first() {
            let room = place.get_mut(filled..).unwrap_or_default();
            let count = slice.len().min(room.len());
            if count == 0 {
                break;
            }
            let (bytes, room) = (slice.get(..count).unwrap_or_default(), room.get_mut(..count).unwrap_or_default());
            room.copy_from_slice(bytes);
            filled += count;
            self.start += count;
        }
        Some((Payload::InPlace(filled), filled))
    }

    /// What is left of the first slice in which anything is left.
    fn first(&mut self) -> Option<&'a [u8]> {
        loop {
            let (slice, others) = self.slices.split_first()?;
            match slice.get(self.start..) {
                Some(rest) if !rest.is_empty() => return Some(rest),
                Some(_) | None => (self.slices, self.start) = (others, 0),
            }
        }
    }
}
