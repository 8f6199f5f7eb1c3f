//! What a resolver beside the workload does with a question: answer it from the mesh, or pass it on.
//!
//! A service `name` of namespace `ns` has the names that it has in Kubernetes: `name` (for workloads of `ns`), `name.ns`,
//! `name.ns.svc` and `name.ns.svc.cluster.local`. The last is the mesh's alone: what does not exist there exists nowhere.
//! The shorter ones may as well be somebody else's (`github.com` reads like a service of a namespace `com`), so what the
//! mesh does not have is passed on.

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

use crate::model::ServiceKey;

/// Below it, only the mesh has names. Lower case.
pub const MESH_SUFFIX: [&str; 3] = ["svc", "cluster", "local"];

/// End of the domains of that search list; see [`looks_for`].
const CLUSTER_DOMAIN: &str = ".cluster.local";

/// Longest DNS label.
const LABEL_MAX: usize = 63;

/// Name servers of a resolv.conf that are used; as in glibc.
const NAMESERVERS_MAX: usize = 3;

/// What type of record is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// All that there is.
    Any,
    /// Something that services do not have.
    Other,
}

/// Who may have a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Only the mesh, if it has this service.
    Service(ServiceKey),
    /// Only the mesh, which has names below it.
    Inner,
    /// Nobody: it is the mesh's, and no name of a service.
    Nobody,
    /// The mesh, if it has this service; else somebody else.
    Either(ServiceKey),
    /// Somebody else.
    Elsewhere,
}

/// What is known of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It exists, and has these addresses.
    At(Vec<IpAddr>),
    /// It does not exist.
    Absent,
    /// The control plane does not answer, and said nothing of it before.
    Unsaid,
}

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answered by these addresses; none: the name exists, and has nothing of the kind.
    Answer(Vec<IpAddr>),
    /// The name does not exist.
    NoSuchName,
    /// It is the mesh's to know, and cannot be known now.
    Unknowable,
    /// Passed on. `doubtful`: the mesh may have the name, so that nobody else can say that it does not exist.
    Forward {
        /// See above.
        doubtful: bool,
    },
}

/// Who may have the name of these labels, for a workload of `namespace` (where that is known).
#[must_use]
pub fn owner(labels: &[&str], namespace: Option<&str>) -> Owner {
    let labels: Vec<String> = labels.iter().map(|label| label.to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    if let Some(inner) = labels.strip_suffix(&MESH_SUFFIX) {
        return match inner {
            [] | [_] => Owner::Inner,
            [name, namespace] => service(name, namespace).map_or(Owner::Nobody, Owner::Service),
            [_, _, ..] => Owner::Nobody,
        };
    }
    let key = match (labels.as_slice(), namespace) {
        ([name], Some(namespace)) => service(name, namespace),
        ([name, namespace] | [name, namespace, "svc"], _) => service(name, namespace),
        _ => None,
    };
    key.map_or(Owner::Elsewhere, Owner::Either)
}

/// What becomes of a question about a name of `owner`. `known` is asked only about a service.
#[must_use]
pub fn decide(owner: &Owner, wanted: Wanted, known: Known) -> Verdict {
    match (owner, known) {
        (Owner::Elsewhere, _) => Verdict::Forward { doubtful: false },
        (Owner::Nobody, _) | (Owner::Service(_), Known::Absent) => Verdict::NoSuchName,
        (Owner::Inner, _) => Verdict::Answer(Vec::new()),
        (Owner::Service(_) | Owner::Either(_), Known::At(addresses)) => Verdict::Answer(of_kind(addresses, wanted)),
        (Owner::Service(_), Known::Unsaid) => Verdict::Unknowable,
        (Owner::Either(_), Known::Absent) => Verdict::Forward { doubtful: false },
        (Owner::Either(_), Known::Unsaid) => Verdict::Forward { doubtful: true },
    }
}

/// True if who looks for `host` asks for these labels: for its name, or for that in a domain of the search list that
/// Kubernetes gives to workloads.
#[must_use]
pub fn looks_for(labels: &[&str], host: &str) -> bool {
    let asked = labels.join(".").to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match asked.strip_prefix(&host) {
        Some(searched) => searched.is_empty() || (searched.starts_with('.') && searched.ends_with(CLUSTER_DOMAIN)),
        None => false,
    }
}

fn of_kind(addresses: Vec<IpAddr>, wanted: Wanted) -> Vec<IpAddr> {
    let good = |address: &IpAddr| match wanted {
        Wanted::A => address.is_ipv4(),
        Wanted::Aaaa => address.is_ipv6(),
        Wanted::Any => true,
        Wanted::Other => false,
    };
    addresses.into_iter().filter(good).collect()
}

fn service(name: &str, namespace: &str) -> Option<ServiceKey> {
    let both = is_label(name) && is_label(namespace);
    both.then(|| ServiceKey { namespace: namespace.into(), name: name.into() })
}

/// As Kubernetes has it: others are not asked about.
fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_MAX).contains(&text.len()) && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// A name server of a resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub ip: IpAddr,
    /// Of a link-local address: by which interface it is reached, as in `fe80::1%eth0`.
    pub zone: Option<String>,
}

