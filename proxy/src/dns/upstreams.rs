//! Who is asked what the mesh does not know: the name servers of a resolv.conf, never ourselves.
//!
//! Our own address is left out. Whether a server passes on to us what we pass on to it is found by a question that nobody
//! else asks: if it comes in here, that server is left out, too, until the file changes. It is asked again as long as it
//! neither comes in nor gets a good answer, because the server, or one behind it, may have been away.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use weft_core::names::{NameServer, nameservers};
use weft_core::time::Moment;

use super::resolv_conf::read;
use crate::clock::Clock;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often a server is probed of which nothing is known.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// Port of name servers.
const PORT: u16 = 53;

/// The servers as they are now.
#[derive(Debug)]
pub(super) struct Upstreams {
    path: PathBuf,
    own: Vec<SocketAddr>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file as it was last read; `None`: it cannot be read.
    text: Option<String>,
    servers: Vec<Server>,
    /// Where the last answer came from.
    preferred: usize,
}

#[derive(Clone, Debug)]
struct Server {
    name: NameServer,
    probe: String,
    probed: Option<Moment>,
    /// Whether it leads back to us, once that is known.
    looping: Option<bool>,
}

impl Upstreams {
    /// Those of the file at `path`, for a resolver at the addresses `own`.
    pub(super) fn new(path: &Path, own: Vec<SocketAddr>, clock: Clock) -> Self {
        Self { path: path.to_owned(), own, clock, state: Mutex::default() }
    }

    /// Reads the file. Returns the servers to probe, each with the label for it.
    pub(super) fn refresh(&self) -> Vec<(SocketAddr, String)> {
        self.reread();
        self.unprobed(self.clock.now())
    }

