use proptest::prelude::*;

use super::*;
use crate::h1::{Limits, ResponseParser};
use crate::message::Asked;

fn list(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().copied().collect()
}

fn text(fields: &Fields) -> Vec<(String, String)> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    fields.iter().map(|(n, v)| (text(n), text(v))).collect()
}

fn check(fields: &Fields, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    assert_eq!(text(fields), expected);
    assert_eq!(fields.len(), expected.len());
    assert_eq!(fields.is_empty(), expected.is_empty());
    assert_eq!(fields.wire_len(), expected.iter().map(|(n, v)| n.len() + v.len() + 4).sum::<usize>());
}

/// A list whose first two fields were received and whose third was added.
fn mixed() -> Fields {
    let received = Bytes::from_static(b"Host: a\r\nX-A: 1\r\n");
    let mut spans = FieldSpans::with_capacity(2);
    spans.push(&received, Some(Known::Host), (0, &received[..4]), &received[6..7]);
    spans.push(&received, Known::of(b"X-A"), (9, &received[9..12]), &received[14..15]);
    let mut fields = Fields::from_received(received, spans);
    fields.append("x-a", "2");
    fields
}

#[test]
fn keeps_case_order_and_duplicates() {
    check(&Fields::new(), &[]);
    check(&mixed(), &[("Host", "a"), ("X-A", "1"), ("x-a", "2")]);
    let pairs = [("B", "1"), ("a", ""), ("b", "1"), ("B", "1")];
    check(&list(&pairs), &pairs);
}

#[test]
fn finds_fields_in_any_case() {
    let fields = mixed();
    assert_eq!(fields.get("host"), Some(&b"a"[..]));
    assert_eq!(fields.get("x-A"), Some(&b"1"[..]), "the first of several");
    assert_eq!(fields.get("x"), None);
    assert_eq!(fields.get(""), None);
    assert_eq!(fields.get_all("X-a").collect::<Vec<_>>(), [b"1", b"2"]);
    assert!(fields.contains("HOST") && !fields.contains("Hos"));
    let raw: Fields = [(&b"a"[..], &b"\xff"[..])].into_iter().collect();
    assert_eq!((raw.get("a"), raw.get_str("a")), (Some(&b"\xff"[..]), None));
}

#[test]
fn set_replaces_in_place() {
    let mut fields = mixed();
    fields.set("X-a", "3");
    check(&fields, &[("Host", "a"), ("X-A", "3")]);
    fields.set("new", "4");
    check(&fields, &[("Host", "a"), ("X-A", "3"), ("new", "4")]);
    fields.set("HOST", "");
    check(&fields, &[("Host", ""), ("X-A", "3"), ("new", "4")]);
    fields.set("bad name", "x");
    assert_eq!(fields.len(), 3);
}

#[test]
fn removes_retains_and_prepends() {
    let mut fields = mixed();
    assert_eq!(fields.remove("x-A"), 2);
    assert_eq!(fields.remove("x-A"), 0);
    check(&fields, &[("Host", "a")]);
    let mut fields = mixed();
    fields.retain(|name, value| name != b"Host" && value != b"2");
    check(&fields, &[("X-A", "1")]);
    fields.prepend("first", "0");
    check(&fields, &[("first", "0"), ("X-A", "1")]);
}

#[test]
fn reads_lists_over_several_lines() {
    let fields = list(&[("Connection", "close , Upgrade,,"), ("A", "close"), ("connection", "\tx-b")]);
    assert_eq!(fields.list("connection").collect::<Vec<_>>(), [&b"close"[..], b"Upgrade", b"x-b"]);
    assert!(fields.has_token("CONNECTION", "upgrade") && fields.has_token("connection", "X-B"));
    assert!(!fields.has_token("connection", "clos") && !fields.has_token("connection", ""));
}

