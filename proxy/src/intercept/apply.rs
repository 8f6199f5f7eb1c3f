//! Puts rules into the current network namespace: both families or neither.
//!
//! The `iptables` tools are used instead of a netlink library of our own, because they know which of the two kernel
//! backends (legacy or nf_tables) this host uses, and operators can read and compare the result with tools they know.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use weft_core::intercept::{Family, InterceptConfig, InterceptError, Rules, installed, replace};

use super::netlink::{Delivery, set_delivery_address};

/// Where administrators' tools are when the search path of a container forgets them. The search path comes first.
const DIRECTORIES: [&str; 4] = ["", "/usr/sbin/", "/sbin/", "/usr/local/sbin/"];

/// Names by which distributions ship the tools: the host's choice, then each backend by name.
const VARIANTS: [&str; 3] = ["", "-nft", "-legacy"];

/// Why rules could not be applied. Where one family failed, the other has been put back as it was.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] InterceptError),
    /// No tool was found.
    #[error("{0}-save and {0}-restore not found; on Debian and Ubuntu: apt-get install iptables")]
    Missing(&'static str),
    /// A tool was found and failed.
    #[error("{tool} failed: {reason} (redirection needs root, or CAP_NET_ADMIN and CAP_NET_RAW)")]
    Tool {
        /// Which.
        tool: String,
        /// What it said.
        reason: String,
    },
    /// The address of inbound's deliveries could not be set.
    #[error("cannot change address ::6 of lo")]
    Address(#[source] io::Error),
    /// One family failed, and so did putting the other back: the namespace is half captured.
    #[error("{failure}; and IPv4 could not be put back as it was ({rollback}): run weft-proxy init --remove")]
    HalfApplied {
        /// Why it failed.
        failure: Box<Self>,
        /// Why putting back failed.
        rollback: Box<Self>,
    },
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

/// What would be done, as text for `iptables-restore` and `ip6tables-restore`. Empty text: nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For IPv4.
    pub v4: String,
    /// For IPv6; `None` where the kernel has none.
    pub v6: Option<String>,
}

/// What [`apply`] would do now. `config`: the rules wanted; `None`: none.
///
/// # Errors
/// Any [`ApplyError`] but those of applying.
pub fn plan(config: Option<&InterceptConfig>) -> Result<Plan, ApplyError> {
    let plan_of = |family| {
        let wanted = wanted(config, family)?;
        Ok::<_, ApplyError>(Tools::find(family)?.1.transaction(&wanted))
    };
    let v6 = if has_ipv6() { Some(plan_of(Family::V6)?) } else { None };
    Ok(Plan { v4: plan_of(Family::V4)?, v6 })
}

/// Makes the current network namespace have exactly the rules of `config`, or none of ours. Running it again changes
/// nothing. Blocks for as long as the tools take, up to half a minute where somebody else holds their lock.
///
/// # Errors
/// Any [`ApplyError`].
pub fn apply(config: Option<&InterceptConfig>) -> Result<Ipv6, ApplyError> {
    // Both tools are found before anything is changed.
    let v4 = Tools::find(Family::V4)?;
    let v6 = if has_ipv6() { Some(Tools::find(Family::V6)?) } else { None };
    apply_with(config, v4, v6)
}

fn apply_with(
    config: Option<&InterceptConfig>,
    (tools_v4, before_v4): (Tools, Saved),
    v6: Option<(Tools, Saved)>,
) -> Result<Ipv6, ApplyError> {
    let (wanted_v4, wanted_v6) = (wanted(config, Family::V4)?, wanted(config, Family::V6)?);
    tools_v4.restore(&before_v4.transaction(&wanted_v4))?;
    let Some((tools_v6, before_v6)) = v6 else { return Ok(Ipv6::Absent) };
    let done = tools_v6.restore(&before_v6.transaction(&wanted_v6)).and_then(|()| {
        let delivery = if config.is_some() { Delivery::Present } else { Delivery::Absent };
        let usable = set_delivery_address(delivery).map_err(ApplyError::Address);
        if usable.is_err() {
            tools_v6.put_back(&before_v6)?;
        }
        usable
    });
    match done {
        Ok(true) => Ok(Ipv6::Done),
        Ok(false) => Ok(Ipv6::OffOnLoopback),
        Err(failure) => match tools_v4.put_back(&before_v4) {
            Ok(()) => Err(failure),
            Err(rollback) => Err(ApplyError::HalfApplied { failure: Box::new(failure), rollback: Box::new(rollback) }),
        },
    }
}

fn wanted(config: Option<&InterceptConfig>, family: Family) -> Result<Rules, InterceptError> {
    config.map_or_else(|| Ok(Rules::default()), |config| config.rules(family))
}

/// Whether the kernel has IPv6. Only its own refusal counts as no, because a wrong no leaves IPv6 uncaptured.
fn has_ipv6() -> bool {
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    !matches!(socket, Err(Errno::EAFNOSUPPORT))
}

/// What `iptables-save -t nat` printed.
struct Saved(String);

impl Saved {
    fn transaction(&self, wanted: &Rules) -> String {
        replace(&self.0, wanted)
    }
}

/// The tools of one family and backend.
struct Tools {
    /// Path up to and without `-save`.
    stem: String,
}

impl Tools {
    /// The first variant that can read the table, with what it read.
    fn find(family: Family) -> Result<(Self, Saved), ApplyError> {
        let name = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let mut failure = ApplyError::Missing(name);
        for variant in VARIANTS {
            for directory in DIRECTORIES {
                let tools = Self { stem: format!("{directory}{name}{variant}") };
                match tools.save() {
                    Ok(Some(saved)) => return Ok((tools, saved)),
                    Ok(None) => {}
                    // What the host's own choice says is worth more than what the alternatives say.
                    Err(error) if matches!(failure, ApplyError::Missing(_)) => failure = error,
                    Err(_) => {}
                }
            }
        }
        Err(failure)
    }

    /// The table as it is; `None` when there is no such tool.
    fn save(&self) -> Result<Option<Saved>, ApplyError> {
        let tool = format!("{}-save", self.stem);
        match Command::new(&tool).args(["-t", "nat"]).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {
                Ok(Some(Saved(String::from_utf8_lossy(&output.stdout).into_owned())))
            }
            Ok(output) => Err(failed(tool, &output)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ApplyError::Tool { tool, reason: error.to_string() }),
        }
    }

    /// Runs one transaction; all of it happens or nothing.
    fn restore(&self, transaction: &str) -> Result<(), ApplyError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let tool = format!("{}-restore", self.stem);
        match run(&tool, transaction) {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(failed(tool, &output)),
            Err(error) => Err(ApplyError::Tool { tool, reason: error.to_string() }),
        }
    }

    /// Makes our part of the table what it was `before`.
    fn put_back(&self, before: &Saved) -> Result<(), ApplyError> {
        let missing = || ApplyError::Tool { tool: self.stem.clone(), reason: "it is gone".to_owned() };
        let now = self.save()?.ok_or_else(missing)?;
        self.restore(&now.transaction(&installed(&before.0)))
    }
}

