//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::default_socket;
use crate::demo::{self, DemoArgs};
use crate::dev::cli::DevCommand;
use crate::dev::enter::EnterArgs;
use crate::dev::guard::{self, GuardArgs};
use crate::dev::{self, enter};
use crate::verbs::backup::{self, BackupArgs, RestoreArgs};
use crate::verbs::proxies::{self, DumpArgs, LogLevelArgs, ProxiesArgs};
use crate::verbs::resources::{self, ApplyArgs, DeleteArgs, GetArgs};
use crate::verbs::status::{self, StatusArgs};
use crate::verbs::token::{self, TokenCommand};

/// The command line of the Weft service mesh.
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a mesh on this machine.
    #[command(subcommand)]
    Dev(DevCommand),
    /// Show the mesh at work: a small blog, its identities, its traces, and a control plane that is killed meanwhile.
    Demo(DemoArgs),
    /// Create or replace resources (Service, …) from YAML in the Kubernetes manner.
    Apply(ApplyArgs),
    /// Check resources as `apply` would, without effect.
    Validate(ApplyArgs),
    /// Show resources.
    Get(GetArgs),
    /// Delete resources.
    Delete(DeleteArgs),
    /// Join tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show services, instances and proxies as the control plane knows them.
    Status(StatusArgs),
    /// List the proxies that are connected.
    Proxies(ProxiesArgs),
    /// Print what a proxy knows, as JSON.
    Dump(DumpArgs),
    /// Show or change a proxy's log filter.
    LogLevel(LogLevelArgs),
    /// Copy the control plane's state into a file while it serves.
    Backup(BackupArgs),
    /// Write a backup into a state directory that no control plane uses.
    Restore(RestoreArgs),
    /// Becomes a program inside namespaces.
    #[command(name = "__enter", hide = true)]
    Enter(EnterArgs),
    /// Cleans up after a killed supervisor.
    #[command(name = "__guard", hide = true)]
    Guard(GuardArgs),
}

/// Where the control plane is.
#[derive(Clone, Debug, Args)]
pub struct SocketArg {
    /// The control plane's Unix socket [default: /run/weft/control.sock as root, else under $XDG_RUNTIME_DIR].
    #[arg(long, env = "WEFT_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SocketArg {
    /// The path, given or by default.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(default_socket)
    }
}

/// Does what the command line says.
///
/// # Errors
/// Whatever went wrong, in words for the operator.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        // These need a process with one thread.
        Command::Enter(args) => enter::run(&args),
        Command::Guard(args) => guard::run(&args),
        Command::Dev(DevCommand::Exec(args)) => dev::cli::exec(&args),
        Command::Dev(DevCommand::Down(args)) => dev::cli::down(&args),
        Command::Demo(args) => {
            let (file, ground) = demo::prepare(&args)?;
            block_on(demo::run(&args, file, ground))
        }
        Command::Restore(args) => backup::restore(&args),
        Command::Apply(args) => block_on(resources::apply(&args, false)),
        Command::Validate(args) => block_on(resources::apply(&args, true)),
        Command::Get(args) => block_on(resources::get(&args)),
        Command::Delete(args) => block_on(resources::delete(&args)),
        Command::Token(TokenCommand::Create(args)) => block_on(token::create(&args)),
        Command::Status(args) => block_on(status::status(&args)),
        Command::Proxies(args) => block_on(proxies::proxies(&args)),
        Command::Dump(args) => block_on(proxies::dump(&args)),
        Command::LogLevel(args) => block_on(proxies::log_level(&args)),
        Command::Backup(args) => block_on(backup::backup(&args)),
        Command::Dev(DevCommand::Up(args)) => {
            let (file, ground) = dev::cli::prepare(&args)?;
            block_on(dev::cli::up(file, ground, args.quiet))
        }
        Command::Dev(DevCommand::Ps(args)) => {
            let state = dev::cli::visit(&args)?;
            block_on(dev::cli::ps(&state))
        }
    }
}

/// One thread: children are bound to the thread that started them (they die with it).
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
