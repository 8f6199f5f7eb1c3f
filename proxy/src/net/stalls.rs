//! Peers that are alive and do not read are left in peace.
//!
//! `TCP_USER_TIMEOUT` finds peers that are gone while data waits for them, but Linux counts the time in which a peer's
//! window is closed too (tcp(7)): a database client that works on one batch for a quarter of a minute, or an application
//! that takes an upload in bursts, would lose its connection. So the sockets of a worker are looked at from time to time,
//! while anything is written to them or waits in one: a worker that carries nothing is not woken.
//! One that has data to send, none of it under way, is held up by its peer's window, and its timeout is lifted until data
//! moves again; that the peer is still there is seen by its answers to window probes, which the kernel counts itself.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use nix::libc::c_int;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;
use weft_core::hash::Map;

use super::USER_TIMEOUT;

/// How often the sockets are looked at. Well within [`USER_TIMEOUT`], which begins when the window closes.
const LOOK_EVERY: Duration = Duration::from_secs(4);

thread_local! {
    /// What is written to the sockets of this thread, which are those of its worker.
    static WRITTEN: Written = const { Written { lately: Cell::new(false), looker: RefCell::new(None) } };
}

struct Written {
    lately: Cell<bool>,
    looker: RefCell<Option<Waker>>,
}

/// Something was written to a socket of this thread's worker.
pub fn note_written() {
    WRITTEN.with(|written| {
        if !written.lately.replace(true) {
            let looker = written.looker.borrow_mut().take();
            if let Some(looker) = looker {
                looker.wake();
            }
        }
    });
}

/// Waits until something is written.
async fn written() {
    poll_fn(|cx| {
        WRITTEN.with(|written| {
            if written.lately.get() {
                return Poll::Ready(());
            }
            *written.looker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
    })
    .await;
}

/// The sockets of one worker.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    /// By descriptor: whether its timeout is lifted.
    sockets: Arc<Mutex<Map<RawFd, bool>>>,
}

/// A socket that is looked at for as long as this lives; drop it when the socket is closed, on the worker's thread.
#[derive(Debug)]
pub struct Watched {
    stalls: Stalls,
    fd: RawFd,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stalls.sockets().remove(&self.fd);
    }
}

impl Stalls {
    /// Looks at a socket from now on.
    #[must_use]
    pub fn watch(&self, socket: &TcpStream) -> Watched {
        let fd = socket.as_raw_fd();
        self.sockets().insert(fd, false);
        Watched { stalls: self.clone(), fd }
    }

    /// Looks at the sockets from time to time while anything moves. Never ends; runs on the worker's thread.
    pub async fn keep_looking(&self) {
        loop {
            written().await;
            tokio::time::sleep(LOOK_EVERY).await;
            WRITTEN.with(|written| written.lately.set(false));
            while self.look() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Looks at all sockets once: one system call for each, more only for those that wait. Whether something waits, or a
    /// timeout is lifted.
    fn look(&self) -> bool {
        let mut waits = false;
        for (fd, lifted) in self.sockets().iter_mut() {
            let unsent = queued(*fd, ioctl::outqnsd);
            // None of it is under way.
            let stalled = unsent > 0 && queued(*fd, ioctl::outq) == unsent;
            if stalled != *lifted && set_timeout(*fd, stalled) {
                *lifted = stalled;
            }
            waits |= unsent > 0 || *lifted;
        }
        waits
    }

    fn sockets(&self) -> std::sync::MutexGuard<'_, Map<RawFd, bool>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(unsafe_code, reason = "no safe wrapper knows these two requests of Linux (tcp(7), linux/sockios.h)")]
fn queued(fd: RawFd, request: unsafe fn(c_int, *mut c_int) -> nix::Result<c_int>) -> c_int {
    let mut bytes = 0;
    // SAFETY: both requests write one int to where the pointer points, which is a local of that type. A descriptor that is
    // no socket makes them fail, nothing else.
    match unsafe { request(fd, &raw mut bytes) } {
        Ok(_) => bytes,
        Err(_) => 0,
    }
}

#[allow(unsafe_code, reason = "the registry holds numbers of descriptors")]
fn set_timeout(fd: RawFd, lifted: bool) -> bool {
    let timeout = if lifted { 0 } else { u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX) };
    // SAFETY: an entry is removed when its socket closes, on the thread that looks, so the descriptor is open here.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    setsockopt(&socket, sockopt::TcpUserTimeout, &timeout).is_ok()
}

mod ioctl {
    #![allow(missing_docs, unsafe_code, reason = "made by nix's macro")]
    // SIOCOUTQ and SIOCOUTQNSD: bytes not acknowledged, and bytes not sent.
    nix::ioctl_read_bad!(outq, 0x5411, nix::libc::c_int);
    nix::ioctl_read_bad!(outqnsd, 0x894b, nix::libc::c_int);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn timeout_of(socket: &TcpStream) -> Option<Duration> {
        socket2::SockRef::from(socket).tcp_user_timeout().unwrap()
    }

    #[tokio::test]
    async fn the_timeout_is_lifted_while_the_peers_window_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (near, mut far) = (near.unwrap(), far.unwrap().0);
        super::super::tune(&near);
        let stalls = Stalls::default();
        let watched = stalls.watch(&near);
        assert!(!stalls.look(), "there is nothing to come back for");
        assert_eq!(timeout_of(&near), Some(USER_TIMEOUT), "an idle one is not touched");
        // Until no more is taken, and the last of it is acknowledged.
        while near.try_write(&[7; 65536]).is_ok() {
            tokio::task::yield_now().await;
        }
        let lifting = async {
            while timeout_of(&near).is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(stalls.look());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), lifting)
            .await
            .expect("it is lifted when none of it is under way");
        let reading = async {
            let mut buffer = vec![0; 65536];
            while far.read(&mut buffer).await.unwrap() > 0 {
                stalls.look();
                if timeout_of(&near).is_some() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it is set again when data moves");
        drop(watched);
        assert!(stalls.sockets().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_are_looked_at_while_something_is_written_and_not_else() {
        let looks = |stalls: Stalls| async move {
            // With time standing still unless all wait for it, whoever never looks never ends.
            tokio::time::timeout(Duration::from_secs(3600), stalls.keep_looking()).await.unwrap_err();
        };
        looks(Stalls::default()).await;
        assert!(WRITTEN.with(|written| written.looker.borrow().is_some()), "it waits to be woken");
        note_written();
        assert!(WRITTEN.with(|written| written.looker.borrow().is_none()), "it was woken");
        looks(Stalls::default()).await;
        assert!(WRITTEN.with(|written| !written.lately.get()), "it has looked, and waits again");
    }
}
