//! Field blocks for tests, by the simplest means.

/// A literal that is not indexed; lengths below 127 + 2^14.
pub(super) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name.as_bytes(), value.as_bytes()] {
        string(&mut out, text);
    }
    out
}

/// Literals of all of them.
pub(super) fn literals<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name.as_bytes());
        string(&mut out, value);
    }
    out
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(len @ 0..127) => out.push(len),
        _ => {
            let rest = text.len() - 127;
            assert!(rest < 1 << 14);
            out.extend([127, u8::try_from(rest % 128).unwrap() | 128, u8::try_from(rest / 128).unwrap()]);
        }
    }
    out.extend_from_slice(text);
}
