//! New configuration takes effect at once and cuts no connection (P5).

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;
use weft_cli::client::Clients;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::{record, wait_for};
use weft_integration::mesh::{TestMesh, with_mesh};
use weft_proto::v1::{ApplyRequest, UserResource};

const DEADLINE: Duration = Duration::from_secs(20);
/// One chunk every 50 ms: far longer than all changes take.
const CHUNKS: usize = 200;

/// A program in the client's namespace with which the test speaks line by line.
struct Talk {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Talk {
    fn start(mesh: &TestMesh, command: &[&str]) -> anyhow::Result<Self> {
        let mut command = mesh.mesh.command(mesh.instance("client-0")?, command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no stdin")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Self { child, input, lines })
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        timeout(DEADLINE, self.lines.next_line()).await.context("nothing comes")??.context("it has ended")
    }

    async fn echoes(&mut self, text: &str) -> anyhow::Result<()> {
        self.input.write_all(format!("{text}\n").as_bytes()).await?;
        let said = self.line().await?;
        anyhow::ensure!(said == text, "{said} instead of {text}");
        Ok(())
    }
}

/// Declares the service anew: who serves it, and on which ports besides its own.
async fn declare(mesh: &TestMesh, name: &str, selector: Value, port: Value, more: &[Value]) -> anyhow::Result<()> {
    let ports: Vec<Value> = [port].iter().chain(more).cloned().collect();
    let resource = UserResource {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        spec_json: json!({"selector": selector, "ports": ports}).to_string(),
        ..UserResource::default()
    };
    let mut clients = Clients::connect(&mesh.mesh.names.socket()).await?;
    clients.config.apply(ApplyRequest { resource: Some(resource) }).await?;
    Ok(())
}

async fn declare_both(mesh: &TestMesh, web: Value, bytes: Value, more: &[Value]) -> anyhow::Result<()> {
    let port = json!({"name": "web", "port": 8080, "targetPort": 8080, "appProtocol": "http"});
    declare(mesh, "web", web, port, more).await?;
    let port = json!({"name": "bytes", "port": 7000, "targetPort": 7000, "appProtocol": "tcp"});
    declare(mesh, "bytes", bytes, port, more).await
}

/// Waits until that many requests to `url`, one after the other, get to the instance.
async fn reaches(mesh: &TestMesh, url: &str, instance: &str, times: u32) -> anyhow::Result<()> {
    let pod = format!("\"pod\": \"{instance}\"");
    wait_for(&format!("{url} to reach {instance}"), DEADLINE, || async {
        for _ in 0..times {
            let curl = ["curl", "-sS", "--fail", "--max-time", "10", url];
            let said = mesh.stdout("client-0", &curl).await.map_err(|error| error.to_string())?;
            if !said.contains(&pod) {
                return Err(said);
            }
        }
        Ok(())
    })
    .await
}

#[test]
fn connections_go_on_across_changes_of_their_service() -> anyhow::Result<()> {
    let web = |name: &str| {
        let rest = "ports: [{port: 8080, protocol: http}], labels: {group: web}";
        python_app(name, &["http_app.py", "8080"], rest)
    };
    let bytes = |name: &str| {
        let rest = "ports: [{port: 7000, protocol: tcp}], labels: {group: bytes}";
        python_app(name, &["tcp_app.py", "echo", "7000"], rest)
    };
    let apps = [web("web")?, web("web2")?, bytes("bytes")?, bytes("bytes2")?, idle_app("client")].concat();
    with_mesh(&format!("apps:\n{apps}"), async |mesh| {
        let (python, script) = (python()?.display().to_string(), script("tcp_app.py")?.display().to_string());
        let mut chat = Talk::start(mesh, &[&python, &script, "chat", "bytes", "7000"])?;
        chat.echoes("at first").await?;
        let url = format!("http://web:8080/stream/{CHUNKS}/50");
        let mut stream = Talk::start(mesh, &["curl", "-sSN", "--fail", "--max-time", "60", &url])?;
        anyhow::ensure!(stream.line().await? == "chunk 0");

        declare_both(mesh, json!({"group": "web"}), json!({"group": "bytes"}), &[]).await?;
        reaches(mesh, "http://web:8080/echo", "web2-0", 1).await?;
        chat.echoes("an endpoint was added").await?;

        // Those that carry the connections are endpoints no more.
        declare_both(mesh, json!({"app": "web2"}), json!({"app": "bytes2"}), &[]).await?;
        reaches(mesh, "http://web:8080/echo", "web2-0", 10).await?;
        chat.echoes("the endpoint was removed").await?;

        let more = [json!({"name": "more", "port": 9090, "targetPort": 8080, "appProtocol": "http"})];
        declare_both(mesh, json!({"app": "web2"}), json!({"app": "bytes2"}), &more).await?;
        reaches(mesh, "http://web:9090/echo", "web2-0", 1).await?;
        chat.echoes("a port was added").await?;

        for expected in 1..CHUNKS {
            let said = stream.line().await?;
            anyhow::ensure!(said == format!("chunk {expected}"), "{said} instead of chunk {expected}");
        }
        let status = timeout(DEADLINE, stream.child.wait()).await??;
        anyhow::ensure!(status.success(), "the stream ended with {status}");
        chat.echoes("at last").await?;
        drop(chat.input);
        let status = timeout(DEADLINE, chat.child.wait()).await??;
        anyhow::ensure!(status.success(), "the long connection ended with {status}");
        let path = format!("/stream/{CHUNKS}/50");
        record(mesh, "web-0", &[("path", json!(path)), ("status", json!(200))]).await?;
        record(mesh, "bytes-0", &[("kind", json!("connection")), ("direction", json!("inbound"))]).await?;
        Ok(())
    })
}
