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

use super::confine::confine;
use super::hosts::app_binds;
use super::plan::{Instance, Names};
use super::rootless::Owner;

/// Flags of `__enter`.
#[derive(Debug, Default, Args)]
pub struct EnterArgs {
    /// Network namespace by name, as `ip netns` knows it. None: the present one.
    #[arg(long)]
    pub netns: Option<String>,
    /// SOURCE:TARGET mounts in a private mount namespace.
    #[arg(long = "bind", value_parser = bind)]
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Directories to show empty in a private mount namespace.
    #[arg(long = "hide")]
    pub hidden: Vec<PathBuf>,
    /// UID and GID to become.
    #[arg(long)]
    pub user: Option<u32>,
    /// UID:GID to be called in a user namespace without any capability.
    #[arg(long, value_parser = owner)]
    pub confine: Option<Owner>,
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
        for hidden in &self.hidden {
            arguments.extend(["--hide".to_owned(), hidden.display().to_string()]);
        }
        if let Some(Owner { uid, gid }) = self.confine {
            arguments.extend(["--confine".to_owned(), format!("{uid}:{gid}")]);
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

/// What runs `command` as the application of an instance runs: its network, its names, its user (`user` unless the file
/// names one). In a mesh without root it is confined and does not see the mesh's keys.
#[must_use]
pub fn enter_app(
    names: &Names,
    instance: &Instance,
    user: Option<u32>,
    owner: Option<Owner>,
    command: Vec<String>,
) -> EnterArgs {
    EnterArgs {
        netns: Some(instance.netns.clone()),
        binds: app_binds(&names.directory()),
        hidden: owner.map(|_| names.directory()).into_iter().collect(),
        user: instance.user.or(user),
        confine: owner,
        parent: None,
        command,
    }
}

fn bind(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (source, target) = text.split_once(':').ok_or("expected SOURCE:TARGET")?;
    Ok((source.into(), target.into()))
}

fn owner(text: &str) -> Result<Owner, String> {
    let (uid, gid) = text.split_once(':').ok_or("expected UID:GID")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
    Ok(Owner { uid: number(uid)?, gid: number(gid)? })
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
    if !args.binds.is_empty() || !args.hidden.is_empty() {
        mount_privately(&args.binds, &args.hidden)?;
    }
    if let Some(user) = args.user {
        become_user(user)?;
    }
    if let Some(owner) = args.confine {
        confine(owner)?;
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

fn mount_privately(binds: &[(PathBuf, PathBuf)], hidden: &[PathBuf]) -> anyhow::Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    // Slave: mounts made on the host later (a new network namespace's name) still appear here, ours never there.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("cannot make mounts private")?;
    for (source, target) in binds {
        mount(Some(source), target, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot mount {} over {}", source.display(), target.display()))?;
    }
    // After what comes from there: that stays.
    for directory in hidden {
        mount(Some("none"), directory, Some("tmpfs"), MsFlags::MS_RDONLY, none)
            .with_context(|| format!("cannot hide {}", directory.display()))?;
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
            hidden: vec!["/c d".into()],
            user: Some(2113),
            confine: Some(Owner { uid: 1000, gid: 100 }),
            parent: Some(1),
            command: vec!["sh".to_owned(), "-c".to_owned(), "--netns".to_owned()],
        };
        let parsed = Line::try_parse_from(args.to_arguments()).unwrap().args;
        assert_eq!(format!("{parsed:?}"), format!("{args:?}"));
    }
}
