//! `weft`: see the library `weft_cli`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match weft_cli::cli::run(weft_cli::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}
