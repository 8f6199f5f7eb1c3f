//! Where the resolver is asked, as it is said on the command line.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

/// Where the resolver is asked, by UDP and TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsAddress {
    /// On the loopback addresses of both families, where redirection leads the workload's questions to.
    Redirected(NonZeroU16),
    /// By whoever knows this address.
    At(SocketAddr),
}

impl DnsAddress {
    /// The port that questions are redirected to.
    #[must_use]
    pub fn redirected(self) -> Option<u16> {
        match self {
            Self::Redirected(port) => Some(port.get()),
            Self::At(_) => None,
        }
    }

    pub(super) fn sockets(self) -> Vec<SocketAddr> {
        match self {
            Self::Redirected(port) => {
                let port = port.get();
                vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
            }
            Self::At(address) => vec![address],
        }
    }
}

impl FromStr for DnsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = || text.parse().ok().map(Self::At);
        let parsed = text.parse().ok().map(Self::Redirected).or_else(address);
        parsed.ok_or_else(|| "expected a port, as 15053, or an address and a port, as 127.0.0.1:53".to_owned())
    }
}

impl fmt::Display for DnsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirected(port) => port.fmt(f),
            Self::At(address) => address.fmt(f),
        }
    }
}

#[test]
fn a_port_or_an_address() {
    let read = |text: &str| text.parse::<DnsAddress>();
    let sockets = |text: &str| read(text).unwrap().sockets().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(sockets("15053"), ["127.0.0.1:15053", "[::1]:15053"]);
    assert_eq!(sockets("[fd00::1]:53"), ["[fd00::1]:53"]);
    for text in ["15053", "127.0.0.1:0", "[fd00::1]:53"] {
        assert_eq!(read(text).unwrap().to_string(), text);
    }
    for nonsense in ["", "0", "65536", "127.0.0.1", "localhost:53"] {
        assert!(read(nonsense).is_err(), "{nonsense}");
    }
}
