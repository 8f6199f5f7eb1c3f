//! Interception with real rules in real network namespaces. Needs root, the iptables tools and nft.
//!
//! Each test makes its namespaces by unsharing threads, so nothing is left behind however it ends. Who listened, and what
//! it took for the original destination, is read from the other end of the connection.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must say where")]
#![allow(clippy::disallowed_methods, reason = "the sockets here are the applications', not the proxy's")]

mod questions;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, geteuid, gettid, setfsuid};
use socket2::{Domain, Socket, Type};
use weft_core::intercept::{DELIVERY_V4, DELIVERY_V6, InterceptConfig};
use weft_proxy::intercept::{ApplyError, Backend, Ipv6, apply, original_dst, plan};

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

/// What a namespace finds where administrators' tools are.
#[derive(Clone, Copy, Debug)]
enum Tools {
    /// Both backends.
    All,
    OnlyNft,
    None,
    /// An nft that reads and does not write.
    BrokenNft,
    /// nft, and an iptables that this kernel does not support.
    BrokenIptables,
}

impl Tools {
    /// What to put there instead of all that is there.
    fn instead(self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::OnlyNft => Some("cp -L $nft nft"),
            Self::None => Some(":"),
            Self::BrokenNft => {
                Some("echo '#!/bin/sh\n[ \"$*\" = \"list tables\" ] || { echo no such verdict >&2; exit 1; }' >nft")
            }
            Self::BrokenIptables => {
                Some("cp -L $nft nft; echo '#!/bin/sh\necho no such kernel >&2; exit 3' >iptables-save")
            }
        }
    }
}

/// How rules come into a namespace.
#[derive(Clone, Copy, Debug)]
struct Way {
    tools: Tools,
    backend: Backend,
    by: &'static str,
}

const IPTABLES: Way = Way { tools: Tools::All, backend: Backend::Auto, by: "iptables" };
const NFT: Way = Way { tools: Tools::All, backend: Backend::Nft, by: "nft" };
const NFT_ALONE: Way = Way { tools: Tools::OnlyNft, backend: Backend::Auto, by: "nft" };

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own that does what it is told.
struct Namespace {
    /// For `ip link … netns`.
    path: String,
    jobs: Sender<Job>,
}

impl Namespace {
    fn new(tools: Tools) -> Self {
        assert!(geteuid().is_root(), "this test writes redirection rules: run it as root");
        let (jobs, todo) = channel::<Job>();
        let (ready, path) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            ready.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let namespace = Self { path: path.recv().unwrap(), jobs };
        namespace.sh("ip link set lo up");
        if let Some(provide) = tools.instead() {
            namespace.sh(&format!(
                "nft=$(command -v nft)
                 mount --make-rprivate /
                 mount -t tmpfs tools /mnt
                 cd /mnt
                 {provide}
                 chmod -f +x * || true
                 cd /
                 mount --move /mnt /usr/sbin"
            ));
        }
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

    /// Rules of both families by iptables and in nft's tables of ours and of others, without counters and comments.
    fn tables(&self) -> String {
        let saved = self.sh("for tool in iptables ip6tables; do
                 if command -v $tool-save >/dev/null; then $tool-save -t nat | grep -E '^(-A|:WEFT)' || true; fi
                 if command -v $tool-save >/dev/null; then $tool-save -t raw | grep -E '^(-A|:WEFT)' || true; fi
             done
             for table in 'ip weft' 'ip6 weft' 'ip foreign'; do
                 if nft list tables | grep -qx \"table $table\"; then nft -ns list table $table; fi
             done");
        assert!(!(saved.contains("WEFT") && saved.contains(" weft ")), "rules of both backends:\n{saved}");
        saved
    }

    /// Installs or removes rules that way.
    fn apply(&self, config: Option<&InterceptConfig>, way: Way) {
        let config = config.cloned();
        let applied = self.run(move || apply(config.as_ref(), way.backend).unwrap());
        assert_eq!((applied.by, applied.ipv6), (way.by, Ipv6::Done), "{way:?}");
        assert!(applied.unread.is_none(), "{way:?}: {:?}", applied.unread);
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

    fn ask(&self, who: Caller, to: &str) -> Vec<String> {
        let to = to.to_owned();
        self.run(move || ask(who, &to))
    }

    /// Who answers, or the error.
    fn label(&self, who: Caller, to: &str) -> String {
        self.ask(who, to).swap_remove(0)
    }

    /// Asks again and again, on a thread of its own, until told to stop.
    fn keep_asking(&self, who: Caller, to: &'static str) -> impl FnOnce() -> Vec<String> + use<> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let asking = self.run(move || {
            thread::spawn(move || {
                let mut told = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    told.push(ask(who, to).swap_remove(0));
                }
                told
            })
        });
        move || {
            stop.store(true, Ordering::Relaxed);
            asking.join().unwrap()
        }
    }
}

