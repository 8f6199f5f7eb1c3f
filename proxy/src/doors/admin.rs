//! The operator's socket: HTTP/1 on a Unix socket that only the proxy's own user can open (mode 0600), for example
//! `curl --unix-socket /run/weft/proxy.sock http://proxy/dump`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::net::UnixListener;

use super::Process;
use super::serve::{Answer, DoorError, accept_loop, text};

/// A log filter is short.
const BODY_BYTES_MAX: usize = 4096;

const HELP: &str = "GET /dump, GET /log-level, PUT /log-level (filter in the body; empty: as at start), POST /drain\n";

/// Opens the socket and serves it until the future is dropped; the file is removed then. A socket left by a dead process
/// is replaced, one that somebody still answers on is not.
///
/// # Errors
/// [`DoorError`] when the socket cannot be opened.
pub async fn serve_admin(path: PathBuf, process: Process) -> Result<(), DoorError> {
    let failed = |source| DoorError { what: "admin socket", address: path.display().to_string(), source };
    let listener = bind(&path).map_err(failed)?;
    let _remove = RemoveOnDrop(path.clone());
    let handle = move |request: Request<Incoming>| {
        let process = process.clone();
        async move { answer(&process, request).await }
    };
    accept_loop(|| async { Ok(listener.accept().await?.0) }, handle).await;
    Ok(())
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::Error::other("another process answers there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Between bind and chmod the socket has the umask's mode, so it is bound under a name nobody knows yet.
    let hidden = path.with_extension(format!("{}.new", std::process::id()));
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, path)?;
    Ok(listener)
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, "admin socket not removed");
        }
    }
}

async fn answer(process: &Process, request: Request<Incoming>) -> Answer {
    match (request.method().clone(), request.uri().path()) {
        (Method::GET, "/dump") => {
            let dump = serde_json::to_vec_pretty(&(process.dump)()).unwrap_or_default();
            text(StatusCode::OK, dump)
        }
        (Method::GET, "/log-level") => match process.log.current() {
            Ok(directive) => text(StatusCode::OK, format!("{directive}\n")),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        (Method::PUT, "/log-level") => set_log_level(process, request).await,
        (Method::POST, "/drain") => {
            tracing::info!("drain asked for on the admin socket");
            (process.drain)();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        _ => text(StatusCode::NOT_FOUND, HELP),
    }
}

async fn set_log_level(process: &Process, request: Request<Incoming>) -> Answer {
    let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "a log filter has at most 4096 bytes\n");
    };
    let body = body.to_bytes();
    let directive = String::from_utf8_lossy(&body);
    match process.log.set(directive.trim()) {
        Ok(()) => text(StatusCode::OK, "set\n"),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
