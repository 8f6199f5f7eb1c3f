//! The operators' door: a Unix socket that only its owner can open.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use super::connection::Connection;
use crate::api::peer::{Peer, PeerAddr};

/// Operators connected at once.
pub const OPERATORS_MAX: usize = 256;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that came through the socket.
pub type SocketConnection = Connection<UnixStream>;

/// The bound socket; its file goes away with it.
#[derive(Debug)]
pub struct SocketDoor {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl SocketDoor {
    /// Binds, mode 0600, replacing what a crash left behind. The directory is made if it is missing.
    ///
    /// # Errors
    /// `AddrInUse` when another control plane listens there; else as the file system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            // Open to others, since a proxy's socket may lie beside; ours has a mode of its own.
            fs::create_dir_all(directory)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let detail = format!("another control plane listens on {}; choose another --socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, detail));
        }
        // Bound under another name and then renamed, so that nobody meets it before its mode is set. The rename also
        // replaces a stale socket.
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let listener = UnixListener::bind(&temporary)?;
        let placed = fs::set_permissions(&temporary, Permissions::from_mode(0o600)).and_then(|()| {
            match fs::symlink_metadata(path) {
                Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is not a socket", path.display())))
                }
                Ok(_) | Err(_) => fs::rename(&temporary, path),
            }
        });
        if let Err(error) = placed {
            drop(fs::remove_file(&temporary));
            return Err(error);
        }
        Ok(Self { path: path.to_owned(), listener: Some(listener) })
    }

    /// Accepts until the receiver is dropped.
    #[must_use]
    pub fn accept(&mut self) -> mpsc::Receiver<io::Result<SocketConnection>> {
        let (ready, receiver) = mpsc::channel(1);
        if let Some(listener) = self.listener.take() {
            tokio::spawn(accept_loop(listener, ready));
        }
        receiver
    }
}

impl Drop for SocketDoor {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, socket = %self.path.display(), "cannot remove the operators' socket");
        }
    }
}

async fn accept_loop(listener: UnixListener, ready: mpsc::Sender<io::Result<SocketConnection>>) {
    let operators = Arc::new(Semaphore::new(OPERATORS_MAX));
    let owner = nix::unistd::geteuid().as_raw();
    loop {
        let Ok(permit) = Arc::clone(&operators).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        match accepted {
            Ok((stream, _addr)) => {
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                // The file's mode says the same; a copy of the socket elsewhere would not.
                if uid.is_none_or(|uid| uid != 0 && uid != owner) {
                    tracing::warn!(?uid, "refused a caller of the operators' socket: neither its owner nor root");
                    continue;
                }
                let peer = Peer { svid: None, local_operator: true, addr: PeerAddr::Socket { uid } };
                if ready.send(Ok(Connection::new(stream, peer, None, permit))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept operators");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
