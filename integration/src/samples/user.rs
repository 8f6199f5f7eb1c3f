//! `user`: gRPC in front, the Redis protocol behind.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::resp::{Reply, encode_command};
use super::serve::accept_loop;
use super::v1::users_server::{Users, UsersServer};
use super::v1::{GetUserRequest, User};

/// Who writes the sample blog.
const AUTHORS: [(&str, &str); 3] = [("1", "Ada"), ("2", "Grace"), ("3", "Barbara")];
/// Idle connections to the store that are kept.
const IDLE_MAX: usize = 16;
/// Longest id that is looked up.
const ID_MAX: usize = 64;
/// How long the store may take for one exchange.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// With `--flaky` every this-many-th call fails.
const FLAKY_PERIOD: u64 = 3;

/// How `user` behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// HOST:PORT of the store.
    pub store: String,
    /// Fail every third call with UNAVAILABLE, to show what a policy can heal.
    pub flaky: bool,
}

/// Serves until SIGTERM.
///
/// # Errors
/// The address cannot be listened on.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let listen = options.listen;
    let app = UsersServer::from_arc(Arc::new(App {
        store: StoreClient { address: options.store, idle: Mutex::default() },
        flaky: options.flaky,
        calls: AtomicU64::new(0),
        pod: super::pod_name(),
    }));
    accept_loop("user", listen, move |stream| {
        let service = TowerToHyperService::new(app.clone());
        async move {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("user: connection ended: {error}");
            }
        }
    })
    .await
}

struct App {
    store: StoreClient,
    flaky: bool,
    calls: AtomicU64,
    pod: String,
}

#[tonic::async_trait]
impl Users for App {
    async fn get(&self, request: Request<GetUserRequest>) -> Result<Response<User>, Status> {
        if self.flaky && self.calls.fetch_add(1, Ordering::Relaxed) % FLAKY_PERIOD == FLAKY_PERIOD - 1 {
            return Err(Status::unavailable("flaky, as asked for"));
        }
        let id = request.into_inner().id;
        if id.is_empty() || id.len() > ID_MAX {
            return Err(Status::invalid_argument("id must have 1 to 64 bytes"));
        }
        let found = self.store.read(&id).await.map_err(|error| Status::unavailable(format!("store: {error:#}")))?;
        let (name, reads) = found.ok_or_else(|| Status::not_found(format!("no user {id:?}")))?;
        Ok(Response::new(User { id, name, reads, pod: self.pod.clone() }))
    }
}

/// A small pool of connections to the store, one exchange on each at a time.
struct StoreClient {
    address: String,
    idle: Mutex<Vec<TcpStream>>,
}

impl StoreClient {
    /// The user's name and the new count of reads, or nothing if there is no such user. Authors that the store does
    /// not know yet are written to it.
    async fn read(&self, id: &str) -> anyhow::Result<Option<(String, u64)>> {
        let (name, reads) = (format!("user:{id}:name"), format!("user:{id}:reads"));
        let stored = self.exchange(&[b"GET", name.as_bytes()]).await?;
        let known = if let Reply::Bulk(Some(stored)) = stored {
            String::from_utf8_lossy(&stored).into_owned()
        } else {
            let Some((_, author)) = AUTHORS.iter().find(|(known, _)| *known == id) else { return Ok(None) };
            self.exchange(&[b"SET", name.as_bytes(), author.as_bytes()]).await?;
            (*author).to_owned()
        };
        match self.exchange(&[b"INCR", reads.as_bytes()]).await? {
            Reply::Integer(count) => Ok(Some((known, u64::try_from(count).unwrap_or(0)))),
            other @ (Reply::Simple(_) | Reply::Error(_) | Reply::Bulk(_)) => {
                anyhow::bail!("INCR was answered by {other:?}")
            }
        }
    }

    /// One command and its reply. A pooled connection that turns out to be closed is replaced once: the worst that
    /// can happen to this data is that a read is counted twice.
    async fn exchange(&self, command: &[&[u8]]) -> anyhow::Result<Reply> {
        let pooled = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(stream) = pooled
            && let Ok(reply) = self.exchange_on(stream, command).await
        {
            return Ok(reply);
        }
        let stream = timeout(STORE_TIMEOUT, TcpStream::connect(&self.address)).await??;
        stream.set_nodelay(true)?;
        self.exchange_on(stream, command).await
    }

    async fn exchange_on(&self, mut stream: TcpStream, command: &[&[u8]]) -> anyhow::Result<Reply> {
        let mut wire = Vec::new();
        encode_command(command, &mut wire);
        let mut buffer = BytesMut::new();
        let exchange = async {
            stream.write_all(&wire).await?;
            loop {
                if let Some(reply) = Reply::decode(&mut buffer)? {
                    return anyhow::Ok(reply);
                }
                anyhow::ensure!(stream.read_buf(&mut buffer).await? > 0, "the store closed the connection");
            }
        };
        let reply = timeout(STORE_TIMEOUT, exchange).await??;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && buffer.is_empty() {
            idle.push(stream);
        }
        Ok(reply)
    }
}
