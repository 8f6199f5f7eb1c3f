//! Instructions and allocations of one request, and of one change of what a proxy knows: numbers that no neighbour moves.
//!
//! Proxies run under callgrind, once with few requests and once with many; what the difference cost is divided by its
//! requests, so starting and stopping do not count. Requests go one after the other on one connection, those of HTTP/2 in
//! rounds of as many as the row has streams, so that as many wakeups come in every run. The kernel's part is not in these numbers; it is in those of [`crate::compare`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use weft_cli::binaries::Binaries;

use crate::compare::{identities, say};
use crate::load::{Kind, exchange, rounds};
use crate::peers::Peer;
use crate::scenario::{self, Scenario};
use crate::scene::Scene;

/// Rows whose requests are counted.
const PATHS: [&str; 4] = ["hop-http1", "mesh-http1", "mesh-h2", "mesh-grpc"];
/// Requests of the shorter run: more than what is set up at first use. Whole rounds.
const FEW: u32 = 320;
/// By how many the longer run has more.
const MORE: u32 = 1024;
/// The same where a proxy knows 10,000: starting takes a billion instructions, and a thousandth of these is chance (hashes
/// with keys of their own), which must be little beside what is counted.
const MORE_LARGE: u32 = 8192;
/// So much known is large.
const LARGE: usize = 10_000;
/// Of the program that counts changes this function alone: what all known ones cost differs with the keys of hashes.
const CHANGES: &str = "--toggle-collect=change::changes";
/// How much a proxy knows of which something changes.
const KNOWN: [usize; 2] = [10, LARGE];
/// A run that fails is made so often.
const TRIES: usize = 5;
/// What allocates, by the names of the allocators that we might use.
const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign"];
/// Prefixes under which allocators bring these along.
const PREFIXES: [&str; 3] = ["", "_rjem_", "mi_"];

/// Flags of `weft-bench guard`.
#[derive(Clone, Debug, Args)]
pub struct GuardArgs {
    /// The numbers as they were
    pub file: PathBuf,
    /// Make these of now the numbers
    #[arg(long)]
    pub write: bool,
    /// How much they may differ, in percent
    #[arg(long, default_value_t = 3.0)]
    pub tolerance: f64,
}

/// What one request costs.
type Costs = BTreeMap<String, f64>;

/// Counts, and compares or writes.
///
/// # Errors
/// A number differs by more than the tolerance, in either direction; valgrind is missing; a request fails.
pub fn run(args: &GuardArgs) -> anyhow::Result<()> {
    let identity = identities()?;
    let mut costs = Costs::new();
    for scenario in paths()? {
        let more = more(scenario.job.endpoints);
        let count = |requests| counted(&scenario, identity.path(), requests);
        costs.extend(each(scenario.name, &count(FEW)?, &count(FEW + more)?, more));
    }
    for known in KNOWN {
        let (more, count) = (more(known), |times| change_counted(known, times));
        costs.extend(each(&format!("change-of-{known}"), &count(FEW)?, &count(FEW + more)?, more * runs(known)));
    }
    say(&text(&costs))?;
    if args.write {
        return std::fs::write(&args.file, text(&costs))
            .with_context(|| format!("cannot write {}", args.file.display()));
    }
    let before = std::fs::read_to_string(&args.file);
    let before = before.with_context(|| format!("cannot read {}", args.file.display()))?;
    let differences = differences(&parse(&before)?, &costs, args.tolerance);
    anyhow::ensure!(
        differences.is_empty(),
        "what a request or a change costs is not what {} says, {}% more or less:\n{}\nFind the cause (callgrind_annotate \
         names functions). If it is meant, or the compiler or the C library is another, write the numbers anew with \
         integration/bench/guard --write, the reason into the commit, and what was predicted and counted into NOTES.md.",
        args.file.display(),
        args.tolerance,
        differences.join("\n")
    );
    Ok(())
}

