//! Puts rules into the current network namespace: both families or neither.
//!
//! The hosts' own tools are used instead of a netlink library of our own, because `iptables` knows which of the two kernel
//! backends (legacy or nf_tables) this host uses, and operators can read and compare the result with tools they know.

use std::path::Path;

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
    /// iptables; nft where iptables is missing, or cannot read or write its tables.
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
    /// Why the backend that comes first did not do it.
    pub instead: Option<ApplyError>,
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
    let mut host = Host::look(backend)?;
    let (ipv6, instead) =
        if config.is_some() { install(&mut host, &wanted, ipv6)? } else { (remove(&host, ipv6)?, None) };
    Ok(Applied { by: host.chosen.name(), ipv6, unread: host.unread, instead })
}

fn install(host: &mut Host, wanted: &[RuleSet], ipv6: bool) -> Result<(Ipv6, Option<ApplyError>), ApplyError> {
    let change = if ipv6 { set_delivery_address(Delivery::Present) } else { Ok(Change::None) };
    let change = change.map_err(ApplyError::Address)?;
    let instead = host.write(wanted).map_err(|failure| {
        let undone = if change == Change::Made { set_delivery_address(Delivery::Absent).map(drop) } else { Ok(()) };
        match undone {
            Ok(()) => failure,
            Err(error) => failure.and_not_put_back(ApplyError::AddressStays(error)),
        }
    })?;
    // Not before: in between, connections would go uncaptured.
    if let Some(other) = &host.other {
        let stays = |failure| ApplyError::FormerStays { former: other.name(), failure: Box::new(failure) };
        other.write(&[]).map_err(stays)?;
    }
    Ok((outcome(ipv6, change), instead))
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

/// Whether the kernel has IPv6. What is not sure counts as yes, because a wrong no leaves IPv6 uncaptured, while a wrong
/// yes is an error.
fn has_ipv6() -> bool {
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    // A filter of this process's system calls says the same (systemd's RestrictAddressFamilies).
    !matches!(socket, Err(Errno::EAFNOSUPPORT)) || !lacks_ipv6(Path::new("/proc/thread-self/net"))
}

/// Whether the kernel's list of what the network namespace has is there, and IPv6 is not on it.
fn lacks_ipv6(list: &Path) -> bool {
    matches!((list.join("if_inet6").try_exists(), list.join("dev").try_exists()), (Ok(false), Ok(true)))
}

/// The backends of this host.
struct Host {
    chosen: Box<dyn Writer>,
    /// The other would do as well.
    any: bool,
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
                (Ok(iptables), nft) => Ok(Self { any: true, ..Self::of(iptables, nft) }),
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
        Self { chosen, any: false, other, unread }
    }

    /// Has the rules written. Kernels without the modules of one backend often have those of the other, and only writing
    /// shows it; so where any will do, the other is tried next and takes the first one's place. One that has rules of
    /// ours has shown that it can: what it says then is about something else. Gives why it was the other.
    fn write(&mut self, wanted: &[RuleSet]) -> Result<Option<ApplyError>, ApplyError> {
        let Err(failure) = self.chosen.write(wanted) else { return Ok(None) };
        let has_ours = self.chosen.plan(&[]).iter().any(|step| !step.input.is_empty());
        let half = matches!(failure, ApplyError::HalfApplied { .. });
        let Some(other) = self.other.as_mut().filter(|_| self.any && !has_ours && !half) else { return Err(failure) };
        match other.write(wanted) {
            Ok(()) => {
                std::mem::swap(&mut self.chosen, other);
                Ok(Some(failure))
            }
            Err(second) => Err(ApplyError::Neither { first: Box::new(failure), second: Box::new(second) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A backend that writes or not.
    struct Fake {
        name: &'static str,
        fails: bool,
        has_ours: bool,
        written: Rc<Cell<u32>>,
    }

    impl Writer for Fake {
        fn name(&self) -> &'static str {
            self.name
        }

        fn plan(&self, _: &[RuleSet]) -> Vec<Step> {
            let input = if self.has_ours { "remove".to_owned() } else { String::new() };
            vec![Step { command: self.name.to_owned(), input }]
        }

        fn write(&self, _: &[RuleSet]) -> Result<(), ApplyError> {
            if self.fails {
                return Err(ApplyError::Tool { tool: self.name.to_owned(), reason: "not supported".to_owned() });
            }
            self.written.set(self.written.get() + 1);
            Ok(())
        }
    }

    #[test]
    fn where_any_backend_will_do_the_other_is_tried() {
        let check = |any, fails: [bool; 2], has_ours, expected: Result<(&str, bool), &str>| {
            let fake = |name, fails, has_ours| Fake { name, fails, has_ours, written: Rc::default() };
            let (first, second) = (fake("iptables", fails[0], has_ours), fake("nft", fails[1], false));
            let written = [Rc::clone(&first.written), Rc::clone(&second.written)];
            let mut host = Host { any, ..Host::of(Box::new(first), Ok(Box::new(second))) };
            let done = host.write(&wanted(Some(&InterceptConfig::default()), true).unwrap());
            match (done, expected) {
                (Ok(instead), Ok((by, expected))) => {
                    assert_eq!((host.chosen.name(), instead.is_some()), (by, expected));
                    assert_eq!(written.map(|count| count.get()).iter().sum::<u32>(), 1, "by one of them");
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error} lacks {part}"),
                (done, expected) => panic!("{done:?} instead of {expected:?}"),
            }
        };
        check(true, [false, false], false, Ok(("iptables", false)));
        check(true, [true, false], false, Ok(("nft", true)));
        check(true, [true, true], false, Err("nor by the other backend: nft failed"));
        check(true, [true, false], true, Err("iptables failed"));
        check(false, [true, false], false, Err("iptables failed"));
    }

    #[test]
    fn only_the_kernels_own_list_says_that_there_is_no_ipv6() {
        let list = tempfile::tempdir().unwrap();
        assert!(!lacks_ipv6(list.path()), "no list");
        std::fs::write(list.path().join("dev"), "").unwrap();
        assert!(lacks_ipv6(list.path()), "a list without it");
        std::fs::write(list.path().join("if_inet6"), "").unwrap();
        assert!(!lacks_ipv6(list.path()), "switched off everywhere, but there");
        assert!(Path::new("/proc/thread-self/net/dev").exists(), "so it is called");
    }
}
