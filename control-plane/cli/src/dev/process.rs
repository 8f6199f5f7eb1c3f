//! Children of the supervisor: started through `weft __enter`, output to a file, ended politely and then not.
//!
//! They write their logs straight to files, never into pipes: a supervisor that is busy or stopped cannot block them.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::enter::EnterArgs;
use super::plan::Names;
use super::state;

/// Lines of a log that an error shows.
const TAIL_LINES: usize = 15;
/// Bytes at a log's end in which those lines are looked for.
const TAIL_BYTES: u64 = 16 << 10;

/// A running child.
#[derive(Debug)]
pub struct Process {
    /// What it is called in errors, for example "blog-0" or "sidecar of blog-0".
    pub name: String,
    /// Its log file.
    pub log: PathBuf,
    child: Child,
}

/// How to start a child.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// What it is called.
    pub name: String,
    /// Where its output goes (appended).
    pub log: PathBuf,
    /// What to enter and execute.
    pub enter: EnterArgs,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Its standard input; `None`: nothing.
    pub stdin: Option<OwnedFd>,
    /// The `weft` binary.
    pub weft: &'a Path,
}

impl Spawn<'_> {
    /// Starts it. It is killed when the supervisor dies (also by `kill -9`), and when the [`Process`] is dropped.
    ///
    /// # Errors
    /// The log cannot be written or the binary not be executed.
    pub fn start(mut self, names: &Names) -> anyhow::Result<Process> {
        self.enter.parent = i32::try_from(std::process::id()).ok();
        let log = OpenOptions::new().append(true).create(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(self.weft);
        command.args(self.enter.to_arguments());
        // Settings meant for `weft` itself would also be flags of the proxies.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WEFT_")) {
            command.env_remove(name);
        }
        // What it writes goes to a file.
        command.env("NO_COLOR", "1").envs(self.env);
        command
            .stdin(self.stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.weft.display()))?;
        if let Some(pid) = child.id() {
            state::note_process(names, pid)?;
        }
        Ok(Process { name: self.name, log: self.log, child })
    }
}

impl Process {
    /// PID, or `None` once it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal; nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) {
            // It may end at this moment.
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends. Cancelling loses nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, and kills it after `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            // Nothing survives SIGKILL; an error means it is already reaped.
            self.child.wait().await.ok();
        }
    }

    /// An error that names the child, its log file and the log's last lines.
    #[must_use]
    pub fn failure(&self, what: &str) -> anyhow::Error {
        anyhow::anyhow!("{} {what}\nlog: {}\n{}", self.name, self.log.display(), tail(&self.log))
    }
}

/// The last lines of a file, indented; empty if there are none.
#[must_use]
pub fn tail(path: &Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
    last.map(|line| format!("    {line}\n")).collect()
}
