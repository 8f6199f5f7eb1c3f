//! `weft-proxy`: the sidecar and gateway of the Weft service mesh.

use clap::Parser as _;
use weft_proxy::bootstrap::{Cli, Command};

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(args) => weft_proxy::run::run(*args),
        Command::Init(args) => args.run(),
    }
}
