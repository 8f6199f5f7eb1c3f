//! One `weft-proxy` process in static mode, and what it says of itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use weft_cli::binaries::Binaries;
use weft_cli::dev::ready::wait_for;

use super::Plan;
use super::wire::{DEADLINE, Wire, shown};
use crate::process::Running;
use crate::records;

/// A running proxy. It ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    name: String,
    directory: PathBuf,
    running: Running,
}

impl Proxy {
    /// Runs the set-up `yaml` with its files in `directory`, all named after `name`, and the arguments and bounds of the
    /// plan. Give listeners port 0 and ask
    /// [`Self::port`] which it became.
    ///
    /// # Errors
    /// The program is not built, or not started.
    pub fn start(directory: &Path, name: &str, yaml: &str, plan: &Plan<'_>) -> anyhow::Result<Self> {
        let file = |ending: &str| directory.join(format!("{name}.{ending}"));
        std::fs::write(file("yaml"), yaml)?;
        let program = Binaries::locate()?.find("weft-proxy")?;
        let mut command = match plan.descriptors {
            None => Command::new(program),
            Some(most) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={most}:{most}")).arg(program);
                command
            }
        };
        command.args(["run", "--status-listen", "127.0.0.1:0", "--static"]).arg(file("yaml"));
        command.arg("--admin-socket").arg(file("sock")).arg("--access-log").arg(file("access"));
        command.args(plan.arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(file("log"))?);
        let running = Running(command.spawn().context("cannot start weft-proxy")?);
        Ok(Self { name: name.to_owned(), directory: directory.to_owned(), running })
    }

    /// Port of the listener of this name.
    ///
    /// # Errors
    /// The proxy does not listen there in time; says what it complains of.
    pub async fn port(&self, listener: &str) -> anyhow::Result<u16> {
        self.port_after(&format!("listening name={listener} address=")).await
    }

    /// Port of `/live`, `/ready` and `/metrics`.
    ///
    /// # Errors
    /// As [`Self::port`].
    pub async fn status_port(&self) -> anyhow::Result<u16> {
        self.port_after("status port address=").await
    }

    async fn port_after(&self, words: &str) -> anyhow::Result<u16> {
        wait_for(&format!("\"{words}\" of {}", self.name), DEADLINE, || async {
            let log = self.log().unwrap_or_default();
            let line = log.split_once(words).and_then(|(_, rest)| rest.split_once('\n'));
            let port = line.and_then(|(address, _)| address.trim().rsplit_once(':')?.1.parse().ok());
            port.ok_or(log)
        })
        .await
    }

    /// What it has logged so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.directory.join(format!("{}.log", self.name)))?)
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.running.0.id()
    }

    /// Memory of its own that the kernel holds for it, in KiB: pages of its program come and go as the kernel likes.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("it is no more")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Descriptors it holds.
    ///
    /// # Errors
    /// It is gone.
    pub fn open_fds(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    /// Access records so far, oldest first.
    ///
    /// # Errors
    /// A whole line is not JSON.
    pub fn records(&self) -> anyhow::Result<Vec<Value>> {
        records::read(&self.directory.join(format!("{}.access", self.name)))
    }

    /// Waits for the newest record that satisfies `is`, among those from index `from` on.
    ///
    /// # Errors
    /// None comes in time; says what the last one is.
    pub async fn record(&self, from: usize, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait_for(&format!("a record of {}", self.name), Duration::from_secs(10), || async {
            let records = self.records().map_err(|error| format!("{error:#}"))?;
            let last = records.last().map(Value::to_string).unwrap_or_default();
            let found = records.into_iter().skip(from).rev().find(&is);
            found.ok_or_else(|| format!("the last record is {last}"))
        })
        .await
    }

    /// Text of its /metrics.
    ///
    /// # Errors
    /// The status port does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let mut wire = Wire::connect(self.status_port().await?).await?;
        wire.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        wire.read_to_end(DEADLINE).await;
        let text = String::from_utf8_lossy(wire.received()).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| shown(wire.received()))?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        Ok(body.to_owned())
    }

    /// Sum of all series of a metric whose labels contain each of `labels`; 0 where there is none.
    ///
    /// # Errors
    /// The status port does not answer.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let text = self.metrics().await?;
        let series = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            labels.iter().all(|label| rest.contains(label)).then(|| rest.rsplit_once(' ')?.1.parse::<f64>().ok())?
        });
        Ok(series.sum())
    }
}
