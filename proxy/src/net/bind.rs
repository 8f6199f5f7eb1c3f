//! Where a listener comes from: an address, or a descriptor that whoever started us has opened.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use socket2::{Socket, Type};

use super::{is_loopback, listen, reopen, stay_within_host, tune};

/// Where a door is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// To be opened at this address.
    Address(SocketAddr),
    /// Opened by whoever started this process, who may have had a network or rights that we have not.
    Inherited(RawFd),
}

impl Bind {
    /// `count` listeners for one door, one for each worker.
    ///
    /// # Errors
    /// Whatever the kernel says of the address; the descriptor is not open, or no listening TCP socket.
    pub fn open(self, count: usize) -> io::Result<Vec<TcpListener>> {
        match self {
            Self::Address(address) => listen(address, count),
            Self::Inherited(fd) => {
                let first = inherit(fd)?;
                // All share one queue; the kernel wakes them all, and who comes late finds nothing.
                let others = (1..count).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
                Ok(std::iter::once(first).chain(others).collect())
            }
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Inherited(fd) => write!(f, "descriptor {fd}"),
        }
    }
}

/// A copy of the descriptor `fd`; the original stays open, so that the next door can be made of it again.
fn inherit(fd: RawFd) -> io::Result<TcpListener> {
    let socket = Socket::from(copy(fd)?);
    let listens = socket.r#type()? == Type::STREAM && socket.is_listener()?;
    let Some(address) = socket.local_addr()?.as_socket().filter(|_| listens) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no listening TCP socket"));
    };
    socket.set_nonblocking(true)?;
    tune(&socket);
    if is_loopback(address) {
        stay_within_host(&socket);
    }
    let listener = TcpListener::from(socket);
    // A process that had it before us may have shut it when it ended.
    reopen(&listener)?;
    Ok(listener)
}

#[allow(unsafe_code, reason = "what is inherited is known by its number only")]
fn copy(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: not negative; the borrow ends with this statement, and a number that is no open descriptor makes the
    // system call fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::time::Duration;

    use super::*;
    use crate::net::{connect, shut};

    #[tokio::test]
    async fn a_listener_of_somebody_else_is_shared_by_all_workers_and_outlives_them() {
        let given = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = given.local_addr().unwrap();
        let accept = async |listener: TcpListener| {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let dialled = connect(address, false, Duration::from_secs(1));
            let (dialled, accepted) =
                tokio::join!(dialled, tokio::time::timeout(Duration::from_secs(5), listener.accept()));
            dialled.unwrap();
            accepted.unwrap().unwrap();
            listener
        };
        // The second round is that of a process which starts after one that has ended.
        for round in ["first", "second"] {
            let listeners = Bind::Inherited(given.as_raw_fd()).open(3).unwrap();
            assert_eq!(listeners.len(), 3, "{round}");
            for listener in listeners {
                shut(&accept(listener).await).unwrap();
                reopen(&given).unwrap();
            }
            shut(&tokio::net::TcpListener::from_std(given.try_clone().unwrap()).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_is_no_listener_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let unix = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
        for fd in [-1, 999_999, file.as_raw_fd(), udp.as_raw_fd(), unix.as_raw_fd()] {
            assert!(Bind::Inherited(fd).open(1).is_err(), "{fd}");
        }
    }
}
