//! Programs as processes, on ports of loopback.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use weft_cli::binaries::Binaries;
use weft_integration::apps::{python, script};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
pub(crate) const BACKEND: &str = "spiffe://cluster.local/ns/default/sa/backend";

/// A child that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub(crate) fn start(command: &mut Command) -> Running {
    Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
}

pub(crate) fn app(arguments: &[&str]) -> Running {
    let (file, arguments) = arguments.split_first().unwrap();
    start(Command::new(python().unwrap()).arg(script(file).unwrap()).args(arguments))
}

pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

pub(crate) fn wait_for_port(port: u16) {
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < DEADLINE, "nothing listens on port {port}");
        std::thread::yield_now();
    }
}

/// The example with `replaced` for what stands in it, run.
pub(crate) fn proxy(directory: &Path, example: &str, replaced: &[(String, String)]) -> Running {
    let weft_proxy = Binaries::locate().unwrap().find("weft-proxy").unwrap();
    start(arguments(&mut Command::new(weft_proxy), directory, example, replaced, 0))
}

pub(crate) fn arguments<'a>(
    command: &'a mut Command,
    directory: &Path,
    example: &str,
    replaced: &[(String, String)],
    status_port: u16,
) -> &'a mut Command {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/static");
    let mut yaml = std::fs::read_to_string(examples.join(example)).unwrap();
    for (from, _) in replaced {
        assert!(yaml.contains(from), "{example} does not say {from}");
    }
    yaml = replace_all(&yaml, replaced);
    let file = directory.join(example);
    std::fs::write(&file, yaml).unwrap();
    command.args(["run", "--access-log", "off", "--status-listen", &format!("127.0.0.1:{status_port}"), "--static"]);
    command.arg(&file).arg("--admin-socket").arg(directory.join(format!("{example}.sock")))
}

/// Replaces in one pass, so that what is put in is not replaced again.
fn replace_all(text: &str, replaced: &[(String, String)]) -> String {
    let (mut rest, mut out) = (text, String::new());
    while let Some(next) = rest.chars().next() {
        let found = replaced.iter().find(|(from, _)| rest.starts_with(from));
        let (length, to) = match found {
            Some((from, to)) => (from.len(), to.as_str()),
            None => (next.len_utf8(), &rest[..next.len_utf8()]),
        };
        out.push_str(to);
        rest = &rest[length..];
    }
    out
}

pub(crate) fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--fail", "--max-time", "10"]).args(arguments).output().unwrap()
}

pub(crate) fn said(arguments: &[&str]) -> String {
    let output = curl(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) struct Authority(Issuer<'static, KeyPair>, pub(crate) String);

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    /// Writes `NAME.pem` and `NAME.key` for an identity that ends `life` from now.
    pub(crate) fn write(&self, directory: &Path, name: &str, id: &str, life: i64) -> (PathBuf, PathBuf) {
        let (params, key) = (leaf(id, life), KeyPair::generate().unwrap());
        let signed = params.signed_by(&key, &self.0).unwrap();
        store(directory, name, &signed.pem(), &key)
    }
}

/// As [`Authority::write`], but vouched for by nobody else than itself.
pub(crate) fn write_self_signed(directory: &Path, name: &str, id: &str) -> (PathBuf, PathBuf) {
    let (params, key) = (leaf(id, 3600), KeyPair::generate().unwrap());
    store(directory, name, &params.self_signed(&key).unwrap().pem(), &key)
}

fn leaf(id: &str, life: i64) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    let life_abs = Duration::from_secs(life.unsigned_abs());
    params.not_after = if life < 0 { now - life_abs } else { now + life_abs }.into();
    params
}

fn store(directory: &Path, name: &str, pem: &str, key: &KeyPair) -> (PathBuf, PathBuf) {
    let (certificate, private) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
    std::fs::write(&certificate, pem).unwrap();
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&private).unwrap();
    file.write_all(key.serialize_pem().as_bytes()).unwrap();
    (certificate, private)
}
