//! Bytes that are not HTTP.

use serde_json::json;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::{record, same_hop};
use weft_integration::mesh::with_mesh;

#[test]
fn redis_through_opaque_tcp() -> anyhow::Result<()> {
    let redis = "{command: [redis-server, --bind, 0.0.0.0, --protected-mode, 'no', --save, ''], ";
    let declared = format!("- {redis}name: declared, ports: [{{port: 6379, protocol: tcp}}]}}\n");
    let detected = format!("- {redis}name: detected, ports: [{{port: 6379}}]}}\n");
    with_mesh(&format!("apps:\n{declared}{detected}{}", idle_app("client")), async |mesh| {
        for host in ["declared", "detected"] {
            let value = "v".repeat(100_000);
            for (arguments, expected) in [
                (["SET", "key", value.as_str()].as_slice(), "OK"),
                (&["GET", "key"], value.as_str()),
                (&["INCR", "count"], "1"),
            ] {
                let command = [&["redis-cli", "-h", host], arguments].concat();
                let said = mesh.stdout("client-0", &command).await?;
                anyhow::ensure!(said.trim() == expected, "{host} {}: {said}", arguments[0]);
            }
            let server = format!("{host}-0");
            let outbound = [("direction", json!("outbound")), ("service", json!(format!("default/{host}")))];
            let client = record(mesh, "client-0", &outbound).await?;
            let inbound =
                record(mesh, &server, &[("direction", json!("inbound")), ("kind", json!("connection"))]).await?;
            same_hop(&client, &inbound, ("client", host))?;
        }
        Ok(())
    })
}

/// A server that speaks first needs no configuration, and its greeting comes within 50 ms of its direct time.
#[test]
fn server_speaks_first() -> anyhow::Result<()> {
    let server = python_app("mail", &["tcp_app.py", "greet", "2525"], "ports: [{port: 2525}]")?;
    let direct = python_app("direct", &["tcp_app.py", "greet", "2525"], "ports: [{port: 2525}], sidecar: false")?;
    let probe = "- {name: probe, command: [sleep, infinity], sidecar: false}\n";
    let (python, script) = (python()?.display().to_string(), script("tcp_app.py")?.display().to_string());
    with_mesh(&format!("apps:\n{server}{direct}{probe}{}", idle_app("client")), async |mesh| {
        let median = async |instance: &str, host: &str| {
            let said = mesh.stdout(instance, &[&python, &script, "greeted", host, "2525", "21"]).await?;
            anyhow::Ok(said.trim().parse::<f64>()?)
        };
        let (direct, meshed) = (median("probe-0", "direct").await?, median("client-0", "mail").await?);
        anyhow::ensure!(meshed - direct <= 50.0, "median {meshed} ms instead of {direct} ms");
        Ok(())
    })
}
