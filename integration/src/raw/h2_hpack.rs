//! HPACK (RFC 7541) written representation by representation, so that a test has in its hand what its peer's table does.
//! Strings are never Huffman coded; what peers send is read by a library, which knows all of it.

use anyhow::Context as _;
use loona_hpack::Decoder;

/// A field: name and value.
pub type Field = (Vec<u8>, Vec<u8>);

/// What a literal does to the dynamic table (RFC 7541 section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// The field is added.
    Added,
    /// It is not.
    Without,
    /// It is not, and never to be by anyone further on.
    Never,
}

/// A block of literals that touch no table.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: impl IntoIterator<Item = (N, V)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        literal(&mut out, Indexing::Without, name.as_ref(), value.as_ref());
    }
    out
}

/// A literal with its name written out.
pub fn literal(out: &mut Vec<u8>, indexing: Indexing, name: &[u8], value: &[u8]) {
    literal_indexed_name(out, indexing, 0, value, Some(name));
}

/// A literal whose name is that of an entry of the static (1 to 61) or dynamic table (from 62, newest first).
pub fn literal_named_by(out: &mut Vec<u8>, indexing: Indexing, index: u64, value: &[u8]) {
    literal_indexed_name(out, indexing, index, value, None);
}

fn literal_indexed_name(out: &mut Vec<u8>, indexing: Indexing, index: u64, value: &[u8], name: Option<&[u8]>) {
    match indexing {
        Indexing::Added => integer(out, 0x40, 6, index),
        Indexing::Without => integer(out, 0, 4, index),
        Indexing::Never => integer(out, 0x10, 4, index),
    }
    if let Some(name) = name {
        string(out, name);
    }
    string(out, value);
}

/// A whole field of the static or dynamic table.
pub fn indexed(out: &mut Vec<u8>, index: u64) {
    integer(out, 0x80, 7, index);
}

/// Dynamic table size update.
pub fn table_size(out: &mut Vec<u8>, size: u64) {
    integer(out, 0x20, 5, size);
}

/// A string without Huffman coding.
pub fn string(out: &mut Vec<u8>, value: &[u8]) {
    integer(out, 0, 7, value.len() as u64);
    out.extend_from_slice(value);
}

/// An integer (RFC 7541 section 5.1) in the last `bits` of a byte that begins with `pattern`, and bytes after it.
pub fn integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: u64) {
    let most = (1_u64 << bits) - 1;
    let [.., first] = value.min(most).to_be_bytes();
    out.push(pattern | first);
    let Some(mut rest) = value.checked_sub(most) else { return };
    while rest >= 0x80 {
        let [.., low] = rest.to_be_bytes();
        out.push(low | 0x80);
        rest >>= 7;
    }
    let [.., last] = rest.to_be_bytes();
    out.push(last);
}

/// Reads the blocks of one connection, in order.
#[derive(Default)]
pub struct Reader(Decoder<'static>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Fields of a block, in order, duplicates and pseudo-header fields included.
    ///
    /// # Errors
    /// The block is not HPACK.
    pub fn read(&mut self, block: &[u8]) -> anyhow::Result<Vec<Field>> {
        self.0.decode(block).with_context(|| format!("not HPACK: {block:02x?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let long = "v".repeat(300);
        let mut out = Vec::new();
        table_size(&mut out, 4096);
        indexed(&mut out, 2);
        literal(&mut out, Indexing::Added, b"x-a", b"1");
        literal_named_by(&mut out, Indexing::Never, 62, b"2");
        indexed(&mut out, 62);
        literal(&mut out, Indexing::Without, b"x-long", long.as_bytes());
        let fields = Reader::default().read(&out).unwrap();
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (str::from_utf8(name).unwrap(), str::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(fields, [(":method", "GET"), ("x-a", "1"), ("x-a", "2"), ("x-a", "1"), ("x-long", &long)]);
    }

    #[test]
    fn integers_of_the_rfc() {
        for (pattern, bits, value, expected) in
            [(0, 5, 10, vec![10]), (0, 5, 1337, vec![31, 154, 10]), (0, 8, 42, vec![42]), (0x40, 6, 63, vec![127, 0])]
        {
            let mut out = Vec::new();
            integer(&mut out, pattern, bits, value);
            assert_eq!(out, expected);
        }
    }
}