    fn reread(&self) {
        let text = read(&self.path);
        let mut state = self.state();
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                // Once; what was known stays.
                if state.text.take().is_some() || state.servers.is_empty() {
                    tracing::warn!(%error, file = %self.path.display(), "--dns: the name servers are not known");
                    state.text = None;
                }
                return;
            }
        };
        if state.text.as_deref() == Some(&text) {
            return;
        }
        state.servers = self.servers(&text);
        state.preferred = 0;
        state.text = Some(text);
        let names: Vec<String> = state.servers.iter().map(|server| server.name.to_string()).collect();
        tracing::info!(servers = names.join(","), "--dns: other names are asked of these");
    }

    fn unprobed(&self, now: Moment) -> Vec<(SocketAddr, String)> {
        let mut state = self.state();
        let due = |server: &&mut Server| {
            let lately = server.probed.is_some_and(|probed| now.since(probed) < PROBE_EVERY);
            server.looping.is_none() && !lately
        };
        let probe = |server: &mut Server| {
            let address = address(&server.name)?;
            server.probed = Some(now);
            Some((address, server.probe.clone()))
        };
        state.servers.iter_mut().filter(due).filter_map(probe).collect()
    }

    /// The probe with this label got a good answer. Had it led here, it would have come in before.
    pub(super) fn answered(&self, label: &str) {
        let mut state = self.state();
        if let Some(server) = state.servers.iter_mut().find(|server| server.probe == label) {
            server.looping.get_or_insert(false);
        }
    }

    /// Waits until it is time to look again.
    pub(super) async fn pause() {
        tokio::time::sleep(LOOK_EVERY).await;
    }

    /// Whom to ask, in this order; the number is for [`Upstreams::prefer`].
    pub(super) fn servers_now(&self) -> Vec<(usize, SocketAddr)> {
        let state = self.state();
        let count = state.servers.len();
        let order = (0..count).map(|step| (state.preferred + step) % count);
        let server = |n| {
            let server: &Server = state.servers.get(n)?;
            if server.looping == Some(true) { None } else { Some((n, address(&server.name)?)) }
        };
        order.filter_map(server).collect()
    }

    /// This one answered.
    pub(super) fn prefer(&self, number: usize) {
        self.state().preferred = number;
    }

    /// True if a question for these labels is a probe: the server that it was sent to leads back to us.
    pub(super) fn is_probe(&self, labels: &[&str]) -> bool {
        let [label, again] = labels else { return false };
        let mut state = self.state();
        let probed =
            |server: &&mut Server| server.probe.eq_ignore_ascii_case(label) && label.eq_ignore_ascii_case(again);
        let Some(server) = state.servers.iter_mut().find(probed) else { return false };
        if server.looping.replace(true) != Some(true) {
            tracing::error!(
                server = %server.name,
                file = %self.path.display(),
                "--dns: this name server sends our questions back to us, and is no longer asked; \
                 give the name servers behind it in a file of its own (--dns-resolv-conf)"
            );
        }
        true
    }

    fn servers(&self, text: &str) -> Vec<Server> {
        let mut servers = Vec::new();
        for name in nameservers(text) {
            if self.own.iter().any(|own| is_own(*own, SocketAddr::new(name.ip, PORT))) {
                tracing::warn!(
                    server = %name,
                    file = %self.path.display(),
                    "--dns: this name server is the resolver itself, and is not asked; \
                     give the others in a file of its own (--dns-resolv-conf)"
                );
                continue;
            }
            servers.push(Server { name, probe: super::random_label(), probed: None, looping: None });
        }
        servers
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a server is now: the number of the interface that a zone names may change. `None`: there is no such interface.
fn address(server: &NameServer) -> Option<SocketAddr> {
    match (server.ip, &server.zone) {
        (IpAddr::V6(ip), Some(zone)) => {
            let number = nix::net::if_::if_nametoindex(zone.as_str()).ok().or_else(|| zone.parse().ok())?;
            Some(SocketAddrV6::new(ip, PORT, 0, number).into())
        }
        (ip, _) => Some(SocketAddr::new(ip, PORT)),
    }
}

/// Whether a resolver at `own` would ask itself there.
fn is_own(own: SocketAddr, address: SocketAddr) -> bool {
    let (own_ip, ip) = (own.ip().to_canonical(), address.ip().to_canonical());
    let same = own_ip == ip || ip.is_unspecified() || (own_ip.is_unspecified() && is_local(ip));
    same && address.port() == own.port()
}

/// An address of this machine.
fn is_local(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(upstreams: &Upstreams) -> Vec<String> {
        upstreams.servers_now().into_iter().map(|(_, address)| address.ip().to_string()).collect()
    }

    #[test]
    fn the_file_is_followed_and_we_are_never_among_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let upstreams = Upstreams::new(&path, vec!["127.0.0.1:53".parse().unwrap()], Clock::start());
        assert!(upstreams.refresh().is_empty() && addresses(&upstreams).is_empty(), "no file");
        std::fs::write(&path, "nameserver 127.0.0.1\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n").unwrap();
        let probes = upstreams.refresh();
        assert_eq!(addresses(&upstreams), ["10.0.0.1", "10.0.0.2"]);
        assert!(upstreams.refresh().is_empty(), "nothing new");
        upstreams.prefer(1);
        assert_eq!(addresses(&upstreams), ["10.0.0.2", "10.0.0.1"]);

        let label = probes[0].1.to_ascii_uppercase();
        assert!(
            !upstreams.is_probe(&[&label]) && !upstreams.is_probe(&["x", "x"]) && !upstreams.is_probe(&[&label, "x"])
        );
        assert!(upstreams.is_probe(&[&label, &label]));
        assert_eq!(addresses(&upstreams), ["10.0.0.2"], "it leads back to us");

        std::fs::remove_file(&path).unwrap();
        assert!(upstreams.refresh().is_empty());
        assert_eq!(addresses(&upstreams), ["10.0.0.2"], "what was known stays");
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(upstreams.refresh().len(), 1);
        assert_eq!(addresses(&upstreams), ["10.0.0.1"], "the file changed: another look");
    }

    /// Goal: a server that was away when it was probed is probed again, until it is known whether it leads back to us.
    #[test]
    fn probes_are_repeated_until_they_tell() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let upstreams = Upstreams::new(&path, Vec::new(), Clock::start());
        std::fs::write(&path, "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n").unwrap();
        let first = upstreams.refresh();
        let labels: Vec<&str> = first.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels.len(), 3);
        let later = upstreams.clock.now() + PROBE_EVERY;
        upstreams.answered(labels[0]);
        assert!(upstreams.is_probe(&[labels[1], labels[1]]));
        upstreams.answered(labels[1]);
        assert_eq!(addresses(&upstreams), ["10.0.0.1", "10.0.0.3"], "its answer is ours");
        assert_eq!(upstreams.unprobed(later), [first[2].clone()]);
        assert_eq!(upstreams.unprobed(later), [], "once in a while");
        assert_eq!(upstreams.unprobed(later + PROBE_EVERY).len(), 1, "it was not answered");
        assert!(upstreams.is_probe(&[labels[2], labels[2]]));
        assert_eq!(addresses(&upstreams), ["10.0.0.1"]);
    }

    #[test]
    fn a_wildcard_is_every_address_of_the_machine() {
        let is_own = |own: &str, address: &str| is_own(own.parse().unwrap(), address.parse().unwrap());
        assert!(is_own("0.0.0.0:53", "127.0.0.9:53"));
        assert!(!is_own("0.0.0.0:53", "192.0.2.1:53"));
        assert!(!is_own("127.0.0.1:15053", "127.0.0.1:53"), "another port is another server");
    }

    #[test]
    fn a_zone_is_an_interface() {
        let at = |zone: &str| address(&NameServer { ip: "fe80::1".parse().unwrap(), zone: Some(zone.to_owned()) });
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let expected = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, lo));
        assert_eq!((at("lo"), at(&lo.to_string())), (Some(expected), Some(expected)));
        assert_eq!(at("no-such-if"), None);
    }
}
