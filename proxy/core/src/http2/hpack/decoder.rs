//! Field blocks of a peer.

use super::field::{COLON, CRLF, FIELD_BYTES, Field, Kind, Name, Shape, is_fit};
use super::input::Input;
use super::table::Table;
use super::{Block, BlockLimits, HpackFault, TABLE_BYTES_DEFAULT, fixed};
use crate::fields::{has_control, trim_ows};

/// Decoder of all field blocks of one connection, in the order in which they came.
///
/// Whatever a block says, what is held is bounded: by the table's size, and by the limits of the [`Block`]; a single
/// literal by the length of its own block.
#[derive(Debug)]
pub struct Decoder {
    table: Table<Shape>,
    size_max: usize,
}

impl Decoder {
    /// For a peer that was told `SETTINGS_HEADER_TABLE_SIZE` to be so many bytes. The table begins with the protocol's size
    /// and takes another when the peer says so. Allocates nothing yet.
    #[must_use]
    pub const fn new(table_bytes_max: usize) -> Self {
        Self { table: Table::new(TABLE_BYTES_DEFAULT), size_max: table_bytes_max }
    }

    /// Decodes one whole field block: fragments of HEADERS and its CONTINUATIONs put together.
    ///
    /// What is wrong with the fields themselves, their number and size too, is no fault here but of those who take the
    /// section over ([`crate::http2::head`]): the table is right after it.
    ///
    /// # Errors
    /// Any [`HpackFault`] ends the connection.
    pub fn decode(&mut self, block: &[u8], limits: BlockLimits, into: &mut Block) -> Result<(), HpackFault> {
        into.begin(limits);
        let mut input = Input(block);
        while let Some(0x20..=0x3f) = input.peek() {
            let size = input.integer(5)?;
            if size > self.size_max {
                return Err(HpackFault::SizeUpdate);
            }
            self.table.resize(size);
        }
        while let Some(first) = input.peek() {
            match first {
                0x80.. => {
                    let index = input.integer(7)?;
                    into.push(self.field(index)?);
                }
                0x40..=0x7f => {
                    let at = into.end();
                    let shape = self.literal(&mut input, 6, into)?;
                    self.table.insert(shape.size as usize, [into.since(at), b"", b"", b""], shape);
                    into.keep(at, shape, false);
                }
                0x20..=0x3f => return Err(HpackFault::SizeUpdate),
                0x00..=0x1f => {
                    let at = into.end();
                    let shape = self.literal(&mut input, 4, into)?;
                    into.keep(at, shape, first & 0x10 != 0);
                }
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> (usize, Vec<(String, String)>) {
        self.table.entries()
    }

    #[cfg(test)]
    pub(super) fn resize(&mut self, bytes: usize) {
        self.table.resize(bytes);
    }

    #[inline]
    fn field(&self, index: usize) -> Result<Field<'_>, HpackFault> {
        let field = match index.checked_sub(fixed::DYNAMIC) {
            Some(age) => self.table.get(age).map(|(line, shape)| Field { line, shape }),
            None => fixed::field(index),
        };
        field.ok_or(HpackFault::Index)
    }

    /// Writes a literal field as a line to the end of the block.
    fn literal(&self, input: &mut Input<'_>, prefix_bits: u32, into: &mut Block) -> Result<Shape, HpackFault> {
        let (at, index) = (into.end(), input.integer(prefix_bits)?);
        let out = into.buffer();
        let name = if index == 0 {
            input.string(out)?;
            Name::of(out.get(at..).unwrap_or_default())
        } else {
            let field = self.field(index)?;
            out.extend_from_slice(field.name());
            field.shape.name
        };
        let name_len = out.len() - at;
        out.extend_from_slice(COLON);
        let value_at = out.len();
        input.string(out)?;
        let size = name_len + (out.len() - value_at) + FIELD_BYTES;
        let whole = out.len();
        // Around a field's value blanks mean nothing (RFC 9110 section 5.5); a pseudo-field has none to lose.
        let sound = settle_value(out, value_at) && (out.len() == whole || !matches!(name.kind, Kind::Pseudo(_)));
        let fit = is_fit(name.kind, out.get(value_at..).unwrap_or_default());
        out.extend_from_slice(CRLF);
        Ok(Shape { name, sound, fit, size: u32::try_from(size).map_err(|_| HpackFault::Integer)? })
    }
}

/// Cuts blanks off both ends of the value at the end of the buffer, and says whether it is one that may be.
fn settle_value(out: &mut Vec<u8>, at: usize) -> bool {
    let whole = out.get(at..).unwrap_or_default();
    let value = trim_ows(whole);
    let sound = !has_control(value);
    if value.len() < whole.len() {
        let start = value.as_ptr().addr().wrapping_sub(out.as_ptr().addr());
        let (start, len) = if value.is_empty() { (at, 0) } else { (start, value.len()) };
        out.copy_within(start..start + len, at);
        out.truncate(at + len);
    }
    sound
}
