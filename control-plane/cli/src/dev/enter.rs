//! `weft __enter`: becomes a program inside an instance's namespaces.
//!
//! The supervisor starts every child through this verb instead of doing things between fork and exec, which would
//! need unsafe code. It runs while the process has one thread, before any runtime.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// Flags of `__enter`.
#[derive(Debug, Default, Args)]
pub struct EnterArgs {
    /// Network namespace by name, as `ip netns` knows it. None: the present one.
    #[arg(long)]
    pub netns: Option<String>,
    /// SOURCE:TARGET mounts in a private mount namespace.
    #[arg(long = "bind", value_parser = bind)]
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// UID and GID to become.
    #[arg(long)]
    pub user: Option<u32>,
    /// PID of the supervisor: be killed when it dies.
    #[arg(long)]
    pub parent: Option<i32>,
    /// Program and arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

impl EnterArgs {
    /// As arguments for the `weft` binary.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["__enter".to_owned()];
        if let Some(netns) = &self.netns {
            arguments.extend(["--netns".to_owned(), netns.clone()]);
        }
        for (source, target) in &self.binds {
            arguments.extend(["--bind".to_owned(), format!("{}:{}", source.display(), target.display())]);
        }
        if let Some(user) = self.user {
            arguments.extend(["--user".to_owned(), user.to_string()]);
        }
        if let Some(parent) = self.parent {
            arguments.extend(["--parent".to_owned(), parent.to_string()]);
        }
        arguments.push("--".to_owned());
        arguments.extend(self.command.iter().cloned());
        arguments
    }
}

fn bind(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (source, target) = text.split_once(':').ok_or("expected SOURCE:TARGET")?;
    Ok((source.into(), target.into()))
}

/// Enters and executes; returns only on failure.
///
/// # Errors
/// Which step failed.
pub fn run(args: &EnterArgs) -> anyhow::Result<()> {
    if let Some(netns) = &args.netns {
        let path = format!("/run/netns/{netns}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {path}"))?;
    }
    if !args.binds.is_empty() {
        mount_privately(&args.binds)?;
    }
    if let Some(user) = args.user {
        become_user(user)?;
    }
    if let Some(parent) = args.parent {
        // After the change of user, which would clear it.
        prctl::set_pdeathsig(Signal::SIGKILL).context("cannot ask to die with the supervisor")?;
        anyhow::ensure!(nix::unistd::getppid().as_raw() == parent, "the supervisor is gone");
    }
    let (program, arguments) = args.command.split_first().context("no command")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot execute {program:?}"))
}

fn mount_privately(binds: &[(PathBuf, PathBuf)]) -> anyhow::Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    // Slave: mounts made on the host later (a new network namespace's name) still appear here, ours never there.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("cannot make mounts private")?;
    for (source, target) in binds {
        mount(Some(source), target, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot mount {} over {}", source.display(), target.display()))?;
    }
    Ok(())
}

fn become_user(user: u32) -> anyhow::Result<()> {
    setgroups(&[Gid::from_raw(user)]).context("cannot drop groups")?;
    setgid(Gid::from_raw(user)).with_context(|| format!("cannot become GID {user}"))?;
    setuid(Uid::from_raw(user)).with_context(|| format!("cannot become UID {user}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: EnterArgs,
    }

    #[test]
    fn arguments_survive_the_round_trip() {
        let args = EnterArgs {
            netns: Some("weft.t.a-0".to_owned()),
            binds: vec![("/a b".into(), "/etc/hosts".into())],
            user: Some(2113),
            parent: Some(1),
            command: vec!["sh".to_owned(), "-c".to_owned(), "--netns".to_owned()],
        };
        let parsed = Line::try_parse_from(args.to_arguments()).unwrap().args;
        assert_eq!(format!("{parsed:?}"), format!("{args:?}"));
    }
}
