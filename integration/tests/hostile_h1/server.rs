//! The application: reads requests as the strictest of servers does, keeps every byte, answers honestly or as told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use weft_integration::raw::{Backend, Served, Wire, find};

use super::lab::HONEST;

/// What is said to `GET /play/N`, and then.
#[derive(Clone, Debug)]
pub(crate) struct Play {
    pub(crate) answer: Vec<u8>,
    pub(crate) then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Reads on.
    Stay,
    /// Closes.
    Leave,
    /// Says this a little later, unasked.
    Add(&'static [u8]),
    /// Says this over and over, until nobody listens.
    Repeat(&'static [u8]),
}

impl Play {
    pub(crate) fn stay(answer: impl Into<Vec<u8>>) -> Self {
        Self { answer: answer.into(), then: Then::Stay }
    }

    pub(crate) fn leave(answer: impl Into<Vec<u8>>) -> Self {
        Self { answer: answer.into(), then: Then::Leave }
    }
}

/// One connection as the application sees it.
#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    taken: usize,
    over: bool,
}

type Log = Arc<Mutex<Vec<Seen>>>;

pub(crate) struct Server {
    log: Log,
    _served: Served,
}

impl Server {
    pub(crate) fn start(backend: &Backend, plays: Vec<Play>) -> Self {
        let log = Log::default();
        let (told, plays) = (Arc::clone(&log), Arc::new(plays));
        let served = backend.serve(move |wire| {
            let (log, plays) = (Arc::clone(&told), Arc::clone(&plays));
            async move {
                let at = {
                    let mut log = log.lock().unwrap();
                    log.push(Seen::default());
                    log.len() - 1
                };
                let mut reader = Reader { wire, log: Arc::clone(&log), at, position: 0 };
                // Ends with an error when the proxy leaves, as it may.
                reader.serve(&plays).await.unwrap_or_default();
                log.lock().unwrap()[at].over = true;
                None
            }
        });
        Self { log, _served: served }
    }

    /// What came since it was taken last, by connection, without what proxies add.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        let mut log = self.log.lock().unwrap();
        let taken = log.iter_mut().map(|seen| {
            let new = plain(&seen.bytes[seen.taken..]);
            seen.taken = seen.bytes.len();
            new
        });
        taken.filter(|new| !new.is_empty()).collect()
    }

    /// What came since it was taken last, by connection, as it is.
    pub(crate) fn so_far(&self) -> Vec<Vec<u8>> {
        self.log.lock().unwrap().iter().map(|seen| seen.bytes[seen.taken..].to_vec()).collect()
    }

    /// Connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// Connections that are over.
    pub(crate) fn ended(&self) -> usize {
        self.log.lock().unwrap().iter().filter(|seen| seen.over).count()
    }
}

struct Reader {
    wire: Wire,
    log: Log,
    at: usize,
    position: usize,
}

impl Reader {
    async fn serve(&mut self, plays: &[Play]) -> anyhow::Result<()> {
        loop {
            let head = self.past(b"\r\n\r\n").await?.to_ascii_lowercase();
            if head.starts_with("post /early ") {
                self.wire.send(HONEST).await?;
                self.skip_body(&head).await?;
                continue;
            }
            self.skip_body(&head).await?;
            let path = head.split(' ').nth(1).unwrap_or_default();
            let number = path.strip_prefix("/play/").and_then(|number| number.parse::<usize>().ok());
            let Some(play) = number.and_then(|number| plays.get(number)) else {
                self.wire.send(HONEST).await?;
                continue;
            };
            self.wire.send(&play.answer).await?;
            match play.then {
                Then::Stay => {}
                Then::Leave => return Ok(()),
                Then::Add(more) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    self.wire.send(more).await?;
                }
                Then::Repeat(more) => loop {
                    self.wire.send(more).await?;
                },
            }
        }
    }

    async fn skip_body(&mut self, head: &str) -> anyhow::Result<()> {
        let field = |name: &str| {
            let line = head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        if field("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.past(b"\r\n").await?;
                let size = usize::from_str_radix(line.trim_end(), 16)?;
                if size == 0 {
                    while self.past(b"\r\n").await? != "\r\n" {}
                    return Ok(());
                }
                self.bytes(size + 2).await?;
            }
        }
        let length = field("content-length").map_or(Ok(0), str::parse)?;
        self.bytes(length).await
    }

    async fn past(&mut self, end: &[u8]) -> anyhow::Result<String> {
        loop {
            if let Some(found) = find(&self.wire.received()[self.position..], end) {
                let start = self.position;
                self.position += found + end.len();
                return Ok(String::from_utf8_lossy(&self.wire.received()[start..self.position]).into_owned());
            }
            self.more().await?;
        }
    }

    async fn bytes(&mut self, count: usize) -> anyhow::Result<()> {
        while self.wire.received().len() < self.position + count {
            self.more().await?;
        }
        self.position += count;
        Ok(())
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let before = self.wire.received().len();
        let read = self.wire.read_until(|received| received.len() > before).await;
        self.log.lock().unwrap()[self.at].bytes.extend_from_slice(&self.wire.received()[before..]);
        read
    }
}

/// Without the lines that proxies add.
pub(crate) fn plain(bytes: &[u8]) -> Vec<u8> {
    const ADDED: [&str; 6] =
        ["x-request-id:", "x-forwarded-client-cert: By=", "x-weft-client-id: spiffe:", "x-b3-", "traceparent:", "b3:"];
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| !ADDED.iter().any(|added| line.starts_with(added.as_bytes())));
    kept.collect::<Vec<_>>().concat()
}
