//! Where a captured connection may go (E7, T21): the mesh's, outside, nowhere.

use std::process::Output;
use std::time::Duration;

use weft_integration::apps::{idle_app, python_app, script};
use weft_integration::assert::wait_for;
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

async fn metric(mesh: &TestMesh, name: &str) -> anyhow::Result<f64> {
    let text = mesh.stdout("client-0", &["curl", "-sS", "--fail", "http://127.0.0.1:15020/metrics"]).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("0");
    Ok(line.parse()?)
}

#[test]
fn passthrough_lets_out_and_keeps_the_mesh_closed() -> anyhow::Result<()> {
    with_mesh(&mesh("passthrough")?, async |mesh| {
        serve_outside(mesh).await?;
        let (_, said) = curl(mesh, &format!("http://{OUTSIDE}:9000/size/3")).await?;
        anyhow::ensure!(said.starts_with("http/1.1 200") && said.ends_with("xxx"), "{said}");
        anyhow::ensure!(metric(mesh, "weft_passthrough_total").await? >= 1.0, "passing through is counted");
        let raw = script("raw.py")?;
        let request = r"CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n";
        let connect = format!("printf '{request}' | python3 {} {OUTSIDE} 9000 --half-close", raw.display());
        let said = mesh.stdout("client-0", &["sh", "-c", &connect]).await?;
        anyhow::ensure!(said.starts_with("HTTP/1.1 200"), "a forward proxy outside: {said}");
        let (_, said) = curl(mesh, "http://240.240.0.77:80/").await?;
        anyhow::ensure!(said.contains("x-weft-error: destination_denied"), "a virtual address nobody holds: {said}");
        let address = mesh.instance("server-0")?.address;
        let (_, said) = curl(mesh, &format!("http://{address}:9999/")).await?;
        anyhow::ensure!(said.contains("x-weft-error: destination_denied"), "a workload's unknown port: {said}");
        Ok(())
    })
}

#[test]
fn registry_only_keeps_in_and_says_so() -> anyhow::Result<()> {
    with_mesh(&mesh("registry-only")?, async |mesh| {
        serve_outside(mesh).await?;
        let (_, said) = curl(mesh, &format!("http://{OUTSIDE}:9000/size/3")).await?;
        anyhow::ensure!(said.starts_with("http/1.1 502") && said.contains("x-weft-error: not_in_registry"), "{said}");
        anyhow::ensure!(metric(mesh, "weft_registry_only_refused_total").await? >= 1.0, "refusing is counted");
        let (_, said) = curl(mesh, "http://server:8080/size/3").await?;
        anyhow::ensure!(said.starts_with("http/1.1 200"), "the mesh itself stays open: {said}");
        Ok(())
    })
}

#[test]
fn straight_to_a_capture_port_is_refused() -> anyhow::Result<()> {
    with_mesh(&mesh("passthrough")?, async |mesh| {
        let (client, server) = (mesh.instance("client-0")?.address, mesh.instance("server-0")?.address);
        for (count, url) in
            [format!("http://{client}:15001/"), "http://127.0.0.1:15001/".to_owned(), format!("http://{client}:15006/")]
                .iter()
                .enumerate()
        {
            let (output, said) = curl(mesh, url).await?;
            anyhow::ensure!(!output.status.success(), "{url}: {said}");
            let refused = metric(mesh, "weft_loop_refused_total").await?;
            anyhow::ensure!(refused >= (count + 1) as f64, "{url} is counted: {refused}");
        }
        let (output, said) = curl(mesh, &format!("http://{server}:15006/")).await?;
        anyhow::ensure!(!output.status.success() || said.contains("x-weft-error"), "of another workload: {said}");
        Ok(())
    })
}
