//! Who does not go on is not waited for without end: black holes, halves of first bytes, halves of heads.

use std::time::{Duration, Instant};

use serde_json::json;
use weft_integration::apps::{idle_app, python, python_app};
use weft_integration::assert::record;
use weft_integration::mesh::{TestMesh, with_mesh};

/// A black hole is noticed within this (T19), with a second for the machine.
const NOTICED: Duration = Duration::from_secs(16);

/// From now on nothing passes the instance's link, either way, and nobody is told.
async fn black_hole(mesh: &TestMesh, instance: &str) -> anyhow::Result<()> {
    for (chain, side) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
        mesh.as_root(instance, &["iptables", "-I", chain, "!", side, "lo", "-j", "DROP"]).await?;
    }
    Ok(())
}

/// Runs a Python script with arguments in an instance; what it prints.
async fn script(mesh: &TestMesh, instance: &str, text: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let python = python()?.display().to_string();
    mesh.stdout(instance, &[&[python.as_str(), "-c", text], arguments].concat()).await
}

/// Opens a connection, has one line echoed, says so, then sends and reads until it breaks.
const TALK: &str = r"
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
connection.sendall(b'first\n')
assert connection.recv(100) == b'first\n'
open(sys.argv[3], 'w').close()
while True:
    try:
        connection.sendall(b'more\n')
        if not connection.recv(100):
            break
    except OSError:
        break
    time.sleep(0.2)
";

#[test]
fn a_black_hole_is_noticed_and_others_serve() -> anyhow::Result<()> {
    let http = python_app("http", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}], replicas: 2")?;
    let tcp = python_app("tcp", &["tcp_app.py", "echo", "9000"], "ports: [{port: 9000, protocol: tcp}]")?;
    with_mesh(&format!("apps:\n{http}{tcp}{}", idle_app("client")), async |mesh| {
        let (http, tcp) = (mesh.instance("http-0")?.address, mesh.instance("tcp-0")?.address.to_string());
        let slow = format!("http://{http}:8080/slow/50000");
        let ready = mesh.mesh.directory().join("talking").display().to_string();
        let waiting = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "55", slow.as_str()];
        let arguments = [tcp.as_str(), "9000", ready.as_str()];
        let timed = async |running: &mut (dyn Future<Output = anyhow::Result<String>> + Unpin), since: &Instant| {
            running.await.map(|said| (said, since.elapsed()))
        };
        let mut requests = Box::pin(mesh.stdout("client-0", &waiting));
        let mut talk = Box::pin(script(mesh, "client-0", TALK, &arguments));
        let hole = async {
            // Both are under way.
            while !std::path::Path::new(&ready).exists() || count(mesh, "http-0").await? == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            black_hole(mesh, "http-0").await?;
            black_hole(mesh, "tcp-0").await?;
            anyhow::Ok(Instant::now())
        };
        let mut hole = Box::pin(hole);
        let since = tokio::select! {
            since = &mut hole => since?,
            ended = &mut requests => anyhow::bail!("ended early: {ended:?}"),
            ended = &mut talk => anyhow::bail!("ended early: {ended:?}"),
        };
        let (answered, talked) = tokio::join!(timed(&mut requests, &since), timed(&mut talk, &since));
        let ((status, answered), (_, talked)) = (answered?, talked?);
        anyhow::ensure!(status == "502" && answered <= NOTICED, "HTTP: {status} after {answered:?}");
        anyhow::ensure!(talked <= NOTICED, "TCP: broken after {talked:?}");
        record(mesh, "client-0", &[("path", json!("/slow/50000")), ("fault", json!("upstream_reset"))]).await?;
        for _ in 0..10 {
            let said = ["curl", "-sS", "--fail", "--max-time", "20", "http://http:8080/echo"];
            anyhow::ensure!(mesh.stdout("client-0", &said).await?.contains("http-1"), "another replica serves");
        }
        Ok(())
    })
}

/// Requests that the application of an instance has had, asked beside its sidecar.
async fn count(mesh: &TestMesh, instance: &str) -> anyhow::Result<u64> {
    let said = mesh.as_root(instance, &["curl", "-sS", "--fail", "http://127.0.0.1:8080/count"]).await?;
    let counts: serde_json::Value = serde_json::from_str(&said)?;
    Ok(counts.get("/slow/50000").and_then(serde_json::Value::as_u64).unwrap_or(0))
}

/// Sends bytes given in hexadecimal, or a whole ClientHello of the mesh's protocol, says nothing more, prints the seconds until the end and what came, in
/// hexadecimal, too.
const HALF: &str = r"
import socket, ssl, sys, time
def hello():
    context, out = ssl._create_unverified_context(), ssl.MemoryBIO()
    context.set_alpn_protocols(['weft-h1/1'])
    try:
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
connection = socket.create_connection((sys.argv[1], 8080), timeout=60)
connection.sendall(hello() if sys.argv[2] == 'hello' else bytes.fromhex(sys.argv[2]))
begun, came = time.monotonic(), b''
try:
    while data := connection.recv(1000):
        came += data
except ConnectionResetError:
    pass
print(f'{time.monotonic() - begun:.1f} [{came[:20].hex()}]')
";

#[test]
fn halves_are_cut_off_in_time_and_hold_up_nobody() -> anyhow::Result<()> {
    let server = python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}]")?;
    let plain = "- {name: plain, command: [sleep, infinity], sidecar: false}\n";
    with_mesh(&format!("apps:\n{server}{plain}{}", idle_app("client")), async |mesh| {
        let address = mesh.instance("server-0")?.address.to_string();
        // The beginning of a ClientHello of 512 bytes; of a request line; of a head; of a handshake. What comes: nothing,
        // nothing, "HTTP/1.1 408", a ServerHello.
        let halves = [
            ("160301020001", "[]", "detect_timeout"),
            ("4745", "[]", "detect_timeout"),
            ("474554202f20485454502f312e310d0a486f73", "[485454502f312e3120343038", "head_timeout"),
            ("hello", "[160303", "detect_timeout"),
        ];
        let cut = async |bytes: &str| script(mesh, "plain-0", HALF, &[&address, bytes]).await;
        let bystander = async {
            for _ in 0..20 {
                let url = "http://server:8080/echo";
                mesh.stdout("client-0", &["curl", "-sS", "--fail", "--max-time", "2", url]).await?;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            anyhow::Ok(())
        };
        let [(hello, ..), (line, ..), (head, ..), (handshake, ..)] = halves;
        let (hello, line, head, handshake, bystander) =
            tokio::join!(cut(hello), cut(line), cut(head), cut(handshake), bystander);
        bystander?;
        for (said, (bytes, came, fault)) in [hello?, line?, head?, handshake?].into_iter().zip(halves) {
            let (seconds, answer) = said.trim().split_once(' ').ok_or_else(|| anyhow::anyhow!("{said}"))?;
            let seconds: f64 = seconds.parse()?;
            // The handshake has 5 s of its own; detection and heads have 10 s.
            let bound = if bytes == "hello" { 4.0..=7.0 } else { 9.0..=12.0 };
            anyhow::ensure!(bound.contains(&seconds), "{bytes}: ended after {seconds} s");
            anyhow::ensure!(answer.starts_with(came), "{bytes}: {answer}");
            record(mesh, "server-0", &[("direction", json!("inbound")), ("fault", json!(fault))]).await?;
        }
        Ok(())
    })
}
