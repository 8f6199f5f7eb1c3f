//! Questions passed on: each with an id and a port of its own, which whoever would forge an answer has to guess.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::counts::DnsCounts;
use super::packet::{Question, code};
use super::upstreams::Upstreams;
use crate::net::{datagrams, dialling};

/// Questions under way at once. Each holds a socket and at most 64 KiB.
const UNDER_WAY_MAX: usize = 512;

/// One server gets this long, all together a little less than a stub resolver waits (5 s).
const ATTEMPT: Duration = Duration::from_millis(1500);
const ALL_ATTEMPTS: Duration = Duration::from_millis(4500);

/// How often each server is asked where it does not answer.
const ROUNDS: usize = 3;

/// Largest message.
const MESSAGE_BYTES_MAX: usize = 65_535;

/// How a question came, and so goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Udp,
    Tcp,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    Overload,
    Failed,
}

/// Passes questions on.
#[derive(Debug)]
pub(super) struct Forwarder {
    under_way: Semaphore,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self { under_way: Semaphore::new(UNDER_WAY_MAX) }
    }
}

impl Forwarder {
    /// What an upstream answers, as it goes to the client. One that cannot answer is followed by the next.
    pub(super) async fn forward(
        &self,
        question: &Question,
        way: Way,
        upstreams: &Upstreams,
        counts: &DnsCounts,
    ) -> Result<Vec<u8>, NoAnswer> {
        let _permit = self.under_way.try_acquire().map_err(|_| NoAnswer::Overload)?;
        let end = Instant::now() + ALL_ATTEMPTS;
        let mut last = None;
        for _ in 0..ROUNDS {
            let mut silent = false;
            for (number, server) in upstreams.servers_now() {
                let until = end.min(Instant::now() + ATTEMPT);
                match tokio::time::timeout_at(until, ask(question, way, server, counts)).await {
                    Ok(Ok(answer)) if is_good(&answer) => {
                        upstreams.prefer(number);
                        return Ok(question.returned(answer));
                    }
                    Ok(Ok(answer)) => last = Some(answer),
                    Ok(Err(error)) => tracing::debug!(%server, %error, "name server does not answer"),
                    Err(_) => silent = true,
                }
            }
            if !silent || Instant::now() >= end {
                break;
            }
        }
        last.map(|answer| question.returned(answer)).ok_or(NoAnswer::Failed)
    }
}

/// Another server may do better than one that says that it cannot or will not.
fn is_good(answer: &[u8]) -> bool {
    !matches!(code(answer), Some(ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp))
}

/// One question to one server. Cancelling leaves nothing behind.
pub(super) async fn ask(question: &Question, way: Way, server: SocketAddr, counts: &DnsCounts) -> io::Result<Vec<u8>> {
    let id = super::random_u16()?;
    match way {
        Way::Udp => by_udp(question, id, server, counts).await,
        Way::Tcp => by_tcp(question, id, server).await,
    }
}

async fn by_udp(question: &Question, id: u16, server: SocketAddr, counts: &DnsCounts) -> io::Result<Vec<u8>> {
    let socket = datagrams(server)?;
    socket.send(&question.with_id(id)).await?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if question.is_answered_by(answer, id) {
            return Ok(answer.to_vec());
        }
        counts.note_stray();
    }
}

async fn by_tcp(question: &Question, id: u16, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut socket = dialling(server)?.connect(server).await?;
    let message = question.with_id(id);
    socket.write_all(&framed(&message)?).await?;
    let mut answer = vec![0; socket.read_u16().await?.into()];
    socket.read_exact(&mut answer).await?;
    let foreign = || io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question");
    if question.is_answered_by(&answer, id) { Ok(answer) } else { Err(foreign()) }
}

/// A message as it goes by TCP.
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok([&length.to_be_bytes(), message].concat())
}
