//! Pipes through which the kernel moves bytes from socket to socket without copying them (splice(2)).
//!
//! A worker has few, and a relay holds one only while bytes are in it: from reading until the other side has taken them.
//! Where there is none to be had the relay copies.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};
use tokio::net::TcpStream;

/// Room of a pipe in bytes of whole pages; what a network card delivers fills pages by a third or so.
const PIPE_BYTES: i32 = 256 << 10;

/// With less room than this (the kernel gives two pages to a user who has many pipes) copying is cheaper.
const PIPE_BYTES_MIN: i32 = 64 << 10;

/// Pipes of one worker: as many peers may leave bytes waiting before others are copied for.
const OPEN_MAX: usize = 64;

/// Pipes kept for the next who needs one.
const IDLE_MAX: usize = 8;

/// The pipes of one worker.
#[derive(Debug)]
pub(crate) struct Pipes {
    idle: RefCell<Vec<Ends>>,
    open: Cell<usize>,
    open_max: usize,
}

impl Default for Pipes {
    fn default() -> Self {
        Self::at_most(OPEN_MAX)
    }
}

impl Pipes {
    /// So many, or [`OPEN_MAX`].
    pub(super) fn at_most(open_max: usize) -> Self {
        Self { idle: RefCell::new(Vec::new()), open: Cell::new(0), open_max: open_max.min(OPEN_MAX) }
    }

    /// An empty pipe; `None` at the bound, or where descriptors or pages have run out.
    pub(super) fn take(self: &Rc<Self>) -> Option<Pipe> {
        let rested = self.idle.borrow_mut().pop();
        let ends = match rested {
            Some(ends) => ends,
            None if self.open.get() >= self.open_max => return None,
            None => {
                let ends = Ends::open()?;
                self.open.set(self.open.get() + 1);
                ends
            }
        };
        Some(Pipe { ends: Some(ends), filled: 0, pipes: Rc::clone(self) })
    }

    /// Pipes open now, in use or not.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// Pipes that nobody holds.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    fn rest(&self, ends: Ends) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push(ends);
        } else {
            self.open.set(self.open.get() - 1);
        }
    }
}

/// A pipe on loan. Dropping gives it back, or closes it when bytes are in it: they are nobody else's.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    filled: usize,
    pipes: Rc<Pipes>,
}

impl Pipe {
    /// Moves what has arrived at `socket` into the pipe; 0 at its end. For an empty pipe only: a full one looks like a
    /// socket that has nothing.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing that can be moved, which is not quite the same as nothing that can be read (urgent
    /// data).
    pub(crate) fn fill(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let ends = self.ends()?;
        let count = splice(socket, None, &ends.write, None, ends.room, flags())?;
        self.filled += count;
        Ok(count)
    }

    /// Moves what is in the pipe into `socket`.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing for now.
    pub(crate) fn drain(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let ends = self.ends()?;
        let count = splice(&ends.read, None, socket, None, self.filled, flags())?;
        self.filled = self.filled.saturating_sub(count);
        Ok(count)
    }

    /// Takes the bytes out, for a socket into which they cannot be moved.
    ///
    /// # Errors
    /// The pipe gives less than went in.
    pub(super) fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.filled];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            match read(&self.ends()?.read, rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => rest = rest.get_mut(count..).unwrap_or_default(),
            }
        }
        self.filled = 0;
        Ok(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.filled == 0
    }

    fn ends(&self) -> io::Result<&Ends> {
        self.ends.as_ref().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        match self.ends.take() {
            Some(ends) if self.filled == 0 => self.pipes.rest(ends),
            Some(_) | None => self.pipes.open.set(self.pipes.open.get() - 1),
        }
    }
}

/// Whether splicing failed because these sockets, or this system, do not know it, do not allow it (filters of system calls
/// answer with EPERM) or have no memory for it. It says nothing of the peer then, and nothing was moved.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(
        code,
        Some(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM | Errno::EACCES | Errno::ENOMEM)
    )
}

const fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK)
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    room: usize,
}

impl Ends {
    fn open() -> Option<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .inspect_err(|error| tracing::debug!(%error, "no pipe: copying"))
            .ok()?;
        // Refused beyond the bounds of the system or the user; then it is as large as it is.
        let room = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).or_else(|_| fcntl(&write, FcntlArg::F_GETPIPE_SZ));
        let room = room.ok().filter(|room| *room >= PIPE_BYTES_MIN)?;
        Some(Self { read, write, room: usize::try_from(room).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    async fn filled(pipes: &Rc<Pipes>, bytes: &[u8]) -> Pipe {
        let (mut near, far) = sockets().await;
        near.write_all(bytes).await.unwrap();
        far.readable().await.unwrap();
        let mut pipe = pipes.take().unwrap();
        assert_eq!(pipe.fill(&far).unwrap(), bytes.len());
        pipe
    }

    #[tokio::test]
    async fn moves_bytes_and_is_given_back() {
        let pipes = Rc::new(Pipes::at_most(1));
        let (near, mut far) = sockets().await;
        let mut pipe = filled(&pipes, b"moved").await;
        assert_eq!((pipe.is_empty(), pipe.drain(&near).unwrap(), pipe.is_empty()), (false, 5, true));
        let mut got = [0; 5];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"moved");
        assert!(pipes.take().is_none(), "at its bound");
        drop(pipe);
        assert_eq!((pipes.open(), pipes.idle()), (1, 1));
        assert!(pipes.take().is_some());
    }

    #[tokio::test]
    async fn bytes_left_in_a_pipe_go_to_nobody_else() {
        let pipes = Rc::new(Pipes::at_most(1));
        drop(filled(&pipes, b"secret").await);
        assert_eq!((pipes.open(), pipes.idle()), (0, 0), "closed");
        assert!(pipes.take().is_some_and(|pipe| pipe.is_empty()));
    }

    #[tokio::test]
    async fn bytes_can_be_taken_out_again() {
        let pipes = Rc::new(Pipes::default());
        assert_eq!(filled(&pipes, &[7; 9000]).await.into_bytes().unwrap(), [7; 9000]);
        assert_eq!((pipes.open(), pipes.idle()), (1, 1));
    }

    #[tokio::test]
    async fn an_end_and_an_empty_socket_are_told_apart() {
        let pipes = Rc::new(Pipes::default());
        let (near, far) = sockets().await;
        let mut pipe = pipes.take().unwrap();
        assert_eq!(pipe.fill(&far).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(near);
        far.readable().await.unwrap();
        assert_eq!(pipe.fill(&far).unwrap(), 0);
    }

    #[test]
    fn what_forbids_splicing_is_no_fault_of_a_peer() {
        let check = |code: Errno, unsupported| assert_eq!(is_unsupported(&code.into()), unsupported, "{code}");
        for code in [Errno::EINVAL, Errno::ENOSYS, Errno::EOPNOTSUPP, Errno::EPERM, Errno::EACCES, Errno::ENOMEM] {
            check(code, true);
        }
        for code in [Errno::ECONNRESET, Errno::ETIMEDOUT, Errno::EPIPE, Errno::EHOSTUNREACH, Errno::EAGAIN] {
            check(code, false);
        }
    }

    #[test]
    fn few_are_kept() {
        let pipes = Rc::new(Pipes::default());
        let held: Vec<_> = (0..IDLE_MAX + 2).map(|_| pipes.take().unwrap()).collect();
        assert_eq!(pipes.open(), IDLE_MAX + 2);
        drop(held);
        assert_eq!((pipes.open(), pipes.idle()), (IDLE_MAX, IDLE_MAX));
    }
}
