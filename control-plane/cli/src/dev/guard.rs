//! `weft __guard`: cleans up after a supervisor that was killed.
//!
//! It holds the other end of a pipe to the supervisor and sleeps until that end closes, which the kernel does however
//! the supervisor dies. If the supervisor cleaned up itself, or a new one owns the name, there is nothing to do.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::home::Home;
use super::plan::Names;
use super::state::{self, Lock, State};

/// How long the next owner of the name may keep the guard waiting before it leaves the cleaning to that one.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Arguments of the hidden `__guard`.
#[derive(Debug, Args)]
pub struct GuardArgs {
    /// Name of the mesh.
    pub mesh: String,
    /// PID of its supervisor.
    pub supervisor: i32,
    /// Where its state is. Given, because inside a mesh without root its owner is called root.
    pub state: PathBuf,
    /// Where its logs are.
    pub logs: PathBuf,
}

/// Starts the guard of the mesh in a process group of its own, so that Ctrl-C does not reach it. The supervisor keeps
/// what is returned: dropping it closes the pipe.
///
/// # Errors
/// It cannot be started.
pub fn start(weft: &std::path::Path, names: &Names) -> anyhow::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(weft);
    command.args(["__guard", &names.mesh, &std::process::id().to_string()]).args([&names.home.state, &names.home.logs]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).current_dir("/");
    command.spawn().with_context(|| format!("cannot start {}", weft.display()))
}

/// The guard itself: waits for the end of standard input, then sweeps what the supervisor left.
///
/// # Errors
/// Those of sweeping.
pub fn run(args: &GuardArgs) -> anyhow::Result<()> {
    let mut sink = Vec::new();
    // An error means the same as the end: nobody is there any more.
    std::io::stdin().take(1).read_to_end(&mut sink).ok();
    let home = Home { state: args.state.clone(), logs: args.logs.clone() };
    let names = Names { mesh: args.mesh.clone(), home };
    let Some(_lock) = Lock::take_within(&names.lock_file(), LOCK_WAIT)? else { return Ok(()) };
    match State::read(&names) {
        Ok(state) if state.supervisor == args.supervisor => state::sweep(&names),
        // Already swept, or somebody else's.
        Ok(_) | Err(_) => Ok(()),
    }
}
