//! Sockets of the data path: listening, accepting within bounds, connecting.
//!
//! The only module of the traffic side that opens sockets, so that every option (who is noticed as dead, and when) is set
//! in one place.

mod bind;
mod mark;
mod set;
mod shut;
mod stalls;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use weft_core::fault::FaultKind;

pub use bind::Bind;
pub use mark::{datagrams, dialling, mark_connections};
pub use set::SocketSet;
pub use shut::{admit, reopen, shut};
pub use stalls::{Stalls, Watched, note_written};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Unacknowledged data for this long means that the peer is gone (T19); see [`Stalls`] for peers that only do not read.
const USER_TIMEOUT: Duration = Duration::from_secs(12);

/// A silent connection is probed after this long, this often; with [`USER_TIMEOUT`] a black hole is noticed within 15 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 2;

/// Congestion control of connections that stay within the host. There is no path to find out about, and algorithms that
/// pace what they send (BBR) cost more there than all the rest of the transport. Every Linux has this one, for everybody.
const CONGESTION_WITHIN_HOST: &[u8] = b"reno";

/// Source address of connections that deliver to the local application. Interception exempts it, so that delivery to the
/// application is told apart from a workload that calls itself, which meets inbound policy.
pub const DELIVERY_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// As [`DELIVERY_V4`]; `weft-proxy init` adds it to the loopback interface.
pub const DELIVERY_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Opens `count` sockets that share one address, one for each worker. An IPv6 wildcard takes IPv4 too; where the host has
/// no IPv6 it becomes the IPv4 wildcard. Port 0 lets the kernel choose one port for all.
///
/// # Errors
/// Whatever the kernel says of the address.
pub fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = match listen_once(address) {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && no_ipv6(&error) => {
            listen_once(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))?
        }
        other => other?,
    };
    let bound = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count {
        all.push(listen_once(bound)?);
    }
    Ok(all)
}

fn no_ipv6(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

fn listen_once(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    tune(&socket);
    if is_loopback(address) {
        stay_within_host(&socket);
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// No delay, and a dead peer is noticed: for a connection that was opened, or for a listener, whose connections have it
/// from there (Linux copies the options of a listener; setting them on each connection would be six system calls). A
/// socket that refuses one still works.
pub fn tune(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    let tuned = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)))
        .and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "socket option refused");
    }
}

/// For a listener, or a connection that is not open yet, whose peers are on this host; the network's are left to what the
/// host has chosen for it.
pub fn stay_within_host(socket: &impl AsFd) {
    if let Err(error) = SockRef::from(socket).set_tcp_congestion(CONGESTION_WITHIN_HOST) {
        tracing::debug!(%error, "congestion control stays the host's");
    }
}

/// Makes the peer see a reset when the socket is dropped.
pub fn reset(socket: TcpStream) {
    if let Err(error) = SockRef::from(&socket).set_linger(Some(Duration::ZERO)) {
        tracing::trace!(%error, "socket closes instead of resetting");
    }
}

/// Opens a connection. `delivery`: to the local application, from the delivery address. Cancelling closes.
///
/// # Errors
/// `ConnectTimeout`, `Overload` where descriptors or ports have run out, else `ConnectFailed`.
pub async fn connect(to: SocketAddr, delivery: bool, within: Duration) -> Result<TcpStream, FaultKind> {
    let opened = async {
        let socket = dialling(to)?;
        let loopback = is_loopback(to);
        if delivery && !loopback {
            bind_delivery(&socket, to);
        }
        if delivery || loopback {
            stay_within_host(&socket);
        }
        socket.connect(to).await
    };
    match tokio::time::timeout(within, opened).await {
        Ok(Ok(socket)) => {
            tune(&socket);
            Ok(socket)
        }
        Ok(Err(error)) => Err(connect_fault(&error)),
        Err(_) => Err(FaultKind::ConnectTimeout),
    }
}

fn bind_delivery(socket: &TcpSocket, to: SocketAddr) {
    let from: IpAddr = if to.is_ipv4() { DELIVERY_V4.into() } else { DELIVERY_V6.into() };
    // Without interception the address may be absent; then nothing needs to be told apart either.
    if let Err(error) = socket.bind(SocketAddr::new(from, 0)) {
        tracing::debug!(%error, "delivery address is absent");
    }
}

fn connect_fault(error: &io::Error) -> FaultKind {
    use nix::errno::Errno;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::EADDRNOTAVAIL | Errno::ENOBUFS | Errno::ENOMEM) => {
            FaultKind::Overload
        }
        Some(Errno::ETIMEDOUT) => FaultKind::ConnectTimeout,
        Some(_) | None => FaultKind::ConnectFailed,
    }
}

/// Bounds on connections from downstream, over all workers.
#[derive(Debug)]
pub struct Admission {
    total_max: usize,
    per_source_max: usize,
    sufficient_for: usize,
    total: AtomicUsize,
    by_source: Mutex<HashMap<IpAddr, usize>>,
}