#[test]
fn added_fields_cannot_split_a_message() {
    fn check_value(value: &[u8], stored: &[u8]) {
        let mut fields = Fields::new();
        fields.append("a", value);
        fields.append("b", "next");
        fields.set("c", value);
        assert_eq!(fields.get("a"), Some(stored), "{value:?}");
        assert_eq!(fields.get("b"), Some(&b"next"[..]), "the field after {value:?}");
        assert_eq!(fields.get("c"), Some(stored), "{value:?} by set");
    }
    check_value(b"x\r\nInjected: y", b"x  Injected: y");
    check_value(b"x\ny\0z", b"x y z");
    check_value(b" \t padded\t ", b"padded");
    check_value(b"   ", b"");
    check_value(b"\xff\x01a\tb\x7f\x1b", b"\xff a\tb  ");
    for name in ["", "a b", "a:", "a\r\nb", "a\0", "b\u{fc}", "(a)", " a", "a\t"] {
        let mut fields = Fields::new();
        fields.append(name, "x");
        fields.prepend(name, "x");
        fields.set(name, "x");
        assert!(fields.is_empty(), "{name:?}");
    }
}

#[test]
fn shared_values_outlive_the_list() {
    let fields = mixed();
    let values: Vec<Bytes> = fields.iter_shared().map(|(_, value)| value).collect();
    drop(fields);
    assert_eq!(values, ["a", "1", "2"]);
}

#[test]
fn equality_is_about_what_is_written() {
    assert_eq!(mixed(), list(&[("Host", "a"), ("X-A", "1"), ("x-a", "2")]));
    assert_ne!(list(&[("a", "1")]), list(&[("A", "1")]), "case of names");
    assert_ne!(list(&[("a", "1"), ("b", "2")]), list(&[("b", "2"), ("a", "1")]), "order");
    assert_ne!(list(&[("a", "1")]), list(&[("a", "1"), ("a", "1")]), "count");
}

/// What [`Fields::write_lines`] must write, field by field.
fn one_by_one(fields: &Fields) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [name, b": ", value, b"\r\n"].concat()).collect()
}

proptest! {
    /// However fields were received and edited: what is written in runs is what is there.
    #[test]
    fn lines_are_those_of_the_fields(
        received in prop::collection::vec(("[ab]|host|te", ":|: |:  |:\t", "|x|y z", "| |\t"), 0..6),
        edits in prop::collection::vec((0_u8..6, "[ab]|x-b3-sampled|te|Host", "|1|2 3"), 0..8),
    ) {
        let text: String = received.iter().map(|(name, gap, value, end)| format!("{name}{gap}{value}{end}\r\n")).collect();
        let mut head = BytesMut::from(format!("HTTP/1.1 200 OK\r\n{text}\r\n").as_bytes());
        let asked = Asked { head: false, connect: false, upgrade: false };
        let mut fields = ResponseParser::new(Limits::default()).parse(&mut head, asked).unwrap().unwrap().head.fields;
        for (edit, name, value) in &edits {
            match edit {
                0 => fields.append(name, value),
                1 => fields.prepend(name, value),
                2 => fields.set(name, value),
                3 => drop(fields.remove(name)),
                4 => fields.set_with(Known::B3Sampled, |out| out.push(b'1')),
                _ => fields.append_with(Known::TraceParent, |out| out.extend_from_slice(b"00-1")),
            }
            let known = Known::of(name.as_bytes());
            prop_assert_eq!(fields.contains(name), fields.iter().any(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())));
            prop_assert!(known.is_none_or(|known| fields.get(known) == fields.get(name)));
        }
        let mut written = BytesMut::new();
        fields.write_lines(&mut written);
        prop_assert_eq!(&written[..], one_by_one(&fields));
        prop_assert!(fields.wire_len() == written.len() && written.len() <= fields.wire_len_max());
    }
}

#[test]
fn a_field_is_twenty_bytes() {
    assert_eq!(size_of::<Entry>(), 20, "the list of a request stays within a few cache lines");
}
