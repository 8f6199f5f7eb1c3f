//! Static mode: the examples as they are, but for ports and paths, with curl and openssl as clients.

#[cfg(test)]
mod statically {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Output, Stdio};
    use std::time::{Duration, Instant, SystemTime};

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
    use weft_cli::binaries::Binaries;
    use weft_integration::apps::{python, script};

    const DEADLINE: Duration = Duration::from_secs(20);
    const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
    const BACKEND: &str = "spiffe://cluster.local/ns/default/sa/backend";

    /// A child that ends with the test.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn start(command: &mut Command) -> Running {
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn app(arguments: &[&str]) -> Running {
        let (file, arguments) = arguments.split_first().unwrap();
        start(Command::new(python().unwrap()).arg(script(file).unwrap()).args(arguments))
    }

    fn free_ports<const N: usize>() -> [u16; N] {
        let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        held.map(|listener| listener.local_addr().unwrap().port())
    }

    fn wait_for_port(port: u16) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < DEADLINE, "nothing listens on port {port}");
            std::thread::yield_now();
        }
    }

    /// The example with `replaced` for what stands in it, run.
    fn proxy(directory: &Path, example: &str, replaced: &[(String, String)]) -> Running {
        let weft_proxy = Binaries::locate().unwrap().find("weft-proxy").unwrap();
        start(arguments(&mut Command::new(weft_proxy), directory, example, replaced, 0))
    }

    fn arguments<'a>(
        command: &'a mut Command,
        directory: &Path,
        example: &str,
        replaced: &[(String, String)],
        status_port: u16,
    ) -> &'a mut Command {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/static");
        let mut yaml = std::fs::read_to_string(examples.join(example)).unwrap();
        for (from, to) in replaced {
            assert!(yaml.contains(from), "{example} does not say {from}");
            yaml = yaml.replace(from, to);
        }
        let file = directory.join(example);
        std::fs::write(&file, yaml).unwrap();
        command.args([
            "run",
            "--access-log",
            "off",
            "--status-listen",
            &format!("127.0.0.1:{status_port}"),
            "--static",
        ]);
        command.arg(&file).arg("--admin-socket").arg(directory.join(format!("{example}.sock")))
    }

    fn curl(arguments: &[&str]) -> Output {
        Command::new("curl").args(["-sS", "--fail", "--max-time", "10"]).args(arguments).output().unwrap()
    }

    fn said(arguments: &[&str]) -> String {
        let output = curl(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    struct Authority(Issuer<'static, KeyPair>, String);

    impl Authority {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            Self(Issuer::new(params, key), pem)
        }

        /// Writes `NAME.pem` and `NAME.key` for an identity that ends `life` from now.
        fn write(&self, directory: &Path, name: &str, id: &str, life: i64) -> (PathBuf, PathBuf) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let now = SystemTime::now();
            params.not_before = (now - Duration::from_secs(3600)).into();
            let life_abs = Duration::from_secs(life.unsigned_abs());
            params.not_after = if life < 0 { now - life_abs } else { now + life_abs }.into();
            let leaf = params.signed_by(&key, &self.0).unwrap().pem();
            let (certificate, private) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
            std::fs::write(&certificate, leaf).unwrap();
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&private).unwrap();
            file.write_all(key.serialize_pem().as_bytes()).unwrap();
            (certificate, private)
        }
    }

    #[test]
    fn a_plain_reverse_proxy_takes_http1_and_h2c_on_one_port() {
        let directory = tempfile::tempdir().unwrap();
        let [listen, one, two] = free_ports();
        let _apps = [app(&["http_app.py", &one.to_string()]), app(&["http_app.py", &two.to_string()])];
        let replaced = [("127.0.0.1:8080", listen), ("9001", one), ("9002", two)].map(|(from, to)| {
            (from.to_owned(), if from.contains(':') { format!("127.0.0.1:{to}") } else { to.to_string() })
        });
        let _proxy = proxy(directory.path(), "reverse-proxy.yaml", &replaced);
        [one, two, listen].into_iter().for_each(wait_for_port);
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
        let [listen, one, two, status] = free_ports();
        let _apps = [app(&["http_app.py", &one.to_string()]), app(&["http_app.py", &two.to_string()])];
        let replaced =
            [("127.0.0.1:8080", format!("127.0.0.1:{listen}")), ("9001", one.to_string()), ("9002", two.to_string())]
                .map(|(from, to)| (from.to_owned(), to));
        let mut command = Command::new("prlimit");
        command.arg("--nofile=64:64").arg(Binaries::locate().unwrap().find("weft-proxy").unwrap());
        let running = start(arguments(&mut command, directory.path(), "reverse-proxy.yaml", &replaced, status));
        [one, two, listen, status].into_iter().for_each(wait_for_port);
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

    #[test]
    fn outbound_and_inbound_speak_mutual_tls_and_nothing_else_is_let_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (authority, stranger) = (Authority::new(), Authority::new());
        std::fs::write(path.join("roots.pem"), &authority.1).unwrap();
        authority.write(path, "client", CLIENT, 3600);
        authority.write(path, "server", BACKEND, 3600);
        let [http, tcp, https, tls, app_http, app_tcp] = free_ports();
        let _apps = [app(&["http_app.py", &app_http.to_string()]), app(&["tcp_app.py", "greet", &app_tcp.to_string()])];
        let at = |from: &str, to: u16| (format!("127.0.0.1:{from}"), format!("127.0.0.1:{to}"));
        let folder = ("/etc/weft".to_owned(), path.display().to_string());
        let port = |from: &str, to: u16| (format!("targetPort: {from}"), format!("targetPort: {to}"));
        let inbound = [at("8443", https), at("7443", tls), at("9001", app_http), at("6379", app_tcp), folder.clone()];
        let outbound = [at("8080", http), at("6379", tcp), port("8443", https), port("7443", tls), folder];
        let _proxies = [proxy(path, "inbound.yaml", &inbound), proxy(path, "outbound.yaml", &outbound)];
        [app_http, app_tcp, https, tls, http, tcp].into_iter().for_each(wait_for_port);

        let url = format!("http://127.0.0.1:{http}/echo");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let reply = said(&[version, "-H", "x-forwarded-client-cert: spoofed", "-d", "hello", &url]);
            assert!(reply.contains(&format!("URI={CLIENT}")) && !reply.contains("spoofed"), "{version}: {reply}");
        }
        let first = Command::new(python().unwrap())
            .arg(script("tcp_app.py").unwrap())
            .args(["first-byte", "127.0.0.1", &tcp.to_string(), "3"])
            .output()
            .unwrap();
        assert!(first.status.success(), "server speaks first through both: {first:?}");

        assert!(!curl(&[&format!("http://127.0.0.1:{https}/echo")]).status.success(), "strict takes no plaintext");
        let check = |by: &Authority, name: &str, id: &str, life: i64, let_in: bool| {
            let (certificate, key) = by.write(path, name, id, life);
            let reply = by_openssl(https, "weft-h1/1", &certificate, &key);
            assert_eq!(reply.contains("HTTP/1.1 200"), let_in, "{name}: {reply}");
        };
        check(&authority, "right", "spiffe://cluster.local/ns/shop/sa/web", 3600, true);
        // HTTP inside the mesh's protocol for bytes does not get past what is done to HTTP: the caller is still named.
        let (certificate, key) = authority.write(path, "bytes", "spiffe://cluster.local/ns/shop/sa/web", 3600);
        let reply = by_openssl(https, "weft-tcp/1", &certificate, &key);
        assert!(reply.contains("URI=spiffe://cluster.local/ns/shop/sa/web"), "{reply}");
        check(&stranger, "unknown-root", "spiffe://cluster.local/ns/shop/sa/web", 3600, false);
        check(&authority, "other-trust-domain", "spiffe://other.example/ns/shop/sa/web", 3600, false);
        check(&authority, "expired", "spiffe://cluster.local/ns/shop/sa/web", -60, false);
        check(&authority, "no-spiffe-id", "https://cluster.local/", 3600, false);
    }

    /// One request over mesh TLS by somebody else's TLS library.
    fn by_openssl(port: u16, alpn: &str, certificate: &Path, key: &Path) -> String {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-alpn", alpn, "-connect", &format!("127.0.0.1:{port}"), "-cert"])
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A server that refuses may be gone before everything is written.
        stdin.write_all(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap_or_default();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
