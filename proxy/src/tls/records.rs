//! Records of TLS 1.3 (RFC 8446 section 5.2): sealed and opened from one buffer into another, without a copy between.

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::cipher::{Iv, make_tls13_aad};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, PeerMisbehaved};

/// Most that a record carries.
pub(super) const PAYLOAD_MAX: usize = 1 << 14;

/// What a record has beyond what it carries: its header, the type of what it carries, its tag.
pub(super) const OVERHEAD: usize = HEADER_BYTES + 1 + TAG_BYTES;

/// Size of the largest record.
pub(super) const RECORD_MAX: usize = PAYLOAD_MAX + OVERHEAD;

const HEADER_BYTES: usize = 5;

const TAG_BYTES: usize = 16;

/// What goes into a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    /// These bytes.
    At(&'a [u8]),
    /// So many bytes that were put behind the room for the header already.
    InPlace(usize),
}

/// Where the payload of a record goes, in the room for the record.
pub(super) fn place_of_payload(room: &mut [u8]) -> &mut [u8] {
    let end = room.len().saturating_sub(1 + TAG_BYTES).min(HEADER_BYTES + PAYLOAD_MAX);
    room.get_mut(HEADER_BYTES..end).unwrap_or_default()
}

/// The length of the record that `bytes` begin with, once all of it is there.
///
/// # Errors
/// It is too long, or not protected.
pub(super) fn whole_record(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let kind = ContentType::from(kind);
    if kind != ContentType::ApplicationData {
        return Err(Error::InappropriateMessage { expect_types: vec![ContentType::ApplicationData], got_type: kind });
    }
    let length = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > RECORD_MAX {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok((bytes.len() >= length).then_some(length))
}

/// Room that opening a record of this length needs: its payload and what is padded to it.
pub(super) const fn room_to_open(length: usize) -> usize {
    length.saturating_sub(HEADER_BYTES + TAG_BYTES)
}

/// The key of one direction, and how many records it has protected.
pub(super) struct Keys {
    key: LessSafeKey,
    iv: Iv,
    sequence: u64,
}

impl Keys {
    /// The first record has the number that comes with the secrets.
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("the cipher is unknown".to_owned())),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// Number of the next record.
    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Seals one record at the start of `out`, and says how long it is.
    ///
    /// # Errors
    /// There is no room, or no number for it.
    pub(super) fn seal(&mut self, kind: ContentType, payload: Payload<'_>, out: &mut [u8]) -> Result<usize, Error> {
        let count = match payload {
            Payload::At(bytes) => bytes.len(),
            Payload::InPlace(count) => count,
        };
        let header = make_tls13_aad(count + 1 + TAG_BYTES);
        let (head, rest) = out.split_first_chunk_mut::<HEADER_BYTES>().ok_or(Error::EncryptError)?;
        let (text, rest) = rest.split_at_mut_checked(count).ok_or(Error::EncryptError)?;
        let (end, _) = rest.split_first_chunk_mut::<{ 1 + TAG_BYTES }>().ok_or(Error::EncryptError)?;
        *head = header;
        let (nonce, aad, kind) = (self.next_nonce()?, Aad::from(header), [u8::from(kind)]);
        match payload {
            Payload::At(bytes) => self.key.seal_out_of_place_scatter(nonce, aad, bytes, text, &kind, end),
            Payload::InPlace(_) => self.key.seal_in_place_scatter(nonce, aad, text, &kind, end),
        }
        .map_err(|_| Error::EncryptError)?;
        Ok(count + OVERHEAD)
    }

    /// Opens a whole record into the start of `out`, which has [`room_to_open`] it: what it carries, and how much of it.
    ///
    /// # Errors
    /// It is not what the peer sealed, or breaks the rules. What is in `out` is of no use then.
    pub(super) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<(ContentType, usize), Error> {
        let sealed = record.get(HEADER_BYTES..).unwrap_or_default();
        let (text, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(Error::DecryptError)?;
        let out = out.get_mut(..text.len()).ok_or(Error::DecryptError)?;
        let aad = Aad::from(make_tls13_aad(sealed.len()));
        let nonce = self.next_nonce()?;
        self.key.open_separate_gather(nonce, aad, text, tag, out).map_err(|_| Error::DecryptError)?;
        // Padding is zeros behind the type.
        let end = out.iter().rposition(|byte| *byte != 0).ok_or(PeerMisbehaved::IllegalTlsInnerPlaintext)?;
        let kind = out.get(end).copied().ok_or(InvalidMessage::InvalidContentType)?;
        Ok((ContentType::from(kind), end))
    }

    /// No number is used twice with one key.
    fn next_nonce(&mut self) -> Result<Nonce, Error> {
        let next = self.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        let nonce = rustls::crypto::cipher::Nonce::new(&self.iv, self.sequence);
        self.sequence = next;
        Ok(Nonce::assume_unique_for_key(nonce.0))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Keys").field("key", &self.key).field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::AeadKey;

    use super::*;

    fn keys(sequence: u64) -> Keys {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&bytes("17422dda596ed5d9acd890e3c63f5051"));
        let iv = Iv::from(<[u8; 12]>::try_from(bytes("5b78923dee08579033e523d9")).unwrap());
        let key = AeadKey::from(key);
        // A key of 32 bytes, cut to the 16 of its cipher.
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref().get(..16).unwrap()).unwrap();
        Keys { key: LessSafeKey::new(key), iv, sequence }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// The client's first record of data in RFC 8448, section 3.
    #[test]
    fn records_are_those_of_the_standards_example() {
        let payload: Vec<u8> = (0..50).collect();
        let record = bytes(
            "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292\
             a2977014bd1e3deae63aeebb21694915e4",
        );
        let mut out = [0; 72];
        assert_eq!(keys(0).seal(ContentType::ApplicationData, Payload::At(&payload), &mut out).unwrap(), 72);
        assert_eq!(out.to_vec(), record);
        let mut placed = [0; 72];
        place_of_payload(&mut placed)[..50].copy_from_slice(&payload);
        keys(0).seal(ContentType::ApplicationData, Payload::InPlace(50), &mut placed).unwrap();
        assert_eq!(placed, out);
        assert_eq!(whole_record(&record).unwrap(), Some(72));
        assert_eq!(whole_record(&record[..71]).unwrap(), None);
        let mut opened = [0; 51];
        assert_eq!(keys(0).open(&record, &mut opened).unwrap(), (ContentType::ApplicationData, 50));
        assert_eq!(opened[..50], payload);
        assert_eq!(keys(1).open(&record, &mut opened).unwrap_err(), Error::DecryptError);
    }

    #[test]
    fn numbers_run_out_before_they_repeat() {
        let mut out = [0; 64];
        let mut last = keys(u64::MAX - 1);
        last.seal(ContentType::ApplicationData, Payload::At(b"x"), &mut out).unwrap();
        assert!(last.seal(ContentType::ApplicationData, Payload::At(b"x"), &mut out).is_err());
    }

    #[test]
    fn padding_is_left_out() {
        let mut out = [0; 64];
        // The type of the data, then zeros, and a zero as the type.
        let count = keys(0).seal(ContentType::from(0), Payload::At(&[7, 8, 23, 0, 0]), &mut out).unwrap();
        let mut opened = [0; 64];
        let record = &out[..count];
        assert_eq!(keys(0).open(record, &mut opened).unwrap(), (ContentType::ApplicationData, 2));
        assert_eq!(opened[..2], [7, 8]);
        let count = keys(0).seal(ContentType::from(0), Payload::At(&[0, 0]), &mut out).unwrap();
        assert_eq!(
            keys(0).open(&out[..count], &mut opened).unwrap_err(),
            PeerMisbehaved::IllegalTlsInnerPlaintext.into()
        );
    }
}
