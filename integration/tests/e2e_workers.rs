//! A proxy of several worker threads is as right as one of one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft_integration::apps::{python, python_app, script};
use weft_integration::assert::{text, wait_for};
use weft_integration::mesh::{TestMesh, with_mesh};

const DEADLINE: Duration = Duration::from_secs(30);

/// CPU time of each worker thread of a process, by the thread's name, in clock ticks.
fn ticks(pid: u32) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).context("no name")?;
        if name.starts_with("worker-") {
            // User and system time.
            let times = rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
            found.insert(name.to_owned(), times.sum::<Result<_, _>>()?);
        }
    }
    Ok(found)
}

/// Each worker of the sidecar has done a fair part of the work.
fn all_worked(mesh: &mut TestMesh, instance: &str, workers: usize) -> anyhow::Result<()> {
    let sidecar = mesh.mesh.sidecar_process(instance).context("no sidecar")?;
    let ticks = ticks(sidecar.pid().context("it has ended")?)?;
    let total: u64 = ticks.values().sum();
    let fair = ticks.values().all(|&one| one * 10 >= total);
    anyhow::ensure!(ticks.len() == workers && total > 0 && fair, "{instance}: {ticks:?}");
    Ok(())
}

/// Steady load from the instance, half of it on new connections.
fn load(mesh: &TestMesh, from: &str, url: &str, seconds: &str) -> anyhow::Result<tokio::process::Command> {
    let (python, load) = (python()?.display().to_string(), script("load.py")?.display().to_string());
    Ok(mesh.mesh.command(mesh.instance(from)?, &[&python, &load, url, seconds, "24"]))
}

/// Request ids of the records of `/echo`, sorted; all must be of answered requests.
fn answered(mesh: &TestMesh, proxies: &[&str], direction: &str) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for proxy in proxies {
        for one in mesh.records(proxy)?.into_iter().filter(|one| one.get("path") == Some(&json!("/echo"))) {
            anyhow::ensure!(text(&one, "direction")? == direction, "{one}");
            anyhow::ensure!(text(&one, "tls_group")? == "X25519MLKEM768", "{one}");
            anyhow::ensure!(one.get("status") == Some(&json!(200)), "{one}");
            ids.push(text(&one, "request_id")?.to_owned());
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

#[test]
fn several_workers_share_the_load_and_lose_nothing() -> anyhow::Result<()> {
    let ports = "ports: [{port: 8080, protocol: http}], replicas: 2, proxyArgs: [--workers=3]";
    let server = python_app("server", &["http_app.py", "8080"], ports)?;
    let client = "- {name: client, command: [sleep, infinity], proxyArgs: [--workers=2]}\n";
    let probe = "- {name: probe, command: [sleep, infinity], sidecar: false}\n";
    with_mesh(&format!("apps:\n{server}{client}{probe}"), async |mesh| {
        // A client without sidecar makes a connection for each request: the kernel spreads them over the workers.
        for server in ["server-0", "server-1"] {
            let url = format!("http://{}:8080/size/1", mesh.instance(server)?.address);
            let said = load(mesh, "probe-0", &url, "2")?.output().await?;
            anyhow::ensure!(serde_json::from_slice::<Value>(&said.stdout)?["failed"] == 0, "{said:?}");
            all_worked(mesh, server, 3)?;
        }
        let loading = tokio::spawn(load(mesh, "client-0", "http://server:8080/echo", "10")?.output());
        wait_for("load on both", DEADLINE, || async {
            let busy = |name: &&str| answered(mesh, &[name], "inbound").is_ok_and(|all| all.len() > 500);
            if ["server-0", "server-1"].iter().all(busy) { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await?;
        let sidecar = mesh.mesh.sidecar_process("server-1").context("no sidecar")?;
        sidecar.signal(Signal::SIGTERM);
        let status = tokio::time::timeout(DEADLINE, sidecar.wait()).await??;
        anyhow::ensure!(status.success(), "the sidecar ended with {status}");
        let said: Value = serde_json::from_slice(&loading.await??.stdout)?;
        anyhow::ensure!(said["failed"] == 0, "{said}");
        all_worked(mesh, "client-0", 2)?;

        let sent = said["sent"].as_u64().and_then(|sent| usize::try_from(sent).ok()).context("no count")?;
        wait_for("a record of each request at both sides", DEADLINE, || async {
            let count = |proxies, direction| answered(mesh, proxies, direction).map_err(|error| error.to_string());
            let (out, inbound) = (count(&["client-0"], "outbound")?, count(&["server-0", "server-1"], "inbound")?);
            if out.len() == sent && out == inbound { Ok(()) } else { Err(format!("{}, {}", out.len(), inbound.len())) }
        })
        .await?;
        let mut ids = answered(mesh, &["client-0"], "outbound")?;
        ids.dedup();
        anyhow::ensure!(ids.len() == sent, "each request has an id of its own");
        Ok(())
    })
}
