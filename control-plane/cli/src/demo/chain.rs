//! Requests over the whole chain, and the trace of one of them through every proxy's records.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::time::sleep;

use super::hops::{self, Hop, Record, compare};
use super::load::Door;
use super::summary::ChainCounts;
use crate::dev::mesh::Mesh;
use crate::dev::ready::wait_for;

/// How long records may take to be written.
const RECORDS_DEADLINE: Duration = Duration::from_secs(10);
/// How long every instance has to answer something.
const EVERYBODY_DEADLINE: Duration = Duration::from_secs(20);
/// Between requests that only wait for the last instance to answer.
const APART: Duration = Duration::from_millis(20);
/// Failures that are described.
const COMPLAINTS_MAX: usize = 5;
/// A connection from `user` to the store that ends at once, so that its record is written: those of the application
/// stay open. It says PING in the Redis protocol; bash brings all that is needed.
const PING: &str = "exec 3<>/dev/tcp/store/6379 && printf 'PING\\r\\n' >&3 && head -c 7 <&3 | grep -q PONG";

/// The chain behind a gateway.
#[derive(Debug)]
pub struct Chain {
    door: Door,
}

/// One request, seen by every proxy on its way.
#[derive(Debug, Default)]
pub struct Traced {
    /// Its trace.
    pub trace_id: String,
    /// Both sides of each hop.
    pub hops: Vec<Hop>,
    /// A line for each record.
    pub lines: Vec<String>,
}

impl Chain {
    /// Behind a gateway.
    #[must_use]
    pub const fn new(door: Door) -> Self {
        Self { door }
    }

    /// Sends requests one after the other on one connection each, and reads who answered: at least `count`, and then, a
    /// little apart, until every instance of `users` has answered or [`EVERYBODY_DEADLINE`] has passed. Balancing
    /// prefers whoever was faster of late, so a burst need not reach everybody.
    pub async fn requests(&self, count: u64, users: usize) -> ChainCounts {
        let mut counts = ChainCounts::default();
        let started = Instant::now();
        while counts.sent < count || (counts.users() < users && started.elapsed() < EVERYBODY_DEADLINE) {
            if counts.sent >= count {
                sleep(APART).await;
            }
            counts.sent += 1;
            match self.request(&[]).await {
                Ok(body) => {
                    counts.succeeded += 1;
                    for pod in [body.pointer("/pod"), body.pointer("/article/author/pod")].into_iter().flatten() {
                        *counts.pods.entry(pod.as_str().unwrap_or_default().to_owned()).or_default() += 1;
                    }
                }
                Err(error) if counts.complaints.len() < COMPLAINTS_MAX => counts.complaints.push(format!("{error:#}")),
                Err(_) => {}
            }
        }
        counts
    }

    async fn request(&self, headers: &[(&str, &str)]) -> anyhow::Result<Value> {
        let mut connection = self.door.open().await?;
        let (status, body) = connection.get("/articles/1", headers).await?;
        anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body).trim());
        Ok(serde_json::from_slice(&body)?)
    }

    /// Sends one request with a request id and a B3 context of its own, and finds both sides of its three hops.
    ///
    /// # Errors
    /// The request fails.
    pub async fn traced(&self, mesh: &Mesh) -> anyhow::Result<Traced> {
        // Unique on this machine; nothing has to be unpredictable here.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let span = u64::try_from(now & u128::from(u64::MAX)).unwrap_or(1);
        // Both halves are set, so that nobody takes it for a 64-bit id that was padded.
        let (trace_id, span_id) = (format!("{:016x}{span:016x}", !span), format!("{span:016x}"));
        let headers = [("x-b3-traceid", trace_id.as_str()), ("x-b3-spanid", &span_id), ("x-b3-sampled", "1")];
        self.request(&headers).await?;
        ping_store(mesh).await?;
        // What is missing when the time is over is reported by the comparison.
        wait_for("records", RECORDS_DEADLINE, || async {
            let traced = collect(mesh, &trace_id);
            if traced.hops.iter().all(|hop| hop.problems.is_empty()) { Ok(()) } else { Err("incomplete".to_owned()) }
        })
        .await
        .ok();
        Ok(collect(mesh, &trace_id))
    }
}

async fn ping_store(mesh: &Mesh) -> anyhow::Result<()> {
    let Some(user) = mesh.instances.iter().find(|instance| instance.name == "user-0") else {
        anyhow::bail!("no instance user-0")
    };
    let output = mesh.command(user, &["bash", "-c", PING]).stdin(Stdio::null()).output().await?;
    anyhow::ensure!(
        output.status.success(),
        "user-0 gets no PONG from the store: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn collect(mesh: &Mesh, trace_id: &str) -> Traced {
    let of_trace = |name: &str, direction: &str| {
        let path = mesh.access_log(name);
        request_record(&path, trace_id, direction)
    };
    let users: Vec<&str> = mesh.instances.iter().filter(|one| one.app == "user").map(|one| one.name.as_str()).collect();
    let gateway = of_trace("gateway", "gateway");
    let (blog_in, blog_out) = (of_trace("blog-0", "inbound"), of_trace("blog-0", "outbound"));
    let user_in = users.iter().find_map(|user| of_trace(user, "inbound"));
    let connection = |name: &str, direction: &str| {
        let wanted = |record: &Record| {
            record.kind.as_deref() == Some("connection")
                && record.direction.as_deref() == Some(direction)
                && record.alpn.as_deref() == Some("weft-tcp/1")
        };
        hops::read(&mesh.access_log(name), wanted).pop()
    };
    let (user_out, store_in) = (connection("user-0", "outbound"), connection("store-0", "inbound"));
    let hops = vec![
        compare("gateway → blog", ("gateway", "blog"), gateway.as_ref(), blog_in.as_ref()),
        compare("blog → user", ("blog", "user"), blog_out.as_ref(), user_in.as_ref()),
        compare("user → store", ("user", "store"), user_out.as_ref(), store_in.as_ref()),
    ];
    let lines = [gateway, blog_in, blog_out, user_in].into_iter().flatten().map(|record| line(&record)).collect();
    Traced { trace_id: trace_id.to_owned(), hops, lines }
}

fn request_record(path: &Path, trace_id: &str, direction: &str) -> Option<Record> {
    let wanted = |record: &Record| {
        record.trace_id.as_deref() == Some(trace_id) && record.direction.as_deref() == Some(direction)
    };
    hops::read(path, wanted).pop()
}

fn line(record: &Record) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "trace {}: {:<8} {:<8} span {} of {}, {} → {}, {} µs, request {}",
        text(&record.trace_id),
        text(&record.instance_id),
        text(&record.direction),
        text(&record.span_id),
        text(&record.parent_span_id),
        text(&record.path),
        record.status.unwrap_or(0),
        record.duration_us.unwrap_or(0),
        text(&record.request_id),
    )
}
