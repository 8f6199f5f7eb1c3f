//! Two proxies, the application behind them, and what every attack is judged by.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use weft_integration::assert::wait_for;
use weft_integration::raw::{DEADLINE, End, Pair, Plan, Protocol, Proxy, Wire, find, shown};

use super::server::{Play, Server};

pub(crate) const BYSTANDER: &[u8] = b"GET /bystander HTTP/1.1\r\nHost: a\r\n\r\n";
pub(crate) const HONEST: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// What nobody but an attacker asks for; no byte of it may reach the application.
pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// So that it is certain which connection is used again.
pub(crate) const ONE_WORKER: Plan<'_> = Plan { arguments: &["--workers", "1"], ..Plan::mesh(&[Protocol::Http]) };

/// The proxies with an application that plays what a test gives it.
pub(crate) struct Lab {
    pub(crate) pair: Pair,
    pub(crate) server: Server,
    /// Records there are to be, outbound and inbound.
    expected: [Vec<(String, u64)>; 2],
}

impl Lab {
    /// One worker each.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::with(Vec::new(), ONE_WORKER).await
    }

    /// As [`Self::start`]; the application plays these when `/play/N` is asked for.
    pub(crate) async fn playing(plays: Vec<Play>) -> anyhow::Result<Self> {
        Self::with(plays, ONE_WORKER).await
    }

    pub(crate) async fn with(plays: Vec<Play>, plan: Plan<'_>) -> anyhow::Result<Self> {
        let pair = Pair::start(plan).await?;
        let server = Server::start(&pair.doors[0].backend, plays);
        Ok(Self { pair, server, expected: Default::default() })
    }

    pub(crate) async fn client(&self) -> anyhow::Result<Wire> {
        Wire::connect(self.pair.doors[0].port).await
    }

    pub(crate) fn outbound(&self) -> &Proxy {
        &self.pair.outbound
    }

    pub(crate) fn inbound(&self) -> &Proxy {
        self.pair.inbound.as_ref().unwrap()
    }

    /// Somebody else is served, and nothing else reaches the application with his request.
    pub(crate) async fn serves_a_bystander(&mut self) -> anyhow::Result<()> {
        self.server.take();
        let mut wire = self.client().await?;
        wire.send(BYSTANDER).await?;
        wire.read_bytes(HONEST.len()).await.context("a bystander")?;
        ensure!(wire.received() == HONEST, "a bystander got {}", shown(wire.received()));
        let reached = self.server.take();
        ensure!(reached == [BYSTANDER], "with a bystander's request came {}", shown(&reached.concat()));
        self.expect([("", 200)], [("", 200)]);
        Ok(())
    }

    /// These records are to come, outbound and inbound, each `(fault, status)`; status 0 where there is none.
    pub(crate) fn expect<const N: usize, const M: usize>(
        &mut self,
        outbound: [(&str, u64); N],
        inbound: [(&str, u64); M],
    ) {
        let owned = |(fault, status): (&str, u64)| (fault.to_owned(), status);
        self.expected[0].extend(outbound.map(owned));
        self.expected[1].extend(inbound.map(owned));
    }

    /// Somebody else is served, and each of `count` clients that have reset their connections has one record for it, here and
    /// as far as its request had come; nobody else has a fault.
    pub(crate) async fn settle_after_resets(mut self, count: usize) -> anyhow::Result<()> {
        self.serves_a_bystander().await?;
        until("a record for each reset", DEADLINE, || {
            let faults = |proxy: &Proxy| -> Result<Vec<String>, String> {
                let all = proxy.records().map_err(|error| format!("{error:#}"))?;
                Ok(all.iter().map(|record| facts(record).0).filter(|fault| !fault.is_empty()).collect())
            };
            let (outbound, inbound) = (faults(self.outbound())?, faults(self.inbound())?);
            let resets_only = outbound.iter().chain(&inbound).all(|fault| fault == "downstream_reset");
            if resets_only && outbound.len() == count && inbound.len() <= count {
                Ok(())
            } else {
                Err(format!("{} and {}, of {count}: {outbound:?} {inbound:?}", outbound.len(), inbound.len()))
            }
        })
        .await
    }

    /// All records that were to come have, and no other; and somebody else is served.
    pub(crate) async fn settle(mut self) -> anyhow::Result<()> {
        self.serves_a_bystander().await?;
        for (at, proxy) in [self.outbound(), self.inbound()].into_iter().enumerate() {
            let mut expected = self.expected[at].clone();
            expected.sort();
            wait_for("records", DEADLINE, || async {
                let all = proxy.records().map_err(|error| format!("{error:#}"))?;
                let mut found: Vec<_> = all.iter().map(facts).collect();
                found.sort();
                let which = ["outbound", "inbound"][at];
                if found == expected { Ok(()) } else { Err(format!("{which} recorded {found:?}, not {expected:?}")) }
            })
            .await?;
        }
        Ok(())
    }

    /// A request whose head is refused: answered and closed, recorded once, and nothing goes on.
    pub(crate) async fn refuses(&mut self, name: &str, bytes: &[u8], status: u64, fault: &str) -> anyhow::Result<()> {
        self.expect([(fault, status)], []);
        self.refused(bytes, status, fault).await.with_context(|| format!("{name}: {}", shown(bytes)))
    }

    async fn refused(&mut self, bytes: &[u8], status: u64, fault: &str) -> anyhow::Result<()> {
        let mut wire = self.client().await?;
        // What it is refused for may have been read before all of it is written.
        wire.send(bytes).await.unwrap_or_default();
        ensure!(wire.read_to_end(DEADLINE).await == End::Fin, "{:?} after {}", wire.end(), shown(wire.received()));
        is_refusal(wire.received(), status, fault)?;
        let reached = self.server.take();
        ensure!(reached.is_empty(), "reached the application: {}", shown(&reached.concat()));
        self.serves_a_bystander().await
    }
}

/// Fault and status of a record.
fn facts(record: &Value) -> (String, u64) {
    (record["fault"].as_str().unwrap_or_default().to_owned(), record["status"].as_u64().unwrap_or_default())
}

/// One answer of the proxy's own, which says that the connection closes.
pub(crate) fn is_refusal(received: &[u8], status: u64, fault: &str) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(received).to_lowercase();
    ensure!(text.starts_with(&format!("http/1.1 {status} ")), "not {status}: {}", shown(received));
    ensure!(text.matches("http/1.1 ").count() == 1, "more than one answer: {}", shown(received));
    ensure!(text.contains(&format!("\r\nx-weft-error: {fault}\r\n")), "not {fault}: {}", shown(received));
    ensure!(text.contains("\r\nconnection: close\r\n"), "does not say that it closes: {}", shown(received));
    Ok(())
}

/// Waits until the application has got all of this on one connection.
pub(crate) async fn reaches(server: &Server, bytes: &[u8]) -> anyhow::Result<()> {
    wait_for("the application gets it", DEADLINE, || async {
        let got = server.so_far();
        let found = got.iter().any(|connection| find(connection, bytes).is_some());
        if found { Ok(()) } else { Err(format!("it got {}", shown(&got.concat()))) }
    })
    .await
}

/// Waits until `is` holds.
pub(crate) async fn until(what: &str, within: Duration, is: impl Fn() -> Result<(), String>) -> anyhow::Result<()> {
    wait_for(what, within, || std::future::ready(is())).await
}
