//! The corpus.

mod bodies;
mod heads;
mod interims;
mod resets;
mod streams;

use crate::script::Exchange;

pub(crate) fn all() -> Vec<Exchange> {
    let all = [heads::all(), bodies::all(), interims::all(), resets::all(), streams::all()].concat();
    let mut names: Vec<_> = all.iter().map(|exchange| exchange.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len(), "two exchanges have one name");
    all
}
