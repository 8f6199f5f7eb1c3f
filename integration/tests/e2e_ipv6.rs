//! The same over IPv6: capture, original destination, identity, delivery.

use serde_json::json;
use weft_integration::apps::{idle_app, python_app};
use weft_integration::assert::{record, same_hop, text};
use weft_integration::mesh::with_mesh;

#[test]
fn an_ipv6_connection_is_captured_and_secured_like_any_other() -> anyhow::Result<()> {
    let server = python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}], replicas: 2")?;
    with_mesh(&format!("ipv6: true\napps:\n{server}{}", idle_app("client")), async |mesh| {
        let address = mesh.instance("server-1")?.address6.ok_or_else(|| anyhow::anyhow!("no IPv6 address"))?;
        let url = format!("http://[{address}]:8080/echo");
        let said = mesh.stdout("client-0", &["curl", "-sS", "--fail", "--max-time", "20", &url]).await?;
        let seen: serde_json::Value = serde_json::from_str(&said)?;
        anyhow::ensure!(seen["pod"] == json!("server-1"), "exactly the workload that was called: {said}");
        anyhow::ensure!(seen["peer"] == json!("::6"), "delivered from the address of deliveries: {said}");
        let outbound = record(mesh, "client-0", &[("direction", json!("outbound")), ("path", json!("/echo"))]).await?;
        anyhow::ensure!(text(&outbound, "upstream_address")?.starts_with(&format!("[{address}]")), "{outbound}");
        let inbound = record(mesh, "server-1", &[("direction", json!("inbound")), ("path", json!("/echo"))]).await?;
        same_hop(&outbound, &inbound, ("client", "server"))?;
        // Its own address, over the same family: with inbound policy, so there is a record of both doors.
        let own =
            mesh.stdout("server-1", &["curl", "-sS", "--fail", "--max-time", "20", &format!("{url}?own")]).await?;
        anyhow::ensure!(own.contains("server-1"), "{own}");
        Ok(())
    })
}
