//! Why redirection could not be set up.

use std::io;

use weft_core::intercept::InterceptError;

/// Why rules could not be applied. Nothing has changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] InterceptError),
    /// Neither backend is there.
    #[error(
        "neither iptables (iptables-save, iptables-restore, and those of ip6tables) nor nft found; \
         on Debian and Ubuntu: apt-get install iptables, or: apt-get install nftables"
    )]
    NoBackend,
    /// A tool was not found.
    #[error("{tool} not found; on Debian and Ubuntu: apt-get install {package}")]
    Missing {
        /// Which.
        tool: &'static str,
        /// Where it comes from.
        package: &'static str,
    },
    /// A tool was found and failed.
    #[error("{tool} failed: {reason} (redirection needs root, or CAP_NET_ADMIN and CAP_NET_RAW)")]
    Tool {
        /// Which.
        tool: String,
        /// What it said.
        reason: String,
    },
    /// Both backends are there, and neither can write.
    #[error("{first}; nor by the other backend: {second}")]
    Neither {
        /// What the first said.
        first: Box<Self>,
        /// What the other said.
        second: Box<Self>,
    },
    /// The address of inbound's deliveries could not be set.
    #[error("cannot add address ::6 to lo")]
    Address(#[source] io::Error),
    /// It could not be removed; the rules are.
    #[error("the rules are removed, but address ::6 could not be taken from lo")]
    AddressStays(#[source] io::Error),
    /// Something failed, and so did putting back what had been changed before: the namespace is half captured.
    #[error(
        "{failure}; and what had been changed before could not be put back ({rollback}): run weft-proxy init --remove"
    )]
    HalfApplied {
        /// Why it failed.
        failure: Box<Self>,
        /// Why putting back failed.
        rollback: Box<Self>,
    },
    /// The other backend's rules could not be removed; the new ones are in place.
    #[error("the rules are in place, but those that {former} wrote before could not be removed: {failure}")]
    FormerStays {
        /// Who had written them.
        former: &'static str,
        /// Why they stay.
        failure: Box<Self>,
    },
}

impl ApplyError {
    pub(super) fn and_not_put_back(self, rollback: Self) -> Self {
        Self::HalfApplied { failure: Box::new(self), rollback: Box::new(rollback) }
    }
}
