//! Field compression (RFC 7541).

mod block;
mod decoder;
mod encoder;
mod field;
mod fixed;
mod huffman;
mod index;
mod input;
mod table;

use thiserror::Error;

pub use block::{Block, BlockLimits};
pub use decoder::Decoder;
pub use encoder::Encoder;
pub(in crate::http2) use index::Index;

/// Size of the dynamic table that each side begins with (RFC 9113 section 6.5.2).
pub const TABLE_BYTES_DEFAULT: usize = 4096;

/// Why a field block cannot be decoded. What its sender and we hold in our tables may differ from here on, so the connection
/// ends with `COMPRESSION_ERROR` (RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum HpackFault {
    /// The block ends within a field.
    #[error("field block ends within a field")]
    Truncated,
    /// An integer is larger than any that has a use.
    #[error("integer in a field block is too large")]
    Integer,
    /// No table has this index.
    #[error("index in a field block is in no table")]
    Index,
    /// Padding of more than seven bits or of zeros, or the end-of-string symbol within a string.
    #[error("Huffman code in a field block is malformed")]
    Huffman,
    /// The table is resized after the first field, or beyond what was announced.
    #[error("table size update is out of place or too large")]
    SizeUpdate,
}

#[cfg(test)]
mod tests;
