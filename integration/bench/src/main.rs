//! `weft-bench`.

use clap::{Parser, Subcommand};
use weft_bench::{backend, compare, guard, load, storm};

/// Compares Weft with other proxies doing the same job
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Measure scenarios and print tables
    Compare(compare::CompareArgs),
    /// Count instructions and allocations of a request, and compare them with those of before
    Guard(guard::GuardArgs),
    /// How much longer a bystander waits while hundreds of peers shake hands
    Storm(storm::StormArgs),
    /// Name the scenarios
    List,
    /// The client (started by `compare`)
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// The application (started by `compare`)
    #[command(hide = true)]
    Backend(backend::BackendArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Compare(args) => compare::run(&args),
        Verb::Guard(args) => guard::run(&args),
        Verb::Storm(args) => storm::run(&args),
        Verb::List => compare::list(),
        Verb::Load(args) => load::run(&args),
        Verb::Backend(args) => backend::run(&args),
    }
}
