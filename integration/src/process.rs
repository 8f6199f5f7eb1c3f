//! Programs as processes that end with the test.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How long a program may take to do what is waited for.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A child that is killed when this is dropped.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(|_| ()).unwrap_or_default();
    }
}

/// Starts a program without input and output; what it complains of is shown.
///
/// # Errors
/// It cannot be started.
pub fn start(command: &mut Command) -> anyhow::Result<Running> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    child.map(Running).with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Ports of loopback that nobody listens on at the moment.
///
/// # Errors
/// There are none.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let held: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().context("no free port")?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Waits until something accepts connections on a port of loopback.
///
/// # Errors
/// Nothing does within [`DEADLINE`].
pub fn wait_for_port(port: u16) -> anyhow::Result<()> {
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        anyhow::ensure!(started.elapsed() < DEADLINE, "nothing listens on port {port}");
        std::thread::yield_now();
    }
    Ok(())
}
