//! The resolver in the proxy with the clients and servers that people have: dig, the C library, dnsmasq.

#[cfg(test)]
mod dns {
    use std::io::{Read as _, Write as _};
    use std::net::{IpAddr, Shutdown, TcpStream, UdpSocket};
    use std::path::PathBuf;
    use std::process::{Command, Output};
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::time::Duration;

    use anyhow::Context as _;
    use weft_cli::binaries::Binaries;
    use weft_integration::process::{Running, free_ports, start, wait_for_port};

    /// Longer than any of the waits takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {selector: {app: catalog}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: unasked, namespace: shop}
spec: {selector: {app: unasked}, ports: [{port: 80}]}
";

    /// Strings of 200 bytes in the long record: more than goes by UDP.
    const LONG: usize = 40;

    /// The next addresses of this process.
    static NEXT: AtomicU8 = AtomicU8::new(0);

    struct Site {
        directory: tempfile::TempDir,
        /// Addresses of loopback that only this test uses; port 53, because a resolv.conf knows no other.
        upstream: String,
        looping: String,
        own: String,
        status: u16,
        control_plane: Option<Running>,
        _proxy: Running,
    }

    fn program(name: &str) -> anyhow::Result<Command> {
        Ok(Command::new(Binaries::locate()?.find(name)?))
    }

