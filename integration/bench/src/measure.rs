//! One measurement: start everything, load it, look, stop everything.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::host::{busy, on_cpu, processor_time};
use crate::load::Tally;
use crate::peers::Peer;
use crate::process::Helper;
use crate::scenario::{Scenario, Unit};
use crate::scene::{LOAD_CPU, PATIENCE, Scene};

/// How often memory is looked at while it has to stand still.
const LOOKS: u32 = 10;
/// Where memory at rest is the row's figure it has to stand still so many times longer.
const REST: u32 = 4;
/// What differs by less is the same memory: pages shared with others count by how many others there are.
const STEP_MIB: f64 = 0.1;

/// How long what takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For so long memory without traffic has to stand still before it counts.
    pub still: Duration,
    /// Before the measurement.
    pub warm_up: Duration,
    /// The measurement.
    pub run: Duration,
}

/// What one measurement found.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// In the scenario's unit; nothing where there is no proxy.
    pub cost: Option<f64>,
    /// Requests per second, or GB/s.
    pub rate: Option<f64>,
    /// Latencies: 50%, 90%, 99%; in microseconds.
    pub latency: [Option<f64>; 3],
    /// Memory of all proxies before the load, MiB.
    pub idle_mib: f64,
    /// And under it.
    pub loaded_mib: f64,
    /// Processor time of what does not belong to the measurement, in processors.
    pub foreign: f64,
}

/// Measures once.
///
/// # Errors
/// Something does not start, or a request fails: a figure of a path that loses requests is none.
pub fn measure(scenario: &Scenario, peer: Peer, times: Times, identity: &Path) -> anyhow::Result<Measured> {
    let directory = tempfile::tempdir()?;
    let in_place = |error: anyhow::Error| {
        let directory = directory.path();
        error.context(format!("{} in {}{}", peer.name(), scenario.name, complaints(directory)))
    };
    measure_in(scenario, peer, times, identity, directory.path()).map_err(in_place)
}

fn measure_in(
    scenario: &Scenario,
    peer: Peer,
    times: Times,
    identity: &Path,
    directory: &Path,
) -> anyhow::Result<Measured> {
    let scene = Scene::start(scenario, peer, identity, directory)?;
    // What a sidecar does now and then at rest, as renewing its registration, belongs to what it holds there.
    let still = if scenario.unit == Unit::MibPerProxy { times.still * REST } else { times.still };
    let idle_mib = settled(|| scene.memory_mib(), still)?;
    let measured = match scenario.kind {
        Some(_) => under_load(scenario, peer, times, identity, &scene)?,
        None => Measured { loaded_mib: idle_mib, ..Measured::default() },
    };
    let loaded_mib = measured.loaded_mib;
    let cost = match scenario.unit {
        _ if scene.proxies() == 0 => None,
        Unit::MicrosPerRequest | Unit::SecondsPerGb => measured.cost,
        Unit::KibPerConnection => count(scenario.connections).map(|all| (loaded_mib - idle_mib) * 1024.0 / all),
        Unit::MibPerProxy => count(scene.proxies()).map(|proxies| idle_mib / proxies),
    };
    Ok(Measured { cost, idle_mib, ..measured })
}

