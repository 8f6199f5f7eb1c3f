//! Blocks that no honest encoder writes.

use super::*;
use crate::h1::HeadFault;

fn check(block: &str, expected: Result<(), HpackFault>) {
    let mut decoder = Decoder::new(4096);
    decoder.decode(&literal_indexed("a", "b"), LIMITS, &mut Block::new()).unwrap();
    let got = decoder.decode(&hex(block), LIMITS, &mut Block::new());
    assert_eq!(got, expected, "{block}");
}

fn literal_indexed(name: &str, value: &str) -> Vec<u8> {
    let mut block = literal(name, value);
    block[0] = 0x40;
    block
}

#[test]
fn indices() {
    check("80", Err(HpackFault::Index));
    check("bd", Ok(()));
    check("be", Ok(()));
    check("bf", Err(HpackFault::Index));
    check("ff 80 80 80 01", Err(HpackFault::Index));
    check("7f 00 00", Err(HpackFault::Index));
    check("7e 00", Ok(()));
    check("0f 30 00", Err(HpackFault::Index));
    check("1f 2f 00", Ok(()));
}

#[test]
fn integers() {
    check("ff", Err(HpackFault::Truncated));
    check("ff 80", Err(HpackFault::Truncated));
    check("ff 80 80 80 00", Err(HpackFault::Index));
    check("ff 80 80 80 80 00", Err(HpackFault::Integer));
    check("ff ff ff ff 7f", Err(HpackFault::Integer));
    check("ff ff ff ff ff ff ff ff ff ff 7f", Err(HpackFault::Integer));
    check("00 7f ff ff ff 07 61", Err(HpackFault::Integer));
    check("00 7f ff ff ff 06 61", Err(HpackFault::Truncated));
}

#[test]
fn strings() {
    check("00", Err(HpackFault::Truncated));
    check("00 01", Err(HpackFault::Truncated));
    check("00 01 61", Err(HpackFault::Truncated));
    check("00 01 61 02 62", Err(HpackFault::Truncated));
    check("00 01 61 81", Err(HpackFault::Truncated));
    check("00 01 61 00", Ok(()));
}

#[test]
fn huffman_codes() {
    // `a` is 00011, `0` 00000.
    check("00 01 61 81 1f", Ok(()));
    check("00 01 61 80", Ok(()));
    // Padding of eight bits, of zeros, of seven bits after a whole code, and only of ones.
    check("00 01 61 82 1f ff", Err(HpackFault::Huffman));
    check("00 01 61 81 18", Err(HpackFault::Huffman));
    check("00 01 61 81 1e", Err(HpackFault::Huffman));
    check("00 01 61 81 ff", Err(HpackFault::Huffman));
    // The end of a string, in its middle and at its end.
    check("00 01 61 84 ff ff ff ff", Err(HpackFault::Huffman));
    check("00 01 61 85 ff ff ff fc 1f", Err(HpackFault::Huffman));
    // The start of a code of 28 bits.
    check("00 01 61 83 ff ff fe", Err(HpackFault::Huffman));
}

#[test]
fn size_updates() {
    check("20", Ok(()));
    check("3f e1 1f", Ok(()));
    check("20 3f e1 1f 82", Ok(()));
    check("3f e2 1f", Err(HpackFault::SizeUpdate));
    check("82 20", Err(HpackFault::SizeUpdate));
    check("00 01 61 00 3f e1 1f", Err(HpackFault::SizeUpdate));
    // The entry is gone then.
    check("20 be", Err(HpackFault::Index));
    check("3f 03 be", Ok(()));
    check("3f 02 be", Err(HpackFault::Index));
}

/// One byte can name kilobytes: what is kept is bounded, whatever is named, and the table is right afterwards.
#[test]
fn a_bomb_is_decoded_to_its_end_and_not_kept() {
    let (mut decoder, mut block) = (Decoder::new(4096), Block::new());
    let mut bomb = literal_indexed("x", &"v".repeat(4000));
    bomb.extend(std::iter::repeat_n(0xbe, 100_000));
    bomb.extend(literal_indexed("y", "z"));
    decoder.decode(&bomb, LIMITS, &mut block).unwrap();
    assert_eq!(block.sound(), Err(HeadFault::HeadTooLarge));
    assert!(block.bytes.capacity() <= 4 * LIMITS.list_bytes_max, "{} bytes", block.bytes.capacity());
    assert_eq!(decoded(&mut decoder, &[0xbe]), Ok(pairs(&[("y", "z")])));
    decoder.decode(&[0x82], LIMITS, &mut block).unwrap();
    assert_eq!((block.sound(), block.method().map(http::Method::as_str)), (Ok(()), Some("GET")));
    assert!(block.bytes.capacity() <= 16 * 1024, "what a large section took is given back");
}

#[test]
fn tables_stay_in_step_after_malformed_sections() {
    let (mut decoder, mut block) = (Decoder::new(4096), Block::new());
    let malformed = [
        (literal_indexed("Upper", "a"), HeadFault::FieldName),
        (literal_indexed("", "b"), HeadFault::FieldName),
        (literal_indexed("c", "\r\n"), HeadFault::FieldValue),
        (literal_indexed(":unknown", "d"), HeadFault::PseudoUnknown),
        (literal_indexed(":status", "2000"), HeadFault::StatusCode),
        (literal_indexed("connection", "close"), HeadFault::ConnectionSpecific),
        (literal_indexed("te", "gzip"), HeadFault::TeNotTrailers),
    ];
    for (section, fault) in &malformed {
        let mut section = section.clone();
        section.extend(literal_indexed("after", "it"));
        decoder.decode(&section, LIMITS, &mut block).unwrap();
        assert_eq!(block.sound(), Err(*fault));
        assert_eq!(decoded(&mut decoder, &[0xbe]), Ok(pairs(&[("after", "it")])));
        // The same fault, when the field is named again.
        decoder.decode(&[0xbf], LIMITS, &mut block).unwrap();
        assert_eq!(block.sound(), Err(*fault));
    }
}

/// RFC 7541 section 4.4: the name may be that of an entry that goes for it, and what does not fit empties the table.
#[test]
fn entries_that_push_out_their_own_name() {
    let mut decoder = Decoder::new(4096);
    decoder.decode(&literal_indexed("name", &"v".repeat(2500)), LIMITS, &mut Block::new()).unwrap();
    let long = "w".repeat(3000);
    let mut block = vec![0x7e];
    block.extend_from_slice(&literal("", &long)[2..]);
    assert_eq!(decoded(&mut decoder, &block), Ok(pairs(&[("name", &long)])));
    assert_eq!(decoder.entries(), (3036, pairs(&[("name", &long)])));
    let too_long = "x".repeat(5000);
    assert_eq!(decoded(&mut decoder, &literal_indexed("n", &too_long)), Ok(pairs(&[("n", &too_long)])));
    assert_eq!(decoder.entries(), (0, vec![]));
}

proptest::proptest! {
    #[test]
    fn nothing_panics_and_all_is_bounded(
        blocks in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..300), 0..8),
    ) {
        let (mut decoder, mut block) = (Decoder::new(4096), Block::new());
        let limits = BlockLimits { list_bytes_max: 200 };
        for bytes in &blocks {
            let fine = decoder.decode(bytes, limits, &mut block).is_ok();
            proptest::prop_assert!(decoder.entries().0 <= 4096);
            proptest::prop_assert!(block.bytes.len() <= 200 + bytes.len() * 2);
            if !fine {
                break;
            }
        }
    }
}
