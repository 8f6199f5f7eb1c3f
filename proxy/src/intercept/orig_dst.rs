//! Where a redirected connection was going.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::libc;
use socket2::SockRef;

/// The address that the other end of an accepted TCP connection dialled, before REDIRECT rewrote it (T1).
///
/// A connection that was not redirected has its own local address as original one, which tells a caller that somebody
/// dialled the capture port itself. IPv4 connections on a dual-stack socket are IPv4 here.
///
/// # Errors
/// That of the system call, for example when the connection is gone already.
pub fn original_dst(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = socket.local_addr()?.as_socket().map(canonical);
    let original = match local {
        Some(SocketAddr::V6(_)) => socket.original_dst_v6(),
        Some(SocketAddr::V4(_)) | None => socket.original_dst_v4(),
    };
    let not_tcp = || io::Error::new(io::ErrorKind::InvalidInput, "not a TCP socket");
    match original {
        Ok(address) => address.as_socket().map(canonical).ok_or_else(not_tcp),
        // Connection tracking does not know it (or is off): then nothing rewrote it either.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
            local.ok_or_else(not_tcp)
        }
        Err(error) => Err(error),
    }
}

/// IPv4-mapped IPv6 addresses as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}
