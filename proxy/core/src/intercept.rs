//! Which connections are redirected into the proxy (T1-T5). [`InterceptConfig::rules`] decides; [`iptables`] and [`nft`] say
//! the same in the language of either tool.
//!
//! Outbound, a connection of the application goes to the outbound port, unless it is excluded or stays on the loopback
//! address. Connections of the proxy go where they want, with one exception: to an own address that is not the loopback one
//! they go to the inbound port, so that a workload which calls itself meets its inbound policy as any caller does. Inbound
//! delivers to the application from [`DELIVERY_V4`] or [`DELIVERY_V6`], and that is the exception's exception, or it would
//! call itself for ever. Of UDP only questions to name servers are redirected, and those where [`InterceptConfig::dns`] says
//! so.
//!
//! A question to a name server that the workload's resolv.conf names goes to the resolver in the proxy, which answers from the
//! mesh or asks that server itself. Others are left alone: who asks a certain server means it, and one on this host (Docker's,
//! systemd-resolved) must reach the servers behind it. Those rules come first of all, because Docker itself gives questions to
//! its server another destination. The kernel remembers for half a minute from which port to which server a question went,
//! and treats the next one from there alike. So that one of the proxy's never meets the memory of one of the application's,
//! or the other way round, those of the application are remembered apart, in [`DNS_ZONE`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

pub mod iptables;
pub mod nft;
mod rule;

use rule::{Action, Chain, Condition, Rule, Transport};
pub use rule::{Family, RuleSet};

/// Address from which inbound delivers to the local application, IPv4. All of 127.0.0.0/8 is local on Linux.
pub const DELIVERY_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// Address from which inbound delivers to the local application, IPv6. Added to `lo` as /128.
pub const DELIVERY_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// User of the proxy by convention.
pub const PROXY_UID: u32 = 2113;

/// Packet mark of the proxy's connections by convention, where it shares its user with the application. Only who has
/// CAP_NET_ADMIN over the network namespace can set a mark, so the application must not have that.
pub const PROXY_MARK: u32 = 0x2113;

/// Port of name servers. Where questions to them are not led to the resolver, they are not captured by TCP either: servers
/// outside the mesh know nothing of it.
pub const DNS_PORT: u16 = 53;

/// Conntrack zone of the application's questions to name servers.
pub const DNS_ZONE: u16 = 0x2113;

const LOOPBACK_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// What to redirect, and what not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterceptConfig {
    /// Port on which the proxy takes connections of the application. Default 15001.
    pub outbound_port: u16,
    /// Port on which the proxy takes connections to the application. Default 15006.
    pub inbound_port: u16,
    /// Further ports of the proxy (status 15020, DNS 15053), never captured in either direction.
    pub own_ports: BTreeSet<u16>,
    /// User whose connections are the proxy's. Default [`PROXY_UID`]. `None` where the proxy has no user of its own: in a
    /// user namespace that maps a single one, the kernel refuses a rule that names another.
    pub proxy_uid: Option<u32>,
    /// Packet mark that says the same: [`PROXY_MARK`] by convention.
    pub mark: Option<u32>,
    /// Connections to these local ports go straight to the application.
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Connections to these remote ports go straight to their destination.
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Connections to these networks go straight to their destination.
    pub exclude_cidrs: BTreeSet<IpNet>,
    /// Connections of these users go straight to their destination.
    pub exclude_uids: BTreeSet<u32>,
    /// Which questions to name servers go to the proxy's resolver. Default: none.
    pub dns: Option<DnsCapture>,
}

/// Questions to name servers that go to the proxy's resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsCapture {
    /// Port of the resolver, on the loopback address of either family.
    pub port: u16,
    /// The servers.
    pub servers: BTreeSet<IpAddr>,
}

impl Default for InterceptConfig {
    fn default() -> Self {
        Self {
            outbound_port: 15001,
            inbound_port: 15006,
            own_ports: BTreeSet::from([15020, 15053]),
            proxy_uid: Some(PROXY_UID),
            mark: None,
            exclude_inbound_ports: BTreeSet::new(),
            exclude_outbound_ports: BTreeSet::new(),
            exclude_cidrs: BTreeSet::new(),
            exclude_uids: BTreeSet::new(),
            dns: None,
        }
    }
}

/// Why a configuration cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterceptError {
    /// One port cannot tell outbound from inbound.
    #[error("outbound, inbound and resolver's port must differ")]
    SamePort,
    /// Port 0 is none.
    #[error("outbound, inbound and resolver's port must not be 0")]
    NoPort,
    /// Mark 0 is every packet without a mark.
    #[error("mark must not be 0: that is every packet without a mark")]
    NoMark,
    /// The proxy would be redirected into itself.
    #[error("nothing tells the proxy's connections from the application's: give its user, its mark, or both")]
    NoExemption,
}