impl NameServer {
    /// True of addresses that lead to another machine by each interface.
    #[must_use]
    pub fn is_link_local(&self) -> bool {
        matches!(self.ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
    }
}

impl FromStr for NameServer {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.split_once('%') {
            Some((ip, zone)) => {
                let ip = IpAddr::V6(ip.parse()?);
                let plain = Self { ip, zone: None };
                Ok(if plain.is_link_local() { Self { ip, zone: Some(zone.to_owned()) } } else { plain })
            }
            None => Ok(Self { ip: text.parse()?, zone: None }),
        }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)?;
        self.zone.iter().try_for_each(|zone| write!(f, "%{zone}"))
    }
}

/// The name servers of a resolv.conf, each once.
#[must_use]
pub fn nameservers(resolv_conf: &str) -> Vec<NameServer> {
    let mut servers: Vec<NameServer> = Vec::new();
    for line in resolv_conf.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("nameserver")
            && let Some(server) = words.next().and_then(|word| word.parse().ok())
            && !servers.contains(&server)
            && servers.len() < NAMESERVERS_MAX
        {
            servers.push(server);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> ServiceKey {
        ServiceKey { namespace: namespace.into(), name: name.into() }
    }

    fn owner_of(name: &str) -> Owner {
        let labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
        owner(&labels, Some("shop"))
    }

    #[test]
    fn a_host_is_looked_for_in_the_domains_of_kubernetes() {
        let check = |name: &str, host: &str| looks_for(&name.split('.').collect::<Vec<_>>(), host);
        for host in
            ["weft.mesh.svc.cluster.local", "Weft.mesh.SVC.cluster.local.", "weft.mesh.svc", "weft.mesh", "weft"]
        {
            for name in [host.trim_end_matches('.'), "weft.mesh.svc.cluster.local", "WEFT.mesh.svc.Cluster.LOCAL"] {
                assert!(check(name, host), "{name} for {host}");
            }
        }
        assert!(check("weft.mesh.svc.cluster.local.shop.svc.cluster.local", "weft.mesh.svc.cluster.local"));
        for (name, host) in [
            ("cart.mesh.svc.cluster.local", "weft.mesh.svc.cluster.local"),
            ("mesh.svc.cluster.local", "weft.mesh.svc.cluster.local"),
            ("weft.mesh.svc.cluster.local", "mesh.svc.cluster.local"),
            ("weft-2.mesh.svc.cluster.local", "weft"),
            ("weft.shop", "weft"),
            ("svc.cluster.local", ""),
        ] {
            assert!(!check(name, host), "{name} for {host}");
        }
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        for (name, expected) in [
            ("cart", Owner::Either(key("shop", "cart"))),
            ("CART", Owner::Either(key("shop", "cart"))),
            ("cart.other", Owner::Either(key("other", "cart"))),
            ("github.com", Owner::Either(key("com", "github"))),
            ("cart.other.svc", Owner::Either(key("other", "cart"))),
            ("cart.other.svc.cluster.local", Owner::Service(key("other", "cart"))),
            ("Cart.Other.SVC.Cluster.Local", Owner::Service(key("other", "cart"))),
            ("svc.cluster.local", Owner::Inner),
            ("other.svc.cluster.local", Owner::Inner),
            ("www.example.com.other.svc.cluster.local", Owner::Nobody),
            ("under_score.other.svc.cluster.local", Owner::Nobody),
            ("_http._tcp.cart.other.svc.cluster.local", Owner::Nobody),
            ("cluster.local", Owner::Either(key("local", "cluster"))),
            ("www.example.com", Owner::Elsewhere),
            ("under_score", Owner::Elsewhere),
            ("-cart.shop", Owner::Elsewhere),
            ("", Owner::Elsewhere),
        ] {
            assert_eq!(owner_of(name), expected, "{name}");
        }
        assert_eq!(owner(&["cart"], None), Owner::Elsewhere, "the own namespace is not known yet");
    }

    #[test]
    fn what_is_known_decides() {
        let (v4, v6): (IpAddr, IpAddr) = ("240.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let mesh = Owner::Service(key("n", "a"));
        let either = Owner::Either(key("n", "a"));
        let both = Known::At(vec![v4, v6]);
        for owner in [&mesh, &either] {
            assert_eq!(decide(owner, Wanted::A, both.clone()), Verdict::Answer(vec![v4]));
            assert_eq!(decide(owner, Wanted::Aaaa, both.clone()), Verdict::Answer(vec![v6]));
            assert_eq!(decide(owner, Wanted::Any, both.clone()), Verdict::Answer(vec![v4, v6]));
            assert_eq!(decide(owner, Wanted::Other, both.clone()), Verdict::Answer(vec![]));
            assert_eq!(decide(owner, Wanted::Aaaa, Known::At(vec![v4])), Verdict::Answer(vec![]), "no such family");
        }
        assert_eq!(decide(&mesh, Wanted::A, Known::Absent), Verdict::NoSuchName);
        assert_eq!(decide(&mesh, Wanted::A, Known::Unsaid), Verdict::Unknowable);
        assert_eq!(decide(&either, Wanted::A, Known::Absent), Verdict::Forward { doubtful: false });
        assert_eq!(decide(&either, Wanted::A, Known::Unsaid), Verdict::Forward { doubtful: true });
        assert_eq!(decide(&Owner::Elsewhere, Wanted::A, Known::Unsaid), Verdict::Forward { doubtful: false });
        assert_eq!(decide(&Owner::Nobody, Wanted::A, Known::Unsaid), Verdict::NoSuchName);
        assert_eq!(decide(&Owner::Inner, Wanted::A, Known::Unsaid), Verdict::Answer(vec![]));
    }

    #[test]
    fn a_resolv_conf_is_read_as_glibc_does() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.1 # first\n\tnameserver\tfd00::1\nnameserver\n\
                    nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameservers 9.9.9.9\nnameserver x\n\
                    nameserver 10.0.0.2\nnameserver 10.0.0.3\n";
        let texts = |text: &str| nameservers(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(text), ["10.0.0.1", "fd00::1", "fe80::1%eth0"]);
        // Of an address that is the same by each interface the zone says nothing.
        assert_eq!(
            texts("nameserver fe80::1%eth0\nnameserver fe80::1%2\nnameserver fd00::1%eth0").join(" "),
            "fe80::1%eth0 fe80::1%2 fd00::1"
        );
        assert!(nameservers("").is_empty());
    }
}
