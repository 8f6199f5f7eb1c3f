//! Interception with real rules in real network namespaces. Needs root and the iptables tools.
//!
//! Each test makes its namespaces by unsharing threads, so nothing is left behind however it ends. Who listened, and what
//! it took for the original destination, is read from the other end of the connection.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must say where")]
#![allow(clippy::disallowed_methods, reason = "the sockets here are the applications', not the proxy's")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, geteuid, gettid, setfsuid};
use socket2::{Domain, Protocol, Socket, Type};
use weft_core::intercept::{DELIVERY_V4, DELIVERY_V6, InterceptConfig};
use weft_proxy::intercept::{Ipv6, apply, original_dst, plan};

const APP: u32 = 1000;
const PROXY: u32 = 2113;
const EXCLUDED: u32 = 500;
const MARK: u32 = 0x2113;

fn config() -> InterceptConfig {
    InterceptConfig {
        mark: Some(MARK),
        exclude_inbound_ports: BTreeSet::from([22]),
        exclude_outbound_ports: BTreeSet::from([5432]),
        exclude_cidrs: ["10.88.0.0/24", "fd88::/64"].map(|net| net.parse().unwrap()).into(),
        exclude_uids: BTreeSet::from([EXCLUDED]),
        ..InterceptConfig::default()
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own that does what it is told.
struct Namespace {
    /// For `ip link … netns`.
    path: String,
    jobs: Sender<Job>,
}

impl Namespace {
    fn new() -> Self {
        assert!(geteuid().is_root(), "this test writes redirection rules: run it as root");
        let (jobs, todo) = channel::<Job>();
        let (ready, path) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let namespace = Self { path: path.recv().unwrap(), jobs };
        namespace.sh("ip link set lo up");
        namespace
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (result, done) = channel();
        self.jobs.send(Box::new(move || result.send(job()).unwrap())).unwrap();
        done.recv().unwrap()
    }

    fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || {
            let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Rules of both tables and our chains, without counters and comments.
    fn tables(&self) -> String {
        let saved = self.sh("iptables-save -t nat; ip6tables-save -t nat");
        let kept = saved.lines().filter(|line| line.starts_with("-A") || line.starts_with(":WEFT"));
        kept.fold(String::new(), |all, line| all + line + "\n")
    }

    /// Listens on all addresses of both families; tells each caller its label, the original destination, the caller.
    fn listen(&self, port: u16, label: &'static str) {
        self.run(move || {
            let listener = TcpListener::bind(("::", port)).unwrap();
            thread::spawn(move || {
                for connection in listener.incoming() {
                    let mut connection = connection.unwrap();
                    let from = connection.peer_addr().unwrap().ip().to_canonical();
                    let told = format!("{label} {} {from}", original_dst(&connection).unwrap());
                    // If the caller is gone, its own check fails.
                    connection.write_all(told.as_bytes()).ok();
                }
            });
        });
    }

    /// Connects and returns what the listener told, or the error.
    fn ask(&self, who: Caller, to: &str) -> Vec<String> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(move || {
            let told = connect(who, to).and_then(|mut stream| {
                let mut told = String::new();
                stream.read_to_string(&mut told).map(|_| told)
            });
            told.map_or_else(|error| vec![error.to_string()], |told| told.split(' ').map(str::to_owned).collect())
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Caller {
    uid: u32,
    mark: Option<u32>,
    from: Option<IpAddr>,
}

fn user(uid: u32) -> Caller {
    Caller { uid, mark: None, from: None }
}

fn connect(who: Caller, to: SocketAddr) -> std::io::Result<TcpStream> {
    // The owner that rules see is the file-system user at the time the socket is made; each thread has its own.
    setfsuid(Uid::from_raw(who.uid));
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP));
    setfsuid(Uid::from_raw(0));
    let socket = socket?;
    if let Some(mark) = who.mark {
        socket.set_mark(mark)?;
    }
    if let Some(from) = who.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
    Ok(socket.into())
}

/// A workload's namespace, and another one on the same link.
fn pair() -> (Namespace, Namespace) {
    let (workload, other) = (Namespace::new(), Namespace::new());
    workload.sh(&format!("ip link add eth0 type veth peer name eth0 netns {}", other.path));
    for (namespace, host) in [(&workload, 1), (&other, 2)] {
        namespace.sh(&format!(
            "ip link set eth0 up
             ip addr add 10.77.0.{host}/24 dev eth0
             ip addr add 10.88.0.{host}/24 dev eth0
             ip addr add fd77::{host}/64 dev eth0 nodad
             ip addr add fd88::{host}/64 dev eth0 nodad"
        ));
    }
    for (port, label) in [(15001, "outbound"), (15006, "inbound"), (15020, "status"), (8080, "app"), (22, "ssh")] {
        workload.listen(port, label);
    }
    for port in [8080, 5432, 53, 15020] {
        other.listen(port, "other");
    }
    (workload, other)
}

struct Addresses {
    own: &'static str,
    other: &'static str,
    excluded: &'static str,
    loopback: &'static str,
    delivery: IpAddr,
}

const FAMILIES: [Addresses; 2] = [
    Addresses {
        own: "10.77.0.1",
        other: "10.77.0.2",
        excluded: "10.88.0.2",
        loopback: "127.0.0.1",
        delivery: IpAddr::V4(DELIVERY_V4),
    },
    Addresses {
        own: "[fd77::1]",
        other: "[fd77::2]",
        excluded: "[fd88::2]",
        loopback: "[::1]",
        delivery: IpAddr::V6(DELIVERY_V6),
    },
];

#[test]
fn what_is_captured_and_what_is_not() {
    let (workload, other) = pair();
    assert_eq!(workload.run(|| apply(Some(&config())).unwrap()), Ipv6::Done);
    for Addresses { own, other: far, excluded, loopback, delivery } in FAMILIES {
        let check_in = |namespace: &Namespace, who: Caller, to: String, label: &str| {
            let told = namespace.ask(who, &to);
            assert_eq!(told[..told.len().min(2)], [label.to_owned(), to.clone()], "{who:?} to {to}: {told:?}");
            told
        };
        let check = |who: Caller, to: String, label: &str| check_in(&workload, who, to, label);
        // Outbound, with all exclusions.
        check(user(APP), format!("{far}:8080"), "outbound");
        check(user(APP), format!("{far}:5432"), "other");
        check(user(APP), format!("{far}:53"), "other");
        check(user(APP), format!("{far}:15020"), "other");
        check(user(APP), format!("{excluded}:8080"), "other");
        check(user(EXCLUDED), format!("{far}:8080"), "other");
        check(user(PROXY), format!("{far}:8080"), "other");
        check(Caller { mark: Some(MARK), ..user(APP) }, format!("{far}:8080"), "other");
        // On the loopback address nothing is touched.
        check(user(APP), format!("{loopback}:8080"), "app");
        check(user(PROXY), format!("{loopback}:8080"), "app");
        // Straight to a capture port: the original destination is the port itself.
        check(user(APP), format!("{loopback}:15001"), "outbound");
        check(user(APP), format!("{own}:15006"), "inbound");
        // A workload that calls itself: outbound, from there inbound, from there the application.
        check(user(APP), format!("{own}:8080"), "outbound");
        check(user(PROXY), format!("{own}:8080"), "inbound");
        let told = check(Caller { from: Some(delivery), ..user(PROXY) }, format!("{own}:8080"), "app");
        assert_eq!(told[2], delivery.to_string());
        check(user(PROXY), format!("{own}:22"), "ssh");
        check(user(APP), format!("{own}:15020"), "status");
        // Inbound.
        check_in(&other, user(APP), format!("{own}:8080"), "inbound");
        check_in(&other, user(APP), format!("{own}:22"), "ssh");
        check_in(&other, user(APP), format!("{own}:15020"), "status");
        check_in(&other, user(APP), format!("{own}:15006"), "inbound");
    }
}

#[test]
fn applied_twice_is_once_and_removed_is_gone() {
    let (workload, other) = pair();
    workload.sh("iptables -t nat -N FOREIGN; iptables -t nat -A OUTPUT -p tcp --dport 9 -j FOREIGN");
    let before = workload.tables();
    let install = || workload.run(|| apply(Some(&config())).unwrap());
    install();
    let once = workload.tables();
    assert!(once.contains("-A OUTPUT -p tcp -j WEFT_OUTBOUND\n"), "{once}");
    install();
    assert_eq!(workload.tables(), once);
    // Another configuration replaces the first, and back.
    workload.run(|| apply(Some(&InterceptConfig::default())).unwrap());
    assert_ne!(workload.tables(), once);
    install();
    assert_eq!(workload.tables(), once);
    assert!(workload.sh("ip -6 addr show dev lo").contains(" ::6/128 "));

    workload.run(|| apply(None).unwrap());
    assert_eq!(workload.tables(), before);
    assert!(!workload.sh("ip -6 addr show dev lo").contains(" ::6/128 "));
    assert_eq!(workload.ask(user(APP), "10.77.0.2:8080")[0], "other");
    assert_eq!(other.ask(user(APP), "[fd77::1]:8080")[0], "app");
    workload.run(|| apply(None).unwrap());
    assert_eq!(workload.tables(), before);
}

#[test]
fn the_plan_is_what_the_tools_accept() {
    let workload = Namespace::new();
    let install = workload.run(|| plan(Some(&config())).unwrap());
    assert_eq!(workload.tables(), "", "planning changes nothing");
    let feed = |tool: &str, text: &str| workload.sh(&format!("{tool} --noflush --wait <<'END'\n{text}END\n"));
    feed("iptables-restore", &install.v4);
    feed("ip6tables-restore", &install.v6.unwrap());
    let by_hand = workload.tables();
    workload.run(|| apply(Some(&config())).unwrap());
    assert_eq!(workload.tables(), by_hand);
}

#[test]
fn when_ipv6_fails_ipv4_is_as_before() {
    let workload = Namespace::new();
    let failed = |namespace: &Namespace| namespace.run(|| apply(Some(&config())).unwrap_err().to_string());
    // A chain type that ip6tables cannot use under this name: reading fails before anything is changed.
    workload.sh("nft add table ip6 nat; nft add chain ip6 nat OUTPUT '{ type filter hook output priority 0; }'");
    let error = failed(&workload);
    assert!(error.contains("ip6tables"), "{error}");
    assert!(!workload.sh("iptables-save -t nat").contains("WEFT"), "{error}");
}
