//! HTTP between two applications: whatever a client speaks, the other side gets it, over mutual TLS.

use serde_json::{Value, json};
use weft_integration::apps::{idle_app, python_app};
use weft_integration::assert::{record, same_hop, text};
use weft_integration::mesh::{TestMesh, with_mesh};

fn mesh() -> anyhow::Result<String> {
    let server =
        python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http, servicePort: 80}]")?;
    let detected = python_app("detected", &["http_app.py", "9090"], "ports: [{port: 9090}]")?;
    Ok(format!("apps:\n{server}{detected}{}", idle_app("client")))
}

async fn curl(mesh: &TestMesh, arguments: &[&str]) -> anyhow::Result<Value> {
    let command = [&["curl", "-sS", "--fail-with-body", "--max-time", "20"], arguments].concat();
    Ok(serde_json::from_str(&mesh.stdout("client-0", &command).await?)?)
}

#[test]
fn curl_speaks_every_version_of_http() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        // A detected port speaks what its client speaks, and this server only HTTP/1.
        let any = ["--http1.0", "--http1.1", "--http2-prior-knowledge"].as_slice();
        let detected = "http://detected.default.svc.cluster.local:9090/a?b=c";
        for (url, versions) in [("http://server/a?b=c", any), (detected, &["--http1.0", "--http1.1"])] {
            for version in versions {
                let reply = curl(mesh, &[version, url]).await?;
                anyhow::ensure!(reply["target"] == "/a?b=c", "{version} {url}: {reply}");
                let posted = curl(mesh, &[version, "--data", "some text", url]).await?;
                anyhow::ensure!(
                    posted["method"] == "POST" && posted["body"] == "some text",
                    "{version} {url}: {posted}"
                );
            }
        }
        let id = "5f0c9f6e-0000-4000-8000-000000000001";
        curl(mesh, &["-H", &format!("x-request-id: {id}"), "http://server/traced"]).await?;
        let client = record(mesh, "client-0", &[("request_id", json!(id)), ("direction", json!("outbound"))]).await?;
        let server = record(mesh, "server-0", &[("request_id", json!(id)), ("direction", json!("inbound"))]).await?;
        same_hop(&client, &server, ("client", "server"))?;
        anyhow::ensure!(text(&client, "trace_id")? == text(&server, "trace_id")?, "one trace: {client} {server}");
        anyhow::ensure!(client["status"] == 200 && server["path"] == "/traced", "{client} {server}");
        Ok(())
    })
}

#[test]
fn a_workload_reaches_itself_and_its_peers_by_address() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        let address = mesh.instance("server-0")?.address;
        let url = format!("http://{address}:8080/direct");
        let reply = curl(mesh, &[&url]).await?;
        anyhow::ensure!(reply["pod"] == "server-0", "{reply}");
        let server = record(mesh, "server-0", &[("path", json!("/direct")), ("direction", json!("inbound"))]).await?;
        anyhow::ensure!(text(&server, "peer_id")?.ends_with("/sa/client"), "mutual TLS by address too: {server}");
        for own in ["http://server/self", &format!("http://{address}:8080/self")] {
            let itself = mesh.stdout("server-0", &["curl", "-sS", "--fail-with-body", "--max-time", "20", own]).await?;
            let reply: Value = serde_json::from_str(&itself)?;
            anyhow::ensure!(reply["pod"] == "server-0", "{own}: {reply}");
        }
        Ok(())
    })
}
