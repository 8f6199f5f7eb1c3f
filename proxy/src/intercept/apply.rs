//! Puts rules into the current network namespace: both families or neither.
//!
//! The `iptables` tools are used instead of a netlink library of our own, because they know which of the two kernel
//! backends (legacy or nf_tables) this host uses, and operators can read and compare the result with tools they know.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use weft_core::intercept::{Family, InterceptConfig, InterceptError, Rules, installed, replace};

use super::netlink::{Delivery, set_delivery_address};

/// Where administrators' tools are when the search path of a container forgets them. The search path comes first.
const DIRECTORIES: [&str; 4] = ["", "/usr/sbin/", "/sbin/", "/usr/local/sbin/"];

/// Names by which distributions ship the tools: the host's choice, then each backend by name.
const VARIANTS: [&str; 3] = ["", "-nft", "-legacy"];

/// Exists where the kernel has IPv6.
const IPV6_MARK: &str = "/proc/thread-self/net/if_inet6";

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
    let (wanted_v4, wanted_v6) = (wanted(config, Family::V4)?, wanted(config, Family::V6)?);
    let ipv6 = has_ipv6();
    // Both tools are found before anything is changed.
    let (tools_v4, before_v4) = Tools::find(Family::V4)?;
    let found_v6 = if ipv6 { Some(Tools::find(Family::V6)?) } else { None };
    tools_v4.restore(&before_v4.transaction(&wanted_v4))?;
    let Some((tools_v6, before_v6)) = found_v6 else { return Ok(Ipv6::Absent) };
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

fn has_ipv6() -> bool {
    Path::new(IPV6_MARK).exists()
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
