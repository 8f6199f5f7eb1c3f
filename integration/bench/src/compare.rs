//! The command: which scenarios, how often, and what is made of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use weft_integration::authority::Authority;

use crate::host::{facts, raise_file_limit};
use crate::job::{CLIENT_ID, SERVER_ID, SERVER_NAME};
use crate::measure::{Measured, Times, measure};
use crate::peers::Peer;
use crate::report::{Rounds, overview, refreshed, short};
use crate::scenario::{self, Scenario, Unit};

/// A measurement disturbed by others is taken anew, so often in all. What is kept is told by the others' work alone, never
/// by the figure.
const TRIES: usize = 10;

/// Neighbours of a virtual machine come in bursts; waiting for the end of one costs less than the row.
const PAUSE: Duration = Duration::from_secs(3);

/// Flags of `weft-bench compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Which; see `list`. Default: all
    pub scenarios: Vec<String>,
    /// How often each proxy is measured, in turns with the others
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// How long one measurement takes, in seconds
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Weft and direct alone, with little of everything: whether it works, not how well
    #[arg(long)]
    pub quick: bool,
    /// How much of one processor may go to others while measuring
    #[arg(long, default_value_t = 0.1)]
    pub foreign: f64,
    /// Make tables of what was measured on a busy machine, too, and mark them
    #[arg(long)]
    pub rough: bool,
    /// Where the report goes, too
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Whose marked block becomes the short table
    #[arg(long, value_name = "FILE")]
    pub readme: Option<PathBuf>,
    /// State of the source that was built, for the report
    #[arg(long, default_value = "unknown")]
    pub commit: String,
    /// The whole command, for the report
    #[arg(long, default_value = "weft-bench compare")]
    pub command: String,
}

/// Measures and prints.
///
/// # Errors
/// A request failed, a program is missing, or the machine was too busy.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.rounds > 0, "--rounds: at least one");
    raise_file_limit()?;
    let scenarios = chosen(&args.scenarios)?;
    let peers: Vec<Peer> =
        Peer::ALL.into_iter().filter(|peer| !args.quick || matches!(peer, Peer::Direct | Peer::Weft)).collect();
    let mut report = heading(args, &peers)?;
    let identity = identities()?;
    let all = scenarios.into_iter().map(|scenario| {
        let scenario = if args.quick { scenario.small() } else { scenario };
        let rounds = rounds(args, scenario, &peers, identity.path())?;
        say(&rounds.table())?;
        Ok(rounds)
    });
    let all: Vec<Rounds> = all.collect::<anyhow::Result<_>>()?;
    report.push_str(&overview(&all));
    for rounds in &all {
        report.push_str(&rounds.table());
    }
    say(&overview(&all))?;
    if let Some(path) = &args.write {
        write(path, &report)?;
    }
    if let Some(path) = &args.readme {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let block = format!("{}\n\n{}", summary(args)?, short(&all));
        write(path, &refreshed(&text, &block).with_context(|| path.display().to_string())?)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Prints the scenarios' names.
///
/// # Errors
/// Nobody reads it.
pub fn list() -> anyhow::Result<()> {
    for Scenario { name, title, .. } in scenario::all() {
        say(&format!("{name:<20} {title}\n"))?;
    }
    Ok(())
}

/// Prints.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Scenario>> {
    let all = scenario::all();
    for name in names {
        let known = all.iter().any(|scenario| scenario.name == name);
        anyhow::ensure!(known, "no scenario {name:?}; `list` shows all");
    }
    Ok(all.into_iter().filter(|one| names.is_empty() || names.iter().any(|name| name == one.name)).collect())
}

/// Identities of client and server, as [`crate::job::Site`] wants them.
pub(crate) fn identities() -> anyhow::Result<tempfile::TempDir> {
    let (directory, authority) = (tempfile::tempdir()?, Authority::new()?);
    let path = directory.path();
    std::fs::write(path.join("roots.pem"), &authority.roots)?;
    for (name, id) in [("client", CLIENT_ID), ("server", SERVER_ID)] {
        let (certificate, key) = authority.write_named(path, name, id, SERVER_NAME)?;
        let both = [std::fs::read(certificate)?, std::fs::read(key)?].concat();
        std::fs::write(path.join(format!("{name}.both")), both)?;
    }
    Ok(directory)
}

