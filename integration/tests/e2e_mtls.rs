//! What is on the wire, and who is let in.

use serde_json::json;
use weft_cli::binaries::Binaries;
use weft_integration::apps::{idle_app, python_app};
use weft_integration::assert::{record, same_hop};
use weft_integration::mesh::{TestMesh, with_mesh};

/// Bytes of a file header of tcpdump: a capture without packets has no more.
const EMPTY_CAPTURE: usize = 24;

fn holds(capture: &[u8], marker: &str) -> bool {
    capture.windows(marker.len()).any(|window| window == marker.as_bytes())
}

/// What the pod link and the server's loopback carried while the client sent `marker` to `url`.
async fn captured(mesh: &TestMesh, url: &str, marker: &str) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let port = format!("p{}", mesh.instance("server-0")?.index);
    let link = mesh.capture("switch", &port).await?;
    let inside = mesh.capture("server-0", "any").await?;
    let said = mesh.stdout("client-0", &["curl", "-sS", "--fail", "--max-time", "20", "--data", marker, url]).await?;
    anyhow::ensure!(said.contains(marker), "{said}");
    // A datagram, which nobody captures into a proxy, marks the end.
    let end = format!("the-end-of-{marker}").to_uppercase();
    let to = mesh.instance("server-0")?.address;
    mesh.as_root("client-0", &["bash", "-c", &format!("echo {end} > /dev/udp/{to}/9")]).await?;
    link.until(&end).await?;
    inside.until(&end).await?;
    Ok((link.finish().await?, inside.finish().await?))
}

#[test]
fn the_wire_carries_no_plaintext() -> anyhow::Result<()> {
    let server = python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}]")?;
    with_mesh(&format!("apps:\n{server}{}", idle_app("client")), async |mesh| {
        let marker = "a-marker-that-nobody-may-read-on-the-wire";
        let (link, inside) = captured(mesh, "http://server:8080/", marker).await?;
        anyhow::ensure!(link.len() > EMPTY_CAPTURE, "the capture on the pod link is empty");
        anyhow::ensure!(!holds(&link, marker), "the pod link carries plaintext");
        anyhow::ensure!(holds(&inside, marker), "the application's side carries no plaintext: the capture is blind");
        for (instance, side) in [("client-0", "upstream"), ("server-0", "downstream")] {
            let page = mesh.stdout(instance, &["curl", "-sS", "--fail", "http://127.0.0.1:15020/metrics"]).await?;
            let counted =
                format!("weft_mesh_handshakes_total{{side=\"{side}\",group=\"X25519MLKEM768\",resumed=\"false\"}} 1");
            anyhow::ensure!(page.lines().any(|line| line == counted), "{counted} not in\n{page}");
        }
        // Without the rules nothing protects the bytes, and the same capture on the same link sees it.
        let proxy = Binaries::locate()?.find("weft-proxy")?.display().to_string();
        for instance in ["client-0", "server-0"] {
            mesh.as_root(instance, &[&proxy, "init", "--remove"]).await?;
        }
        let direct = format!("http://{}:8080/", mesh.instance("server-0")?.address);
        let (link, _) = captured(mesh, &direct, marker).await?;
        anyhow::ensure!(holds(&link, marker), "without rules the pod link would carry plaintext");
        Ok(())
    })
}

#[test]
fn strict_refuses_who_proves_nothing() -> anyhow::Result<()> {
    let strict =
        python_app("strict", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}], inboundMode: strict")?;
    let open = python_app("open", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}]")?;
    let plain = "- {name: plain, command: [sleep, infinity], sidecar: false}\n";
    with_mesh(&format!("apps:\n{strict}{open}{plain}{}", idle_app("client")), async |mesh| {
        let curl = |url: String| {
            ["curl", "-sS", "--fail", "--max-time", "20"]
                .map(str::to_owned)
                .into_iter()
                .chain([url])
                .collect::<Vec<_>>()
        };
        for (from, to, expected) in [
            ("client-0", "strict", true),
            ("client-0", "open", true),
            ("plain-0", "open", true),
            ("plain-0", "strict", false),
        ] {
            let url = format!("http://{}:8080/{from}", mesh.instance(&format!("{to}-0"))?.address);
            let command = curl(url);
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let output = mesh.run(from, &command).await?;
            anyhow::ensure!(output.status.success() == expected, "{from} → {to}: {output:?}");
        }
        let client =
            record(mesh, "client-0", &[("path", json!("/client-0")), ("service", json!("default/strict"))]).await?;
        let server = record(mesh, "strict-0", &[("path", json!("/client-0"))]).await?;
        same_hop(&client, &server, ("client", "strict"))
    })
}
