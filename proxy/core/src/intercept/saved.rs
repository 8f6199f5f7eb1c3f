//! From the table as it is to the table as it should be.

use std::fmt::Write as _;

use super::{CHAIN_PREFIX, Rules};

/// The part of a `nat` table that is ours, as `iptables-save -t nat` prints it.
#[must_use]
pub fn installed(saved: &str) -> Rules {
    let mut ours = Rules::default();
    for line in saved.lines().map(str::trim) {
        if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            if chain.starts_with(CHAIN_PREFIX) {
                ours.chains.push(chain.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ")
            && (rule.starts_with(CHAIN_PREFIX) || target(rule).is_some_and(|to| to.starts_with(CHAIN_PREFIX)))
        {
            ours.rules.push(rule.to_owned());
        }
    }
    ours
}

/// One transaction for `iptables-restore --noflush` that leaves exactly the `wanted` of our rules in the table that
/// `iptables-save -t nat` printed as `saved`. Empty when there is nothing to do: none are wanted and none are there.
#[must_use]
pub fn replace(saved: &str, wanted: &Rules) -> String {
    let present = installed(saved);
    if wanted.chains.is_empty() && present.chains.is_empty() && present.rules.is_empty() {
        return String::new();
    }
    let mut text = String::from("*nat\n");
    // Naming one of our chains creates it, or empties it if it is there.
    let unwanted = present.chains.iter().filter(|chain| !wanted.chains.contains(chain));
    for chain in wanted.chains.iter().chain(unwanted.clone()) {
        writeln!(text, ":{chain} - [0:0]").ok();
    }
    // What is left of ours are the jumps in chains that are not ours.
    for jump in present.rules.iter().filter(|rule| !rule.starts_with(CHAIN_PREFIX)) {
        writeln!(text, "-D {jump}").ok();
    }
    wanted.write_to(&mut text);
    for chain in unwanted {
        writeln!(text, "-X {chain}").ok();
    }
    text.push_str("COMMIT\n");
    text
}

/// Where a rule jumps or goes to.
fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ');
    words.find(|word| matches!(*word, "-j" | "-g")).and_then(|_| words.next())
}
