//! This machine's network, for a supervisor that may have left it.
//!
//! A socket belongs to the network of the thread that made it, wherever it is used afterwards. So a thread that stays where
//! it was makes the sockets, and nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

type Answer = oneshot::Sender<io::Result<TcpSocket>>;

/// Where connections to this machine's addresses are made.
#[derive(Clone, Debug, Default)]
pub enum HostNetwork {
    /// The caller is in it.
    #[default]
    Here,
    /// A thread is in it, and makes sockets for either family (`true`: IPv4).
    Behind(mpsc::Sender<(bool, Answer)>),
}

impl HostNetwork {
    /// Leaves a thread in the present network; it ends with the last copy of what is returned.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn stay_behind() -> io::Result<Self> {
        let (asked, questions) = mpsc::channel::<(bool, Answer)>();
        std::thread::Builder::new().name("host-network".to_owned()).spawn(move || {
            for (is_ipv4, answer) in questions {
                // Who no longer waits needs no socket.
                answer.send(socket(is_ipv4)).ok();
            }
        })?;
        Ok(Self::Behind(asked))
    }

    /// Connects. Cancelling closes.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = match self {
            Self::Here => socket(to.is_ipv4())?,
            Self::Behind(thread) => {
                let (answer, answered) = oneshot::channel();
                let gone = || io::Error::other("the thread that makes sockets is gone");
                thread.send((to.is_ipv4(), answer)).map_err(|_| gone())?;
                answered.await.map_err(|_| gone())??
            }
        };
        socket.connect(to).await
    }
}

fn socket(is_ipv4: bool) -> io::Result<TcpSocket> {
    if is_ipv4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}
