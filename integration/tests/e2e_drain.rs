//! A stopping instance loses nothing (P5, D3): others learn of it first, what is under way is answered.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::wait_for;
use weft_integration::mesh::with_mesh;

#[test]
fn continuous_load_through_a_drain_sees_nothing() -> anyhow::Result<()> {
    let server = python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}], replicas: 2")?;
    with_mesh(&format!("apps:\n{server}{}", idle_app("client")), async |mesh| {
        let (python, load) = (python()?.display().to_string(), script("load.py")?.display().to_string());
        let client = mesh.instance("client-0")?.clone();
        let loading = mesh.mesh.command(&client, &[&python, &load, "http://server:8080/echo", "14", "8"]).output();
        let slow = ["curl", "-sS", "--max-time", "20", "-w", "%{http_code}", "http://server:8080/slow/4000"];
        let slow = mesh.mesh.command(&client, &slow).output();
        let (loading, slow) = (tokio::spawn(loading), tokio::spawn(slow));
        wait_for("load on both", Duration::from_secs(10), || async {
            let both = ["server-0", "server-1"].iter().all(|name| mesh.records(name).is_ok_and(|all| all.len() > 20));
            if both { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await?;
        let sidecar = mesh.mesh.sidecar_process("server-1").ok_or_else(|| anyhow::anyhow!("no sidecar"))?;
        sidecar.signal(Signal::SIGTERM);
        let status = tokio::time::timeout(Duration::from_secs(30), sidecar.wait()).await??;
        anyhow::ensure!(status.success(), "the sidecar ended with {status}");
        let output = loading.await??;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        anyhow::ensure!(said["failed"] == 0 && said["sent"].as_u64() > Some(1000), "{said}");
        let slow = String::from_utf8(slow.await??.stdout)?;
        anyhow::ensure!(slow == "slow200", "the request in flight: {slow}");
        Ok(())
    })
}