/// What `memory` says once it has stood still for so long: what a proxy does after it has begun to listen is over.
fn settled(memory: impl Fn() -> anyhow::Result<f64>, still: Duration) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let (mut last, mut since) = (memory()?, Instant::now());
    while since.elapsed() < still {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "memory does not stand still: {last:.1} MiB after {PATIENCE:?}");
        thread::sleep(still / LOOKS);
        let now = memory()?;
        if (now - last).abs() >= STEP_MIB {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

fn under_load(
    scenario: &Scenario,
    peer: Peer,
    times: Times,
    identity: &Path,
    scene: &Scene,
) -> anyhow::Result<Measured> {
    let arguments = load_arguments(scenario, peer, times, identity, scene)?;
    let load = on_cpu(LOAD_CPU, || Helper::start(&scene.client, &arguments))?;
    let patience = times.warm_up + times.run + PATIENCE;
    let first = load.line(patience)?;
    if first != "begin" {
        // It is over already.
        all_well(&serde_json::from_str(&first)?)?;
        anyhow::bail!("the load ended before it began");
    }
    let before = Clocks::read(scene, &load)?;
    let tally: Tally = serde_json::from_str(&load.line(patience)?)?;
    let spent = Clocks::read(scene, &load)?.since(&before);
    let loaded_mib = scene.memory_mib()?;
    load.finish()?;
    all_well(&tally)?;
    let bulk = scenario.unit == Unit::SecondsPerGb;
    // Units of what is done in what is counted: GB and µs.
    let (amount, factor) = if bulk { (tally.bytes, 1e9) } else { (tally.done, 1e6) };
    let amount = f64::from(u32::try_from(amount / 1000)?) * 1000.0 + f64::from(u32::try_from(amount % 1000)?);
    let rate = amount / tally.seconds / if bulk { factor } else { 1.0 };
    Ok(Measured {
        cost: Some(spent.proxies.as_secs_f64() * factor / amount),
        rate: (scenario.unit != Unit::KibPerConnection).then_some(rate),
        latency: [tally.p50_us, tally.p90_us, tally.p99_us],
        idle_mib: 0.0,
        loaded_mib,
        foreign: spent.foreign.as_secs_f64() / spent.elapsed.as_secs_f64(),
    })
}

fn all_well(tally: &Tally) -> anyhow::Result<()> {
    if let Some(failure) = &tally.failure {
        anyhow::bail!("{} requests failed: {failure}", tally.failed);
    }
    anyhow::ensure!(tally.done > 0 || tally.bytes > 0, "nothing was done");
    Ok(())
}

fn count(number: usize) -> Option<f64> {
    u32::try_from(number).ok().filter(|number| *number > 0).map(f64::from)
}

/// Ends of what the proxies said, to be shown after an error.
fn complaints(directory: &Path) -> String {
    let files = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log" || ending == "error"));
    let ends = logs.map(|path| {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        format!("\n--- {}\n{}", path.display(), last.into_iter().rev().collect::<Vec<_>>().join("\n"))
    });
    ends.collect()
}

fn load_arguments(
    scenario: &Scenario,
    peer: Peer,
    times: Times,
    identity: &Path,
    scene: &Scene,
) -> anyhow::Result<Vec<String>> {
    use clap::ValueEnum as _;
    let kind = scenario.kind.and_then(|kind| kind.to_possible_value()).context("there is no load")?;
    let pairs = [
        ("--kind", kind.get_name().to_owned()),
        ("--target", scene.entrance.to_string()),
        ("--connections", scenario.connections.to_string()),
        ("--streams", scenario.streams.to_string()),
        ("--body", scenario.body.to_string()),
        ("--warm-ms", times.warm_up.as_millis().to_string()),
        ("--run-ms", times.run.as_millis().to_string()),
        ("--identity", identity.display().to_string()),
        ("--alpn", peer.alpn().to_owned()),
    ];
    let also = scene.also.iter().map(|one| ("--also", one.to_string()));
    let arguments = pairs.into_iter().chain(also).flat_map(|(name, value)| [name.to_owned(), value]);
    Ok(["load".to_owned()].into_iter().chain(arguments).collect())
}

/// Where the clocks stand.
struct Clocks {
    now: Instant,
    busy: Duration,
    proxies: Duration,
    ours: Duration,
}

struct Spent {
    elapsed: Duration,
    proxies: Duration,
    foreign: Duration,
}

impl Clocks {
    fn read(scene: &Scene, load: &Helper) -> anyhow::Result<Self> {
        let (proxies, backend) = scene.processor_times()?;
        let ours = proxies + backend + processor_time(load.id())?;
        Ok(Self { now: Instant::now(), busy: busy()?, proxies, ours })
    }

    fn since(&self, before: &Self) -> Spent {
        let ours = self.ours.saturating_sub(before.ours);
        Spent {
            elapsed: self.now - before.now,
            proxies: self.proxies.saturating_sub(before.proxies),
            foreign: self.busy.saturating_sub(before.busy).saturating_sub(ours),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn memory_counts_once_it_stands_still() {
        let looks = Cell::new(0_u32);
        let growing = |until: u32| {
            looks.set(looks.get() + 1);
            Ok(f64::from(looks.get().min(until)))
        };
        let found = settled(|| growing(7), Duration::from_millis(50)).unwrap();
        assert!((found - 7.0).abs() < f64::EPSILON, "{found}");
        assert!(settled(|| anyhow::bail!("gone"), Duration::ZERO).is_err());
    }
}
