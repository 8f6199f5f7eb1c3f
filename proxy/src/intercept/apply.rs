//! Puts rules into the current network namespace: both families or neither.
//!
//! The hosts' own tools are used instead of a netlink library of our own, because `iptables` knows which of the two kernel
//! backends (legacy or nf_tables) this host uses, and operators can read and compare the result with tools they know.

use clap::ValueEnum;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use weft_core::intercept::{Family, InterceptConfig, InterceptError, RuleSet};

use super::error::ApplyError;
use super::iptables::Iptables;
use super::netlink::{Change, Delivery, set_delivery_address};
use super::nft::Nft;

/// Who writes the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// iptables; nft where iptables is missing or cannot read its tables.
    #[default]
    Auto,
    /// iptables-restore and ip6tables-restore, of whichever kernel backend the host uses.
    Iptables,
    /// nft, in tables of its own.
    Nft,
}

/// What was done.
#[derive(Debug)]
pub struct Applied {
    /// By whom: `iptables` or `nft`.
    pub by: &'static str,
    /// And for IPv6.
    pub ipv6: Ipv6,
    /// Why the other backend, which is there, could not be asked whether it has rules of ours.
    pub unread: Option<ApplyError>,
}

/// What was done about IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    /// Same as IPv4.
    Done,
    /// The kernel has none; IPv4 alone is complete.
    Absent,
    /// The rules are in place, but IPv6 is switched off on `lo`, so deliveries have no address of their own.
    OffOnLoopback,
}

/// A command, and what it would be fed. Empty input: nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The command line.
    pub command: String,
    /// Its standard input.
    pub input: String,
}

/// One backend, and what it has read of the present rules.
pub(super) trait Writer {
    fn name(&self) -> &'static str;

    /// What [`Writer::write`] would do, in order.
    fn plan(&self, wanted: &[RuleSet]) -> Vec<Step>;

    /// Makes our rules exactly these, of at most one set for each family. When it fails, nothing has changed.
    fn write(&self, wanted: &[RuleSet]) -> Result<(), ApplyError>;
}

/// What [`apply`] would do now. `config`: the rules wanted; `None`: none.
///
/// # Errors
/// Any [`ApplyError`] but those of applying.
pub fn plan(config: Option<&InterceptConfig>, backend: Backend) -> Result<Vec<Step>, ApplyError> {
    let wanted = wanted(config, has_ipv6())?;
    let host = Host::look(backend)?;
    let former = host.other.iter().flat_map(|other| other.plan(&[]));
    let steps = host.chosen.plan(&wanted).into_iter().chain(former);
    Ok(steps.filter(|step| !step.input.is_empty()).collect())
}

/// Makes the current network namespace have exactly the rules of `config`, or none of ours, whichever backend wrote those
/// that are there. Running it again changes nothing. Blocks for as long as the tools take, up to half a minute where
/// somebody else holds their lock.
///
/// # Errors
/// Any [`ApplyError`].
pub fn apply(config: Option<&InterceptConfig>, backend: Backend) -> Result<Applied, ApplyError> {
    let ipv6 = has_ipv6();
    let wanted = wanted(config, ipv6)?;
    // All tools are found before anything is changed.
    let host = Host::look(backend)?;
    let done = if config.is_some() { install(&host, &wanted, ipv6) } else { remove(&host, ipv6) };
    Ok(Applied { by: host.chosen.name(), ipv6: done?, unread: host.unread })
}

fn install(host: &Host, wanted: &[RuleSet], ipv6: bool) -> Result<Ipv6, ApplyError> {
    let change = if ipv6 { set_delivery_address(Delivery::Present) } else { Ok(Change::None) };
    let change = change.map_err(ApplyError::Address)?;
    if let Err(failure) = host.chosen.write(wanted) {
        let undone = if change == Change::Made { set_delivery_address(Delivery::Absent).map(drop) } else { Ok(()) };
        return Err(match undone {
            Ok(()) => failure,
            Err(error) => failure.and_not_put_back(ApplyError::AddressStays(error)),
        });
    }
    // Not before: in between, connections would go uncaptured.
    if let Some(other) = &host.other {
        let stays = |failure| ApplyError::FormerStays { former: other.name(), failure: Box::new(failure) };
        other.write(&[]).map_err(stays)?;
    }
    Ok(outcome(ipv6, change))
}

fn remove(host: &Host, ipv6: bool) -> Result<Ipv6, ApplyError> {
    for writer in std::iter::once(&host.chosen).chain(&host.other) {
        writer.write(&[])?;
    }
    let change = if ipv6 { set_delivery_address(Delivery::Absent) } else { Ok(Change::None) };
    Ok(outcome(ipv6, change.map_err(ApplyError::AddressStays)?))
}

fn outcome(ipv6: bool, address: Change) -> Ipv6 {
    match (ipv6, address) {
        (false, _) => Ipv6::Absent,
        (true, Change::Off) => Ipv6::OffOnLoopback,
        (true, Change::Made | Change::None) => Ipv6::Done,
    }
}

fn wanted(config: Option<&InterceptConfig>, ipv6: bool) -> Result<Vec<RuleSet>, InterceptError> {
    let families = std::iter::once(Family::V4).chain(ipv6.then_some(Family::V6));
    config.map_or_else(|| Ok(Vec::new()), |config| families.map(|family| config.rules(family)).collect())
}

/// Whether the kernel has IPv6. Only its own refusal counts as no, because a wrong no leaves IPv6 uncaptured.
fn has_ipv6() -> bool {
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    !matches!(socket, Err(Errno::EAFNOSUPPORT))
}

/// The backends of this host.
struct Host {
    chosen: Box<dyn Writer>,
    /// Loses its rules, if it has any.
    other: Option<Box<dyn Writer>>,
    /// What was wrong with the other, unless it is missing.
    unread: Option<ApplyError>,
}

impl Host {
    fn look(backend: Backend) -> Result<Self, ApplyError> {
        let iptables = Iptables::find(has_ipv6()).map(|found| Box::new(found) as Box<dyn Writer>);
        let nft = Nft::find().map(|found| Box::new(found) as Box<dyn Writer>);
        match backend {
            Backend::Iptables => Ok(Self::of(iptables?, nft)),
            Backend::Nft => Ok(Self::of(nft?, iptables)),
            Backend::Auto => match (iptables, nft) {
                (Ok(iptables), nft) => Ok(Self::of(iptables, nft)),
                (Err(failure), Ok(nft)) => Ok(Self::of(nft, Err(failure))),
                (Err(ApplyError::Missing { .. }), Err(ApplyError::Missing { .. })) => Err(ApplyError::NoBackend),
                (Err(ApplyError::Missing { .. }), Err(failure)) | (Err(failure), Err(_)) => Err(failure),
            },
        }
    }

    fn of(chosen: Box<dyn Writer>, other: Result<Box<dyn Writer>, ApplyError>) -> Self {
        let (other, unread) = match other {
            Ok(other) => (Some(other), None),
            Err(ApplyError::Missing { .. }) => (None, None),
            Err(failure) => (None, Some(failure)),
        };
        Self { chosen, other, unread }
    }
}
