//! The reverse proxy, and its bounds.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use weft_cli::binaries::Binaries;

use crate::support::{DEADLINE, app, arguments, curl, free_ports, proxy, said, start, wait_for_port};

#[test]
fn a_plain_reverse_proxy_takes_http1_and_h2c_on_one_port() {
    let directory = tempfile::tempdir().unwrap();
    let [listen, one, two] = free_ports().unwrap();
    let _apps = [app(&["http_app.py", &one.to_string()]), app(&["http_app.py", &two.to_string()])];
    let replaced = [("127.0.0.1:8080", listen), ("9001", one), ("9002", two)].map(|(from, to)| {
        (from.to_owned(), if from.contains(':') { format!("127.0.0.1:{to}") } else { to.to_string() })
    });
    let _proxy = proxy(directory.path(), "reverse-proxy.yaml", &replaced);
    [one, two, listen].into_iter().for_each(|port| wait_for_port(port).unwrap());
    let url = format!("http://127.0.0.1:{listen}/echo");
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        let reply = said(&[version, "-d", "hello", &url]);
        assert!(
            reply.contains("\"line\": \"POST /echo HTTP/1.1\"") && reply.contains("\"length\": 5"),
            "{version}: {reply}"
        );
        assert!(reply.to_lowercase().contains("x-forwarded-for: 127.0.0.1"), "{version}: {reply}");
    }
    for _ in 0..100 {
        said(&[&format!("http://127.0.0.1:{listen}/count")]);
    }
    let counts = [one, two].map(|port| said(&[&format!("http://127.0.0.1:{port}/count")]));
    assert!(counts.iter().all(|count| count.contains("/count")), "both servers were used: {counts:?}");
}

#[test]
fn accepting_pauses_when_descriptors_run_out_and_goes_on_after() {
    let directory = tempfile::tempdir().unwrap();
    let [listen, one, two, status] = free_ports().unwrap();
    let _apps = [app(&["http_app.py", &one.to_string()]), app(&["http_app.py", &two.to_string()])];
    let replaced =
        [("127.0.0.1:8080", format!("127.0.0.1:{listen}")), ("9001", one.to_string()), ("9002", two.to_string())]
            .map(|(from, to)| (from.to_owned(), to));
    let mut command = Command::new("prlimit");
    command.arg("--nofile=64:64").arg(Binaries::locate().unwrap().find("weft-proxy").unwrap());
    let running = start(arguments(&mut command, directory.path(), "reverse-proxy.yaml", &replaced, status)).unwrap();
    [one, two, listen, status].into_iter().for_each(|port| wait_for_port(port).unwrap());
    let url = format!("http://127.0.0.1:{listen}/size/3");
    assert_eq!(said(&[&url]), "xxx");
    let held: Vec<_> = (0..120).map(|_| TcpStream::connect(("127.0.0.1", listen)).unwrap()).collect();
    // 50 ms of rest after each failure: one that spins instead burns a core.
    let before = cpu_ticks(running.0.id());
    std::thread::park_timeout(Duration::from_secs(2));
    let burnt = cpu_ticks(running.0.id()) - before;
    assert!(burnt < 40, "{burnt} ticks of 200 while accepting was paused");
    drop(held);
    let started = Instant::now();
    while !curl(&[&url]).status.success() {
        assert!(started.elapsed() < DEADLINE, "no request is answered after the connections are gone");
    }
    let metrics = said(&[&format!("http://127.0.0.1:{status}/metrics")]);
    let paused = metrics.lines().find_map(|line| line.strip_prefix("weft_accept_paused_total ")).unwrap();
    assert_ne!(paused, "0", "the pause is counted");
}

/// User and system time of a process in clock ticks, of which a second has 100.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
