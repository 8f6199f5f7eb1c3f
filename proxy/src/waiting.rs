//! What a connection is between two requests on which nothing comes for long: a socket, and what is known of it.
//!
//! Most connections of a fleet are that. Their task, its timer and the runtime's registration would be most of what they
//! cost, so they end, and are made anew when something comes ([`crate::runtime`] watches all the sockets together). What
//! happens to a connection while it waits, its end or a drain, happens to it in its task as ever: whatever there is to do,
//! it is served again first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::boxed::Serving;
use crate::exchange::Connection;
use crate::http::H1Connection;
use crate::http_path::HttpPath;
use crate::io::Stream;
use crate::runtime::worker::Worker;
use crate::site::Site;

/// An HTTP/1 connection in the clear, between two requests.
#[derive(Debug)]
pub struct Waiting {
    socket: std::net::TcpStream,
    site: Site,
    /// What is known of it.
    pub connection: Rc<Connection>,
    since: Instant,
}

impl Waiting {
    /// One that was handed back and has waited since then; `None` where it is over instead.
    pub(crate) fn new(path: HttpPath, handed_back: H1Connection, since: Instant) -> Option<Self> {
        let HttpPath { connection, site, .. } = path;
        let socket = handed_back.into_stream()?.into_socket().ok()?;
        match socket.into_std() {
            Ok(socket) => Some(Self { socket, site, connection, since }),
            // The kernel does not know a descriptor that is ours: nothing that can be mended here.
            Err(error) => {
                tracing::error!(%error, "a connection could not leave its task");
                None
            }
        }
    }

    /// When it has waited for too long.
    #[must_use]
    pub fn until(&self, worker: &Worker) -> Instant {
        self.since + worker.limits.idle_timeout
    }

    /// Serves it on, on its worker's thread.
    ///
    /// # Errors
    /// The socket cannot join the runtime, for want of memory, and is closed.
    pub fn serve(self, worker: &Rc<Worker>) -> io::Result<Serving> {
        let Self { socket, site, connection, since } = self;
        let stream = Stream::plain(TcpStream::from_std(socket)?);
        let path = HttpPath { worker: Rc::clone(worker), connection, site };
        Ok(path.serve_again(stream, since))
    }
}

impl AsFd for Waiting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
