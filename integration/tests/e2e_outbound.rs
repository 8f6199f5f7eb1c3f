//! Where a captured connection may go (E7, T21): the mesh's, outside, nowhere.

use std::collections::HashMap;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use weft_integration::apps::{idle_app, python_app, script};
use weft_integration::assert::{record, wait_for};
use weft_integration::mesh::{TestMesh, with_mesh};

/// An address outside the mesh (RFC 5737) that the test puts on the switch, with a server behind it.
const OUTSIDE: &str = "198.51.100.1";

fn mesh(mode: &str) -> anyhow::Result<String> {
    let server = python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}]")?;
    Ok(format!("outboundMode: {mode}\napps:\n{server}{}", idle_app("client")))
}

async fn serve_outside(mesh: &TestMesh) -> anyhow::Result<()> {
    let (outside, client) = (format!("{OUTSIDE}/32"), format!("{}/32", mesh.instance("client-0")?.address));
    mesh.as_root("switch", &["ip", "addr", "add", &outside, "dev", "br0"]).await?;
    mesh.as_root("switch", &["ip", "route", "add", &client, "dev", "br0"]).await?;
    mesh.as_root("client-0", &["ip", "route", "add", &outside, "dev", "eth0"]).await?;
    let start = format!("timeout 60 python3 {} 9000 >/dev/null 2>&1 &", script("http_app.py")?.display());
    mesh.as_root("switch", &["sh", "-c", &start]).await?;
    wait_for("the server outside", Duration::from_secs(10), || async {
        let tried = mesh.as_root("switch", &["curl", "-sS", "--fail", &format!("http://{OUTSIDE}:9000/size/1")]).await;
        tried.map(drop).map_err(|error| error.to_string())
    })
    .await
}

async fn curl(mesh: &TestMesh, url: &str) -> anyhow::Result<(Output, String)> {
    let output = mesh.run("client-0", &["curl", "-sS", "-i", "--max-time", "10", url]).await?;
    let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
    Ok((output, said))
}

async fn metric(mesh: &TestMesh, instance: &str, name: &str) -> anyhow::Result<f64> {
    let text = mesh.stdout(instance, &["curl", "-sS", "--fail", "http://127.0.0.1:15020/metrics"]).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("0");
    Ok(line.parse()?)
}

/// What is the mesh's but nobody holds is denied in both modes, with a record, and reaches nobody.
async fn mesh_ranges_are_closed(mesh: &TestMesh) -> anyhow::Result<()> {
    let server = mesh.instance("server-0")?.address;
    for (what, address) in [
        ("a virtual address that nobody holds", "240.240.0.77:81".to_owned()),
        ("a port that a workload does not name", format!("{server}:9999")),
    ] {
        let (_, said) = curl(mesh, &format!("http://{address}/")).await?;
        let denied = said.starts_with("http/1.1 403") && said.contains("x-weft-error: destination_denied");
        anyhow::ensure!(denied, "{what}: {said}");
        let fields = [("authority", json!(address)), ("fault", json!("destination_denied"))];
        record(mesh, "client-0", &fields).await?;
    }
    Ok(())
}

#[test]
fn passthrough_lets_out_and_keeps_the_mesh_closed() -> anyhow::Result<()> {
    with_mesh(&mesh("passthrough")?, async |mesh| {
        serve_outside(mesh).await?;
        let (_, said) = curl(mesh, &format!("http://{OUTSIDE}:9000/size/3")).await?;
        anyhow::ensure!(said.starts_with("http/1.1 200") && said.ends_with("xxx"), "{said}");
        anyhow::ensure!(metric(mesh, "client-0", "weft_passthrough_total").await? >= 1.0, "passing through is counted");
        let raw = script("raw.py")?;
        let request = r"CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n";
        let connect = format!("printf '{request}' | python3 {} {OUTSIDE} 9000 --half-close", raw.display());
        let said = mesh.stdout("client-0", &["sh", "-c", &connect]).await?;
        anyhow::ensure!(said.starts_with("HTTP/1.1 200"), "a forward proxy outside: {said}");
        mesh_ranges_are_closed(mesh).await
    })
}

#[test]
fn registry_only_keeps_in_and_says_so() -> anyhow::Result<()> {
    with_mesh(&mesh("registry-only")?, async |mesh| {
        serve_outside(mesh).await?;
        let (_, said) = curl(mesh, &format!("http://{OUTSIDE}:9000/size/3")).await?;
        anyhow::ensure!(said.starts_with("http/1.1 502") && said.contains("x-weft-error: not_in_registry"), "{said}");
        anyhow::ensure!(
            metric(mesh, "client-0", "weft_registry_only_refused_total").await? >= 1.0,
            "refusing is counted"
        );
        let (_, said) = curl(mesh, "http://server:8080/size/3").await?;
        anyhow::ensure!(said.starts_with("http/1.1 200"), "the mesh itself stays open: {said}");
        mesh_ranges_are_closed(mesh).await
    })
}

/// Wherever a connection to a capture port comes from, it was not captured: refused, counted and recorded by the proxy
/// whose port it is.
#[test]
fn straight_to_a_capture_port_is_refused() -> anyhow::Result<()> {
    let probe = "- {name: probe, command: [sleep, infinity], sidecar: false}\n";
    with_mesh(&format!("{}{probe}", mesh("passthrough")?), async |mesh| {
        let (client, server) = (mesh.instance("client-0")?.address, mesh.instance("server-0")?.address);
        let cases = [
            ("client-0", format!("{client}:15001"), "client-0", "outbound"),
            ("client-0", "127.0.0.1:15001".to_owned(), "client-0", "outbound"),
            ("client-0", format!("{client}:15006"), "client-0", "inbound"),
            ("client-0", format!("{server}:15006"), "server-0", "inbound"),
            ("client-0", format!("{server}:15001"), "server-0", "outbound"),
            ("probe-0", format!("{server}:15001"), "server-0", "outbound"),
            ("probe-0", format!("{server}:15006"), "server-0", "inbound"),
        ];
        let mut recorded = HashMap::new();
        for (from, address, refused_by, direction) in cases {
            let before = metric(mesh, refused_by, "weft_loop_refused_total").await?;
            let output = mesh.run(from, &["curl", "-sS", "--max-time", "10", &format!("http://{address}/")]).await?;
            anyhow::ensure!(!output.status.success(), "{from} to {address}: {output:?}");
            let after = metric(mesh, refused_by, "weft_loop_refused_total").await?;
            anyhow::ensure!(after == before + 1.0, "{from} to {address} is counted: {before} {after}");
            *recorded.entry((refused_by, direction)).or_insert(0) += 1;
            let expected = recorded.get(&(refused_by, direction)).copied();
            wait_for("a record that says why", Duration::from_secs(10), || async {
                let records = mesh.records(refused_by).map_err(|error| error.to_string())?;
                let why = |one: &&Value| one["fault"] == "loop" && one["direction"] == direction;
                let found = records.iter().filter(why).count();
                if Some(found) == expected { Ok(()) } else { Err(format!("{found} records")) }
            })
            .await?;
        }
        Ok(())
    })
}
