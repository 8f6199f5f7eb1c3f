//! `weft demo`: the blog on a mesh, and what the mesh does for it, shown with the real values.
//!
//! `weft demo --check` does the same without a person: it measures, compares with what is promised, prints a JSON
//! summary with the raw counts and fails if anything is not as promised.

pub mod chain;
pub mod hops;
pub mod load;
pub mod summary;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use tokio::time::sleep;

use self::chain::Chain;
use self::load::{Door, Load};
use self::summary::{Outage, Summary, Traffic};
use crate::dev::cli::{Stop, progress};
use crate::dev::file::DevFile;
use crate::dev::mesh::{Ground, Mesh};

/// The applications; the same file that `weft dev up` takes.
const BLOG: &str = include_str!("../../../../deploy/examples/dev/blog.yaml");
/// What traffic asks for.
const PATHS: &[&str] = &["/articles/1", "/articles/2", "/articles/3"];
/// A margin above the 200 requests per second that are promised.
const RATE: u32 = 220;
/// Instances of `user` in the blog.
pub(crate) const USERS: usize = 3;
/// Requests per second that are promised.
const RATE_MIN: f64 = 200.0;
/// Traffic before, between and after outages.
const CALM: Duration = Duration::from_secs(4);
/// How long the control plane is away: a crash, then beyond the lease (10 s) many times over.
const CHECK_OUTAGES: [Duration; 2] = [Duration::from_secs(32), Duration::from_secs(62)];
/// The same for a person who watches.
const SHOWN_OUTAGES: [Duration; 1] = [Duration::from_secs(10)];

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Measure and check instead of showing: JSON on standard output, failure if anything is not as promised.
    #[arg(long)]
    pub check: bool,
    /// Where the gateway listens.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Name of the mesh.
    #[arg(long, default_value = "demo")]
    pub mesh: String,
}

/// What the demo is to start, and where. Must be called while the process has one thread.
///
/// # Errors
/// A name that is none; those of [`Ground::find`].
pub fn prepare(args: &DemoArgs) -> anyhow::Result<(DevFile, Ground)> {
    let mut file = DevFile::parse(BLOG)?;
    file.name = Some(args.mesh.clone());
    for gateway in &mut file.gateways {
        gateway.listen = args.listen;
    }
    let problems = file.problems();
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    let ground = Ground::find(&file)?;
    Ok((file, ground))
}

/// Runs the demo.
///
/// # Errors
/// Something did not start; with `--check` also: something is not as promised.
pub async fn run(args: &DemoArgs, file: DevFile, ground: Ground) -> anyhow::Result<()> {
    let mut stop = Stop::new()?;
    let mut mesh = tokio::select! {
        mesh = Mesh::up(file, ground, progress) => mesh?,
        // The guard takes away what there is by then.
        () = stop.wait() => anyhow::bail!("interrupted while starting"),
    };
    let result = tokio::select! {
        result = async { if args.check { check(&mut mesh, args.listen).await } else { show(&mut mesh, args.listen).await } } => result,
        () = stop.wait() => Err(anyhow::anyhow!("interrupted")),
    };
    if result.is_ok() && !args.check {
        progress(&format!("try it: curl http://{}/articles/1   (Ctrl-C ends the demo)", args.listen));
        stop.wait().await;
    }
    progress("stopping");
    mesh.down().await?;
    result
}

async fn show(mesh: &mut Mesh, address: SocketAddr) -> anyhow::Result<()> {
    let summary = measure(mesh, address, &SHOWN_OUTAGES).await?;
    if !summary.problems.is_empty() {
        progress(&format!("not everything is as promised:\n  {}", summary.problems.join("\n  ")));
    }
    Ok(())
}

async fn check(mesh: &mut Mesh, address: SocketAddr) -> anyhow::Result<()> {
    let summary = measure(mesh, address, &CHECK_OUTAGES).await?;
    println!("{}", serde_json::to_string_pretty(&summary)?);
    anyhow::ensure!(summary.ok, "not as promised:\n  {}", summary.problems.join("\n  "));
    Ok(())
}

/// Everything there is to see, with a line for each.
async fn measure(mesh: &mut Mesh, address: SocketAddr, outages: &[Duration]) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let door = Door { network: mesh.host_network(), address };
    let chain = Chain::new(door.clone());
    summary.chain = chain.requests(60, USERS).await;
    progress(&summary.chain.line());
    let traced = chain.traced(mesh).await.context("one request's trace")?;
    for hop in &traced.hops {
        progress(&format!("{}: {} ⇄ {}, {} {}", hop.hop, hop.client, hop.server, hop.tls_version, hop.tls_group));
    }
    for line in &traced.lines {
        progress(line);
    }
    summary.trace_id = traced.trace_id;
    summary.hops = traced.hops;
    let load = Load::start(door, RATE, PATHS);
    sleep(CALM).await;
    for &away in outages {
        let outage = outage(mesh, &load, away).await?;
        progress(&outage.line());
        summary.outages.push(outage);
        sleep(CALM).await;
    }
    let (counts, elapsed) = load.stop().await;
    summary.traffic = Traffic::of(&counts, elapsed);
    progress(&summary.traffic.line());
    summary.after = chain.requests(60, USERS).await;
    let away = outages.iter().max().copied().unwrap_or_default();
    summary.judge(RATE_MIN, away);
    Ok(summary)
}

/// Kills the control plane, waits, starts it again; counts the traffic meanwhile.
async fn outage(mesh: &mut Mesh, load: &Load, away: Duration) -> anyhow::Result<Outage> {
    let before = load.counts();
    progress(&format!("control plane: killed (SIGKILL) for {} s while {RATE} requests/s go on", away.as_secs()));
    let start = Instant::now();
    mesh.kill_control_plane().await;
    sleep(away).await;
    mesh.start_control_plane().await?;
    let seconds = start.elapsed().as_secs_f64();
    let after = load.counts();
    Ok(Outage {
        seconds,
        sent: after.sent - before.sent,
        succeeded: after.succeeded - before.succeeded,
        failed: after.failed - before.failed,
    })
}
