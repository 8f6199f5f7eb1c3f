//! From the file to names and addresses: pure, so that what `up` will build can be tested without building it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::file::DevFile;
use super::home::Home;

/// Port of the control plane's gRPC door.
pub const CONTROL_PORT: u16 = 15012;
/// Port of the control plane's status door.
pub const CONTROL_STATUS_PORT: u16 = 15014;
/// Port of a proxy's status door.
pub const PROXY_STATUS_PORT: u16 = 15020;

/// Everything named after the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The mesh.
    pub mesh: String,
    /// Where it lives.
    pub home: Home,
}

impl Names {
    /// Of the mesh `mesh` of whoever runs this.
    #[must_use]
    pub fn new(mesh: &str) -> Self {
        Self { mesh: mesh.to_owned(), home: Home::own() }
    }

    /// Directory with state and sockets; gone when the mesh is.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.home.state.join(&self.mesh)
    }

    /// Directory with logs and access records.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.home.logs.join(&self.mesh)
    }

    /// Held locked by whoever owns the mesh.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.home.state.join(format!("{}.lock", self.mesh))
    }

    /// Held locked while a mesh chooses its addresses.
    #[must_use]
    pub fn addresses_lock(&self) -> PathBuf {
        self.home.state.join("addresses.lock")
    }

    /// What to say when somebody else holds that lock.
    #[must_use]
    pub fn is_taken(&self) -> String {
        format!("a mesh {:?} is already running; `weft dev down --mesh {0}` ends it", self.mesh)
    }

    /// The operators' socket of its control plane.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    /// What every network namespace's name begins with. A mesh's name has no dot, so no mesh's prefix begins another's.
    #[must_use]
    pub fn netns_prefix(&self) -> String {
        format!("weft.{}.", self.mesh)
    }

    /// Network namespace of an instance.
    #[must_use]
    pub fn netns(&self, instance: &str) -> String {
        format!("{}{instance}", self.netns_prefix())
    }

    /// The namespace with the bridge that joins all instances. It is not the host's, so the host's firewall (which
    /// may drop what it would forward, as with Docker) has no say between instances.
    #[must_use]
    pub fn switch(&self) -> String {
        // Instances end in a number, so none can be called so.
        self.netns("switch")
    }

    /// This machine's one link into the mesh; at most 15 characters, as the kernel wants.
    #[must_use]
    pub fn host_link(&self) -> String {
        format!("weft{:08x}", self.hash() & 0xffff_ffff)
    }

    /// IPv6 prefix (/64) of the mesh: a unique local one.
    #[must_use]
    pub fn ipv6(&self, host: u32) -> Ipv6Addr {
        let prefix = (0xfd_u128 << 120) | (u128::from(self.hash() >> 8) << 64);
        Ipv6Addr::from_bits(prefix | u128::from(host))
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.mesh.hash(&mut hasher);
        hasher.finish()
    }
}

/// The first free /16 of 10/8 outside `taken`, beginning at a place that depends on the mesh's name, so that a mesh
/// tends to get the same addresses each time.
#[must_use]
pub fn free_range(names: &Names, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let start = u8::try_from(names.hash() % 256).unwrap_or(0);
    (0..=u8::MAX)
        .map(|step| start.wrapping_add(step))
        .filter_map(|second| Ipv4Net::new(Ipv4Addr::new(10, second, 0, 0), 16).ok())
        .find(|range| !taken.iter().any(|other| range.contains(&other.network()) || other.contains(&range.network())))
}

/// One instance of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// "blog-0".
    pub name: String,
    /// "blog".
    pub app: String,
    /// Its namespace in the mesh.
    pub namespace: String,
    /// Its network namespace.
    pub netns: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if the mesh has them.
    pub address6: Option<Ipv6Addr>,
    /// Whether it has a sidecar.
    pub sidecar: bool,
    /// UID its application runs as, if the file says so.
    pub user: Option<u32>,
    /// Its place among all instances; names its port of the bridge (`p0`, `p1`, …).
    pub index: u32,
}

/// Address of this machine in the mesh.
#[must_use]
pub fn host_address(range: Ipv4Net) -> Ipv4Addr {
    nth(range, 1)
}

/// All instances of the file, in its order.
#[must_use]
pub fn instances(file: &DevFile, names: &Names, range: Ipv4Net) -> Vec<Instance> {
    let all = file.apps.iter().flat_map(|app| (0..app.replicas).map(move |number| (app, number)));
    let numbered = (0_u32..).zip(all);
    numbered
        .map(|(index, (app, number))| {
            let name = format!("{}-{number}", app.name);
            // The first 256 addresses are kept for this machine.
            let host = 256 + index;
            Instance {
                netns: names.netns(&name),
                name,
                app: app.name.clone(),
                namespace: app.namespace.clone(),
                address: nth(range, host),
                address6: file.ipv6.then(|| names.ipv6(host)),
                sidecar: app.sidecar,
                user: app.user,
                index,
            }
        })
        .collect()
}

fn nth(range: Ipv4Net, host: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.network().to_bits() | host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_avoid_what_is_taken() {
        let names = Names::new("a");
        let first = free_range(&names, &[]).unwrap();
        assert_eq!(first.prefix_len(), 16);
        let smaller: Ipv4Net = format!("{}/24", host_address(first)).parse().unwrap();
        for taken in [first, smaller.trunc(), "10.0.0.0/8".parse::<Ipv4Net>().unwrap()] {
            let second = free_range(&names, &[taken]);
            assert_ne!(second, Some(first), "{taken}");
            assert_eq!(second.is_none(), taken.prefix_len() == 8);
        }
    }

    #[test]
    fn instances_have_names_and_addresses_of_their_own() {
        let yaml =
            "apps: [{name: a, command: [x], replicas: 2}, {name: b, command: [x], namespace: shop, sidecar: false}]";
        let file = DevFile::parse(yaml).unwrap();
        let names = Names::new("t");
        let all = instances(&file, &names, "10.9.0.0/16".parse().unwrap());
        let seen: Vec<_> =
            all.iter().map(|one| (one.name.as_str(), one.address.to_string(), one.netns.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("a-0", "10.9.1.0".to_owned(), "weft.t.a-0"),
                ("a-1", "10.9.1.1".to_owned(), "weft.t.a-1"),
                ("b-0", "10.9.1.2".to_owned(), "weft.t.b-0"),
            ]
        );
        assert!(names.host_link().len() <= 15);
        assert!(names.ipv6(1).is_unique_local());
    }
}
