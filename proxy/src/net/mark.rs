//! The packet mark by which interception knows the proxy's own connections, where its user does not tell them apart.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::OnceLock;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, UdpSocket};

/// Of the whole process: a connection that went without it would be redirected into the proxy itself.
static MARK: OnceLock<NonZeroU32> = OnceLock::new();

/// From now on every connection of this process is marked. Called once, before the first connection.
///
/// # Errors
/// The kernel refuses marks (no CAP_NET_ADMIN over this network namespace), or another mark was set before.
pub fn mark_connections(mark: NonZeroU32) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.set_mark(mark.get())?;
    if *MARK.get_or_init(|| mark) == mark { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
}

/// A socket to connect `to` with. Every connection that the proxy opens begins here.
///
/// # Errors
/// The kernel's.
pub fn dialling(to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = MARK.get() {
        SockRef::from(&socket).set_mark(mark.get())?;
    }
    Ok(socket)
}

/// A socket that sends datagrams to `to` alone and receives only its answers, from a port of the kernel's choice.
///
/// # Errors
/// The kernel's.
pub fn datagrams(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(mark) = MARK.get() {
        socket.set_mark(mark.get())?;
    }
    socket.set_nonblocking(true)?;
    // Connecting a datagram socket sends nothing and does not wait.
    socket.connect(&to.into())?;
    UdpSocket::from_std(socket.into())
}
