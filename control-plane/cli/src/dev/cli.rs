//! `weft dev up | exec | ps | down`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::enter;
use super::file::DevFile;
use super::home::is_privileged;
use super::mesh::{Ground, Mesh};
use super::plan::{Instance, Names, PROXY_STATUS_PORT};
use super::ready::probe;
use super::rootless;
use super::state::{self, Lock, State};
use super::terminal;

/// How long `down` waits for the supervisor to end by itself.
const DOWN_WAIT: Duration = Duration::from_secs(30);

/// Verbs of `weft dev`.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Start the applications of a file, each in its own network namespace with a sidecar, and stay until Ctrl-C.
    Up(UpArgs),
    /// Run a command where an application runs: its network, its /etc/hosts, its user.
    Exec(ExecArgs),
    /// List the instances of a running mesh.
    Ps(MeshArg),
    /// End a running mesh, or remove what a killed one left.
    Down(MeshArg),
}

/// Flags of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// YAML with the applications; deploy/examples/dev has some.
    pub file: PathBuf,
    /// Name of the mesh instead of the file's.
    #[arg(long, value_name = "NAME")]
    pub mesh: Option<String>,
    /// Do not show the applications' logs.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Which mesh.
#[derive(Debug, Args)]
pub struct MeshArg {
    /// Name of the mesh.
    #[arg(long, value_name = "NAME", default_value = "dev", env = "WEFT_MESH")]
    pub mesh: String,
}

/// Flags of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Which mesh.
    #[command(flatten)]
    pub mesh: MeshArg,
    /// Application ("blog": its first instance) or instance ("blog-1").
    pub app: String,
    /// Program and arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// What `up` is to start, and where. Must be called while the process has one thread.
///
/// # Errors
/// The file is not as it should be; those of [`Ground::find`].
pub fn prepare(args: &UpArgs) -> anyhow::Result<(DevFile, Ground)> {
    let mut file = DevFile::read(&args.file)?;
    if args.mesh.is_some() {
        file.name.clone_from(&args.mesh);
        let problems = file.problems();
        anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    }
    let ground = Ground::find(&file)?;
    Ok((file, ground))
}

/// Starts and stays.
///
/// # Errors
/// Those of [`Mesh::up`]; the control plane or a proxy ends.
pub async fn up(file: DevFile, ground: Ground, quiet: bool) -> anyhow::Result<()> {
    let mut stop = Stop::new()?;
    let mut mesh = tokio::select! {
        mesh = Mesh::up(file, ground, progress) => mesh?,
        // The guard takes away what there is by then.
        () = stop.wait() => anyhow::bail!("interrupted while starting"),
    };
    let name = mesh.names.mesh.clone();
    progress(&format!("ready. `weft dev exec --mesh {name} APP -- CMD` runs a command in it; Ctrl-C ends it"));
    let logs = mesh.names.logs();
    let follow = async {
        if quiet {
            std::future::pending::<()>().await;
        }
        terminal::follow(&logs).await;
    };
    let ended = tokio::select! {
        () = stop.wait() => Ok(()),
        () = follow => Ok(()),
        error = mesh.watch(progress) => Err(error),
    };
    progress("stopping");
    mesh.down().await?;
    ended
}

/// Ctrl-C, SIGTERM or SIGHUP (the terminal is closed).
#[derive(Debug)]
pub struct Stop {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Stop {
    /// From now on these signals no longer end the process.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> anyhow::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    /// Waits for one. Cancelling loses none.
    pub async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// A progress line on standard error.
pub fn progress(line: &str) {
    eprintln!("weft: {line}");
}

/// Becomes the command inside the instance; returns only on failure.
///
/// # Errors
/// No such mesh or instance, or the command cannot be executed.
pub fn exec(args: &ExecArgs) -> anyhow::Result<()> {
    let names = Names::new(&args.mesh.mesh);
    let state = State::read(&names)?;
    let instance = find(&state, &args.app)?;
    join(&names, &state)?;
    enter::run(&enter::enter_app(&names, instance, state.user, state.owner, args.command.clone()))
}

/// Goes where the mesh's names and addresses mean something. Must be called while the process has one thread.
fn join(names: &Names, state: &State) -> anyhow::Result<()> {
    if state.owner.is_some() { rootless::join(names, state) } else { Ok(()) }
}

fn find<'a>(state: &'a State, name: &str) -> anyhow::Result<&'a Instance> {
    let exact = state.instances.iter().find(|instance| instance.name == name);
    exact.or_else(|| state.instances.iter().find(|instance| instance.app == name)).with_context(|| {
        let all: Vec<&str> = state.instances.iter().map(|instance| instance.name.as_str()).collect();
        format!("no application {name:?} in mesh {:?}; there are {}", state.mesh, all.join(", "))
    })
}

/// A running mesh, entered if it has namespaces to enter. Must be called while the process has one thread.
///
/// # Errors
/// No such mesh.
pub fn visit(args: &MeshArg) -> anyhow::Result<State> {
    let names = Names::new(&args.mesh);
    let state = State::read(&names)?;
    join(&names, &state)?;
    Ok(state)
}

/// Prints the instances.
///
/// # Errors
/// Standard output is closed.
pub async fn ps(state: &State) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for instance in &state.instances {
        let ready = if instance.sidecar {
            match probe((instance.address, PROXY_STATUS_PORT).into()).await {
                Ok(()) => "ready".to_owned(),
                Err(reason) => format!("not ready: {reason}"),
            }
        } else {
            "none".to_owned()
        };
        let pids = pids_in(&instance.netns);
        let address = instance.address.to_string();
        rows.push(vec![instance.name.clone(), instance.namespace.clone(), address, pids, ready]);
    }
    print!("{}", crate::table::render(&["INSTANCE", "NAMESPACE", "ADDRESS", "PROCESSES", "SIDECAR"], &rows));
    Ok(())
}

fn pids_in(netns: &str) -> String {
    let output = Command::new("ip").args(["netns", "pids", netns]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_ascii_whitespace().collect::<Vec<_>>().join(",")
}

/// Ends the mesh: asks its supervisor, and removes what is left if there is none.
///
/// # Errors
/// The supervisor does not end, or something cannot be removed.
pub fn down(args: &MeshArg) -> anyhow::Result<()> {
    let names = Names::new(&args.mesh);
    let sweep = if is_privileged() { state::sweep } else { rootless::sweep };
    if let Some(_lock) = Lock::try_take(&names.lock_file())? {
        return sweep(&names);
    }
    let state = State::read(&names)?;
    // It may end at this moment.
    kill(Pid::from_raw(state.supervisor), Signal::SIGTERM).ok();
    let _lock = Lock::take_within(&names.lock_file(), DOWN_WAIT)?.with_context(|| {
        format!("the supervisor (process {}) does not end within {} s", state.supervisor, DOWN_WAIT.as_secs())
    })?;
    // What is swept is killed after a moment; who was asked to end does so, and says how to whoever started it.
    state::wait_ended(state.supervisor, DOWN_WAIT);
    sweep(&names)
}
