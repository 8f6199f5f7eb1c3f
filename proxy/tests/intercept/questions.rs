//! Questions to name servers: whose come to the resolver in the proxy, and whose do not.

use std::io;
use std::net::{Ipv6Addr, UdpSocket};

use weft_core::intercept::DnsCapture;

use super::*;

/// Of the resolver.
const PORT: u16 = 15053;

/// Where Docker answers in each of its networks, and where that leads to.
const DOCKER: &str = "127.0.0.11:53";
const DOCKER_BEHIND: &str = "127.0.0.11:41953";

/// Servers that are not redirected to, and one that is excluded.
const OTHERS: [&str; 2] = ["10.77.0.3:53", "10.88.0.2:53"];

fn capturing() -> InterceptConfig {
    let servers = ["10.77.0.2", "10.88.0.2", "fd77::2", "127.0.0.11"].map(|server| server.parse().unwrap());
    InterceptConfig { dns: Some(DnsCapture { port: PORT, servers: servers.into() }), ..config() }
}

/// Answers questions by UDP with its label.
fn answer(namespace: &Namespace, at: &str, label: &'static str) {
    let at: SocketAddr = at.parse().unwrap();
    namespace.run(move || {
        let socket = UdpSocket::bind(at).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(label.as_bytes(), from).unwrap();
            }
        });
    });
}

/// Who answers a question by UDP, or the error. Port 0: the kernel chooses.
fn asked(namespace: &Namespace, who: Caller, port: u16, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let told = namespace.run(move || -> io::Result<String> {
        let socket = socket_of(who, to, Type::DGRAM)?;
        let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.connect(&to.into())?;
        let socket = UdpSocket::from(socket);
        socket.send(b"who?")?;
        let mut told = vec![0; 16];
        let length = socket.recv(&mut told)?;
        told.truncate(length);
        Ok(String::from_utf8_lossy(&told).into_owned())
    });
    told.unwrap_or_else(|error| error.to_string())
}

/// A workload with a resolver, and another host with name servers.
fn with_name_servers(way: Way) -> (Namespace, Namespace) {
    let (workload, other) = pair(way.tools);
    other.sh("ip addr add 10.77.0.3/24 dev eth0");
    for server in ["10.77.0.2:53", "[fd77::2]:53"].into_iter().chain(OTHERS) {
        answer(&other, server, "other");
    }
    for own in ["127.0.0.1", "[::1]"] {
        answer(&workload, &format!("{own}:{PORT}"), "resolver");
    }
    workload.listen(PORT, "resolver");
    (workload, other)
}

#[test]
fn the_applications_come_to_the_resolver_and_no_others() {
    let marked = Caller { mark: Some(MARK), ..user(APP) };
    for way in [IPTABLES, NFT, NFT_ALONE] {
        let (workload, other) = with_name_servers(way);
        workload.apply(Some(&capturing()), way);
        for server in ["10.77.0.2:53", "[fd77::2]:53"] {
            let by_tcp = |who: Caller| workload.label(who, server);
            let by_udp = |who: Caller| asked(&workload, who, 0, server);
            assert_eq!((by_udp(user(APP)).as_str(), by_tcp(user(APP)).as_str()), ("resolver", "resolver"), "{server}");
            for who in [user(PROXY), marked, user(EXCLUDED)] {
                assert_eq!((by_udp(who).as_str(), by_tcp(who).as_str()), ("other", "other"), "{server} {who:?}");
            }
            assert_eq!(asked(&other, user(APP), 0, server), "other", "only what the workload asks");
        }
        for server in OTHERS {
            assert_eq!(asked(&workload, user(APP), 0, server), "other", "{server}");
        }
        workload.apply(Some(&config()), way);
        assert_eq!(asked(&workload, user(APP), 0, "10.77.0.2:53"), "other", "no longer wanted");
        assert!(!workload.tables().contains("8467"), "{}", workload.tables());
    }
}

/// The kernel remembers where a question went. The next from the same port to the same server may be somebody else's.
#[test]
fn a_port_that_was_anothers_leads_nowhere_else() {
    for way in [IPTABLES, NFT_ALONE] {
        let (workload, _other) = with_name_servers(way);
        workload.apply(Some(&capturing()), way);
        for (first, second) in [(APP, PROXY), (PROXY, APP)] {
            let port = if first == APP { 40_001 } else { 40_002 };
            for uid in [first, second, first] {
                let expected = if uid == APP { "resolver" } else { "other" };
                assert_eq!(asked(&workload, user(uid), port, "10.77.0.2:53"), expected, "{way:?} {first} {second}");
            }
        }
    }
}

/// As Docker's engine does it in the namespace of a container: before us, in the same chain.
#[test]
fn a_server_whose_questions_docker_redirects_is_asked_by_the_proxy_alone() {
    for way in [IPTABLES, NFT] {
        let (workload, _other) = with_name_servers(way);
        answer(&workload, DOCKER_BEHIND, "docker");
        workload.sh(&format!(
            "iptables -t nat -N DOCKER_OUTPUT
             iptables -t nat -A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
             iptables -t nat -A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp --dport 53 -j DNAT --to-destination {DOCKER_BEHIND}"
        ));
        assert_eq!(asked(&workload, user(APP), 0, DOCKER), "docker");
        workload.apply(Some(&capturing()), way);
        // Again: the rules are put first once more, and only once.
        workload.apply(Some(&capturing()), way);
        for _ in 0..2 {
            assert_eq!(asked(&workload, user(APP), 0, DOCKER), "resolver", "{way:?}");
            assert_eq!(asked(&workload, user(PROXY), 0, DOCKER), "docker", "{way:?}");
        }
        workload.apply(None, way);
        assert_eq!(asked(&workload, user(APP), 0, DOCKER), "docker");
    }
}
