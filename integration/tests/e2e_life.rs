//! Instances come and go, and so does the control plane.

use std::time::{Duration, Instant};

use serde_json::json;
use weft_cli::client::Clients;
use weft_integration::apps::{idle_app, python_app};
use weft_integration::assert::wait_for;
use weft_integration::mesh::{TestMesh, with_mesh};
use weft_proto::v1::{ApplyRequest, UserResource};

fn mesh() -> anyhow::Result<String> {
    let server = python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}], replicas: 2")?;
    Ok(format!("apps:\n{server}{}", idle_app("client")))
}

async fn endpoints(mesh: &TestMesh) -> Result<u32, String> {
    let status = mesh.mesh.status().await.map_err(|error| format!("{error:#}"))?;
    let service = status.services.iter().find(|service| service.name == "server");
    service.map(|service| service.endpoints).ok_or_else(|| "no service".to_owned())
}

async fn call(mesh: &TestMesh) -> anyhow::Result<()> {
    let curl = ["curl", "-sS", "--fail", "--max-time", "10", "http://server:8080/"];
    mesh.stdout("client-0", &curl).await.map(drop)
}

#[test]
fn a_killed_sidecar_is_forgotten_within_15_seconds() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        // The time after the start in which the control plane waits for everybody must not be what is measured.
        let up = Instant::now();
        while up.elapsed() < Duration::from_secs(20) {
            call(mesh).await?;
        }
        let killed = Instant::now();
        let sidecar = mesh.mesh.sidecar_process("server-1").ok_or_else(|| anyhow::anyhow!("no sidecar"))?;
        sidecar.signal(nix::sys::signal::Signal::SIGKILL);
        wait_for("one endpoint", Duration::from_secs(20), || async {
            match endpoints(mesh).await? {
                1 => Ok(()),
                other => Err(format!("{other} endpoints")),
            }
        })
        .await?;
        anyhow::ensure!(killed.elapsed() <= Duration::from_secs(15), "only after {:?}", killed.elapsed());
        for _ in 0..20 {
            call(mesh).await?;
        }
        Ok(())
    })
}

#[test]
fn names_follow_services_within_a_second() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        let resource = UserResource {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            namespace: "shop".to_owned(),
            name: "alias".to_owned(),
            spec_json: json!({"selector": {"service": "server"}, "ports": [{"port": 80, "targetPort": 8080}]})
                .to_string(),
            ..UserResource::default()
        };
        let mut clients = Clients::connect(&mesh.mesh.names.socket()).await?;
        clients.config.apply(ApplyRequest { resource: Some(resource) }).await?;
        let hosts = mesh.mesh.hosts_file();
        wait_for("the new name", Duration::from_secs(1), || async {
            let text = std::fs::read_to_string(&hosts).map_err(|error| error.to_string())?;
            if text.contains("alias.shop.svc.cluster.local") { Ok(()) } else { Err(text) }
        })
        .await?;
        let seen = mesh.stdout("client-0", &["cat", "/etc/hosts"]).await?;
        anyhow::ensure!(seen.contains("alias.shop"), "applications see the same file: {seen}");
        Ok(())
    })
}

#[test]
fn traffic_survives_a_control_plane_that_is_away_beyond_the_lease() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        call(mesh).await?;
        mesh.mesh.kill_control_plane().await;
        let away = Instant::now();
        while away.elapsed() < Duration::from_secs(60) {
            call(mesh).await?;
        }
        mesh.mesh.start_control_plane().await?;
        let back = Instant::now();
        while back.elapsed() < Duration::from_secs(15) {
            call(mesh).await?;
            let seen = endpoints(mesh).await.map_err(anyhow::Error::msg)?;
            anyhow::ensure!(seen == 2, "{seen} of 2 endpoints {:?} after the restart", back.elapsed());
        }
        Ok(())
    })
}