/// Connects and returns what the listener told, or the error.
fn ask(who: Caller, to: &str) -> Vec<String> {
    let told = connect(who, to.parse().unwrap()).and_then(|mut stream| {
        let mut told = String::new();
        stream.read_to_string(&mut told).map(|_| told)
    });
    told.map_or_else(|error| vec![error.to_string()], |told| told.split(' ').map(str::to_owned).collect())
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

/// A socket of somebody's.
fn socket_of(who: Caller, to: SocketAddr, kind: Type) -> std::io::Result<Socket> {
    // The owner that rules see is the file-system user at the time the socket is made; each thread has its own.
    setfsuid(Uid::from_raw(who.uid));
    let socket = Socket::new(Domain::for_address(to), kind, None);
    setfsuid(Uid::from_raw(0));
    let socket = socket?;
    if let Some(mark) = who.mark {
        socket.set_mark(mark)?;
    }
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

fn connect(who: Caller, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket_of(who, to, Type::STREAM)?;
    if let Some(from) = who.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
    Ok(socket.into())
}

/// A workload's namespace, and another one on the same link.
fn pair(tools: Tools) -> (Namespace, Namespace) {
    let (workload, other) = (Namespace::new(tools), Namespace::new(Tools::All));
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
fn what_is_captured_and_what_is_not_by_iptables() {
    what_is_captured_and_what_is_not(IPTABLES);
}

#[test]
fn what_is_captured_and_what_is_not_by_nft() {
    what_is_captured_and_what_is_not(NFT_ALONE);
}

fn what_is_captured_and_what_is_not(way: Way) {
    let (workload, other) = pair(way.tools);
    workload.apply(Some(&config()), way);
    for Addresses { own, other: far, excluded, loopback, delivery } in FAMILIES {
        let check_in = |namespace: &Namespace, who: Caller, to: String, label: &str| {
            let told = namespace.ask(who, &to);
            assert!(told.starts_with(&[label.to_owned(), to.clone()]), "{who:?} to {to}: {told:?}");
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
        assert_eq!(told.last(), Some(&delivery.to_string()));
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
    for way in [IPTABLES, NFT, NFT_ALONE] {
        applied_twice_is_once_and_removed_is_gone_that(way);
    }
}

fn applied_twice_is_once_and_removed_is_gone_that(way: Way) {
    let (workload, other) = pair(way.tools);
    workload.sh(
        "if command -v iptables; then iptables -t nat -N FOREIGN; iptables -t nat -A OUTPUT -p tcp --dport 9 -j FOREIGN; fi
         nft add table ip foreign
         nft add chain ip foreign output '{ type nat hook output priority -100; }'
         nft add rule ip foreign output tcp dport 9 return",
    );
    let before = workload.tables();
    let install = || workload.apply(Some(&config()), way);
    install();
    let once = workload.tables();
    let jump = if way.by == "nft" { " jump outbound\n" } else { "-A OUTPUT -p tcp -j WEFT_OUTBOUND\n" };
    assert!(once.contains(jump), "{once}");
    install();
    assert_eq!(workload.tables(), once);
    // Another configuration replaces the first, and back.
    workload.apply(Some(&InterceptConfig::default()), way);
    assert_ne!(workload.tables(), once);
    install();
    assert_eq!(workload.tables(), once);
    assert!(workload.sh("ip -6 addr show dev lo").contains(" ::6/128 "));

    workload.apply(None, way);
    assert_eq!(workload.tables(), before);
    assert!(!workload.sh("ip -6 addr show dev lo").contains(" ::6/128 "));
    assert_eq!(workload.label(user(APP), "10.77.0.2:8080"), "other");
    assert_eq!(other.label(user(APP), "[fd77::1]:8080"), "app");
    workload.apply(None, way);
    assert_eq!(workload.tables(), before);
}

#[test]
fn a_change_of_backend_leaves_no_rule_behind_and_no_gap() {
    let (workload, _other) = pair(Tools::All);
    let both_ways = |config: &InterceptConfig| {
        [IPTABLES, IPTABLES, NFT, NFT].map(|way| {
            workload.apply(Some(config), way);
            // Which checks that the other's are gone.
            workload.tables()
        })
    };
    let first = both_ways(&config());
    let asked = workload.keep_asking(user(APP), "10.77.0.2:8080");
    let asked6 = workload.keep_asking(user(APP), "[fd77::2]:8080");
    for _ in 0..5 {
        assert_ne!(both_ways(&InterceptConfig::default()), first);
        assert_eq!(both_ways(&config()), first);
    }
    for told in [asked(), asked6()] {
        assert!(told.len() > 20, "{}", told.len());
        assert!(told.iter().all(|label| label == "outbound"), "{told:?}");
    }
    // Removal, too, is of whoever wrote them.
    for (installed, removed) in [(IPTABLES, NFT), (NFT, IPTABLES)] {
        workload.apply(Some(&config()), installed);
        workload.apply(None, removed);
        assert_eq!(workload.tables(), "");
    }
}

#[test]
fn networks_of_every_size_can_be_excluded() {
    for way in [IPTABLES, NFT] {
        let (workload, _other) = pair(way.tools);
        let nets = ["0.0.0.0/0", "::/0", "10.1.2.3/32", "fd00::1/128"].map(|net| net.parse().unwrap());
        workload.apply(Some(&InterceptConfig { exclude_cidrs: nets.into(), ..config() }), way);
        assert_eq!(workload.label(user(APP), "10.77.0.2:8080"), "other");
        assert_eq!(workload.label(user(APP), "[fd77::2]:8080"), "other");
    }
}

#[test]
fn the_plan_is_what_the_tools_accept() {
    for Way { tools, backend, .. } in [IPTABLES, NFT, NFT_ALONE] {
        let workload = Namespace::new(tools);
        let feed_plan = |config: Option<InterceptConfig>| {
            for step in workload.run(move || plan(config.as_ref(), backend).unwrap()) {
                workload.sh(&format!("{} <<'END'\n{}END\n", step.command, step.input));
            }
        };
        let install = workload.run(move || plan(Some(&config()), backend).unwrap());
        assert_eq!(workload.tables(), "", "planning changes nothing: {install:?}");
        feed_plan(Some(config()));
        let by_hand = workload.tables();
        workload.run(move || apply(Some(&config()), backend).unwrap());
        assert_eq!(workload.tables(), by_hand);
        assert_ne!(by_hand, "");
        feed_plan(None);
        assert_eq!(workload.tables(), "");
        assert_eq!(workload.run(move || plan(None, backend).unwrap()), []);
    }
}

#[test]
fn when_ipv6_fails_ipv4_is_as_before() {
    let workload = Namespace::new(Tools::All);
    // A chain type that ip6tables cannot use under this name.
    workload.sh("nft add table ip6 nat; nft add chain ip6 nat OUTPUT '{ type filter hook output priority 0; }'");
    let error = workload.run(|| apply(Some(&config()), Backend::Iptables).unwrap_err().to_string());
    assert!(error.contains("ip6tables"), "{error}");
    assert!(!workload.sh("iptables-save -t nat").contains("WEFT"), "{error}");
}

#[test]
fn where_iptables_does_not_work_nft_does_and_the_reader_is_told() {
    let workload = Namespace::new(Tools::BrokenIptables);
    let error = workload.run(|| apply(Some(&config()), Backend::Iptables).unwrap_err().to_string());
    assert!(error.contains("no such kernel"), "{error}");
    let applied = workload.run(|| apply(Some(&config()), Backend::Auto).unwrap());
    assert_eq!(applied.by, "nft");
    let unread = applied.unread.unwrap().to_string();
    assert!(unread.contains("iptables-save") && unread.contains("no such kernel"), "{unread}");
}

#[test]
fn when_nft_fails_everything_is_as_before() {
    let workload = Namespace::new(Tools::BrokenNft);
    let error = workload.run(|| apply(Some(&config()), Backend::Auto).unwrap_err().to_string());
    assert!(error.contains("no such verdict"), "{error}");
    assert!(!workload.sh("ip -6 addr show dev lo").contains(" ::6/128 "));
}

#[test]
fn without_tools_it_says_what_to_install() {
    let workload = Namespace::new(Tools::None);
    let error_of = |backend| workload.run(move || apply(Some(&config()), backend).unwrap_err());
    for (backend, packages) in [
        (Backend::Auto, &["apt-get install iptables", "apt-get install nftables"][..]),
        (Backend::Iptables, &["apt-get install iptables"]),
        (Backend::Nft, &["apt-get install nftables"]),
    ] {
        let error = error_of(backend);
        assert!(matches!(error, ApplyError::NoBackend | ApplyError::Missing { .. }), "{error:?}");
        assert!(packages.iter().all(|package| error.to_string().contains(package)), "{error}");
    }
}