fn run(tool: &str, transaction: &str) -> io::Result<Output> {
    let mut child = Command::new(tool)
        // Half a minute for the lock of the legacy backend: longer than any other tool holds it.
        .args(["--noflush", "--wait=30"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // A tool that stops reading says why on its way out, which is worth more than our broken pipe.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(transaction.as_bytes()));
    let output = child.wait_with_output()?;
    if output.status.success() { written.map(|()| output) } else { Ok(output) }
}

fn failed(tool: String, output: &Output) -> ApplyError {
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("; ");
    ApplyError::Tool { tool, reason: if reason.is_empty() { output.status.to_string() } else { reason } }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn script(path: &Path, text: &str) {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The kernel backends print their tables differently; both must be understood.
    #[test]
    fn both_backends_are_idempotent() {
        assert!(nix::unistd::geteuid().is_root(), "this test writes redirection rules: run it as root");
        let in_own_namespace = |variant: &'static str| {
            move || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let table = |name: &str| {
                    let tools = Tools { stem: format!("{name}{variant}") };
                    let saved = tools.save().unwrap().unwrap_or_else(|| panic!("{} is not installed", tools.stem));
                    (tools, saved)
                };
                let both = || (table("iptables"), Some(table("ip6tables")));
                let ours = || ["iptables", "ip6tables"].map(|name| installed(&table(name).1.0));
                let config = InterceptConfig::default();
                let apply = |config| {
                    let (v4, v6) = both();
                    apply_with(config, v4, v6).unwrap();
                    ours()
                };
                let once = apply(Some(&config));
                assert_ne!(once, [Rules::default(), Rules::default()], "{variant}");
                assert_eq!(apply(Some(&config)), once, "{variant}");
                assert_eq!(apply(None), [Rules::default(), Rules::default()], "{variant}");
            }
        };
        for variant in ["-nft", "-legacy"] {
            std::thread::spawn(in_own_namespace(variant)).join().unwrap();
        }
    }

    /// With the real tools for IPv4, and for IPv6 ones that can read and not write.
    #[test]
    fn when_ipv6_fails_ipv4_is_put_back() {
        assert!(nix::unistd::geteuid().is_root(), "this test writes redirection rules: run it as root");
        let directory = tempfile::tempdir().unwrap();
        let stem = directory.path().join("ip6tables").display().to_string();
        script(Path::new(&format!("{stem}-save")), "exit 0");
        script(Path::new(&format!("{stem}-restore")), "cat > /dev/null; echo no such table >&2; exit 1");
        let in_own_namespace = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let broken_v6 = || {
                let tools = Tools { stem: stem.clone() };
                let saved = tools.save().unwrap().unwrap();
                Some((tools, saved))
            };
            let v4 = || Tools::find(Family::V4).unwrap();
            let ours = || installed(&v4().1.0);
            let other = InterceptConfig { inbound_port: 1, ..InterceptConfig::default() };
            // From nothing to nothing, and from another configuration back to it.
            for before in [None, Some(&other)] {
                apply_with(before, v4(), None).unwrap();
                let was = ours();
                let error = apply_with(Some(&InterceptConfig::default()), v4(), broken_v6()).unwrap_err();
                assert!(error.to_string().contains("no such table"), "{error}");
                assert_eq!(ours(), was);
            }
            let gone = Tools { stem: "/nonexistent/iptables".to_owned() };
            assert!(gone.save().unwrap().is_none());
        };
        std::thread::spawn(in_own_namespace).join().unwrap();
    }
}
