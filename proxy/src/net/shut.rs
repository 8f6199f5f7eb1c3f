//! Closing a listener without losing anybody.
//!
//! What waits in the queue of a listener is reset when it closes, and under load something always waits. So first the
//! kernel is told to let no further connection begin, while those that have begun still arrive and are accepted. It has
//! one option for that which needs no privilege: the hop limit that packets to the listener must have left (meant for
//! RFC 5082). No sender starts higher than 255, common ones start at 64 or 128, and the limit is not applied to the packet
//! that completes a handshake. A client that is kept out sends again after a second; by then it meets whoever else
//! listens at the address, or is refused.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use tokio::net::{TcpListener, TcpStream};

/// More hops left than a packet can have whose sender starts at less than 255.
const NOBODY: usize = 255;
const ANYBODY: usize = 0;

sockopt_impl!(
    /// Hops that an IPv4 packet must have left.
    MinHopsV4,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MINTTL,
    usize
);
sockopt_impl!(
    /// Hops that an IPv6 packet must have left.
    MinHopsV6,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MINHOPCOUNT,
    usize
);

/// Lets no further connection begin at the listener. Those that have begun can be accepted; each needs [`admit`].
///
/// # Errors
/// The kernel's; the listener goes on as it was.
pub fn shut(listener: &TcpListener) -> io::Result<()> {
    limit(listener, listener.local_addr()?, NOBODY)
}

/// Takes back what [`shut`] did, for whoever listens on the same socket after a process that has ended.
///
/// # Errors
/// The kernel's.
pub fn reopen(listener: &std::net::TcpListener) -> io::Result<()> {
    limit(listener, listener.local_addr()?, ANYBODY)
}

/// Lets a connection be heard that was accepted from a listener which is [`shut`], and has its limit from there. What it
/// said before that is sent again.
///
/// # Errors
/// The kernel's; the connection cannot be used.
pub fn admit(socket: &TcpStream) -> io::Result<()> {
    limit(socket, socket.local_addr()?, ANYBODY)
}

fn limit(socket: &impl AsFd, local: SocketAddr, hops: usize) -> io::Result<()> {
    // An IPv6 socket may carry IPv4 too.
    if local.is_ipv6() {
        setsockopt(socket, MinHopsV6, &hops)?;
    }
    Ok(setsockopt(socket, MinHopsV4, &hops)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    async fn check(listen: &str, dial: &str) {
        let listener = TcpListener::bind(listen).await.unwrap();
        let to = SocketAddr::new(dial.parse().unwrap(), listener.local_addr().unwrap().port());
        let mut begun = TcpStream::connect(to).await.unwrap();
        shut(&listener).unwrap();
        let late = timeout(Duration::from_millis(300), TcpStream::connect(to)).await;
        assert!(late.is_err(), "{listen} from {dial}: neither let in nor refused: {late:?}");
        let (mut accepted, _) = listener.accept().await.unwrap();
        // As one has it whose handshake was under way.
        limit(&accepted, to, NOBODY).unwrap();
        admit(&accepted).unwrap();
        drop(listener);
        begun.write_all(b"heard").await.unwrap();
        let mut said = [0; 5];
        timeout(Duration::from_secs(5), accepted.read_exact(&mut said)).await.unwrap().unwrap();
        assert_eq!(&said, b"heard", "{listen} from {dial}");
        let refused = timeout(Duration::from_secs(5), TcpStream::connect(to)).await.unwrap();
        assert!(refused.is_err(), "{listen} from {dial}: nobody listens any more");
    }

    #[tokio::test]
    async fn what_has_begun_is_served_and_nothing_else_begins() {
        check("127.0.0.1:0", "127.0.0.1").await;
        check("[::]:0", "::1").await;
        check("[::]:0", "127.0.0.1").await;
    }
}
