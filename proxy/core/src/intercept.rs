//! Which connections are redirected into the proxy (T1-T4), as rules for iptables-restore.
//!
//! The rules live in chains of our own in the `nat` table, so that they can be replaced and removed without touching
//! anybody else's. [`replace`] takes what `iptables-save` prints and makes one atomic transaction of it that ends in exactly
//! the wanted rules, whatever was there before: running it twice is running it once, and a jump is never doubled.
//! The same function installs, removes (nothing wanted) and rolls back (wanted is what was there before).
//!
//! Outbound, a connection of the application goes to the outbound port, unless it is excluded or stays on the loopback
//! address. Connections of the proxy go where they want, with one exception: to an own address that is not the loopback one
//! they go to the inbound port, so that a workload which calls itself meets its inbound policy as any caller does. Inbound
//! delivers to the application from [`DELIVERY_V4`] or [`DELIVERY_V6`], and that is the exception's exception, or it would
//! call itself for ever. Only TCP is redirected; UDP and ICMP are left alone.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

mod saved;

pub use saved::{installed, replace};

/// Address from which inbound delivers to the local application, IPv4. All of 127.0.0.0/8 is local on Linux.
pub const DELIVERY_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// Address from which inbound delivers to the local application, IPv6. Added to `lo` as /128.
pub const DELIVERY_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// User of the proxy by convention.
pub const PROXY_UID: u32 = 2113;

/// Packet mark of the proxy's connections by convention, where it shares its user with the application. Only who has
/// CAP_NET_ADMIN over the network namespace can set a mark, so the application must not have that.
pub const PROXY_MARK: u32 = 0x2113;

/// DNS over TCP is not captured: resolvers outside the mesh know nothing of it.
const DNS_PORT: u16 = 53;

pub(crate) const CHAIN_PREFIX: &str = "WEFT_";
const INBOUND: &str = "WEFT_INBOUND";
const OUTBOUND: &str = "WEFT_OUTBOUND";
const PROXY: &str = "WEFT_PROXY";

/// Address family of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4: iptables.
    V4,
    /// IPv6: ip6tables.
    V6,
}

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
        }
    }
}

/// Why a configuration cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterceptError {
    /// One port cannot tell outbound from inbound.
    #[error("outbound and inbound port must differ")]
    SamePort,
    /// Port 0 is none.
    #[error("outbound and inbound port must not be 0")]
    NoPort,
    /// Mark 0 is every packet without a mark.
    #[error("mark must not be 0: that is every packet without a mark")]
    NoMark,
    /// The proxy would be redirected into itself.
    #[error("nothing tells the proxy's connections from the application's: give its user, its mark, or both")]
    NoExemption,
}

/// Rules of our chains and the jumps into them, one `iptables` argument line each, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub(crate) chains: Vec<String>,
    pub(crate) rules: Vec<String>,
}

impl InterceptConfig {
    /// The rules for one family.
    ///
    /// # Errors
    /// Any [`InterceptError`].
    pub fn rules(&self, family: Family) -> Result<Rules, InterceptError> {
        if self.outbound_port == self.inbound_port {
            return Err(InterceptError::SamePort);
        }
        if self.outbound_port == 0 || self.inbound_port == 0 {
            return Err(InterceptError::NoPort);
        }
        if self.mark == Some(0) {
            return Err(InterceptError::NoMark);
        }
        if self.proxy_uid.is_none() && self.mark.is_none() {
            return Err(InterceptError::NoExemption);
        }
        let mut list = List(Vec::new());
        self.inbound(&mut list);
        self.outbound(&mut list, family);
        proxy(&mut list, family);
        list.add("PREROUTING", format_args!("-p tcp -j {INBOUND}"));
        list.add("OUTPUT", format_args!("-p tcp -j {OUTBOUND}"));
        Ok(Rules { chains: [INBOUND, OUTBOUND, PROXY].map(str::to_owned).into(), rules: list.0 })
    }

    fn inbound(&self, list: &mut List) {
        for port in self.never_captured().union(&self.exclude_inbound_ports) {
            list.add(INBOUND, format_args!("-p tcp -m tcp --dport {port} -j RETURN"));
        }
        list.add(INBOUND, format_args!("-p tcp -j REDIRECT --to-ports {}", self.inbound_port));
    }

    fn outbound(&self, list: &mut List, family: Family) {
        if let Some(uid) = self.proxy_uid {
            list.add(OUTBOUND, format_args!("-m owner --uid-owner {uid} -g {PROXY}"));
        }
        if let Some(mark) = self.mark {
            list.add(OUTBOUND, format_args!("-m mark --mark {mark:#x} -g {PROXY}"));
        }
        for uid in &self.exclude_uids {
            list.add(OUTBOUND, format_args!("-m owner --uid-owner {uid} -j RETURN"));
        }
        list.add(OUTBOUND, format_args!("-d {} -j RETURN", loopback(family)));
        for port in self.never_captured().union(&self.exclude_outbound_ports) {
            list.add(OUTBOUND, format_args!("-p tcp -m tcp --dport {port} -j RETURN"));
        }
        for net in self.exclude_cidrs.iter().filter(|net| is_of(net.addr(), family)) {
            list.add(OUTBOUND, format_args!("-d {} -j RETURN", net.trunc()));
        }
        list.add(OUTBOUND, format_args!("-p tcp -j REDIRECT --to-ports {}", self.outbound_port));
    }

    fn never_captured(&self) -> BTreeSet<u16> {
        let capture = [self.outbound_port, self.inbound_port, DNS_PORT];
        self.own_ports.iter().copied().chain(capture).collect()
    }
}

/// Connections of the proxy itself. The chain is entered by `-g`, so returning from it ends our rules.
fn proxy(list: &mut List, family: Family) {
    let delivery = match family {
        Family::V4 => format!("{DELIVERY_V4}/32"),
        Family::V6 => format!("{DELIVERY_V6}/128"),
    };
    list.add(PROXY, format_args!("-s {delivery} -j RETURN"));
    list.add(PROXY, format_args!("-d {} -j RETURN", loopback(family)));
    list.add(PROXY, format_args!("-o lo -j {INBOUND}"));
}

fn loopback(family: Family) -> &'static str {
    match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    }
}

fn is_of(address: IpAddr, family: Family) -> bool {
    address.is_ipv4() == (family == Family::V4)
}

struct List(Vec<String>);

impl List {
    fn add(&mut self, chain: &str, rule: std::fmt::Arguments<'_>) {
        self.0.push(format!("{chain} {rule}"));
    }
}

impl Rules {
    /// A transaction that puts these rules into a table which has none of ours.
    #[must_use]
    pub fn transaction(&self) -> String {
        replace("", self)
    }

    fn write_to(&self, text: &mut String) {
        for rule in &self.rules {
            // Writing to a String cannot fail.
            writeln!(text, "-A {rule}").ok();
        }
    }
}

#[cfg(test)]
mod tests;
