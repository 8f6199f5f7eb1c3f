//! Requests of one connection as python-hyper's `hpack` 4.2 writes them: with Huffman code and without, never indexed, with
//! entries pushed out, and with a table whose size changes twice.

use super::*;

#[test]
fn another_implementation_is_understood() {
    let mut decoder = Decoder::new(4096);
    let mut sections = 0;
    for section in include_str!("stories.txt").split("> ").skip(1) {
        let (block, fields) = section.split_once('\n').unwrap();
        let expected: Vec<_> = fields.lines().map(|line| line.rsplit_once(": ").unwrap()).collect();
        assert_eq!(decoded(&mut decoder, &hex(block)), Ok(pairs(&expected)), "{sections}");
        sections += 1;
    }
    assert_eq!(sections, 40);
}
