//! Rules in neither tool's language.

use std::net::IpAddr;

use ipnet::IpNet;

/// Address family of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(super) fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// All rules for one family, those of a chain in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    pub(super) family: Family,
    pub(super) rules: Vec<Rule>,
}

impl RuleSet {
    /// Whose packets they are for.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    pub(super) fn uses(&self, chain: Chain) -> bool {
        self.rules.iter().any(|rule| rule.chain == chain)
    }
}

/// A chain, and what it asks about packets that get there: of TCP, and those of questions to name servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub chain: Chain,
    /// `None`: all of TCP.
    pub condition: Option<Condition>,
    pub action: Action,
}

/// Our chains, and the two of the kernel from which they are entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// To the application.
    Inbound,
    /// From anybody on this host.
    Outbound,
    /// From the proxy.
    Proxy,
    /// Questions to name servers.
    Dns,
    /// The same before their connection is looked up.
    DnsZone,
    /// What comes to this host.
    Prerouting,
    /// What this host sends.
    Output,
    /// As [`Self::Output`], before anybody else gives it another destination.
    OutputFirst,
    /// As [`Self::Output`], before its connection is looked up.
    OutputRaw,
}

impl Chain {
    /// In the order in which they are written.
    pub(super) const OURS: [Self; 5] = [Self::Inbound, Self::Outbound, Self::Proxy, Self::Dns, Self::DnsZone];
}

/// How a question goes to a name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub(super) const BOTH: [Self; 2] = [Self::Udp, Self::Tcp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The sender's user.
    Uid(u32),
    /// The whole packet mark.
    Mark(u32),
    From(IpNet),
    To(IpNet),
    ToPort(u16),
    /// To a name server, whichever.
    Question(Transport),
    /// To this name server.
    QuestionTo(Transport, IpAddr),
    /// Goes out by the loopback interface: to an address of this host.
    OverLoopback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Back to where the chain was entered from.
    Return,
    Jump(Chain),
    /// As a jump, but what returns from there returns from here, too.
    Goto(Chain),
    /// To this port of the proxy.
    Redirect(u16),
    /// Its connection is told from others between the same addresses and ports.
    Zone(u16),
}
