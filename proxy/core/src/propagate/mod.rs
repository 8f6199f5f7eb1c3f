//! What of a message's fields is handed on, and what a proxy adds.
//!
//! A transparent proxy changes as little as it can. What it must change follows from three questions, each with a module:
//! which fields end at this hop ([`hop_by_hop`]), which ones speak of the caller and may be believed ([`peer`],
//! [`forwarded`]), and which ones tie the hops of one request together ([`trace`], [`request_id`]). Responses that the
//! proxy makes itself say so ([`own`]).
//!
//! The functions edit [`crate::fields::Fields`] in place and return what records need. The paths call them in this order:
//! hop-by-hop first, so that nothing a peer nominated can remove what is added later.

pub mod forwarded;
pub mod hop_by_hop;
pub mod own;
pub mod peer;
pub mod request_id;
pub mod trace;

mod hex;

#[cfg(test)]
pub(crate) mod testing {
    use crate::entropy::Entropy;
    use crate::fields::Fields;

    /// Counts 1, 2, 3, …, so that tests know which ids are made.
    pub(crate) struct Counting(pub(crate) u64);

    impl Entropy for Counting {
        fn next_u64(&mut self) -> u64 {
            self.0 += 1;
            self.0
        }
    }

    /// Fields from lines `name: value`.
    pub(crate) fn fields(lines: &[&str]) -> Fields {
        lines.iter().map(|line| line.split_once(':').unwrap_or_else(|| panic!("{line:?} has no colon"))).collect()
    }

    /// The fields as lines `name: value`.
    pub(crate) fn lines(fields: &Fields) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
    }
}
