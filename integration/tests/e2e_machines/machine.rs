//! A machine with systemd of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use weft_cli::dev::ready::wait_for;

/// A boot takes seconds.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// A command may take so long; a proxy that is stopped drains.
const COMMAND_DEADLINE: Duration = Duration::from_secs(90);

/// A running machine. It ends with this value, and with the thread that started it.
pub(crate) struct Machine {
    name: String,
    child: Child,
    directory: tempfile::TempDir,
    repository: PathBuf,
}

impl Machine {
    /// Boots one. `repository` is visible in it, and commands run there.
    pub(crate) async fn boot(name: &str, repository: &Path) -> anyhow::Result<Self> {
        let name = format!("weft-{}-{name}", std::process::id());
        let directory = tempfile::tempdir()?;
        let log = std::fs::File::create(directory.path().with_extension("log"))?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e_machines/machine.sh");
        // Whoever ends it, the kernel ends all of it.
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["bash", script, &name])
            .args([directory.path(), repository])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("setpriv (util-linux)")?;
        let machine = Self { name, child, directory, repository: repository.to_owned() };
        machine.until_booted().await?;
        Ok(machine)
    }

    /// Waits until systemd has started everything.
    pub(crate) async fn until_booted(&self) -> anyhow::Result<()> {
        wait_for(&format!("{} to boot", self.name), BOOT_DEADLINE, || async {
            let said = self
                .output("systemctl is-system-running")
                .await
                .map_err(|error| format!("{error:#}; {}", self.log()))?;
            match String::from_utf8_lossy(&said.stdout).trim() {
                "running" => Ok(()),
                "degraded" => Err(format!("failed: {:?}", self.sh("systemctl --failed --no-legend").await)),
                other => Err(other.to_owned()),
            }
        })
        .await
    }

    /// What it said when it was started.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().with_extension("log")).unwrap_or_default()
    }

    /// Process id of its systemd, as seen from here: the first that has a process namespace of its own.
    pub(crate) fn leader(&self) -> anyhow::Result<u32> {
        let mut next = self.child.id().context("the machine has ended")?;
        loop {
            let name = std::fs::read_to_string(format!("/proc/{next}/comm")).unwrap_or_default();
            if name.trim() == "systemd" {
                return Ok(next);
            }
            let children = std::fs::read_to_string(format!("/proc/{next}/task/{next}/children")).unwrap_or_default();
            let child =
                children.split_whitespace().next().with_context(|| format!("{name:?} has not started it yet"))?;
            next = child.parse()?;
        }
    }

    /// Runs a script on it as root; its standard output.
    pub(crate) async fn sh(&self, script: &str) -> anyhow::Result<String> {
        let output = self.output(script).await?;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "on {}: {script}: {}\n{out}{error}", self.name, output.status);
        Ok(out.into_owned())
    }

    /// As [`Machine::sh`], whatever comes of it.
    pub(crate) async fn output(&self, script: &str) -> anyhow::Result<std::process::Output> {
        let run = Command::new("nsenter")
            .args(["--target", &self.leader()?.to_string(), "--all"])
            .arg("--")
            .args([
                "env",
                "--chdir",
                &self.repository.display().to_string(),
                "-i",
                "HOME=/root",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ])
            .args(["bash", "-euo", "pipefail", "-c", script])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(COMMAND_DEADLINE, run).await;
        Ok(output.with_context(|| format!("{script} does not end on {}", self.name))??)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(std::fs::remove_file(self.directory.path().with_extension("log")));
        drop(self.child.start_kill());
        // Their groups are empty as soon as the kernel has ended all of it.
        for _ in 0..100 {
            let left = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
                .iter()
                .filter(|hierarchy| remove_groups(&Path::new(hierarchy).join(&self.name)).is_err());
            if left.count() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Removes a control group and those below it.
fn remove_groups(group: &Path) -> std::io::Result<()> {
    let Ok(entries) = std::fs::read_dir(group) else { return Ok(()) };
    for entry in entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir()) {
        remove_groups(&entry.path())?;
    }
    std::fs::remove_dir(group)
}

/// Joins two machines by a cable, with an address each. The other one is the way to everywhere else.
pub(crate) async fn connect(ends: [(&Machine, &str); 2]) -> anyhow::Result<()> {
    let [one, two] = ends.map(|(machine, _)| machine.leader());
    let (one, two) = (one?.to_string(), two?.to_string());
    let link = ["link", "add", "host0", "netns", &one, "type", "veth", "peer", "name", "host0", "netns", &two];
    let made = Command::new("ip").args(link).status().await?;
    anyhow::ensure!(made.success(), "ip {link:?} failed");
    for ((machine, address), (_, other)) in [ends, [ends[1], ends[0]]].map(|[this, other]| (this, other)) {
        machine
            .sh(&format!(
                "ip addr add {address}/24 dev host0; ip link set host0 up; ip link set lo up; ip route add default via {other}"
            ))
            .await?;
    }
    Ok(())
}