impl Admission {
    /// At most `total_max` connections, and at most `per_source_max` from one address.
    #[must_use]
    pub fn new(total_max: usize, per_source_max: usize) -> Self {
        let (total, by_source) = (AtomicUsize::new(0), Mutex::default());
        Self { total_max, per_source_max, sufficient_for: usize::MAX, total, by_source }
    }

    /// Bounds for a process whose descriptors suffice for `count` connections.
    #[must_use]
    pub const fn with_descriptors_for(mut self, count: usize) -> Self {
        self.sufficient_for = count;
        self
    }

    /// Whether descriptors suffice for one more; who comes when they do not had better wait at the door. `own`: for a
    /// connection of the local workload's, for which a quarter is kept: strangers who take all they can must not keep it
    /// from calling others.
    #[must_use]
    pub fn has_descriptors(&self, own: bool) -> bool {
        let kept = if own { 0 } else { self.sufficient_for / 4 };
        self.open() < self.sufficient_for - kept
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// A place for one more connection, until it is dropped; `None` at a bound.
    #[must_use]
    pub fn admit(self: &Arc<Self>, source: IpAddr) -> Option<Admitted> {
        let source = source.to_canonical();
        if self.total.fetch_add(1, Ordering::Relaxed) >= self.total_max {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_source.entry(source).or_insert(0);
        if *count >= self.per_source_max {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        drop(by_source);
        Some(Admitted { admission: Arc::clone(self), source })
    }
}

/// The place of one connection.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.total.fetch_sub(1, Ordering::Relaxed);
        let mut by_source = self.admission.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = by_source.entry(self.source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn admission_is_bounded_in_total_and_per_source() {
        let admission = Arc::new(Admission::new(3, 2));
        let source = |last| IpAddr::from([10, 0, 0, last]);
        let mut held: Vec<_> = (0..2).map(|_| admission.admit(source(1)).unwrap()).collect();
        assert!(admission.admit(source(1)).is_none(), "per source");
        held.push(admission.admit(source(2)).unwrap());
        assert!(admission.admit(source(3)).is_none(), "in total");
        assert_eq!(admission.open(), 3);
        held.clear();
        assert_eq!(admission.open(), 0);
        assert!(admission.by_source.lock().unwrap().is_empty(), "no source is remembered");
        assert!(admission.admit(source(1)).is_some());
    }

    #[test]
    fn strangers_leave_places_for_the_workload() {
        let admission = Arc::new(Admission::new(9, 9).with_descriptors_for(4));
        let held: Vec<_> = (0..3).map(|_| admission.admit([10, 0, 0, 1].into()).unwrap()).collect();
        assert!(admission.has_descriptors(true) && !admission.has_descriptors(false));
        drop(held);
        assert!(admission.has_descriptors(false));
    }

    #[tokio::test]
    async fn workers_share_one_port() {
        let listeners = listen("[::]:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0));
        let to = SocketAddr::from(([127, 0, 0, 1], ports[0]));
        connect(to, false, Duration::from_secs(1)).await.unwrap();
    }

    #[tokio::test]
    async fn accepted_connections_are_tuned_by_their_listener() {
        let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = [
            listen("127.0.0.1:0".parse().unwrap(), 1).unwrap(),
            listen("[::]:0".parse().unwrap(), 1).unwrap(),
            Bind::Inherited(given.as_raw_fd()).open(1).unwrap(),
        ];
        for listener in listeners.into_iter().flatten() {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let to = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
            let (near, far) = tokio::join!(connect(to, false, Duration::from_secs(5)), listener.accept());
            for socket in [near.unwrap(), far.unwrap().0] {
                let socket = SockRef::from(&socket);
                assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
                assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_EVERY);
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
            }
        }
    }

    fn congestion(socket: &impl AsFd) -> String {
        let name = SockRef::from(socket).tcp_congestion().unwrap();
        String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned()
    }

    /// As it is chosen by who listens and who connects; the host's own choice stays where peers may be elsewhere.
    #[tokio::test]
    async fn what_stays_within_the_host_is_not_paced() {
        let usual = congestion(&Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap());
        let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (listeners, expected) in [
            (listen("127.0.0.1:0".parse().unwrap(), 1), "reno"),
            (Bind::Inherited(given.as_raw_fd()).open(1), "reno"),
            (listen("0.0.0.0:0".parse().unwrap(), 1), usual.as_str()),
        ] {
            let listener = tokio::net::TcpListener::from_std(listeners.unwrap().remove(0)).unwrap();
            let to = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
            let (near, far) = tokio::join!(connect(to, false, Duration::from_secs(5)), listener.accept());
            assert_eq!(congestion(&near.unwrap()), "reno");
            assert_eq!(congestion(&far.unwrap().0), expected);
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_fault() {
        // Bound and not listening: refuses, and nobody else can take the port meanwhile.
        let held = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        held.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let to = held.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(connect(to, false, Duration::from_secs(1)).await.unwrap_err(), FaultKind::ConnectFailed);
    }
}
