//! The sockets of the resolver.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::forward::{Way, framed};
use super::packet::HEAD_BYTES;
use super::resolver::Resolver;

/// Questions by UDP under way at once: more than may wait for upstreams, so that there is always room for the mesh's names.
const UDP_UNDER_WAY_MAX: usize = 1024;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// A connection ends that brings no question, or takes no answer, for this long (RFC 7766, 6.2.3).
const IDLE: Duration = Duration::from_secs(5);

/// Questions are short; a longer datagram is cut, and then refused as malformed.
const QUESTION_BYTES_MAX: usize = 4096;

/// How long to wait after the kernel refused to accept or receive.
const PAUSE: Duration = Duration::from_millis(50);

/// How often the kernel may choose a port before one must be free for both protocols.
const KERNEL_CHOICES: usize = 10;

/// One address by UDP and TCP.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) address: SocketAddr,
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

/// Opens them all, but none on the loopback address of IPv6 where the host has no such address.
pub(super) fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<Sockets>> {
    let mut opened = Vec::new();
    for address in addresses {
        match bind_one(*address) {
            Err(error)
                if address.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST) && !opened.is_empty() && is_absent(&error) =>
            {
                tracing::info!(%address, "--dns: this host has no such address");
            }
            sockets => opened.push(sockets?),
        }
    }
    Ok(opened)
}

fn is_absent(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT))
}

fn bind_one(address: SocketAddr) -> io::Result<Sockets> {
    let both = || -> io::Result<(StdUdp, StdListener)> {
        let udp = StdUdp::bind(address)?;
        let tcp = StdListener::bind(udp.local_addr()?)?;
        Ok((udp, tcp))
    };
    // What the kernel chooses for datagrams may be somebody's port for connections.
    let attempts = if address.port() == 0 { KERNEL_CHOICES } else { 1 };
    let bound = (1..attempts).find_map(|_| both().ok());
    let (udp, tcp) = bound.map_or_else(both, Ok)?;
    let address = udp.local_addr()?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok(Sockets { address, udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? })
}

/// Answers datagrams.
pub(super) async fn datagrams(resolver: Arc<Resolver>, socket: Arc<UdpSocket>) {
    let places = Arc::new(Semaphore::new(UDP_UNDER_WAY_MAX));
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        let (packet, client) = match socket.recv_from(&mut buffer).await {
            Ok((length, client)) => (buffer.get(..length).unwrap_or_default(), client),
            // Of a client that has gone meanwhile, or of the kernel's memory.
            Err(error) => {
                tracing::debug!(%error, "--dns: cannot receive");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if let Some(answer) = resolver.turn_away(packet) {
                _ = socket.try_send_to(&answer, client);
            }
            continue;
        };
        let (resolver, socket, packet) = (Arc::clone(&resolver), Arc::clone(&socket), packet.to_vec());
        tokio::spawn(async move {
            if let Some(answer) = resolver.resolve(&packet, Way::Udp).await
                && let Err(error) = socket.send_to(&answer, client).await
            {
                tracing::debug!(%client, %error, "--dns: cannot answer");
            }
            drop(place);
        });
    }
}

/// Answers connections.
pub(super) async fn streams(resolver: Arc<Resolver>, listener: Arc<TcpListener>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move {
                    if let Err(error) = stream_of_questions(&resolver, stream).await {
                        tracing::debug!(%client, %error, "--dns: connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "--dns: cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One question after the other; answers are in the order of questions.
async fn stream_of_questions(resolver: &Resolver, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(packet) = tokio::time::timeout(IDLE, next(&mut stream)).await?? {
        // What is no question gets no answer, and whoever sends that no further attention.
        let Some(answer) = resolver.resolve(&packet, Way::Tcp).await else { return Ok(()) };
        tokio::time::timeout(IDLE, stream.write_all(&framed(&answer)?)).await??;
    }
    Ok(())
}

/// `None` at the end.
async fn next(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if !(HEAD_BYTES..=QUESTION_BYTES_MAX).contains(&length) {
        return Ok(None);
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(Some(packet))
}
