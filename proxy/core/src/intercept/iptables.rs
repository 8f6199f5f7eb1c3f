//! Rules for iptables-restore.
//!
//! They live in chains of our own, in the `nat` table and, where questions to name servers are redirected, in `raw`, so that
//! they can be replaced and removed without touching anybody else's. [`replace`] takes what `iptables-save` prints of a table
//! and makes one atomic transaction of it that ends in exactly the
//! wanted rules, whatever was there before: running it twice is running it once, and a jump is never doubled. The same
//! function installs, removes (nothing wanted) and rolls back (wanted is what was there before).

use std::fmt::Write as _;

use ipnet::IpNet;

use super::DNS_PORT;
use super::rule::{Action, Chain, Condition, Rule, RuleSet};

const CHAIN_PREFIX: &str = "WEFT_";

/// Whoever jumps there does so before all else in its chain.
const FIRST: &str = "WEFT_DNS";

/// A table with rules of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Rewrites destinations.
    Nat,
    /// Is asked before connections are looked up. Never has rules of ours where [`Table::Nat`] [asks for none](Rules::need_raw):
    /// a table that is only looked at may cost every packet of this host from then on.
    Raw,
}

impl Table {
    /// As the tools call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Raw => "raw",
        }
    }

    fn of(chain: Chain) -> Self {
        match chain {
            Chain::Inbound | Chain::Outbound | Chain::Proxy | Chain::Dns => Self::Nat,
            Chain::Prerouting | Chain::Output | Chain::OutputFirst => Self::Nat,
            Chain::DnsZone | Chain::OutputRaw => Self::Raw,
        }
    }
}

/// Rules of our chains and the jumps into them, one `iptables` argument line each, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    chains: Vec<String>,
    rules: Vec<String>,
}

impl Rules {
    /// The part of a rule set that belongs into a table.
    #[must_use]
    pub fn of(set: &RuleSet, table: Table) -> Self {
        let ours = Chain::OURS.into_iter().filter(|chain| Table::of(*chain) == table && set.uses(*chain));
        let rules = set.rules.iter().filter(|rule| Table::of(rule.chain) == table);
        Self { chains: ours.map(|chain| name(chain).to_owned()).collect(), rules: rules.map(line).collect() }
    }

    /// Of [`Table::Nat`]: whether [`Table::Raw`] has rules of ours, too.
    #[must_use]
    pub fn need_raw(&self) -> bool {
        self.chains.iter().any(|chain| chain == FIRST)
    }
}

fn line(rule: &Rule) -> String {
    let condition = match rule.condition {
        None => "-p tcp".to_owned(),
        Some(Condition::Uid(uid)) => format!("-m owner --uid-owner {uid}"),
        Some(Condition::Mark(mark)) => format!("-m mark --mark {mark:#x}"),
        Some(Condition::From(net)) => format!("-s {net}"),
        Some(Condition::To(net)) => format!("-d {net}"),
        Some(Condition::ToPort(port)) => format!("-p tcp -m tcp --dport {port}"),
        Some(Condition::Question(transport)) => format!("-p {0} -m {0} --dport {DNS_PORT}", transport.name()),
        Some(Condition::QuestionTo(transport, server)) => {
            format!("-d {} -p {1} -m {1} --dport {DNS_PORT}", IpNet::from(server), transport.name())
        }
        Some(Condition::OverLoopback) => "-o lo".to_owned(),
    };
    let action = match rule.action {
        Action::Return => "-j RETURN".to_owned(),
        Action::Jump(chain) => format!("-j {}", name(chain)),
        Action::Goto(chain) => format!("-g {}", name(chain)),
        Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Action::Zone(zone) => format!("-j CT --zone-orig {zone}"),
    };
    format!("{} {condition} {action}", name(rule.chain))
}

/// As `iptables-save` prints it.
fn name(chain: Chain) -> &'static str {
    match chain {
        Chain::Inbound => "WEFT_INBOUND",
        Chain::Outbound => "WEFT_OUTBOUND",
        Chain::Proxy => "WEFT_PROXY",
        Chain::Prerouting => "PREROUTING",
        Chain::Dns => FIRST,
        Chain::DnsZone => "WEFT_DNS_ZONE",
        Chain::Output | Chain::OutputFirst | Chain::OutputRaw => "OUTPUT",
    }
}

/// The part of a table that is ours, as `iptables-save -t TABLE` prints it.
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

/// One transaction for `iptables-restore --noflush` that leaves exactly the `wanted` of our rules in the `table` that
/// `iptables-save -t` printed as `saved`. Empty when there is nothing to do: none are wanted and none are there.
#[must_use]
pub fn replace(table: Table, saved: &str, wanted: &Rules) -> String {
    let present = installed(saved);
    if wanted.chains.is_empty() && present.chains.is_empty() && present.rules.is_empty() {
        return String::new();
    }
    let mut text = format!("*{}\n", table.name());
    // Naming one of our chains creates it, or empties it if it is there.
    let unwanted = present.chains.iter().filter(|chain| !wanted.chains.contains(chain));
    for chain in wanted.chains.iter().chain(unwanted.clone()) {
        writeln!(text, ":{chain} - [0:0]").ok();
    }
    // What is left of ours are the jumps in chains that are not ours.
    for jump in present.rules.iter().filter(|rule| !rule.starts_with(CHAIN_PREFIX)) {
        writeln!(text, "-D {jump}").ok();
    }
    let mut first = 0;
    for rule in &wanted.rules {
        // Writing to a String cannot fail.
        match rule.split_once(' ') {
            Some((chain, rest)) if !chain.starts_with(CHAIN_PREFIX) && target(rule) == Some(FIRST) => {
                first += 1;
                writeln!(text, "-I {chain} {first} {rest}").ok();
            }
            _ => {
                writeln!(text, "-A {rule}").ok();
            }
        }
    }
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
