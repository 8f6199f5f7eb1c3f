//! A `/run` of the mesh's own, where `ip netns` and iptables find the names and locks that they insist on. Everything else
//! that is in the machine's `/run` (the user's own directory, sockets of services) appears in it, too.

use std::fs::{self, DirEntry, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::Refusal;

const RUN: &str = "/run";
/// What the mesh has for itself.
const OWN: [&str; 2] = ["netns", "xtables.lock"];
const NONE: Option<&str> = None;

/// Replaces `/run` in the present mount namespace, which must be private. `marker` is shown as its source.
pub(super) fn make_private(marker: &str) -> anyhow::Result<()> {
    let refused = |errno: Errno| Refusal::here("mounts of its own", errno);
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE).map_err(refused)?;
    // What is mounted over is still there behind the open descriptor.
    let before = File::open(RUN).with_context(|| format!("cannot open {RUN}"))?;
    mount(Some(marker), RUN, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
        .map_err(refused)?;
    let before = PathBuf::from(format!("/proc/self/fd/{}", before.as_raw_fd()));
    for entry in fs::read_dir(&before).with_context(|| format!("cannot list {RUN}"))?.filter_map(Result::ok) {
        if OWN.iter().all(|own| entry.file_name() != *own)
            && let Err(error) = show(&entry)
        {
            // What this user may not see anyway is missed by nobody.
            tracing::debug!(name = ?entry.file_name(), %error, "not shown in the mesh's /run");
        }
    }
    Ok(())
}

fn show(entry: &DirEntry) -> io::Result<()> {
    let (from, to) = (entry.path(), Path::new(RUN).join(entry.file_name()));
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_dir() {
        fs::create_dir(&to)?
    } else {
        fs::write(&to, b"")?
    }
    Ok(mount(Some(&from), &to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?)
}
