//! Adds and removes the address from which inbound delivers over IPv6. By rtnetlink directly, so that `init` needs no
//! `ip` tool in its image; one fixed message is all of the protocol that is needed (rtnetlink(7)).

use std::fs::File;
use std::io::{self, Read, Write};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use weft_core::intercept::DELIVERY_V6;

const PREFIX_BITS: u8 = 128;
/// No duplicate address detection: the address is usable at once, and `lo` has no neighbours.
const IFA_F_NODAD: u8 = 2;
/// Lengths of the parts: message header, address message, one attribute with an IPv6 address.
const HEADER: usize = 16;
const ADDRESS: usize = 8;
const ATTRIBUTE: u16 = 4 + 16;

/// Whether the delivery address is wanted on `lo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Present,
    Absent,
}

/// What it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Made,
    /// It was so already.
    None,
    /// IPv6 is switched off on `lo`, so nobody can connect over it.
    Off,
}

/// Makes it so.
pub(super) fn set_delivery_address(wanted: Delivery) -> io::Result<Change> {
    let lo = if_nametoindex("lo")?;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut socket = File::from(socket);
    socket.write_all(&message(wanted, lo))?;
    let mut answer = [0; 512];
    let len = socket.read(&mut answer)?;
    match (wanted, answer.get(..len).and_then(error_of)) {
        (_, Some(0)) => Ok(Change::Made),
        (Delivery::Present, Some(libc::EEXIST)) | (Delivery::Absent, Some(libc::EADDRNOTAVAIL)) => Ok(Change::None),
        (_, Some(libc::EACCES | libc::EOPNOTSUPP | libc::ENODEV)) => Ok(Change::Off),
        (_, Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
        (_, None) => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no acknowledgement")),
    }
}

fn message(wanted: Delivery, lo: u32) -> Vec<u8> {
    let (kind, flags) = match wanted {
        Delivery::Present => (libc::RTM_NEWADDR, libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE),
        Delivery::Absent => (libc::RTM_DELADDR, libc::NLM_F_REQUEST | libc::NLM_F_ACK),
    };
    let len = HEADER + ADDRESS + 2 * usize::from(ATTRIBUTE);
    let mut message = Vec::with_capacity(len);
    message.extend(u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(u16::try_from(flags).unwrap_or(0).to_ne_bytes());
    // Sequence number and port: one question, one answer.
    message.extend([0; 8]);
    message.extend([u8::try_from(libc::AF_INET6).unwrap_or(0), PREFIX_BITS, IFA_F_NODAD, libc::RT_SCOPE_UNIVERSE]);
    message.extend(lo.to_ne_bytes());
    for attribute in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        message.extend(ATTRIBUTE.to_ne_bytes());
        message.extend(attribute.to_ne_bytes());
        message.extend(DELIVERY_V6.octets());
    }
    message
}

/// The errno of an acknowledgement, 0 for success; `None` when it is none.
fn error_of(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then(|| error.saturating_neg())
}
