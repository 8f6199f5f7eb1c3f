//! A mesh for the length of one scenario.
//!
//! Each has a name, a directory and addresses of its own, so scenarios may run side by side. Whatever happens to the
//! test (a failed assertion, a panic, a kill), nothing of the mesh stays: the guard of `weft dev` sees to it.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::LocalSet;
use tokio::time::timeout;
use weft_cli::dev::cli::progress;
use weft_cli::dev::file::DevFile;
use weft_cli::dev::mesh::{Ground, Mesh};
use weft_cli::dev::plan::Instance;
use weft_cli::dev::process::tail;

use crate::assert::wait_for;
use crate::records;

/// A command inside the mesh may take so long.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// Numbers the meshes of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running mesh and what scenarios do with it.
#[derive(Debug)]
pub struct TestMesh {
    /// The mesh itself.
    pub mesh: Mesh,
}

/// Brings up the mesh that `yaml` describes (as for `weft dev up`; its name is replaced), runs the scenario, takes the
/// mesh down. If the scenario fails, the ends of all logs are printed.
///
/// # Errors
/// Not root (said plainly; nothing is skipped), the mesh does not come up, or the scenario fails.
pub fn with_mesh(yaml: &str, scenario: impl AsyncFnOnce(&mut TestMesh) -> anyhow::Result<()>) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_root(),
        "this scenario needs network namespaces and iptables: run the tests as root (integration/test.sh does)"
    );
    let mut file = DevFile::parse(yaml)?;
    file.name = Some(format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let mut mesh = TestMesh { mesh: Mesh::up(file, Ground::Root, progress).await? };
        let result = scenario(&mut mesh).await;
        if result.is_err() {
            mesh.print_logs();
        }
        let names = mesh.mesh.names.clone();
        mesh.mesh.down().await?;
        if result.is_ok() {
            std::fs::remove_dir_all(names.logs()).context("cannot remove the logs")?;
            // Nobody else uses this name.
            std::fs::remove_file(names.lock_file()).context("cannot remove the lock")?;
        }
        result
    })
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Capture {
    /// Waits until the capture holds these bytes, sent after all that matters: what came before is then in it, too.
    /// (tcpdump drops what the kernel has not handed to it when it is ended.)
    ///
    /// # Errors
    /// They do not come.
    pub async fn until(&self, last: &str) -> anyhow::Result<()> {
        wait_for("the last packet", COMMAND_DEADLINE, || async {
            let bytes = std::fs::read(&self.file).map_err(|error| error.to_string())?;
            let holds = bytes.windows(last.len()).any(|window| window == last.as_bytes());
            if holds { Ok(()) } else { Err(format!("{} bytes so far", bytes.len())) }
        })
        .await
    }

    /// Ends it; all bytes of all packets so far.
    ///
    /// # Errors
    /// tcpdump failed.
    pub async fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        let pid = self.child.id().context("tcpdump has ended")?;
        let killed = Command::new("kill").args(["-s", "INT", &pid.to_string()]).status().await?;
        anyhow::ensure!(killed.success(), "cannot end tcpdump");
        let end = async {
            while self.lines.next_line().await?.is_some() {}
            self.child.wait().await
        };
        timeout(COMMAND_DEADLINE, end).await.context("tcpdump does not end")??;
        std::fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

impl TestMesh {
    /// The instance of this name ("blog-0").
    ///
    /// # Errors
    /// There is none.
    pub fn instance(&self, name: &str) -> anyhow::Result<&Instance> {
        self.mesh.instances.iter().find(|one| one.name == name).with_context(|| format!("no instance {name:?}"))
    }

    /// Runs a command where the instance's application runs.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub async fn run(&self, instance: &str, command: &[&str]) -> anyhow::Result<Output> {
        let mut child = self.mesh.command(self.instance(instance)?, command);
        let output = child.stdin(Stdio::null()).output();
        timeout(COMMAND_DEADLINE, output)
            .await
            .with_context(|| format!("{command:?} does not end"))?
            .map_err(Into::into)
    }

    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// As [`TestMesh::run`]; the command fails (with what it said).
    pub async fn stdout(&self, instance: &str, command: &[&str]) -> anyhow::Result<String> {
        let output = self.run(instance, command).await?;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "{command:?} in {instance}: {}\n{out}{error}", output.status);
        Ok(out.into_owned())
    }

    /// Access records of the proxy of an instance or gateway, oldest first.
    ///
    /// # Errors
    /// A whole line is not JSON.
    pub fn records(&self, proxy: &str) -> anyhow::Result<Vec<Value>> {
        records::read(&self.mesh.access_log(proxy))
    }

    /// Runs a command as root in a network namespace of the mesh ("switch" or an instance's name).
    ///
    /// # Errors
    /// It cannot be started, does not end in time, or fails (with what it said).
    pub async fn as_root(&self, netns: &str, command: &[&str]) -> anyhow::Result<String> {
        let output = self.root_command(netns, command).stdin(Stdio::null()).output();
        let output = timeout(COMMAND_DEADLINE, output).await.with_context(|| format!("{command:?} does not end"))??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success(), "{command:?} in {netns}: {}\n{said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn root_command(&self, netns: &str, command: &[&str]) -> Command {
        let mut all = Command::new("ip");
        all.args(["netns", "exec", &self.mesh.names.netns(netns)]).args(command).kill_on_drop(true);
        all
    }

    /// Starts to capture packets on a link; returns once it does.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub async fn capture(&self, netns: &str, link: &str) -> anyhow::Result<Capture> {
        let file = self.mesh.directory().join(format!("capture-{netns}-{link}"));
        let target = file.display().to_string();
        // With whole packets the kernel has room for eight of them and drops the others.
        let sizes = ["-s", "4096", "-B", "32768"];
        let options = ["tcpdump", "--immediate-mode", "-U", "-n", "-Z", "root", "-i", link, "-w", &target];
        let command = [options.as_slice(), &sizes].concat();
        let mut child = self.root_command(netns, &command).stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains("listening on") {
                    return Ok(());
                }
            }
            anyhow::bail!("tcpdump ended")
        };
        timeout(COMMAND_DEADLINE, listening).await.context("tcpdump does not start")??;
        Ok(Capture { child, file, lines })
    }

    /// Path of the log of an application, a proxy ("blog-0.proxy") or "control-plane".
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.mesh.log(name)
    }

    fn print_logs(&self) {
        let logs = std::fs::read_dir(self.mesh.names.logs()).into_iter().flatten().filter_map(Result::ok);
        for log in logs {
            eprintln!("--- {}\n{}", log.path().display(), tail(&log.path()));
        }
    }
}
