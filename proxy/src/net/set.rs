//! Sockets that wait, watched by one descriptor of the runtime's instead of one each: a set of epoll's own, which becomes
//! readable itself when one of its sockets does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// See the module. A socket is told for as long as there is something to read, an end, or an error, so what came before it
/// was added is not missed either.
#[derive(Debug)]
pub struct SocketSet(AsyncFd<Set>);

#[derive(Debug)]
struct Set(Epoll);

impl AsRawFd for Set {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl SocketSet {
    /// Most sockets that [`Self::heard`] tells at once.
    pub const HEARD_MAX: usize = 64;

    /// An empty one, of the runtime that is entered.
    ///
    /// # Errors
    /// For want of descriptors or memory.
    #[allow(unsafe_code, reason = "the runtime has no other way to wait for descriptors it does not know")]
    pub fn new() -> io::Result<Self> {
        let set = Set(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        // SAFETY: the set owns its descriptor, which is open until the set is dropped, by the registration or after it,
        // and always the same one: nothing here replaces it or takes it out.
        Ok(Self(unsafe { AsyncFd::register_with_interest(set, Interest::READABLE) }?))
    }

    /// Watches a socket under this name until it is removed or closed.
    ///
    /// # Errors
    /// For want of memory, or beyond what a user may watch.
    pub fn add(&self, socket: &impl AsFd, name: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, name);
        Ok(self.set().add(socket, event)?)
    }

    /// Watches it no longer: it is not told again.
    ///
    /// # Errors
    /// It was not watched.
    pub fn remove(&self, socket: &impl AsFd) -> io::Result<()> {
        Ok(self.set().delete(socket)?)
    }

    /// Waits until [`Self::heard`] may have something to tell. Cancel at will.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn readable(&self) -> io::Result<()> {
        // Before the look: what is heard after it wakes anew.
        self.0.readable().await?.clear_ready();
        Ok(())
    }

    /// Some of those that something is heard of; all, where they are fewer than [`Self::HEARD_MAX`]. Else look again without
    /// waiting once they are removed.
    ///
    /// # Errors
    /// None that the kernel documents for what is asked here.
    pub fn heard(&self) -> io::Result<impl ExactSizeIterator<Item = u64> + use<>> {
        let mut heard = [EpollEvent::empty(); Self::HEARD_MAX];
        let count = self.set().wait(&mut heard, EpollTimeout::ZERO)?;
        Ok(heard.into_iter().take(count).map(|event| event.data()))
    }

    fn set(&self) -> &Epoll {
        &self.0.get_ref().0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap().0)
    }

    async fn heard(set: &SocketSet) -> BTreeSet<u64> {
        timeout(Duration::from_secs(20), set.readable()).await.expect("something is heard").unwrap();
        set.heard().unwrap().collect()
    }

    #[tokio::test]
    async fn bytes_ends_and_resets_are_heard_whenever_they_came() {
        let (listener, set) = (TcpListener::bind("127.0.0.1:0").unwrap(), SocketSet::new().unwrap());
        let mut pairs: Vec<_> = (0..4).map(|_| pair(&listener)).collect();
        pairs[0].0.write_all(b"before").unwrap();
        for (name, (_, near)) in (0..).zip(&pairs) {
            set.add(near, name).unwrap();
        }
        assert_eq!(heard(&set).await, [0].into());
        assert_eq!(set.heard().unwrap().collect::<Vec<_>>(), [0], "until it is removed");
        set.remove(&pairs[0].1).unwrap();
        assert_eq!(set.heard().unwrap().len(), 0);
        pairs[1].0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(heard(&set).await, [1].into());
        set.remove(&pairs[1].1).unwrap();
        socket2::SockRef::from(&pairs[2].0).set_linger(Some(Duration::ZERO)).unwrap();
        let (far, near) = pairs.remove(2);
        drop(far);
        assert_eq!(heard(&set).await, [2].into());
        drop(near);
        assert_eq!(set.heard().unwrap().len(), 0, "what is closed is not heard of");
    }

    #[tokio::test]
    async fn all_are_heard_however_many_speak_at_once() {
        let (listener, set) = (TcpListener::bind("127.0.0.1:0").unwrap(), SocketSet::new().unwrap());
        let mut pairs: Vec<_> = (0..SocketSet::HEARD_MAX * 2 + 9).map(|_| pair(&listener)).collect();
        for (name, (far, near)) in (0..).zip(&mut pairs) {
            set.add(near, name).unwrap();
            far.write_all(b"now").unwrap();
        }
        timeout(Duration::from_secs(20), set.readable()).await.unwrap().unwrap();
        let mut left: BTreeSet<_> = (0..u64::try_from(pairs.len()).unwrap()).collect();
        loop {
            let some = set.heard().unwrap();
            if some.len() == 0 {
                break;
            }
            for name in some {
                assert!(left.remove(&name), "{name} twice");
                set.remove(&pairs[usize::try_from(name).unwrap()].1).unwrap();
            }
        }
        assert_eq!(left.len(), 0);
    }
}
