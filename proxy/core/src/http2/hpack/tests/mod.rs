mod encoding;
mod hostile;
mod rfc7541;
mod round_trip;
mod stories;

use super::*;
use crate::h1::Limits;
use crate::http2::testing::literal;

const LIMITS: BlockLimits = BlockLimits { list_bytes_max: 64 * 1024 };

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// What a block says, pseudo-fields by the order of RFC 9113.
fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackFault> {
    let mut into = Block::new();
    decoder.decode(block, LIMITS, &mut into)?;
    assert_eq!(into.sound(), Ok(()), "{block:02x?}");
    Ok(contents(&into))
}

fn contents(block: &Block) -> Vec<(String, String)> {
    let pseudo = &block.pseudo;
    let text = |range: &Option<std::ops::Range<usize>>| {
        range.clone().map(|range| String::from_utf8_lossy(&block.bytes[range]).into_owned())
    };
    let pseudo = [
        (":method", pseudo.method.as_ref().map(ToString::to_string)),
        (":scheme", text(&pseudo.scheme)),
        (":path", text(&pseudo.path)),
        (":authority", text(&pseudo.authority)),
        (":protocol", text(&pseudo.protocol)),
        (":status", pseudo.status.map(|status| status.to_string())),
    ];
    let lines = String::from_utf8_lossy(&block.bytes[block.lines_at..]).into_owned();
    let fields = lines.split_terminator("\r\n").map(|line| line.split_once(": ").unwrap());
    let pseudo = pseudo.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    pseudo.chain(fields.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
}

fn pairs(text: &[(&str, &str)]) -> Vec<(String, String)> {
    text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
