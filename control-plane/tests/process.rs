//! The binary itself: signals, crashes, exit codes and the second verb.

#[cfg(test)]
mod process {
    use std::fs;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::path::Path;
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// Longer than anything here takes; only a failing test waits for it.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A control plane in a process of its own, killed with the test.
    struct Server {
        child: Child,
        lines: mpsc::Receiver<String>,
        status: SocketAddr,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }

    fn command(directory: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-control-plane"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0", "--log-format", "json"]);
        command.arg("--socket").arg(directory.join("control.sock"));
        command.arg("--state-dir").arg(directory.join("state"));
        command.stderr(Stdio::piped());
        command
    }

    impl Server {
        fn start(directory: &Path) -> Self {
            let mut child = command(directory).spawn().unwrap();
            let stderr = BufReader::new(child.stderr.take().unwrap());
            let (sender, lines) = mpsc::channel();
            std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
            let serving = wait_for(&lines, "serving");
            let json: serde_json::Value = serde_json::from_str(&serving).unwrap();
            let status = json["status"].as_str().unwrap().parse().unwrap();
            Self { child, lines, status }
        }

        fn signal(&self, signal: Signal) {
            kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        }

        fn ended(&mut self) -> ExitStatus {
            let start = Instant::now();
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                assert!(start.elapsed() < PATIENCE, "it does not end");
                std::thread::sleep(Duration::from_millis(5));
            }
        }

        fn get(&self, path: &str) -> String {
            let mut stream = TcpStream::connect(self.status).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        }
    }

    fn wait_for(lines: &mpsc::Receiver<String>, text: &str) -> String {
        loop {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    #[test]
    fn a_signal_ends_it_in_order() {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let directory = tempfile::tempdir().unwrap();
            let mut server = Server::start(directory.path());
            assert!(server.get("/ready").starts_with("HTTP/1.1 200 "));
            server.signal(signal);
            assert!(server.ended().success(), "{signal}");
            assert!(!directory.path().join("control.sock").exists());
        }
    }

    /// A call whose body never comes, in raw HTTP/2: preface, SETTINGS, HEADERS without END_STREAM (RFC 9113, 7541).
    fn endless_call() -> Vec<u8> {
        let path = b"/weft.v1.Operator/Status";
        let mut headers = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
        headers.extend(path);
        headers.extend([0x0f, 0x10, 16]);
        headers.extend(b"application/grpc");
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        bytes.extend([0, 0, u8::try_from(headers.len()).unwrap(), 1, 4, 0, 0, 0, 1]);
        bytes.extend(headers);
        bytes
    }

    /// Whether `server` drained (success) or was ended at once (failure) while a call was open.
    fn end_with_a_call_open(twice: bool) -> ExitStatus {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::start(directory.path());
        let mut held = std::os::unix::net::UnixStream::connect(directory.path().join("control.sock")).unwrap();
        held.write_all(&endless_call()).unwrap();
        held.set_read_timeout(Some(PATIENCE)).unwrap();
        // A PING answered after the HEADERS shows that the call is being served.
        held.write_all(b"\0\0\x08\x06\0\0\0\0\0pingpong").unwrap();
        let mut answer: Vec<u8> = Vec::new();
        while !answer.windows(8).any(|window| window == b"pingpong") {
            let mut piece = [0; 64];
            let read = held.read(&mut piece).unwrap();
            assert!(read > 0, "cut off");
            answer.extend(&piece[..read]);
        }
        server.signal(Signal::SIGTERM);
        // Only then is the first one taken; signals that wait would be merged into one.
        wait_for(&server.lines, "a second signal ends at once");
        if twice {
            server.signal(Signal::SIGTERM);
        }
        let ended = server.ended();
        // However it ended, the state is sound.
        Server::start(directory.path());
        ended
    }

    #[test]
    fn a_call_that_never_ends_is_waited_for_briefly() {
        assert!(end_with_a_call_open(false).success());
    }

    #[test]
    fn a_second_signal_ends_it_at_once() {
        assert!(!end_with_a_call_open(true).success());
    }

    #[test]
    fn a_killed_one_is_followed_by_the_same_mesh() {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::start(directory.path());
        let root = fs::read(directory.path().join("state/ca/root.pem")).unwrap();
        let refused = command(directory.path()).output().unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("is in use by another"), "one process per state");
        // The settings have been noted; a start with the same ones writes nothing.
        assert!(server.get("/metrics").contains("weft_store_revision 1\n"));
        server.signal(Signal::SIGKILL);
        server.ended();
        assert!(directory.path().join("control.sock").exists(), "nobody was left to remove it");
        let server = Server::start(directory.path());
        assert!(server.get("/metrics").contains("weft_store_revision 1\n"));
        assert_eq!(fs::read(directory.path().join("state/ca/root.pem")).unwrap(), root);
    }

    #[test]
    fn restore_says_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("backup");
        fs::write(&file, "not a backup").unwrap();
        let state = directory.path().join("state");
        let mut restore = Command::new(env!("CARGO_BIN_EXE_weft-control-plane"));
        restore.arg("restore").arg(&file).arg("--state-dir").arg(&state);
        let output = restore.output().unwrap();
        assert!(!output.status.success() && !state.exists());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("is not a whole backup") && said.contains(file.to_str().unwrap()), "{said}");
    }

    #[test]
    fn the_version_is_told() {
        let output = Command::new(env!("CARGO_BIN_EXE_weft-control-plane")).arg("--version").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("weft-control-plane {}\n", env!("CARGO_PKG_VERSION")));
    }
}
