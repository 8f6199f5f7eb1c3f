//! Waiting for conditions, each with a deadline and a reason to print when it passes.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);
/// One probe may take so long.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Polls `condition` until it gives a value; after `deadline` the error is what it last complained of.
///
/// # Errors
/// The deadline passed; `what` names what was waited for.
pub async fn wait_for<T, F>(what: &str, deadline: Duration, condition: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, String>>,
{
    poll(deadline, condition).await.map_err(|complaint| anyhow::anyhow!("{what}: {complaint}"))
}

/// As [`wait_for`], for callers that name what they wait for themselves.
///
/// # Errors
/// "not within … s", and the last complaint.
pub async fn poll<T, F>(deadline: Duration, mut condition: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(complaint) if start.elapsed() >= deadline => {
                return Err(format!("not within {} s: {complaint}", deadline.as_secs()));
            }
            Err(_) => sleep(POLL).await,
        }
    }
}

/// Whether GET /ready at a status door answers 200; else why not.
///
/// # Errors
/// A phrase: refused, timed out, or the status line.
pub async fn probe(address: SocketAddr) -> Result<(), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = match timeout(PROBE_TIMEOUT, exchange).await {
        Ok(Ok(answer)) => String::from_utf8_lossy(&answer).into_owned(),
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Err(_) => return Err(format!("{address}: no answer")),
    };
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Err(format!("{address}: {status} {}", body.trim()))
}

/// Whether somebody listens on a TCP port in the network namespace of process `pid`, seen from outside without
/// connecting (a connection would reach the sidecar, not the application).
#[must_use]
pub fn is_listening(pid: u32, port: u16) -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if namespace(&pid.to_string()) == namespace("self") {
        // Not yet there: these are this machine's sockets.
        return false;
    }
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| listens(line, port))
    })
}

/// A line of /proc/net/tcp: number, local address:port in hexadecimal, remote, state (0A is LISTEN), …
fn listens(line: &str, port: u16) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next().and_then(|local| local.rsplit_once(':'));
    let state = fields.nth(1);
    state == Some("0A") && local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_count() {
        let listening = "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1";
        let connected = "   1: 0100007F:1F40 0100007F:D4B2 01 00000000:00000000 00:00000000 00000000     0        0 2";
        assert!(listens(listening, 8000));
        assert!(!listens(listening, 8001));
        assert!(!listens(connected, 8000));
        assert!(!listens("nonsense", 8000));
    }
}
