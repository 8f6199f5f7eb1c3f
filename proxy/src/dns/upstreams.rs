//! Who is asked what the mesh does not know: the name servers of a resolv.conf, never ourselves.
//!
//! Our own address is left out. Whether a server passes on to us what we pass on to it is found by a question that nobody
//! else asks: if it comes in here, that server is left out, too, until the file changes.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use weft_core::names::nameservers;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// More of the file is not read.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Port of name servers.
const PORT: u16 = 53;

/// The servers as they are now.
#[derive(Debug)]
pub(super) struct Upstreams {
    path: PathBuf,
    own: SocketAddr,
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
    address: SocketAddr,
    probe: String,
    looping: bool,
}

impl Upstreams {
    /// Those of the file at `path`, for a resolver at `own`.
    pub(super) fn new(path: &Path, own: SocketAddr) -> Self {
        Self { path: path.to_owned(), own, state: Mutex::default() }
    }

    /// Reads the file. Returns the servers to probe, each with the label for it, if they are new.
    pub(super) fn refresh(&self) -> Vec<(SocketAddr, String)> {
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
                return Vec::new();
            }
        };
        if state.text.as_deref() == Some(&text) {
            return Vec::new();
        }
        state.servers = self.servers(&text);
        state.preferred = 0;
        state.text = Some(text);
        let addresses: Vec<String> = state.servers.iter().map(|server| server.address.to_string()).collect();
        tracing::info!(servers = addresses.join(","), "--dns: other names are asked of these");
        state.servers.iter().map(|server| (server.address, server.probe.clone())).collect()
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
        let server =
            |n| state.servers.get(n).filter(|server: &&Server| !server.looping).map(|server| (n, server.address));
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
        if !server.looping {
            server.looping = true;
            tracing::error!(
                server = %server.address,
                file = %self.path.display(),
                "--dns: this name server sends our questions back to us, and is no longer asked; \
                 give the name servers behind it in a file of its own (--dns-resolv-conf)"
            );
        }
        true
    }

    fn servers(&self, text: &str) -> Vec<Server> {
        let mut servers = Vec::new();
        for ip in nameservers(text) {
            let address = SocketAddr::new(ip, PORT);
            if self.is_own(address) {
                tracing::warn!(
                    %address,
                    file = %self.path.display(),
                    "--dns: this name server is the resolver itself, and is not asked; \
                     give the others in a file of its own (--dns-resolv-conf)"
                );
                continue;
            }
            servers.push(Server { address, probe: super::random_label(), looping: false });
        }
        servers
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        if address.port() != self.own.port() {
            return false;
        }
        let (own, ip) = (self.own.ip().to_canonical(), address.ip().to_canonical());
        own == ip || ip.is_unspecified() || (own.is_unspecified() && is_local(ip))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address of this machine.
fn is_local(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
        let upstreams = Upstreams::new(&path, "127.0.0.1:53".parse().unwrap());
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

    #[test]
    fn a_wildcard_is_every_address_of_the_machine() {
        let own = Upstreams::new(Path::new("/nowhere"), "0.0.0.0:53".parse().unwrap());
        assert!(own.is_own("127.0.0.9:53".parse().unwrap()));
        assert!(!own.is_own("192.0.2.1:53".parse().unwrap()));
        let high = Upstreams::new(Path::new("/nowhere"), "127.0.0.1:15053".parse().unwrap());
        assert!(!high.is_own("127.0.0.1:53".parse().unwrap()), "another port is another server");
    }
}
