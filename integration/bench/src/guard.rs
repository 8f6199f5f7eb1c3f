//! Instructions and allocations of one request: numbers that no neighbour moves.
//!
//! Proxies run under callgrind, once with few requests and once with many; what the difference cost is divided by its
//! requests, so starting and stopping do not count. Requests go one after the other on one connection, so that as many
//! wakeups come in every run. The kernel's part is not in these numbers; it is in those of [`crate::compare`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::compare::{identities, say};
use crate::load::exchange;
use crate::peers::Peer;
use crate::scenario::{self, Scenario};
use crate::scene::Scene;

/// Rows whose requests are counted.
const PATHS: [&str; 2] = ["hop-http1", "mesh-http1"];
/// Requests of the shorter run: more than what is set up at first use.
const FEW: u32 = 300;
/// Requests of the longer run.
const MANY: u32 = 1300;
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
    for scenario in scenario::all().iter().filter(|scenario| PATHS.contains(&scenario.name)) {
        let few = counted(scenario, identity.path(), FEW)?;
        let many = counted(scenario, identity.path(), MANY)?;
        for (name, total) in many {
            let before = few.get(&name).copied().unwrap_or_default();
            costs.insert(format!("{} {name}", scenario.name), (total - before) / f64::from(MANY - FEW));
        }
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
        "the cost of a request has changed by more than {}%:\n{}\nif that is meant, write the new numbers with --write, \
         and the reason into the commit",
        args.tolerance,
        differences.join("\n")
    );
    Ok(())
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
    let profile = format!("--callgrind-out-file={}/profile.%p", directory.path().display());
    let inside = ["valgrind", "--tool=callgrind", "--compress-strings=no", &profile].map(str::to_owned);
    let scene = Scene::on_loopback(scenario, Peer::Weft, identity, directory.path(), &inside)?;
    let stream = TcpStream::connect(scene.entrance)?;
    stream.set_nodelay(true)?;
    for _ in 0..requests {
        exchange(&stream, scenario.body)?;
    }
    drop(stream);
    scene.end_well()?;
    let mut total = Costs::new();
    for entry in std::fs::read_dir(directory.path())? {
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
        "# Of one request, all proxies of the path together, in user space. Written by `guard --write`.\n".to_owned();
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
        let (Some(before), Some(now)) = (before, now) else {
            return Some(format!("{name}: {before:?} before, {now:?} now"));
        };
        let percent = (now - before) / before * 100.0;
        (percent.abs() > tolerance).then(|| format!("{name}: {before:.1} before, {now:.1} now ({percent:+.1}%)"))
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
        check(&[("a", 100.0)], &[], 1);
        check(&[], &[("a", 100.0)], 1);
    }
}
