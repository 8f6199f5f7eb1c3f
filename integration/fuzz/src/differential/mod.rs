//! The same bytes read by our codec and by hyper: every difference has a name and a reason, or is a finding.
//!
//! hyper stands for the many servers and clients of Rust behind and before a proxy, with `httparse` below it. Where it
//! takes what we refuse, a [`reasons::Stricter`] says why we do, and what of the bytes proves it; where it refuses what we
//! take, a [`reasons::Looser`].

mod ours;
mod reasons;
mod theirs;

use weft_core::fields::Fields;
use weft_core::h1::{BodyFault, HeadFault};

use crate::heads::asked;

/// A message as one of the two has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Method and target, or status.
    first: String,
    /// Minor version of HTTP/1.
    minor: u8,
    /// Sorted by name, which stands in lower case; values of one name in their order.
    fields: Vec<(String, Vec<u8>)>,
    body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    Whole {
        data: Vec<u8>,
        trailers: Vec<(String, Vec<u8>)>,
    },
    /// It broke off, or was refused.
    Broken(Option<BodyFault>),
}

/// Messages read one after the other, and why there is no further one.
#[derive(Debug)]
struct Reading {
    seen: Vec<Seen>,
    /// The fault of the next head, and where it begins.
    refused: Option<(HeadFault, usize)>,
}

fn list(fields: &Fields) -> Vec<(String, Vec<u8>)> {
    sorted(fields.iter().map(|(name, value)| (String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec())))
}

fn sorted(fields: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// Bytes of a client.
pub(crate) fn request(data: &[u8]) {
    compare(data, &ours::requests(data), &theirs::requests(data));
}

/// Bytes of a server; the first one says what it answers.
pub(crate) fn response(data: &[u8]) {
    let Some((asked, data)) = asked(data) else { return };
    compare(data, &ours::response(data, asked), &theirs::response(data, asked));
}

fn compare(data: &[u8], ours: &Reading, theirs: &[Seen]) {
    let mut seen = theirs.iter();
    for our in &ours.seen {
        let Some(their) = seen.next() else {
            assert!(reasons::looser(our).is_some(), "only hyper refuses {our:#?}");
            return;
        };
        if !same(our, their) {
            return;
        }
    }
    if let (Some((fault, start)), Some(their)) = (ours.refused, seen.next()) {
        let explained = reasons::stricter_head(fault, &data[start..], their);
        assert!(explained.is_some(), "only we refuse, for {fault:?}, {their:#?}");
        return;
    }
    assert!(ours.refused.is_some() || seen.next().is_none(), "hyper goes on after {ours:#?}: {theirs:#?}");
}

/// Whether both have read the same, so that what follows can be compared; panics where a difference has no reason.
fn same(our: &Seen, their: &Seen) -> bool {
    let heads = (&our.first, our.minor, &our.fields) == (&their.first, their.minor, &their.fields);
    assert!(heads, "read differently: {our:#?} and by hyper {their:#?}");
    match (&our.body, &their.body) {
        (Body::Whole { .. }, Body::Whole { .. }) => assert_eq!(our.body, their.body),
        (Body::Broken(_), Body::Broken(_)) => return false,
        (Body::Broken(fault), Body::Whole { .. }) => {
            let explained = fault.is_some_and(|fault| reasons::stricter_body(fault).is_some());
            assert!(explained, "only we refuse the body, for {fault:?}: {their:#?}");
            return false;
        }
        (Body::Whole { .. }, Body::Broken(_)) => {
            assert!(reasons::looser(our).is_some(), "only hyper refuses the body of {our:#?}");
            return false;
        }
    }
    true
}
