//! Where meshes live on disk: root's in the system's places, everybody else's in their own.

use std::path::PathBuf;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::client::{user_runtime, user_state};

/// UID and GID of sidecars where there is root to change to them.
pub const PROXY_USER: u32 = 2113;

/// Two directories, the same for all meshes of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// State while they run. Emptied by a reboot like the namespaces themselves, where the system has such a place.
    pub state: PathBuf,
    /// Logs and access records; they stay until the next mesh of the same name. Not in memory, which is small.
    pub logs: PathBuf,
}

impl Home {
    /// Of whoever runs this.
    #[must_use]
    pub fn own() -> Self {
        if is_privileged() {
            return Self { state: "/run/weft/dev".into(), logs: "/var/log/weft/dev".into() };
        }
        Self { state: user_runtime().join("dev"), logs: user_state().join("dev/logs") }
    }
}

/// Whether this process can do what root can: it is root, and knows other users. Root of a user namespace that maps one
/// user only is no more than that user.
#[must_use]
pub fn is_privileged() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map");
    geteuid().is_root() && map.is_ok_and(|map| maps(&map, PROXY_USER))
}

/// Lines of /proc/PID/uid_map: first UID inside, first UID outside, how many. user_namespaces(7).
fn maps(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (first, count) = (fields.next(), fields.nth(1));
        matches!((first, count), (Some(Ok(first)), Some(Ok(count))) if uid >= first && uid - first < count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_alone_in_its_namespace_is_not_privileged() {
        assert!(maps("         0          0 4294967295\n", PROXY_USER));
        assert!(maps("0 1000 1\n1 100000 65536\n", PROXY_USER));
        assert!(!maps("         0       1000          1\n", PROXY_USER));
        assert!(!maps("", PROXY_USER));
    }
}