impl InterceptConfig {
    /// The rules for one family.
    ///
    /// # Errors
    /// Any [`InterceptError`].
    pub fn rules(&self, family: Family) -> Result<RuleSet, InterceptError> {
        let dns = self.dns.as_ref().map(|dns| dns.port);
        if self.outbound_port == self.inbound_port || [self.outbound_port, self.inbound_port].map(Some).contains(&dns) {
            return Err(InterceptError::SamePort);
        }
        if self.outbound_port == 0 || self.inbound_port == 0 || dns == Some(0) {
            return Err(InterceptError::NoPort);
        }
        if self.mark == Some(0) {
            return Err(InterceptError::NoMark);
        }
        if self.proxy_uid.is_none() && self.mark.is_none() {
            return Err(InterceptError::NoExemption);
        }
        let mut rules = Vec::new();
        self.inbound(&mut List { chain: Chain::Inbound, rules: &mut rules });
        self.outbound(&mut List { chain: Chain::Outbound, rules: &mut rules }, family);
        proxy(&mut List { chain: Chain::Proxy, rules: &mut rules }, family);
        List { chain: Chain::Prerouting, rules: &mut rules }.add(None, Action::Jump(Chain::Inbound));
        List { chain: Chain::Output, rules: &mut rules }.add(None, Action::Jump(Chain::Outbound));
        if let Some(dns) = &self.dns {
            self.questions(dns, &mut rules, family);
        }
        Ok(RuleSet { family, rules })
    }

    fn inbound(&self, list: &mut List<'_>) {
        for port in self.never_captured().union(&self.exclude_inbound_ports) {
            list.add(Condition::ToPort(*port), Action::Return);
        }
        list.add(None, Action::Redirect(self.inbound_port));
    }

    fn outbound(&self, list: &mut List<'_>, family: Family) {
        if let Some(uid) = self.proxy_uid {
            list.add(Condition::Uid(uid), Action::Goto(Chain::Proxy));
        }
        if let Some(mark) = self.mark {
            list.add(Condition::Mark(mark), Action::Goto(Chain::Proxy));
        }
        for uid in &self.exclude_uids {
            list.add(Condition::Uid(*uid), Action::Return);
        }
        list.add(Condition::To(loopback(family)), Action::Return);
        for port in self.never_captured().union(&self.exclude_outbound_ports) {
            list.add(Condition::ToPort(*port), Action::Return);
        }
        self.excluded_networks(list, family);
        list.add(None, Action::Redirect(self.outbound_port));
    }

    /// Name servers to which questions are redirected: those that are not excluded. `None` where none should be.
    #[must_use]
    pub fn redirected_servers(&self) -> Option<BTreeSet<IpAddr>> {
        let excluded = |server: &IpAddr| self.exclude_cidrs.iter().any(|net| net.contains(server));
        let dns = self.dns.as_ref()?;
        Some(dns.servers.iter().copied().filter(|server| !excluded(server)).collect())
    }

    fn excluded_networks(&self, list: &mut List<'_>, family: Family) {
        for net in self.exclude_cidrs.iter().filter(|net| family.has(net.addr())) {
            list.add(Condition::To(net.trunc()), Action::Return);
        }
    }

    fn questions(&self, dns: &DnsCapture, rules: &mut Vec<Rule>, family: Family) {
        let servers = || dns.servers.iter().copied().filter(|server| family.has(*server));
        let list = &mut List { chain: Chain::Dns, rules };
        self.unasked(list, family);
        for (server, transport) in servers().flat_map(|server| Transport::BOTH.map(|transport| (server, transport))) {
            list.add(Condition::QuestionTo(transport, server), Action::Redirect(dns.port));
        }
        // Connections of TCP have an end, and with it the memory of them.
        let list = &mut List { chain: Chain::DnsZone, rules };
        self.unasked(list, family);
        for server in servers() {
            list.add(Condition::QuestionTo(Transport::Udp, server), Action::Zone(DNS_ZONE));
        }
        let list = &mut List { chain: Chain::OutputFirst, rules };
        for transport in Transport::BOTH {
            list.add(Condition::Question(transport), Action::Jump(Chain::Dns));
        }
        let list = &mut List { chain: Chain::OutputRaw, rules };
        list.add(Condition::Question(Transport::Udp), Action::Jump(Chain::DnsZone));
    }

    /// Whose questions go where they are sent.
    fn unasked(&self, list: &mut List<'_>, family: Family) {
        for uid in self.proxy_uid.iter().chain(&self.exclude_uids) {
            list.add(Condition::Uid(*uid), Action::Return);
        }
        if let Some(mark) = self.mark {
            list.add(Condition::Mark(mark), Action::Return);
        }
        self.excluded_networks(list, family);
    }

    fn never_captured(&self) -> BTreeSet<u16> {
        let capture = [self.outbound_port, self.inbound_port, DNS_PORT];
        let dns = self.dns.as_ref().map(|dns| dns.port);
        self.own_ports.iter().copied().chain(capture).chain(dns).collect()
    }
}

/// Connections of the proxy itself. The chain is entered by [`Action::Goto`], so returning from it ends our rules.
fn proxy(list: &mut List<'_>, family: Family) {
    let delivery = match family {
        Family::V4 => IpNet::from(IpAddr::V4(DELIVERY_V4)),
        Family::V6 => IpNet::from(IpAddr::V6(DELIVERY_V6)),
    };
    list.add(Condition::From(delivery), Action::Return);
    list.add(Condition::To(loopback(family)), Action::Return);
    list.add(Condition::OverLoopback, Action::Jump(Chain::Inbound));
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => LOOPBACK_V4.into(),
        Family::V6 => IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    }
}

/// One chain's part of the rules.
struct List<'a> {
    chain: Chain,
    rules: &'a mut Vec<Rule>,
}

impl List<'_> {
    fn add(&mut self, condition: impl Into<Option<Condition>>, action: Action) {
        self.rules.push(Rule { chain: self.chain, condition: condition.into(), action });
    }
}

#[cfg(test)]
mod tests;