    fn output(command: &mut Command) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } = command.output().with_context(|| format!("{command:?}"))?;
        anyhow::ensure!(status.success(), "{command:?}: {status}: {}", String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8(stdout)?)
    }

    /// Until `look` succeeds.
    fn eventually(what: &str, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let started = std::time::Instant::now();
        while let Err(error) = look() {
            anyhow::ensure!(started.elapsed() < PATIENCE, "{what}: {error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn dnsmasq(address: &str, more: &[&str]) -> anyhow::Result<Running> {
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--pid-file"]);
        command
            .args(["--user=root", "--bind-interfaces", "--log-facility=-"])
            .arg(format!("--listen-address={address}"));
        let running = start(command.args(more))?;
        eventually("dnsmasq", || TcpStream::connect((address, 53)).map(drop).map_err(Into::into))?;
        Ok(running)
    }

    fn good_dnsmasq(address: &str) -> anyhow::Result<Running> {
        let strings = vec!["x".repeat(200); LONG].join(",");
        let (long, plain) = (format!("--txt-record=long.example,{strings}"), "--address=/plain.example/192.0.2.1");
        dnsmasq(address, &[&long, plain, "--address=/catalog/192.0.2.2"])
    }

    /// A question for an IPv4 address.
    fn question(id: u16, name: &str) -> anyhow::Result<Vec<u8>> {
        let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
        for label in name.split('.') {
            bytes.push(label.len().try_into()?);
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        Ok(bytes)
    }

    /// Code of the answer by a connection.
    fn ask_by_tcp(stream: &mut TcpStream) -> anyhow::Result<u8> {
        let question = question(1, "catalog.shop.svc.cluster.local")?;
        stream.write_all(&[&u16::try_from(question.len())?.to_be_bytes()[..], &question].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer)?;
        Ok(answer.get(3).context("no head")? & 15)
    }

    impl Site {
        fn start() -> anyhow::Result<Self> {
            let directory = tempfile::tempdir()?;
            let path = |name: &str| directory.path().join(name);
            // Tests of one process run side by side.
            let (pid, number) = (std::process::id(), NEXT.fetch_add(4, Ordering::Relaxed));
            let address = |last: u8| format!("127.{}.{}.{}", 100 + pid / 250 % 100, 1 + pid % 250, number + last);
            let [listen, plane_status, outbound, inbound, status] = free_ports()?;
            let local = |port: u16| format!("127.0.0.1:{port}");
            let mut command = program("weft-control-plane")?;
            command.args(["serve", "--listen", &local(listen), "--status-listen", &local(plane_status)]);
            command.args(["--virtual-range", "240.9.0.0/24"]);
            let control_plane =
                start(command.arg("--socket").arg(path("control.sock")).arg("--state-dir").arg(path("state")))?;
            wait_for_port(listen)?;
            std::fs::write(path("services.yaml"), SERVICES)?;
            let weft =
                |arguments: &[&str]| output(program("weft")?.args(arguments).arg("--socket").arg(path("control.sock")));
            let services = path("services.yaml");
            weft(&["apply", "-f", services.to_str().context("a text")?])?;
            let token = weft(&["token", "create", "-n", "shop", "-s", "client"])?;
            std::fs::write(path("resolv.conf"), format!("nameserver {}\n", address(1)))?;
            let own = address(3);
            let mut command = program("weft-proxy")?;
            command.args([
                "run",
                "--control-plane",
                &local(listen),
                "--join-token",
                token.trim(),
                "--instance-id",
                "dns",
            ]);
            command.args(["--outbound-listen", &local(outbound)]);
            command.args(["--inbound-listen", &local(inbound), "--status-listen", &local(status)]);
            command.arg("--admin-socket").arg(path("admin.sock")).arg("--dns-resolv-conf").arg(path("resolv.conf"));
            let proxy = start(command.args(["--dns", &format!("{own}:53"), "--access-log", "off", "--workers", "1"]))?;
            let (upstream, looping) = (address(1), address(2));
            let site =
                Self { directory, upstream, looping, own, status, control_plane: Some(control_plane), _proxy: proxy };
            eventually("the proxy is ready", || site.page("ready").map(drop))?;
            Ok(site)
        }

        fn connect(&self) -> anyhow::Result<TcpStream> {
            let stream = TcpStream::connect((self.own.as_str(), 53))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        }

        fn dig(&self, arguments: &[&str]) -> anyhow::Result<String> {
            let mut command = Command::new("dig");
            output(command.arg(format!("@{}", self.own)).args(["+time=6", "+tries=1"]).args(arguments))
        }

        fn has(&self, arguments: &[&str], expected: &str) -> anyhow::Result<()> {
            let said = self.dig(arguments)?;
            anyhow::ensure!(said.contains(expected), "{arguments:?}: no {expected:?} in {said}");
            Ok(())
        }

        fn page(&self, page: &str) -> anyhow::Result<String> {
            let url = format!("http://127.0.0.1:{}/{page}", self.status);
            output(Command::new("curl").args(["-sS", "--fail", "--max-time", "10", &url]))
        }

        fn metric(&self, name: &str) -> anyhow::Result<u64> {
            let page = self.page("metrics")?;
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(line.with_context(|| format!("no {name}"))?.parse()?)
        }

        fn outcome(&self, outcome: &str) -> anyhow::Result<u64> {
            self.metric(&format!("weft_dns_queries_total{{outcome=\"{outcome}\"}}"))
        }

        fn resolv_conf(&self) -> PathBuf {
            self.directory.path().join("resolv.conf")
        }

        /// What a program with the C library's resolver gets.
        fn getent(&self, name: &str) -> anyhow::Result<String> {
            let file = self.directory.path().join("application.conf");
            std::fs::write(&file, format!("nameserver {}\noptions timeout:6 attempts:1\n", self.own))?;
            let script = "mount --bind \"$1\" /etc/resolv.conf && exec getent ahosts \"$2\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
            output(command.arg(file).arg(name))
        }
    }

    #[test]
    fn names_of_the_mesh_and_of_others() -> anyhow::Result<()> {
        let mut site = Site::start()?;
        let upstream = good_dnsmasq(&site.upstream)?;
        let address: IpAddr = site.dig(&["+short", "catalog.shop.svc.cluster.local"])?.trim().parse()?;
        anyhow::ensure!(address.to_string().starts_with("240.9.0."), "{address}");
        let address = address.to_string();

        for name in ["catalog", "CATALOG", "catalog.shop", "catalog.shop.svc", "catalog.shop.svc.cluster.local."] {
            for way in ["+notcp", "+tcp"] {
                let said = site.dig(&["+short", way, name])?;
                anyhow::ensure!(said.trim() == address, "{name} {way}: {said}");
                for kind in ["AAAA", "HTTPS", "MX"] {
                    let none = site.dig(&[way, name, kind])?;
                    anyhow::ensure!(
                        none.contains("status: NOERROR") && none.contains("ANSWER: 0"),
                        "{name} {kind}: {none}"
                    );
                }
            }
        }
        site.has(&["nobody.shop.svc.cluster.local"], "status: NXDOMAIN")?;

        // Others come from upstream, long ones by TCP; what nobody has is said by who should know.
        site.has(&["+short", "plain.example"], "192.0.2.1\n")?;
        site.has(&["+ignore", "+bufsize=1232", "long.example", "TXT"], "flags: qr aa tc")?;
        let long = site.dig(&["+short", "long.example", "TXT"])?;
        anyhow::ensure!(long.matches(&"x".repeat(200)).count() == LONG, "{long}");
        site.has(&["nobody.example"], "status: REFUSED")?;

        let said = site.getent("catalog")?;
        anyhow::ensure!(said.contains(&address) && !said.contains("192.0.2"), "the own mesh comes first: {said}");
        let said = site.getent("plain.example")?;
        anyhow::ensure!(said.contains("192.0.2.1"), "{said}");

        // Without the control plane, what it said before goes on; of a name that it was never asked about nothing is known.
        drop(site.control_plane.take());
        eventually("the control plane is missed", || {
            site.has(&["unasked.shop.svc.cluster.local"], "status: SERVFAIL")
        })?;
        site.has(&["+short", "catalog"], &address)?;
        site.has(&["+short", "plain.example"], "192.0.2.1\n")?;

        // Without upstream, the mesh's names are answered, and others fail before a client gives up.
        drop(upstream);
        site.has(&["+short", "catalog"], &address)?;
        site.has(&["plain.example"], "status: SERVFAIL")?;
        for outcome in ["answered", "no_such_name", "forwarded", "upstream_failed", "unknowable"] {
            anyhow::ensure!(site.outcome(outcome)? > 0, "{outcome}");
        }
        Ok(())
    }

    #[test]
    fn a_name_server_that_leads_back_is_found_and_left_out() -> anyhow::Result<()> {
        let site = Site::start()?;
        let _good = good_dnsmasq(&site.upstream)?;
        let _looping = dnsmasq(&site.looping, &[&format!("--server={}", site.own)])?;
        std::fs::write(site.resolv_conf(), format!("nameserver {}\nnameserver {}\n", site.own, site.looping))?;
        eventually("the loop is found", || {
            anyhow::ensure!(site.outcome("loop")? > 0);
            Ok(())
        })?;
        site.has(&["www.plain.example"], "status: SERVFAIL")?;
        std::fs::write(site.resolv_conf(), format!("nameserver {}\nnameserver {}\n", site.looping, site.upstream))?;
        eventually("the file is followed", || site.has(&["+short", "www.plain.example"], "192.0.2.1\n"))
    }

    /// So many questions may wait for name servers.
    const WAITING_MAX: u64 = 512;

    /// So many connections are served at once.
    const CONNECTIONS_MAX: usize = 64;

    #[test]
    fn more_questions_than_may_wait_fail_at_once_and_the_others_in_the_end() -> anyhow::Result<()> {
        let site = Site::start()?;
        // Hears everything and says nothing.
        let silent = UdpSocket::bind((site.upstream.as_str(), 53))?;
        silent.set_nonblocking(true)?;
        let said = site.dig(&["+time=60", "www.silent.example"])?;
        anyhow::ensure!(said.contains("status: SERVFAIL"), "{said}");
        let mut buffer = [0; 512];
        let about_it = |packet: &[u8]| packet.windows(6).any(|part| part == b"silent");
        let mut heard = 0;
        while let Ok(length) = silent.recv(&mut buffer) {
            heard += usize::from(about_it(&buffer[..length]));
        }
        anyhow::ensure!((1..=3).contains(&heard), "asked {heard} times");

        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.connect((site.own.as_str(), 53))?;
        let mut id = 0_u16;
        eventually("a question too many", || {
            for _ in 0..256 {
                id = id.wrapping_add(1);
                client.send(&question(id, "www.silent.example")?)?;
            }
            anyhow::ensure!(site.outcome("overload")? > 0, "{id} are not enough");
            Ok(())
        })?;
        site.has(&["+short", "catalog"], "240.9.0.")?;
        eventually("all that waited to fail", || {
            let failed = site.outcome("upstream_failed")?;
            anyhow::ensure!(failed > WAITING_MAX, "{failed}");
            Ok(())
        })?;
        client.set_nonblocking(true)?;
        let mut answers = 0;
        while let Ok(length) = client.recv(&mut buffer) {
            anyhow::ensure!(length >= 12 && buffer[3] & 15 == 2, "not SERVFAIL: {:?}", &buffer[..length]);
            answers += 1;
        }
        anyhow::ensure!(answers > 0, "no answers");
        Ok(())
    }

    #[test]
    fn a_connection_beyond_the_bound_waits_until_another_has_ended() -> anyhow::Result<()> {
        let site = Site::start()?;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = site.connect()?;
            anyhow::ensure!(ask_by_tcp(&mut stream)? == 0);
            held.push(stream);
        }
        anyhow::ensure!(ask_by_tcp(&mut site.connect()?)? == 0);
        // Those that bring no more questions are ended, which is what it waited for.
        let ended = |stream: &mut TcpStream| -> std::io::Result<bool> {
            stream.set_nonblocking(true)?;
            match stream.read(&mut [0]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
                Ok(_) | Err(_) => Ok(true),
            }
        };
        let ended: Vec<bool> = held.iter_mut().map(ended).collect::<Result<_, _>>()?;
        anyhow::ensure!(ended.contains(&true), "it was served beside {CONNECTIONS_MAX} others");
        Ok(())
    }

    #[test]
    fn garbage_does_no_harm() -> anyhow::Result<()> {
        let site = Site::start()?;
        let mut state = 0x2113_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut packet = |count: u64| -> anyhow::Result<Vec<u8>> {
            let mut bytes = question(u16::try_from(random(65_536))?, "catalog.shop.svc.cluster.local")?;
            for _ in 0..random(8) {
                let place = usize::try_from(random(bytes.len() as u64))?;
                bytes[place] = u8::try_from(random(256))?;
            }
            bytes.truncate(usize::try_from(random(count))?);
            Ok(bytes)
        };
        let client = UdpSocket::bind("127.0.0.1:0")?;
        for _ in 0..1000 {
            client.send_to(&packet(64)?, (site.own.as_str(), 53))?;
        }
        for round in 0..50 {
            let mut stream = site.connect()?;
            let bytes = packet(64)?;
            if round % 2 == 0 {
                stream.write_all(&u16::try_from(bytes.len())?.to_be_bytes())?;
            }
            stream.write_all(&bytes)?;
            stream.shutdown(Shutdown::Write)?;
            // Ended in either way, and not held open.
            if let Err(error) = stream.read_to_end(&mut Vec::new()) {
                anyhow::ensure!(error.kind() != std::io::ErrorKind::WouldBlock, "held open");
            }
        }
        for outcome in ["dropped", "refused"] {
            anyhow::ensure!(site.outcome(outcome)? > 0, "{outcome}");
        }
        site.has(&["+short", "catalog"], "240.9.0.")
    }
}
