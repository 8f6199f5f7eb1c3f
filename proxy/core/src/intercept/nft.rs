//! Rules for `nft`, in tables of our own, `weft` of each family.
//!
//! A table of one's own is replaced whole and removed without a trace, so nothing needs to be read first. Its chains come
//! right after the place where destinations are rewritten by everybody else, iptables among them: what was given another
//! destination there is not ours, as with our rules at the end of iptables' chains.

use std::fmt::Write as _;

use super::DNS_PORT;
use super::rule::{Action, Chain, Condition, Family, Rule, RuleSet};

/// Where iptables has its `nat` chains (`dstnat`), and one. As a number, because `nft` knows no name for it in the output hook.
const PRIORITY: i32 = -100 + 1;

/// Before the same.
const PRIORITY_FIRST: i32 = -100 - 1;

/// Before connections are looked up (`raw`).
const PRIORITY_RAW: i32 = -300;

/// One transaction for `nft -f -` that makes our tables exactly these, whatever is there.
#[must_use]
pub fn replace(wanted: &[RuleSet]) -> String {
    let mut text = String::new();
    for rules in wanted {
        let table = table(rules.family);
        // Removing what is not there is an error, and adding what is there is none. Writing to a String cannot fail.
        writeln!(text, "add table {table}\ndelete table {table}\ntable {table} {{").ok();
        let entries = [Chain::Prerouting, Chain::Output, Chain::OutputFirst, Chain::OutputRaw];
        for chain in Chain::OURS.into_iter().chain(entries).filter(|chain| rules.uses(*chain)) {
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
        Chain::Prerouting => Some(("nat", "prerouting", PRIORITY)),
        Chain::Output => Some(("nat", "output", PRIORITY)),
        Chain::OutputFirst => Some(("nat", "output", PRIORITY_FIRST)),
        Chain::OutputRaw => Some(("filter", "output", PRIORITY_RAW)),
        Chain::Inbound | Chain::Outbound | Chain::Proxy | Chain::Dns | Chain::DnsZone => None,
    };
    if let Some((kind, hook, priority)) = hook {
        writeln!(text, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;").ok();
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
        Some(Condition::Question(transport)) => format!("{} dport {DNS_PORT}", transport.name()),
        Some(Condition::QuestionTo(transport, server)) => {
            format!("{ip} daddr {server} {} dport {DNS_PORT}", transport.name())
        }
        Some(Condition::OverLoopback) => "oifname \"lo\"".to_owned(),
    }
}

fn action(action: Action) -> String {
    match action {
        Action::Return => "return".to_owned(),
        Action::Jump(chain) => format!("jump {}", name(chain)),
        Action::Goto(chain) => format!("goto {}", name(chain)),
        Action::Redirect(port) => format!("redirect to :{port}"),
        Action::Zone(zone) => format!("ct original zone set {zone}"),
    }
}

fn name(chain: Chain) -> &'static str {
    match chain {
        Chain::Inbound => "inbound",
        Chain::Outbound => "outbound",
        Chain::Proxy => "proxy",
        Chain::Prerouting => "prerouting",
        Chain::Output => "output",
        Chain::Dns => "dns",
        Chain::DnsZone => "dns_zone",
        Chain::OutputFirst => "output_first",
        Chain::OutputRaw => "output_raw",
    }
}
