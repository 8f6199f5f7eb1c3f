//! Takes from a process every right that it has by being root of the mesh's user namespace, and every way back.
//!
//! Setting a packet mark needs CAP_NET_ADMIN in the user namespace that owns the network. The process goes into a user
//! namespace below, where it is its own user again: whatever it may become there counts nothing above.

use anyhow::Context as _;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::unistd::{getegid, geteuid};
use rustix::thread::{CapabilitySet, clear_ambient_capability_set, remove_capability_from_bounding_set};

use super::rootless::{Owner, unshare_user};

/// Capabilities that a set can hold.
const CAPABILITIES: u32 = 64;

/// Confines this process, which must have one thread, as `owner`; holds from the next program on that it executes.
///
/// # Errors
/// Which step failed.
pub(super) fn confine(owner: Owner) -> anyhow::Result<()> {
    let outside = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    unshare_user(outside, owner, CloneFlags::empty())?;
    // No program gains anything by its file: neither by the set-user-ID bit nor by file capabilities.
    prctl::set_no_new_privs().context("cannot renounce new privileges")?;
    clear_ambient_capability_set().context("cannot clear ambient capabilities")?;
    for capability in 0..CAPABILITIES {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << capability)) {
            Ok(()) => {}
            // The kernel knows no further ones.
            Err(rustix::io::Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error).context("cannot remove a capability from the bounding set"),
        }
    }
    Ok(())
}
