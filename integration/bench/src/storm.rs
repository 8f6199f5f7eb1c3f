//! A storm of handshakes, and a bystander: how much longer who is being served waits while hundreds of peers call at once.
//!
//! The bystander sends plain HTTP/1.1 requests at fixed moments on connections that stay, through the same worker that
//! answers the storm. The storm is so many callers, each of whom opens a connection with a full mutual TLS handshake, sends
//! one request, closes, and begins again. They share the client's processor and have its lowest priority, so that what is
//! measured is the proxy and not the client.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::compare::{identities, say};
use crate::host::{on_cpu, raise_file_limit};
use crate::job::{App, Job, Shape};
use crate::load::Tally;
use crate::peers::Peer;
use crate::process::Helper;
use crate::scenario::Scenario;
use crate::scene::{LOAD_CPU, PATIENCE, Scene};
use crate::stats::{median, ratio};

/// Connections of the bystander.
const CONNECTIONS: usize = 16;
const WARM_UP: Duration = Duration::from_secs(1);

/// Flags of `weft-bench storm`.
#[derive(Clone, Debug, Args)]
pub struct StormArgs {
    /// How often calm and storm are measured, in turns
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// How long one measurement takes, in seconds
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Who call at once
    #[arg(long, default_value_t = 256)]
    pub callers: usize,
    /// The bystander's requests per second
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// Threads that the proxy serves with
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
}

/// Measures and prints.
///
/// # Errors
/// A request of the bystander or of a caller failed.
pub fn run(args: &StormArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.rounds > 0 && args.callers > 0, "nothing to measure");
    raise_file_limit()?;
    let (identity, directory) = (identities()?, tempfile::tempdir()?);
    let job =
        Job { plaintext: true, workers: args.workers, connections: args.callers, ..Job::new(Shape::Door, App::Http1) };
    let scene = Scene::start(&Scenario::storm(job), Peer::Weft, identity.path(), directory.path())?;
    let (mut calm, mut stormy) = (Vec::new(), Vec::new());
    say("µs, 50 % / 90 % / 99 %\n\n| round | calm | in the storm | handshakes/s |\n|---|---|---|---|\n")?;
    for round in 1..=args.rounds {
        let (before, _) = bystander(args, &scene, None)?;
        let (during, handshakes) = bystander(args, &scene, Some(identity.path()))?;
        say(&format!("| {round} | {} | {} | {handshakes:.0} |\n", waits(&before), waits(&during)))?;
        calm.extend(before.p99_us);
        stormy.extend(during.p99_us);
    }
    scene.end_well()?;
    let (Some(calm_p99), Some(storm_p99)) = (median(&calm), median(&stormy)) else { return Ok(()) };
    let ratio = ratio(&stormy, &calm).map_or_else(String::new, |ratio| {
        format!(", {:.2} times as long [{:.2}–{:.2}]", ratio.median, ratio.low, ratio.high)
    });
    say(&format!("\np99 of a bystander: {calm_p99:.0} µs, in a storm of handshakes {storm_p99:.0} µs{ratio}\n"))
}

fn waits(seen: &Tally) -> String {
    let one = |wait: Option<f64>| wait.map_or_else(|| "–".to_owned(), |wait| format!("{wait:.0}"));
    [seen.p50_us, seen.p90_us, seen.p99_us].map(one).join(" / ")
}

/// What the bystander saw, and how many handshakes there were in a second meanwhile. With the callers'
/// identity there is a storm.
fn bystander(args: &StormArgs, scene: &Scene, storm: Option<&Path>) -> anyhow::Result<(Tally, f64)> {
    let run = Duration::from_secs_f64(args.seconds);
    let pairs = [("--rate", args.rate.to_string()), ("--connections", CONNECTIONS.to_string())];
    let asking = start(scene, &[], "http1-paced", (WARM_UP, run), &pairs)?;
    // From before the bystander's window opens until after it has closed.
    let callers = storm.map(|identity| {
        let pairs = [("--identity", identity.display().to_string()), ("--connections", args.callers.to_string())];
        let lowest = ["nice", "-n", "19"].map(str::to_owned);
        start(scene, &lowest, "churn-tls", (WARM_UP / 2, run + WARM_UP), &pairs)
    });
    let callers = callers.transpose()?;
    let seen = ended(asking, args)?;
    let handshakes = callers.map(|callers| ended(callers, args)).transpose()?.map_or(0.0, |tally| rate(&tally));
    Ok((seen, handshakes))
}

fn rate(tally: &Tally) -> f64 {
    f64::from(u32::try_from(tally.done).unwrap_or(u32::MAX)) / tally.seconds
}

fn start(
    scene: &Scene,
    by: &[String],
    kind: &str,
    (warm_up, run): (Duration, Duration),
    pairs: &[(&str, String)],
) -> anyhow::Result<Helper> {
    let command: Vec<String> = by.iter().chain(&scene.client).cloned().collect();
    let own = [
        ("--kind", kind.to_owned()),
        ("--target", scene.entrance.to_string()),
        ("--warm-ms", warm_up.as_millis().to_string()),
        ("--run-ms", run.as_millis().to_string()),
        ("--alpn", Peer::Weft.alpn().to_owned()),
    ];
    let pairs = own.iter().chain(pairs).flat_map(|(name, value)| [(*name).to_owned(), value.clone()]);
    let arguments: Vec<String> = ["load".to_owned()].into_iter().chain(pairs).collect();
    on_cpu(LOAD_CPU, || Helper::start(&command, &arguments))
}

fn ended(load: Helper, args: &StormArgs) -> anyhow::Result<Tally> {
    let patience = WARM_UP + Duration::from_secs_f64(args.seconds) + PATIENCE;
    let mut line = load.line(patience)?;
    if line == "begin" {
        line = load.line(patience)?;
    }
    let tally: Tally = serde_json::from_str(&line)?;
    load.finish()?;
    if let Some(failure) = &tally.failure {
        anyhow::bail!("{} requests failed: {failure}", tally.failed);
    }
    Ok(tally)
}
