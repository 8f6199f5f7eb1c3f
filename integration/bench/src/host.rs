//! What the kernel knows of processes and of the machine.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// /proc/stat counts in hundredths of a second.
const TICK_MS: u64 = 10;

/// User and system time of a process and of its present children, all threads, those that have ended too.
///
/// # Errors
/// It is gone.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for pid in family(pid)? {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?;
        total += Duration::from(clock.now()?);
    }
    Ok(total)
}

/// Memory of a process and of its present children in KiB: resident, shared pages by their share.
///
/// # Errors
/// It is gone.
pub fn memory_kib(pid: u32) -> anyhow::Result<u64> {
    let one = |pid| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        kib(&rollup, "Pss:").with_context(|| format!("no memory of process {pid} in {rollup:?}"))
    };
    family(pid)?.into_iter().map(one).sum()
}

fn kib(rollup: &str, field: &str) -> Option<u64> {
    let rest = rollup.lines().find_map(|line| line.strip_prefix(field))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

/// A process and its present children.
///
/// # Errors
/// It is gone.
pub fn family(pid: u32) -> anyhow::Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .with_context(|| format!("process {pid} is gone"))?;
    Ok([pid].into_iter().chain(children.split_whitespace().filter_map(|one| one.parse().ok())).collect())
}

/// Time in which the machine's processors were not idle, theft by other guests included.
///
/// # Errors
/// /proc/stat does not say.
pub fn busy() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    busy_ticks(&stat).map(|ticks| Duration::from_millis(ticks * TICK_MS)).context("no processor time in /proc/stat")
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let first = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = first.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user time already.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = fields.as_slice() else { return None };
    Some(user + nice + system + irq + softirq + steal)
}

/// Runs `action` on [`processor`] `cpu`; the processes it starts stay there.
///
/// # Errors
/// The kernel refuses, or the action fails.
pub fn on_cpu<T>(cpu: usize, action: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this)?;
    sched_setaffinity(this, &processor(cpu)?).with_context(|| format!("cannot run on processor {cpu}"))?;
    let result = action();
    sched_setaffinity(this, &before)?;
    result
}

/// The processor of this number among those that this process may use, or the last of them.
///
/// # Errors
/// The kernel does not say which there are.
pub fn processor(number: usize) -> anyhow::Result<CpuSet> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let present = |at: &usize| allowed.is_set(*at).unwrap_or(false);
    let all: Vec<usize> = (0..CpuSet::count()).filter(present).collect();
    let mut only = CpuSet::new();
    only.set(all.get(number).or_else(|| all.last()).copied().context("no processor to run on")?)?;
    Ok(only)
}

/// Lets this process and those it starts open as many files as it may at all.
///
/// # Errors
/// The kernel refuses.
pub fn raise_file_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// Facts that figures depend on, as one line each.
#[must_use]
pub fn facts() -> Vec<String> {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = line("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = kib(&line("/proc/meminfo"), "MemTotal:").unwrap_or_default() / 1024 / 1024;
    vec![
        format!("{processors} × {}, {memory} GiB", model.trim_start_matches([' ', '\t', ':'])),
        format!(
            "Linux {}, TCP {}",
            line("/proc/sys/kernel/osrelease"),
            line("/proc/sys/net/ipv4/tcp_congestion_control")
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\nintr 5\n";
        assert_eq!(busy_ticks(stat), Some(100 + 20 + 30 + 6 + 7 + 8));
        assert_eq!(busy_ticks("cpu 1 2 3\n"), None);
        assert_eq!(kib("Rss:      900 kB\nPss:      700 kB\nPss_Dirty: 1 kB\n", "Pss:"), Some(700));
        assert_eq!(kib("Rss: 900 kB\n", "Pss:"), None);
    }

    #[test]
    fn own_processor_time_grows_with_work() {
        let before = processor_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while processor_time(std::process::id()).unwrap() < before + Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(memory_kib(std::process::id()).unwrap() > 100);
        assert!(busy().unwrap() > Duration::ZERO);
    }

    #[test]
    fn a_child_stays_on_the_processor_it_was_started_on() {
        let mask = on_cpu(0, || {
            Ok(std::process::Command::new("grep").args(["Cpus_allowed_list", "/proc/self/status"]).output()?)
        });
        assert_eq!(String::from_utf8_lossy(&mask.unwrap().stdout).trim(), "Cpus_allowed_list:\t0");
    }
}
