//! What an attack costs: memory, descriptors and processor time of the proxies, and how long others wait meanwhile.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Mutex, MutexGuard};
use weft_integration::raw::{DEADLINE, Proxy, shown};

use super::lab::{BYSTANDER, HONEST, Lab, until};

/// What an attack may make a proxy hold beyond what it held before.
const GROWTH_MAX_KIB: u64 = 32 << 10;

/// And soon after it: what is freed goes back, but for what the next connections need anyway.
const KEPT_MAX_KIB: u64 = 8 << 10;

/// How long a bystander may wait in 99 of 100 cases while the attack runs. As users run it (`cargo test --release`, on a
/// machine of one's own) that is 250 ms. Otherwise the proxies are not optimised, share two cores with the attackers, the
/// application and often a build, and one worker makes all handshakes; 5 s still tells waiting for one's turn from waiting
/// for an attacker, whose shortest bound is 10 s.
const PATIENCE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5000 } else { 250 });

/// One attack at a time: they are not to wait for each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Requests of one bystander under attack that make a percentile.
const ANSWERS_MIN: usize = 100;

/// Memory and descriptors before an attack.
pub(crate) struct Before {
    memory_kib: [u64; 2],
    fds: [usize; 2],
}

fn proxies(lab: &Lab) -> [&Proxy; 2] {
    [lab.outbound(), lab.inbound()]
}

impl Before {
    /// After some traffic, so that what every proxy allocates once is not the attack's.
    pub(crate) async fn of(lab: &mut Lab) -> anyhow::Result<Self> {
        let mut wire = lab.client().await?;
        for _ in 0..200 {
            let from = wire.received().len();
            wire.send(BYSTANDER).await?;
            wire.read_bytes(from + HONEST.len()).await?;
            lab.expect([("", 200)], [("", 200)]);
        }
        let [outbound, inbound] = proxies(lab);
        Ok(Self {
            memory_kib: [outbound.memory_kib()?, inbound.memory_kib()?],
            fds: [outbound.open_fds()?, inbound.open_fds()?],
        })
    }

    /// While it runs.
    pub(crate) fn is_bounded(&self, lab: &Lab) -> anyhow::Result<()> {
        for (proxy, before) in proxies(lab).into_iter().zip(self.memory_kib) {
            let now = proxy.memory_kib()?;
            ensure!(now <= before + GROWTH_MAX_KIB, "{before} KiB became {now} KiB");
        }
        Ok(())
    }

    /// When it is over: descriptors are what they were, but for pooled connections, and memory has been given back.
    pub(crate) async fn is_back(&self, lab: &Lab) -> anyhow::Result<()> {
        until("memory and descriptors are given back", DEADLINE, || {
            for (at, proxy) in proxies(lab).into_iter().enumerate() {
                let rss = proxy.memory_kib().map_err(|error| error.to_string())?;
                let fds = proxy.open_fds().map_err(|error| error.to_string())?;
                if rss > self.memory_kib[at] + KEPT_MAX_KIB || fds > self.fds[at] + POOLED_MAX {
                    return Err(format!(
                        "{} KiB and {} descriptors became {rss} and {fds}",
                        self.memory_kib[at], self.fds[at]
                    ));
                }
            }
            Ok(())
        })
        .await
    }
}

/// Idle connections that a pool keeps for one endpoint.
const POOLED_MAX: usize = 64 + 8;

/// Somebody with a thread and a connection of his own, who asks again and again.
pub(crate) struct Bystander {
    _alone: MutexGuard<'static, ()>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<Duration>>>,
}

impl Bystander {
    pub(crate) async fn start(lab: &Lab) -> Self {
        let alone = ALONE.lock().await;
        let (port, stop) = (lab.pair.doors[0].port, Arc::new(AtomicBool::new(false)));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut socket = TcpStream::connect(("127.0.0.1", port))?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(DEADLINE))?;
            let (mut waits, mut answer) = (Vec::new(), vec![0; HONEST.len()]);
            while !stopping.load(Ordering::Relaxed) || waits.len() < ANSWERS_MIN {
                let begun = Instant::now();
                socket.write_all(BYSTANDER)?;
                socket.read_exact(&mut answer).context("a bystander is not answered")?;
                ensure!(answer == HONEST, "a bystander got {}", shown(&answer));
                waits.push(begun.elapsed());
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(waits)
        });
        Self { _alone: alone, stop, thread }
    }

    /// Ends, accounts for its requests, and judges how long they took.
    pub(crate) async fn end(self, lab: &mut Lab) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        // Its answers come from this thread.
        until(
            "the bystander ends",
            DEADLINE,
            || if self.thread.is_finished() { Ok(()) } else { Err("not yet".into()) },
        )
        .await?;
        let mut waits = self.thread.join().map_err(|_| anyhow::anyhow!("the bystander panicked"))??;
        waits.sort();
        for _ in &waits {
            lab.expect([("", 200)], [("", 200)]);
        }
        let p99 = waits[(waits.len() - 1) * 99 / 100];
        eprintln!("bystander: p99 of {} is {p99:?}", waits.len());
        ensure!(p99 <= PATIENCE, "one of a hundred waited {p99:?}");
        Ok(())
    }
}

/// Time that a process has run, in nanoseconds, over all its threads.
pub(crate) fn ran(proxy: &Proxy) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", proxy.id()))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(sum)
}

/// Lets the test itself have so many descriptors.
pub(crate) fn allow_descriptors(count: u64) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard >= count, "this test opens {count} descriptors, of which it may have {hard}: raise ulimit -Hn");
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.max(count), hard)?)
}
