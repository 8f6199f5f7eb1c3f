//! Kept connections: a server that closes them when idle costs nobody an error, and nothing is ever sent twice that must
//! not be (U1, U2).

use serde_json::Value;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::mesh::{TestMesh, with_mesh};

/// Requests around the server's idle time, on kept connections, beside a dense stream of them.
const GETS: &str = r#"
import collections, http.client, threading, time
failures, sent = collections.Counter(), [0]
def client(gap, count):
    connection = http.client.HTTPConnection("server", 8080, timeout=10)
    for _ in range(count):
        try:
            connection.request("GET", "/echo")
            answer = connection.getresponse()
            answer.read()
            failure = None if answer.status == 200 else str(answer.status)
        except Exception as error:
            failure = repr(error)
            connection = http.client.HTTPConnection("server", 8080, timeout=10)
        sent[0] += 1
        if failure:
            failures[failure] += 1
        time.sleep(gap)
plans = [(0, 3300)] * 3 + [(gap, 12) for gap in (0.9, 0.95, 0.98, 0.99, 1.0, 1.01, 1.02, 1.05, 1.1)]
threads = [threading.Thread(target=client, args=plan) for plan in plans]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sent[0], dict(failures))
"#;

fn mesh() -> anyhow::Result<String> {
    let server =
        python_app("server", &["http_app.py", "8080", "--idle", "1"], "ports: [{port: 8080, protocol: http}]")?;
    Ok(format!("apps:\n{server}{}", idle_app("client")))
}

async fn count(mesh: &TestMesh, path: &str) -> anyhow::Result<u64> {
    let counts = mesh.stdout("client-0", &["curl", "-sS", "--fail", "http://server:8080/count"]).await?;
    let counts: Value = serde_json::from_str(&counts)?;
    Ok(counts.get(path).and_then(Value::as_u64).unwrap_or(0))
}

#[test]
fn ten_thousand_gets_at_a_server_that_closes_idle_connections() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        let python = python()?.display().to_string();
        let said = mesh.stdout("client-0", &[&python, "-c", GETS]).await?;
        anyhow::ensure!(said.trim() == "10008 {}", "{said}");
        // Once more only where the server had closed: not every request needed it.
        let served = count(mesh, "/echo").await?;
        anyhow::ensure!((10_008..10_108).contains(&served), "{served} reached the server");
        Ok(())
    })
}

#[test]
fn a_post_is_never_sent_twice() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        for round in 1..=3 {
            let post =
                ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", "x", "http://server:8080/reset-after"];
            let status = mesh.stdout("client-0", &post).await?;
            anyhow::ensure!(status == "502", "round {round}: {status}");
            let seen = count(mesh, "/reset-after").await?;
            anyhow::ensure!(seen == round, "round {round}: the server has seen {seen}");
        }
        Ok(())
    })
}

#[test]
fn what_a_server_says_arrives_as_it_was_said() -> anyhow::Result<()> {
    script("http_app.py")?;
    with_mesh(&mesh()?, async |mesh| {
        let raw = async |path: &str| {
            mesh.stdout(
                "client-0",
                &["curl", "-sS", "-i", "--raw", "--max-time", "10", &format!("http://server:8080{path}")],
            )
            .await
        };
        let trailers = raw("/trailers").await?;
        anyhow::ensure!(trailers.ends_with("5\r\nhello\r\n0\r\nX-Checksum: 5d41\r\n\r\n"), "{trailers:?}");
        let early = raw("/early").await?;
        anyhow::ensure!(
            early.starts_with("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK"),
            "{early:?}"
        );
        let reason = raw("/reason").await?;
        anyhow::ensure!(reason.starts_with("HTTP/1.1 299 Quite Fine\r\n"), "{reason:?}");
        anyhow::ensure!(reason.contains("X-oDD-cAsE: Yes\r\nx-second: 2\r\nX-oDD-cAsE: Again\r\n"), "{reason:?}");
        let empty = raw("/status/204").await?;
        anyhow::ensure!(
            empty.starts_with("HTTP/1.1 204 ") && !empty.to_lowercase().contains("content-length"),
            "{empty:?}"
        );
        let cut = mesh.run("client-0", &["curl", "-sS", "--max-time", "10", "http://server:8080/truncate"]).await?;
        anyhow::ensure!(!cut.status.success(), "a cut response must not look whole");
        Ok(())
    })
}
