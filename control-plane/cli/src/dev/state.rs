//! What a running mesh leaves on disk, and how everything of a mesh is taken away again.
//!
//! `sweep` needs nothing but the mesh's name: namespaces and links are named after it, processes are found by the
//! namespace they are in or by the list of PIDs. So it works for the supervisor that ends well, for the guard of one
//! that was killed, and for the next `up` after both were.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ipnet::Ipv4Net;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::home::is_privileged;
use super::net;
use super::plan::{Instance, Names};
use super::rootless::Owner;

/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// What `exec`, `ps` and `down` need to know about a running mesh (`state.json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name of the mesh.
    pub mesh: String,
    /// PID of the supervisor.
    pub supervisor: i32,
    /// Its addresses.
    pub range: Ipv4Net,
    /// All instances.
    pub instances: Vec<Instance>,
    /// UID that applications run as by default.
    pub user: Option<u32>,
    /// Who runs the mesh without root; `None`: root does.
    pub owner: Option<Owner>,
}

impl State {
    /// Reads the state of the mesh.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn read(names: &Names) -> anyhow::Result<Self> {
        let path = names.directory().join("state.json");
        let text = fs::read(&path).with_context(|| {
            let sudo = if is_privileged() { "" } else { ", or use sudo for one that root started" };
            format!(
                "no mesh {:?} of yours is running ({} cannot be read); start one with `weft dev up FILE`{sudo}",
                names.mesh,
                path.display()
            )
        })?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; `weft dev down` cleans up", path.display()))
    }

    /// Writes it, all or nothing.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, names: &Names) -> anyhow::Result<()> {
        let path = names.directory().join("state.json");
        let next = path.with_extension("next");
        fs::write(&next, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", next.display()))?;
        fs::rename(&next, &path).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Exclusive ownership of a mesh's name, for as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it, or `None` if somebody has it.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn try_take(path: &Path) -> anyhow::Result<Option<Self>> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Takes it, waiting up to `deadline`; `None` if somebody kept it so long.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn take_within(path: &Path, deadline: Duration) -> anyhow::Result<Option<Self>> {
        let start = Instant::now();
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(Some(lock));
            }
            if start.elapsed() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Notes a process of this mesh that lives in the host's namespace.
///
/// # Errors
/// The list cannot be written.
pub fn note_process(names: &Names, pid: u32) -> anyhow::Result<()> {
    let path = names.directory().join("pids");
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    let started = start_time(pid).unwrap_or_default();
    writeln!(file, "{pid} {started}").with_context(|| format!("cannot write {}", path.display()))
}

/// Ends and removes everything of the mesh but its logs. The caller holds the lock.
///
/// # Errors
/// A process would not end, or `ip` failed.
pub fn sweep(names: &Names) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let left = processes(names);
        if left.is_empty() {
            break;
        }
        anyhow::ensure!(start.elapsed() < KILL_DEADLINE, "processes {left:?} of mesh {:?} do not end", names.mesh);
        for pid in left {
            // It may have ended meanwhile.
            kill(pid, Signal::SIGKILL).ok();
        }
        std::thread::sleep(POLL);
    }
    net::delete(names)?;
    match fs::remove_dir_all(names.directory()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", names.directory().display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Processes of the mesh that are alive.
#[must_use]
pub fn processes(names: &Names) -> Vec<Pid> {
    let inode = |path: PathBuf| fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
    let namespaces: Vec<_> =
        net::namespaces(names).iter().filter_map(|name| inode(Path::new("/run/netns").join(name))).collect();
    let noted = noted(names);
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| {
        let inside = inode(PathBuf::from(format!("/proc/{pid}/ns/net"))).is_some_and(|net| namespaces.contains(&net));
        (inside || noted.iter().any(|(other, started)| *other == pid && start_time(pid) == Some(*started)))
            && !is_zombie(pid)
    })
    .filter_map(|pid| Some(Pid::from_raw(i32::try_from(pid).ok()?)))
    .collect()
}

fn noted(names: &Names) -> Vec<(u32, u64)> {
    let text = fs::read_to_string(names.directory().join("pids")).unwrap_or_default();
    let line = |line: &str| {
        let (pid, started) = line.split_once(' ')?;
        Some((pid.parse().ok()?, started.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Fields of /proc/PID/stat after the name, which may hold anything.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

/// When the process started, in ticks since boot: with the PID it names a process for good. proc(5), field 22.
fn start_time(pid: u32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// Waits until a process has ended, up to `deadline`.
pub fn wait_ended(pid: i32, deadline: Duration) {
    let (start, pid) = (Instant::now(), u32::try_from(pid).unwrap_or_default());
    while !is_zombie(pid) && start.elapsed() < deadline {
        std::thread::sleep(POLL);
    }
}

/// Dead, but its parent has not looked yet; it holds nothing.
pub(super) fn is_zombie(pid: u32) -> bool {
    stat_fields(pid).is_none_or(|fields| fields.first().is_some_and(|state| matches!(state.as_str(), "Z" | "X")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_pid_and_start() {
        let me = std::process::id();
        assert!(start_time(me).is_some());
        assert!(!is_zombie(me));
        assert_eq!(start_time(u32::MAX), None);
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let waiting = std::thread::spawn({
            let pid = i32::try_from(child.id()).unwrap();
            move || wait_ended(pid, Duration::from_secs(60))
        });
        assert!(!waiting.is_finished());
        drop(input);
        waiting.join().unwrap();
        assert!(is_zombie(child.id()));
        child.wait().unwrap();
    }
}
