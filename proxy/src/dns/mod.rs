//! The resolver beside the workload (`run --dns`): names of services are answered from the mesh, all others by the name
//! servers of a resolv.conf. [`weft_core::names`] decides which is which.
//!
//! It runs on the control thread. All it holds is bounded: questions under way, connections, answers kept. Questions that
//! wait for upstreams have a bound of their own, so that names of the mesh are answered while upstreams are not.

mod address;
mod counts;
mod forward;
mod lookup;
mod packet;
pub(crate) mod resolv_conf;
mod resolver;
mod serve;
#[cfg(test)]
mod tests;
mod upstreams;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use weft_core::snapshot::Snapshot;

use crate::clock::Clock;
use crate::identity::{ControlPlane, IdentityWatch};
use crate::supervise::{Supervisor, Task};
use lookup::Lookup;
use resolver::Resolver;
use serve::Sockets;
use upstreams::Upstreams;

pub use address::DnsAddress;
pub use counts::DnsCounts;

/// What a resolver is made of.
#[derive(Debug)]
pub struct DnsSetup {
    /// Where it is asked.
    pub listen: DnsAddress,
    /// Whose name servers answer what the mesh does not.
    pub resolv_conf: PathBuf,
    /// What the proxy knows.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Whose answers complete it; `None` in static mode.
    pub control_plane: Option<ControlPlane>,
    /// Says the workload's namespace.
    pub identity: IdentityWatch,
    /// Keeps it going.
    pub supervisor: Supervisor,
    /// The clock.
    pub clock: Clock,
}

/// Opens the sockets, and answers on this runtime from now on, for as long as the process lives. Returns the counters, and
/// the first address (port 0 lets the kernel choose).
///
/// # Errors
/// Whatever the kernel says of the address.
pub fn start(setup: DnsSetup) -> anyhow::Result<(Arc<DnsCounts>, SocketAddr)> {
    let DnsSetup { listen, resolv_conf, snapshot, control_plane, identity, supervisor, clock } = setup;
    let sockets = serve::bind(&listen.sockets()).with_context(|| format!("--dns: cannot listen on {listen}"))?;
    let own: Vec<SocketAddr> = sockets.iter().map(|sockets| sockets.address).collect();
    let first = *own.first().context("--dns: no address")?;
    // Without a control plane nobody says which namespace this is; files that need none mean the usual one.
    let usual = control_plane.is_none().then_some("default");
    let host = control_plane.as_ref().map(|control_plane| control_plane.host().to_owned());
    let lookup = match control_plane {
        Some(control_plane) => Lookup::online(&supervisor, snapshot, control_plane, identity.clone(), clock),
        None => Lookup::offline(snapshot, clock),
    };
    let upstreams = Upstreams::new(&resolv_conf, own, clock);
    let resolver = Arc::new(Resolver::new(lookup, upstreams, identity, usual, host));
    let counts = resolver.counts();
    let follower = Arc::clone(&resolver);
    supervisor.spawn(Task::Dns, move || Arc::clone(&follower).follow_upstreams());
    for Sockets { address, udp, tcp } in sockets {
        let (udp, tcp) = (Arc::new(udp), Arc::new(tcp));
        let [by_udp, by_tcp] = [Arc::clone(&resolver), Arc::clone(&resolver)];
        supervisor.spawn(Task::Dns, move || serve::datagrams(Arc::clone(&by_udp), Arc::clone(&udp)));
        supervisor.spawn(Task::Dns, move || serve::streams(Arc::clone(&by_tcp), Arc::clone(&tcp)));
        tracing::info!(%address, "--dns: answering");
    }
    Ok((counts, first))
}

/// Unguessable, for the ids of questions.
fn random_u16() -> std::io::Result<u16> {
    let mut bytes = [0; 2];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_err(|_| std::io::Error::other("no randomness")).map(|()| u16::from_be_bytes(bytes))
}

/// A DNS label that nobody else has.
fn random_label() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}
