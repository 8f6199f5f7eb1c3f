//! Finding what a mesh left whose supervisor and guard were both killed, from outside its namespaces, which nothing names
//! any more: every process that ever was inside has the mesh's `/run`, and no way to lose it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::dev::plan::Names;
use crate::dev::state::is_zombie;

/// How long a supervisor or guard that has given its lock away may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Source of the mesh's `/run`, which names it among all meshes of this machine. Without the characters that
/// /proc/PID/mountinfo would escape.
pub(super) fn marker(names: &Names) -> String {
    let plain = |character: char| if character.is_ascii_graphic() && character != '\\' { character } else { '_' };
    format!("weft-dev:{}", names.directory().display()).chars().map(plain).collect()
}

/// Ends every process of the mesh and removes its state, but not its logs. The caller is outside, and holds the lock.
///
/// # Errors
/// A process would not end; a file cannot be removed.
pub fn sweep(names: &Names) -> anyhow::Result<()> {
    let start = Instant::now();
    let marker = marker(names);
    loop {
        let left = inside(&marker);
        if left.is_empty() {
            break;
        }
        anyhow::ensure!(start.elapsed() < KILL_DEADLINE, "processes {left:?} of mesh {:?} do not end", names.mesh);
        if start.elapsed() > GRACE {
            for pid in left {
                // It may have ended meanwhile.
                kill(pid, Signal::SIGKILL).ok();
            }
        }
        std::thread::sleep(POLL);
    }
    match fs::remove_dir_all(names.directory()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", names.directory().display()))
        }
        // The namespaces ended with their last process.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Processes whose `/run` is the marked one, and that are ours to end.
fn inside(marker: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = pids.filter(|pid| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts.lines().any(|line| is_marked(line, marker)) && !is_zombie(*pid)
    });
    let pids = marked.filter_map(|pid| Some(Pid::from_raw(i32::try_from(pid).ok()?)));
    pids.filter(|&pid| kill(pid, None).is_ok()).collect()
}

/// A line of /proc/PID/mountinfo: ID, parent, device, root, mount point, options, …, "-", type, source, … proc(5).
fn is_marked(line: &str, marker: &str) -> bool {
    let Some((mount, of)) = line.split_once(" - ") else { return false };
    let point = mount.split(' ').nth(4);
    let mut of = of.split(' ');
    point == Some("/run") && of.next() == Some("tmpfs") && of.next() == Some(marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marked_run_counts() {
        let line = |point: &str, kind: &str, source: &str| {
            format!("36 35 0:33 / {point} rw,nosuid master:1 - {kind} {source} rw,mode=755")
        };
        assert!(is_marked(&line("/run", "tmpfs", "weft-dev:/a/b"), "weft-dev:/a/b"));
        assert!(!is_marked(&line("/run", "tmpfs", "weft-dev:/a/bc"), "weft-dev:/a/b"));
        assert!(!is_marked(&line("/run/x", "tmpfs", "weft-dev:/a/b"), "weft-dev:/a/b"));
        assert!(!is_marked(&line("/run", "ext4", "weft-dev:/a/b"), "weft-dev:/a/b"));
        assert!(!is_marked("nonsense", "weft-dev:/a/b"));
    }

    #[test]
    fn nobody_outside_is_found() {
        assert_eq!(inside("weft-dev:/nowhere"), []);
    }
}
