//! Entering a running mesh from another terminal.

use std::fs::File;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};

use crate::dev::plan::Names;
use crate::dev::state::{Lock, State};

/// In this order: in the user namespace are the rights to enter the others.
const NAMESPACES: [(&str, CloneFlags); 3] =
    [("user", CloneFlags::CLONE_NEWUSER), ("mnt", CloneFlags::CLONE_NEWNS), ("net", CloneFlags::CLONE_NEWNET)];

/// Becomes a part of the mesh, as its supervisor is. Must be called while the process has one thread.
///
/// # Errors
/// The mesh does not run, or is another user's.
pub fn join(names: &Names, state: &State) -> anyhow::Result<()> {
    // While somebody holds the lock, the supervisor's PID is the supervisor's.
    anyhow::ensure!(
        Lock::try_take(&names.lock_file())?.is_none(),
        "mesh {:?} was killed; `weft dev down --mesh {0}` cleans up",
        names.mesh
    );
    // Another mount namespace begins at its root.
    let directory = std::env::current_dir();
    let open = |(kind, flag): (&str, CloneFlags)| {
        let path = format!("/proc/{}/ns/{kind}", state.supervisor);
        Ok((File::open(&path).with_context(|| format!("cannot open {path}"))?, flag, path))
    };
    // All are opened before the first is entered, where /proc may show them no more.
    let opened = NAMESPACES.map(open).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for (file, flag, path) in opened {
        setns(&file, flag).with_context(|| format!("cannot enter {path}"))?;
    }
    if let Ok(directory) = directory {
        // Where it is not there, the root serves.
        std::env::set_current_dir(directory).ok();
    }
    Ok(())
}
