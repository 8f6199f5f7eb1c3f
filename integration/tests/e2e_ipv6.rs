//! The same over IPv6, and by either backend of redirection: capture, original destination, identity, delivery.

use serde_json::json;
use weft_integration::apps::python_app;
use weft_integration::assert::{record, same_hop, text};
use weft_integration::mesh::with_mesh;

#[test]
fn an_ipv6_connection_is_captured_and_secured_like_any_other() -> anyhow::Result<()> {
    captured_and_secured("iptables", "iptables-save -t nat | grep -q WEFT; ! nft list tables | grep -q weft")
}

#[test]
fn so_it_is_where_the_rules_are_by_nft() -> anyhow::Result<()> {
    captured_and_secured("nft", "nft list tables | grep -q weft; ! iptables-save -t nat | grep -q WEFT")
}

/// `proof`: a script that succeeds where the rules are by this backend.
fn captured_and_secured(backend: &str, proof: &str) -> anyhow::Result<()> {
    let init = format!("initArgs: [--backend={backend}]");
    let ports = format!("ports: [{{port: 8080, protocol: http}}], replicas: 2, {init}");
    let server = python_app("server", &["http_app.py", "8080"], &ports)?;
    let client = format!("- {{name: client, command: [sleep, infinity], {init}}}\n");
    with_mesh(&format!("ipv6: true\napps:\n{server}{client}"), async |mesh| {
        for instance in ["client-0", "server-1"] {
            mesh.as_root(instance, &["sh", "-ec", proof]).await?;
        }
        let address = mesh.instance("server-1")?.address6.ok_or_else(|| anyhow::anyhow!("no IPv6 address"))?;
        let url = format!("http://[{address}]:8080/echo");
        let said = mesh.stdout("client-0", &["curl", "-sS", "--fail", "--max-time", "20", &url]).await?;
        let seen: serde_json::Value = serde_json::from_str(&said)?;
        anyhow::ensure!(text(&seen, "pod")? == "server-1", "exactly the workload that was called: {said}");
        anyhow::ensure!(text(&seen, "peer")? == "::6", "delivered from the address of deliveries: {said}");
        let outbound = record(mesh, "client-0", &[("direction", json!("outbound")), ("path", json!("/echo"))]).await?;
        anyhow::ensure!(text(&outbound, "upstream_address")?.starts_with(&format!("[{address}]")), "{outbound}");
        let inbound = record(mesh, "server-1", &[("direction", json!("inbound")), ("path", json!("/echo"))]).await?;
        same_hop(&outbound, &inbound, ("client", "server"))?;
        // Its own address, over the same family: with inbound policy, so there is a record of both doors.
        let own =
            mesh.stdout("server-1", &["curl", "-sS", "--fail", "--max-time", "20", &format!("{url}?own")]).await?;
        anyhow::ensure!(own.contains("server-1"), "{own}");
        // And with an application that speaks IPv4.
        let by_name = ["curl", "-4sS", "--fail", "--max-time", "20", "http://server:8080/echo4"];
        let said = mesh.stdout("client-0", &by_name).await?;
        let seen: serde_json::Value = serde_json::from_str(&said)?;
        let answered_by = text(&seen, "pod")?;
        let outbound = record(mesh, "client-0", &[("path", json!("/echo4"))]).await?;
        let inbound = record(mesh, answered_by, &[("path", json!("/echo4"))]).await?;
        same_hop(&outbound, &inbound, ("client", "server"))?;
        Ok(())
    })
}

/// Goal: an instance is called where its application listens, also in a mesh of both families.
#[test]
fn an_application_that_listens_on_ipv4_only_is_called_there() -> anyhow::Result<()> {
    let listen = "[python3, -m, http.server, '8080', --bind, 0.0.0.0]";
    let server = format!("- {{name: server, command: {listen}, ports: [{{port: 8080, protocol: http}}]}}\n");
    let client = "- {name: client, command: [sleep, infinity]}\n";
    with_mesh(&format!("ipv6: true\napps:\n{server}{client}"), async |mesh| {
        let expected = format!("{}:8080", mesh.instance("server-0")?.address);
        // There is no such page, which is an answer, too. Enough for a second endpoint to get some.
        for n in 0..8 {
            let url = format!("http://server:8080/none{n}");
            mesh.stdout("client-0", &["curl", "-sS", "--max-time", "20", &url]).await?;
            let outbound = record(mesh, "client-0", &[("path", json!(format!("/none{n}")))]).await?;
            anyhow::ensure!(text(&outbound, "upstream_address")? == expected, "{outbound}");
            anyhow::ensure!((&outbound["status"], &outbound["attempts"]) == (&json!(404), &json!(1)), "{outbound}");
        }
        Ok(())
    })
}