/// Proxies in turns, so that whatever changes on the machine meets all of them.
fn rounds(args: &CompareArgs, scenario: Scenario, peers: &[Peer], identity: &Path) -> anyhow::Result<Rounds> {
    // Without a proxy there is no memory of one.
    let timed = matches!(scenario.unit, Unit::MicrosPerRequest | Unit::SecondsPerGb);
    let able = peers.iter().filter(|peer| peer.can(&scenario.job) && (timed || **peer != Peer::Direct));
    let mut peers: Vec<(Peer, Vec<Measured>)> = able.map(|peer| (*peer, Vec::new())).collect();
    for round in 1..=args.rounds {
        for (peer, measured) in &mut peers {
            eprintln!("{} {round}/{}: {}", scenario.name, args.rounds, peer.name());
            measured.push(undisturbed(args, &scenario, *peer, identity)?);
        }
    }
    let rounds = Rounds { scenario, peers };
    let (foreign, bound) = (rounds.foreign(), args.foreign);
    if foreign > bound && !args.quick {
        let noise = format!("others had {:.0}% of a processor, {:.0}% is the bound", foreign * 100.0, bound * 100.0);
        anyhow::ensure!(args.rough, "no table of {}: {noise}; --rough makes one", scenario.name);
        eprintln!("{}: rough, {noise}", scenario.name);
    }
    Ok(rounds)
}

fn undisturbed(args: &CompareArgs, scenario: &Scenario, peer: Peer, identity: &Path) -> anyhow::Result<Measured> {
    let quick = args.quick;
    let times = Times {
        still: Duration::from_millis(if quick { 50 } else { 1000 }),
        warm_up: Duration::from_millis(if quick { 100 } else { 1000 }),
        run: Duration::from_secs_f64(if quick { 0.3 } else { args.seconds }),
    };
    let mut measured = measure(scenario, peer, times, identity)?;
    for _ in 1..TRIES {
        if measured.foreign <= args.foreign || quick || args.rough {
            break;
        }
        eprintln!("again: others had {:.0}% of a processor", measured.foreign * 100.0);
        std::thread::sleep(PAUSE);
        measured = measure(scenario, peer, times, identity)?;
    }
    Ok(measured)
}

/// Where and when, in one line.
fn summary(args: &CompareArgs) -> anyhow::Result<String> {
    let rough = if args.rough { ", **roughly** because other work ran" } else { "" };
    Ok(format!("Measured {}, commit {}{rough}: {}.", date()?, args.commit, facts().join("; ")))
}

fn date() -> anyhow::Result<String> {
    let date = std::process::Command::new("date").args(["-u", "+%F %H:%M UTC"]).output()?;
    Ok(String::from_utf8_lossy(&date.stdout).trim().to_owned())
}

fn heading(args: &CompareArgs, peers: &[Peer]) -> anyhow::Result<String> {
    let mut lines = vec!["# Results".to_owned(), String::new()];
    lines.push(format!("- {}, commit {}", date()?, args.commit));
    lines.push(format!("- `{}`: {} rounds of {} s", args.command, args.rounds, args.seconds));
    lines.extend(facts().iter().map(|fact| format!("- {fact}")));
    for peer in peers.iter().filter(|peer| !matches!(peer, Peer::Direct | Peer::EnvoyH2)) {
        lines.push(format!("- {}: {}", peer.name(), peer.version()?));
    }
    if args.rough {
        lines.push(
            "- **Rough**: other work ran on the machine. Requests per second and latencies say little, processor time and \
             its ratio are wider than they would be."
                .to_owned(),
        );
    }
    lines.push(String::new());
    Ok(lines.join("\n") + "\n")
}
