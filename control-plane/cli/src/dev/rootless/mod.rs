//! A mesh without root: in a user namespace of its own, where whoever starts it is root over networks and mounts that
//! nobody else sees, and over nothing else (user_namespaces(7)).
//!
//! The supervisor enters once, before there is a second thread; everything it starts is then inside, and works as with
//! root. Three things differ. A single user is mapped, so sidecars are known by a packet mark instead of a user of their
//! own. Applications run in a further user namespace below, without any capability, or they could set that mark. And this
//! machine's network is out of reach: gateways get listeners that were opened before entering, the demo's traffic gets
//! its sockets from a thread that stayed there, and no other network can be reached at all.
//!
//! What this is not: a wall between an application and its user. As any program, it can do to the user's files and
//! processes what the user can; it can end its sidecar (and then has no network), but neither read its keys nor bypass it.

mod join;
mod refusal;
mod run_directory;
mod stray;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use super::file::DevFile;
use super::host_network::HostNetwork;
use super::plan::Names;
use super::state::Lock;

pub use join::join;
pub use refusal::Refusal;
pub use stray::sweep;

/// How long a previous owner of the name may take to be gone.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// A user and its group, as they are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// UID.
    pub uid: u32,
    /// GID.
    pub gid: u32,
}

/// What a mesh keeps of the machine that it has left.
#[derive(Debug)]
pub struct Left {
    /// Names of the mesh; its home is the user's, although the user is called root now.
    pub names: Names,
    /// Who runs it.
    pub owner: Owner,
    /// The gateways' listeners, by name, on this machine.
    pub listeners: BTreeMap<String, TcpListener>,
    /// This machine's network.
    pub network: HostNetwork,
    /// The name is ours.
    pub lock: Lock,
}

/// Takes the mesh's name, opens the gateways' listeners, and enters. Must be called while the process has one thread.
///
/// # Errors
/// Somebody has the name; a gateway's address cannot be listened on; the file asks for another user; the kernel forbids
/// user namespaces (says which setting, and the remedy).
pub fn enter(file: &DevFile) -> anyhow::Result<Left> {
    Refusal::foreseen()?;
    let names = Names::new(file.mesh_name());
    if let Some(app) = file.apps.iter().find(|app| app.user.is_some()) {
        anyhow::bail!("{} is to run as another user, which needs root: leave `user` out, or use sudo", app.name);
    }
    let lock = Lock::take_within(&names.lock_file(), LOCK_WAIT)?.with_context(|| names.is_taken())?;
    sweep(&names)?;
    let listen = |gateway: &super::file::Gateway| {
        let listener = TcpListener::bind(gateway.listen);
        let listener =
            listener.with_context(|| format!("gateway {} cannot listen on {}", gateway.name, gateway.listen));
        Ok((gateway.name.clone(), listener?))
    };
    let listeners = file.gateways.iter().map(listen).collect::<anyhow::Result<_>>()?;
    let owner = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    unshare_user(owner, Owner { uid: 0, gid: 0 }, CloneFlags::CLONE_NEWNS)?;
    run_directory::make_private(&stray::marker(&names))?;
    let network = HostNetwork::stay_behind()?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Refusal::here("a network namespace", errno))?;
    Ok(Left { names, owner, listeners, network, lock })
}

/// Makes a user namespace, and others that it owns, in which `outside` is called `inside`. All capabilities are held
/// there.
///
/// # Errors
/// [`Refusal`].
pub fn unshare_user(outside: Owner, inside: Owner, others: CloneFlags) -> Result<(), Refusal> {
    unshare(CloneFlags::CLONE_NEWUSER | others).map_err(|errno| Refusal::here("a user namespace", errno))?;
    let write = |file: &str, text: String| {
        let written = fs::write(format!("/proc/self/{file}"), text);
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
        written.map_err(|error| Refusal::here("a user namespace with a user", errno(error)))
    };
    // Who could leave groups could get at files that a group is kept from.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{} {} 1", inside.uid, outside.uid))?;
    write("gid_map", format!("{} {} 1", inside.gid, outside.gid))
}
