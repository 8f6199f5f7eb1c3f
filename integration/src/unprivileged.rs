//! `weft` as an ordinary user runs it. The tests themselves are root; this takes it away.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use weft_cli::binaries::Binaries;

use crate::assert::wait_for;

/// A command may take so long.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
/// A mesh may take so long to be up, or to be gone.
const MESH_DEADLINE: Duration = Duration::from_secs(90);
/// Makes the binaries of this build visible to a user who may be unable to walk to them, and becomes that user.
const BECOME: &str = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";

/// A user without any right and without a name, who has a home. Numbers are of the test's choice, each for one scenario, so
/// that whatever runs as the user is the scenario's.
#[derive(Debug)]
pub struct Unprivileged {
    uid: u32,
    home: TempDir,
    binaries: PathBuf,
}

impl Drop for Unprivileged {
    /// Whatever a scenario that failed has left must not outlive it; with the home, the mesh's own guard loses its way.
    fn drop(&mut self) {
        let left: Vec<String> = self.processes().iter().map(|(pid, _)| pid.to_string()).collect();
        if !left.is_empty() {
            // They may end at this moment.
            std::process::Command::new("kill").args(["-s", "KILL"]).args(left).stderr(Stdio::null()).status().ok();
        }
    }
}

impl Unprivileged {
    /// Makes the home.
    ///
    /// # Errors
    /// Not root; the binaries are not built.
    pub fn new(uid: u32) -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        chown(home.path(), Some(uid), Some(uid))
            .context("this scenario becomes another user: run the tests as root")?;
        fs::create_dir(home.path().join("bin"))?;
        let weft = Binaries::locate()?.find("weft")?;
        let binaries = weft.parent().context("no directory")?.to_owned();
        Ok(Self { uid, home, binaries })
    }

    /// The user's home.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where the user's meshes keep their state.
    #[must_use]
    pub fn state(&self, mesh: &str) -> PathBuf {
        self.home().join(".local/state/weft/weft/dev").join(mesh)
    }

    /// Where they keep logs and records.
    #[must_use]
    pub fn logs(&self, mesh: &str) -> PathBuf {
        self.home().join(".local/state/weft/dev/logs").join(mesh)
    }

    /// A command of the user, who logged in just now. It is killed when its handle is dropped.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let bin = self.home().join("bin");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", BECOME, "sh"]).args([&self.binaries, &bin]);
        command.args(["setpriv", &format!("--reuid={}", self.uid), &format!("--regid={}", self.uid), "--clear-groups"]);
        command.args(["env", "-i", &format!("HOME={}", self.home().display())]);
        command.arg(format!("PATH={}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", bin.display()));
        command.arg(program).args(arguments).current_dir(self.home()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command of the user to its end.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let output = self.command(program, arguments).output();
        let output = timeout(COMMAND_DEADLINE, output).await;
        output.with_context(|| format!("{program} {arguments:?} does not end"))?.map_err(Into::into)
    }

    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// As [`Unprivileged::run`]; the command fails (with what it said).
    pub async fn stdout(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(program, arguments).await?;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {}\n{out}{error}", output.status);
        Ok(out.into_owned())
    }

    /// `weft dev up` with this file, up. What it says is read by [`Unprivileged::said`].
    ///
    /// # Errors
    /// It does not come up (with what it said).
    pub async fn up(&self, mesh: &str, yaml: &str) -> anyhow::Result<Child> {
        let file = self.home().join(format!("{mesh}.yaml"));
        fs::write(&file, yaml)?;
        let log = fs::File::create(self.home().join("up.log"))?;
        let mut command = self.command("weft", &["dev", "up", "--quiet", "--mesh", mesh, &file.display().to_string()]);
        let mut child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        let ready = wait_for("weft dev up", MESH_DEADLINE, || async {
            let said = self.said().map_err(|error| format!("{error:#}"))?;
            if said.contains("weft: ready.") { Ok(()) } else { Err(said) }
        });
        tokio::select! {
            ready = ready => ready?,
            ended = child.wait() => anyhow::bail!("weft dev up: {}\n{}", ended?, self.said()?),
        }
        Ok(child)
    }

    /// What `weft dev up` has said.
    ///
    /// # Errors
    /// It was never started.
    pub fn said(&self) -> anyhow::Result<String> {
        fs::read_to_string(self.home().join("up.log")).context("no log of weft dev up")
    }

    /// Waits until nothing of the user runs, and the mesh has no state.
    ///
    /// # Errors
    /// Something stays (says what).
    pub async fn gone(&self, mesh: &str) -> anyhow::Result<()> {
        wait_for("an empty machine", MESH_DEADLINE, || async {
            let left = (self.processes(), self.state(mesh).exists());
            if left == (Vec::new(), false) { Ok(()) } else { Err(format!("left: {left:?}")) }
        })
        .await
    }

    /// PID and command line of everything that the user runs.
    #[must_use]
    pub fn processes(&self) -> Vec<(u32, String)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let uid = format!("Uid:\t{}\t", self.uid);
        let of_user = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains(&uid) && !status.contains("State:\tZ")
        };
        let line = |pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = |pid| String::from_utf8_lossy(&line(pid)).replace('\0', " ");
        pids.filter(of_user).map(|pid| (pid, text(pid))).collect()
    }
}
