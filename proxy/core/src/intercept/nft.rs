//! Rules for `nft`, in tables of our own, `weft` of each family.
//!
//! A table of one's own is replaced whole and removed without a trace, so nothing needs to be read first. Its chains come
//! right after the place where destinations are rewritten by everybody else, iptables among them: what was given another
//! destination there is not ours, as with our rules at the end of iptables' chains.

use std::fmt::Write as _;

use super::rule::{Action, Chain, Condition, Family, Rule, RuleSet};

/// Where iptables has its `nat` chains (`dstnat`), and one. As a number, because `nft` knows no name for it in the output hook.
const PRIORITY: i32 = -100 + 1;

/// One transaction for `nft -f -` that makes our tables exactly these, whatever is there.
#[must_use]
pub fn replace(wanted: &[RuleSet]) -> String {
    let mut text = String::new();
    for rules in wanted {
        let table = table(rules.family);
        // Removing what is not there is an error, and adding what is there is none. Writing to a String cannot fail.
        writeln!(text, "add table {table}\ndelete table {table}\ntable {table} {{").ok();
        for chain in Chain::OURS.into_iter().chain([Chain::Prerouting, Chain::Output]) {
            write_chain(&mut text, chain, rules);
        }
        text.push_str("}\n");
    }
    text
}

/// One transaction that removes those of our tables that `nft list tables` printed. Empty when there are none.
#[must_use]
pub fn remove(listed: &str) -> String {
    let tables = [Family::V4, Family::V6].map(table);
    let present = tables.into_iter().filter(|ours| listed.lines().any(|line| line == format!("table {ours}")));
    present.fold(String::new(), |text, table| text + "delete table " + table + "\n")
}

fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip weft",
        Family::V6 => "ip6 weft",
    }
}

fn write_chain(text: &mut String, chain: Chain, rules: &RuleSet) {
    writeln!(text, "\tchain {} {{", name(chain)).ok();
    let hook = match chain {
        Chain::Prerouting => Some("prerouting"),
        Chain::Output => Some("output"),
        Chain::Inbound | Chain::Outbound | Chain::Proxy => None,
    };
    if let Some(hook) = hook {
        writeln!(text, "\t\ttype nat hook {hook} priority {PRIORITY}; policy accept;").ok();
    }
    for rule in rules.rules.iter().filter(|rule| rule.chain == chain) {
        writeln!(text, "\t\t{} {}", condition(rule, rules.family), action(rule.action)).ok();
    }
    text.push_str("\t}\n");
}

fn condition(rule: &Rule, family: Family) -> String {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    match rule.condition {
        // Said in each such rule: only with it may a rule redirect.
        None => "meta l4proto tcp".to_owned(),
        Some(Condition::Uid(uid)) => format!("meta skuid {uid}"),
        Some(Condition::Mark(mark)) => format!("meta mark {mark:#x}"),
        Some(Condition::From(net)) => format!("{ip} saddr {net}"),
        Some(Condition::To(net)) => format!("{ip} daddr {net}"),
        Some(Condition::ToPort(port)) => format!("tcp dport {port}"),
        Some(Condition::OverLoopback) => "oifname \"lo\"".to_owned(),
    }
}

fn action(action: Action) -> String {
    match action {
        Action::Return => "return".to_owned(),
        Action::Jump(chain) => format!("jump {}", name(chain)),
        Action::Goto(chain) => format!("goto {}", name(chain)),
        Action::Redirect(port) => format!("redirect to :{port}"),
    }
}

fn name(chain: Chain) -> &'static str {
    match chain {
        Chain::Inbound => "inbound",
        Chain::Outbound => "outbound",
        Chain::Proxy => "proxy",
        Chain::Prerouting => "prerouting",
        Chain::Output => "output",
    }
}