/// The rows whose requests are counted.
fn paths() -> anyhow::Result<Vec<Scenario>> {
    let all = scenario::all();
    let path =
        |name: &&str| all.iter().find(|one| one.name == *name).copied().with_context(|| format!("no row {name}"));
    let compared: Vec<Scenario> = PATHS.iter().map(path).collect::<anyhow::Result<_>>()?;
    Ok(compared.into_iter().chain(scenario::counted_only()).collect())
}

const fn more(known: usize) -> u32 {
    if known < LARGE { MORE } else { MORE_LARGE }
}

/// Where few are known, whether two of them lie close in a map of hashes differs from run to run, and counts.
const fn runs(known: usize) -> u32 {
    if known < LARGE { 16 } else { 1 }
}

/// What one of `times` costs, which is the difference between two runs.
fn each(row: &str, few: &Costs, many: &Costs, times: u32) -> Costs {
    let one = |(name, total): (&String, &f64)| {
        let before = few.get(name).copied().unwrap_or_default();
        (format!("{row} {name}"), (total - before) / f64::from(times))
    };
    many.iter().map(one).collect()
}

/// What so many changes cost in all runs, with all that comes before.
fn change_counted(known: usize, times: u32) -> anyhow::Result<Costs> {
    let directory = tempfile::tempdir()?;
    // An example of the core's, built as the proxy is: cargo puts it beside.
    let program = Binaries::locate()?.find("weft-proxy")?.with_file_name("examples").join("change");
    let mut command = Command::new("valgrind");
    command.args(callgrind(directory.path())).arg(CHANGES).arg(program).args([known.to_string(), times.to_string()]);
    for _ in 0..runs(known) {
        let output = command.output().context("cannot start valgrind")?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    profiles(directory.path())
}

fn callgrind(directory: &Path) -> [String; 3] {
    let profile = format!("--callgrind-out-file={}/profile.%p", directory.display());
    ["--tool=callgrind".to_owned(), "--compress-strings=no".to_owned(), profile]
}

/// The sum of all profiles.
fn profiles(directory: &Path) -> anyhow::Result<Costs> {
    let mut total = Costs::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|name| name == "profile") {
            let (instructions, allocations) = read(&std::fs::read_to_string(path)?).context("an empty profile")?;
            *total.entry("instructions".to_owned()).or_default() += instructions;
            *total.entry("allocations".to_owned()).or_default() += allocations;
        }
    }
    anyhow::ensure!(!total.is_empty(), "valgrind has written no profile");
    Ok(total)
}

/// Under valgrind all takes many times longer: on a busy machine perhaps longer than a proxy waits for an upstream. A run
/// with a failed request is none.
fn counted(scenario: &Scenario, identity: &Path, requests: u32) -> anyhow::Result<Costs> {
    for _ in 1..TRIES {
        match count(scenario, identity, requests) {
            Ok(costs) => return Ok(costs),
            Err(error) => eprintln!("{}: again, {error:#}", scenario.name),
        }
    }
    count(scenario, identity, requests)
}

/// What all proxies of the path spend from start to end.
fn count(scenario: &Scenario, identity: &Path, requests: u32) -> anyhow::Result<Costs> {
    let directory = tempfile::tempdir()?;
    let inside: Vec<String> = ["valgrind".to_owned()].into_iter().chain(callgrind(directory.path())).collect();
    let scene = Scene::on_loopback(scenario, Peer::Weft, identity, directory.path(), &inside)?;
    ask(scenario, scene.entrance, requests)?;
    scene.end_well()?;
    profiles(directory.path())
}

fn ask(scenario: &Scenario, entrance: SocketAddr, requests: u32) -> anyhow::Result<()> {
    if let Some(kind @ (Kind::H2 | Kind::GrpcUnary)) = scenario.kind {
        let times = usize::try_from(requests)? / scenario.streams;
        return rounds(kind, entrance, scenario.body, (scenario.streams, times));
    }
    let stream = TcpStream::connect(entrance)?;
    stream.set_nodelay(true)?;
    for _ in 0..requests {
        exchange(&stream, scenario.body)?;
    }
    Ok(())
}

