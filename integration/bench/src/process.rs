//! Children that tell something by lines and end with their standard input.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Context as _;
use weft_integration::process::Running;

/// A child of this program: the load or the backend.
#[derive(Debug)]
pub struct Helper {
    running: Running,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Helper {
    /// Starts this program by `command`, which is its path or ends in it, with `arguments`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &[String], arguments: &[String]) -> anyhow::Result<Self> {
        let (program, before) = command.split_first().context("no command")?;
        let mut child = Command::new(program)
            .args(before)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a helper")?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("no standard output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { running: Running(child), input, lines })
    }

    /// Awaits its next line.
    ///
    /// # Errors
    /// It ends, or says nothing for so long.
    pub fn line(&self, patience: Duration) -> anyhow::Result<String> {
        self.lines.recv_timeout(patience).context("the load or the backend failed; see what it said above")
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.running.0.id()
    }

    /// Lets it end, and waits for it.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        let status = Child::wait(&mut self.running.0)?;
        anyhow::ensure!(status.success(), "the load or the backend failed");
        Ok(())
    }
}
