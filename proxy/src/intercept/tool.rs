//! Runs the tools that change rules.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use super::error::ApplyError;

/// Where administrators' tools are when the search path of a container forgets them. The search path comes first.
pub(super) const DIRECTORIES: [&str; 4] = ["", "/usr/sbin/", "/sbin/", "/usr/local/sbin/"];

/// What a tool prints; `None` when there is no such tool.
pub(super) fn ask(tool: &str, args: &[&str]) -> Result<Option<String>, ApplyError> {
    match Command::new(tool).args(args).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Ok(output) => Err(failed(tool, &output)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ApplyError::Tool { tool: tool.to_owned(), reason: error.to_string() }),
    }
}

/// Has a tool carry out a transaction; all of it happens or nothing. An empty one is nothing to do.
pub(super) fn feed(tool: &str, args: &[&str], transaction: &str) -> Result<(), ApplyError> {
    if transaction.is_empty() {
        return Ok(());
    }
    match run(tool, args, transaction) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(failed(tool, &output)),
        Err(error) => Err(ApplyError::Tool { tool: tool.to_owned(), reason: error.to_string() }),
    }
}

fn run(tool: &str, args: &[&str], transaction: &str) -> io::Result<Output> {
    let mut child =
        Command::new(tool).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    // A tool that stops reading says why on its way out, which is worth more than our broken pipe.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(transaction.as_bytes()));
    let output = child.wait_with_output()?;
    if output.status.success() { written.map(|()| output) } else { Ok(output) }
}

fn failed(tool: &str, output: &Output) -> ApplyError {
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("; ");
    let reason = if reason.is_empty() { output.status.to_string() } else { reason };
    ApplyError::Tool { tool: tool.to_owned(), reason }
}