/// Instructions and allocations in callgrind's format.
fn read(profile: &str) -> Option<(f64, f64)> {
    let mut allocations = 0.0;
    let mut callee = "";
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if let Some(calls) = line.strip_prefix("calls=")
            && allocates(callee)
        {
            allocations += calls.split(' ').next()?.parse::<f64>().ok()?;
        }
    }
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: "))?;
    Some((totals.trim().parse().ok()?, allocations))
}

fn allocates(function: &str) -> bool {
    // Recursion and clones are told by what follows a quotation mark or a dot.
    let name = function.split(['\'', '.', '@']).next().unwrap_or_default();
    PREFIXES.iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|name| ALLOCATORS.contains(&name) || matches!(name, "mallocx" | "rallocx"))
    })
}

fn text(costs: &Costs) -> String {
    let mut text =
        "# Of one request, all proxies of the path together, or of one change; in user space. Written by `guard --write`.\n".to_owned();
    for (name, cost) in costs {
        // Writing to a string cannot fail.
        writeln!(text, "{name} {cost:.1}").unwrap_or_default();
    }
    text
}

fn parse(text: &str) -> anyhow::Result<Costs> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entry = |line: &str| {
        let (name, cost) = line.rsplit_once(' ')?;
        Some((name.to_owned(), cost.parse().ok()?))
    };
    lines.map(|line| entry(line).with_context(|| format!("not a name and a number: {line:?}"))).collect()
}

fn differences(before: &Costs, now: &Costs, tolerance: f64) -> Vec<String> {
    let names = before.keys().chain(now.keys().filter(|name| !before.contains_key(*name)));
    let one = |name: &String| {
        let (before, now) = (before.get(name), now.get(name));
        let (before, now) = match (before, now) {
            (Some(before), Some(now)) => (before, now),
            (None, Some(now)) => return Some(format!("{name}: {now:.1} now, no number there")),
            (_, None) => return Some(format!("{name}: a number there, nothing counted")),
        };
        let percent = if now == before { 0.0 } else { (now - before) / before * 100.0 };
        // What is no number agrees with nothing.
        (percent.is_nan() || percent.abs() > tolerance)
            .then(|| format!("{name}: {before:.1} before, {now:.1} now ({percent:+.1}%)"))
    };
    names.filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_callgrind_writes() {
        let profile = "events: Ir\nfn=main\n0 12\ncfn=_rjem_malloc\ncalls=3 0\n0 90\ncfn=free\ncalls=4 0\n0 9\n\
                       fn=other\ncfn=_rjem_malloc\ncalls=2 0\n0 60\ncfn=_rjem_je_malloc_hook\ncalls=9 0\n0 1\n\
                       cfn=realloc'2\ncalls=1 0\n0 1\ntotals: 4711\n";
        assert_eq!(read(profile), Some((4711.0, 6.0)));
        assert_eq!(read("fn=main\n0 12\n"), None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let costs = Costs::from([("a instructions".to_owned(), 1234.5), ("a allocations".to_owned(), 2.0)]);
        assert_eq!(parse(&text(&costs)).unwrap(), costs);
        assert!(parse("nonsense\n").is_err());
    }

    #[test]
    fn less_is_a_difference_too_and_so_is_a_number_that_is_missing() {
        let costs = |numbers: &[(&str, f64)]| numbers.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect();
        let check = |before: &[(&str, f64)], now: &[(&str, f64)], expected| {
            assert_eq!(differences(&costs(before), &costs(now), 3.0).len(), expected, "{before:?} {now:?}");
        };
        check(&[("a", 100.0), ("b", 5.0)], &[("a", 102.9), ("b", 4.9)], 0);
        check(&[("a", 100.0)], &[("a", 103.1)], 1);
        check(&[("a", 100.0)], &[("a", 96.9)], 1);
        check(&[("a", 0.0), ("b", f64::NAN)], &[("a", 0.0), ("b", 1.0)], 1);
        check(&[("a", 100.0)], &[], 1);
        check(&[], &[("a", 100.0)], 1);
    }
}
