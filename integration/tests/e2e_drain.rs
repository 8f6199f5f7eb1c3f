//! A stopping instance loses nothing (P5, D3): others learn of it first, what is under way is answered.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::{record, wait_for};
use weft_integration::mesh::{TestMesh, with_mesh};

const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn continuous_load_through_a_drain_sees_nothing() -> anyhow::Result<()> {
    with_mesh(&format!("apps:\n{}{}", patient("server", 2)?, idle_app("client")), async |mesh| {
        let (python, load) = (python()?.display().to_string(), script("load.py")?.display().to_string());
        let load = [python.as_str(), &load, "http://server:8080/echo", "12", "8"];
        let mut loading = mesh.mesh.command(mesh.instance("client-0")?, &load);
        let loading = loading.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        wait_for("load on both", DEADLINE, || async {
            let both = ["server-0", "server-1"].iter().all(|name| mesh.records(name).is_ok_and(|all| all.len() > 20));
            if both { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await?;
        end(mesh, "server-1").await?;
        let said: Value = serde_json::from_str(&answer(loading).await?)?;
        anyhow::ensure!(said["failed"] == 0 && said["sent"].as_u64() > Some(1000), "{said}");
        Ok(())
    })
}

/// A server whose sidecar drains for as long as a slow request needs.
fn patient(name: &str, replicas: u32) -> anyhow::Result<String> {
    let rest =
        format!("ports: [{{port: 8080, protocol: http}}], replicas: {replicas}, proxyArgs: [--drain-timeout=20]");
    python_app(name, &["http_app.py", "8080"], &rest)
}

/// Waits until the sidecar has this many requests in flight.
async fn in_flight(mesh: &TestMesh, instance: &str, count: u32) -> anyhow::Result<()> {
    let expected = format!("weft_requests_in_flight {count}");
    wait_for(&expected, DEADLINE, || async {
        let curl = ["curl", "-sS", "--fail", "http://127.0.0.1:15020/metrics"];
        let text = mesh.stdout(instance, &curl).await.map_err(|error| error.to_string())?;
        if text.contains(&expected) { Ok(()) } else { Err(text) }
    })
    .await
}

/// Asks for an answer that takes some seconds, and waits until the request is at the sidecar of `instance`.
async fn slow(mesh: &TestMesh, instance: &str, milliseconds: u32) -> anyhow::Result<Child> {
    let url = format!("http://{}:8080/slow/{milliseconds}", mesh.instance(instance)?.address);
    let curl = ["curl", "-sS", "--max-time", "20", "-w", "%{http_code}", &url];
    let mut command = mesh.mesh.command(mesh.instance("client-0")?, &curl);
    let asking = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    in_flight(mesh, instance, 1).await?;
    Ok(asking)
}

/// Ends a sidecar in order.
async fn end(mesh: &mut TestMesh, instance: &str) -> anyhow::Result<()> {
    let sidecar = mesh.mesh.sidecar_process(instance).ok_or_else(|| anyhow::anyhow!("no sidecar"))?;
    sidecar.signal(Signal::SIGTERM);
    let status = tokio::time::timeout(DEADLINE, sidecar.wait()).await??;
    anyhow::ensure!(status.success(), "the sidecar ended with {status}");
    Ok(())
}

async fn answer(asking: Child) -> anyhow::Result<String> {
    let output = tokio::time::timeout(DEADLINE, asking.wait_with_output()).await??;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_slow_request_is_answered_by_the_replica_that_has_it() -> anyhow::Result<()> {
    with_mesh(&format!("apps:\n{}{}", patient("server", 2)?, idle_app("client")), async |mesh| {
        let asking = slow(mesh, "server-1", 5000).await?;
        end(mesh, "server-1").await?;
        let said = answer(asking).await?;
        anyhow::ensure!(said == "slow200", "{said}");
        let fields = [("path", json!("/slow/5000")), ("direction", json!("inbound")), ("status", json!(200))];
        record(mesh, "server-1", &fields).await?;
        let log = std::fs::read_to_string(mesh.log("server-1.proxy"))?;
        anyhow::ensure!(!log.contains("drain deadline"), "nothing was cut: {log}");
        Ok(())
    })
}

/// What is being answered may need others: calls of a draining instance's application succeed until its sidecar is gone.
#[test]
fn a_draining_instance_goes_on_calling_out() -> anyhow::Result<()> {
    let yaml = format!("apps:\n{}{}{}", patient("busy", 1)?, patient("server", 1)?, idle_app("client"));
    with_mesh(&yaml, async |mesh| {
        let asking = slow(mesh, "busy-0", 4000).await?;
        let (python, load) = (python()?.display().to_string(), script("load.py")?.display().to_string());
        let load = [python.as_str(), &load, "http://server:8080/echo", "25", "4", "--until-refused"];
        let mut loading = mesh.mesh.command(mesh.instance("busy-0")?, &load);
        let loading = loading.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        record(mesh, "busy-0", &[("path", json!("/echo"))]).await?;
        end(mesh, "busy-0").await?;
        let (answered, loaded) = (answer(asking).await?, answer(loading).await?);
        anyhow::ensure!(answered == "slow200", "{answered}");
        let loaded: Value = serde_json::from_str(&loaded)?;
        anyhow::ensure!(loaded["failed"] == 0 && loaded["refused"] == 4, "{loaded}");
        let lasted = loaded["refused_after"].as_f64().is_some_and(|seconds| seconds > 4.0);
        anyhow::ensure!(lasted, "new connections too, beyond the request of 4 s: {loaded}");
        let records = mesh.records("busy-0")?;
        let mut late = records.iter().skip_while(|one| one["path"] != "/slow/4000").skip(1);
        let called = late.any(|one| one["path"] == "/echo" && one["status"] == 200);
        anyhow::ensure!(called, "it called out after it had answered its last request");
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
