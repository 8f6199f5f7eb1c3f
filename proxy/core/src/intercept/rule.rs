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
}

/// A chain, and what it asks about TCP packets that get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub chain: Chain,
    /// `None`: all.
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
    /// What comes to this host.
    Prerouting,
    /// What this host sends.
    Output,
}

impl Chain {
    /// In the order in which they are written.
    pub(super) const OURS: [Self; 3] = [Self::Inbound, Self::Outbound, Self::Proxy];
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
}
