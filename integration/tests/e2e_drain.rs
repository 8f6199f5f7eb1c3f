//! A stopping instance loses nothing (P5, D3): others learn of it first, what is under way is answered.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::wait_for;
use weft_integration::mesh::{TestMesh, with_mesh};

const DEADLINE: Duration = Duration::from_secs(30);

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

/// A mesh with gateways of these names, all at one address of this machine, and the URL of that address.
fn gateways(names: &[&str]) -> anyhow::Result<(String, String)> {
    let server = python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}], replicas: 2")?;
    let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let doors = names.iter().map(|name| format!("- {{name: {name}, listen: '{listen}', service: default/server}}\n"));
    let yaml = format!("gateways:\n{}apps:\n{server}", doors.collect::<String>());
    Ok((yaml, format!("http://{listen}/echo")))
}

/// Ends the gateway at the first place by SIGTERM, under load from this machine; what the load says.
async fn loaded_drain(mesh: &mut TestMesh, arguments: &[&str], loaded: &[&str]) -> anyhow::Result<Value> {
    let mut load = Command::new(python()?);
    load.arg(script("load.py")?).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let loading = load.spawn()?;
    wait_for("load on every gateway", DEADLINE, || async {
        let all = loaded.iter().all(|name| mesh.records(name).is_ok_and(|records| records.len() > 100));
        if all { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await?;
    let gateway = mesh.mesh.gateway_process(0).ok_or_else(|| anyhow::anyhow!("no gateway"))?;
    gateway.signal(Signal::SIGTERM);
    let status = tokio::time::timeout(DEADLINE, gateway.wait()).await??;
    anyhow::ensure!(status.success(), "the gateway ended with {status}");
    let output = tokio::time::timeout(DEADLINE, loading.wait_with_output()).await??;
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn a_gateway_hands_over_to_another_at_its_address() -> anyhow::Result<()> {
    let (yaml, url) = gateways(&["gateway", "second"])?;
    with_mesh(&yaml, async |mesh| {
        let said = loaded_drain(mesh, &[&url, "12", "12"], &["gateway", "second"]).await?;
        anyhow::ensure!(said["failed"] == 0 && said["sent"].as_u64() > Some(1000), "{said}");
        Ok(())
    })
}

#[test]
fn the_last_gateway_answers_all_it_has_let_in() -> anyhow::Result<()> {
    let (yaml, url) = gateways(&["gateway"])?;
    with_mesh(&yaml, async |mesh| {
        let said = loaded_drain(mesh, &[&url, "25", "12", "--until-refused"], &["gateway"]).await?;
        anyhow::ensure!(said["failed"] == 0 && said["refused"] == 12, "every client was refused in the end: {said}");
        anyhow::ensure!(said["sent"].as_u64() > Some(500), "{said}");
        Ok(())
    })
}
