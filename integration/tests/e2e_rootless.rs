//! `weft dev` and `weft demo` as an ordinary user, without any help of root.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;
use weft_integration::assert::wait_for;
use weft_integration::unprivileged::Unprivileged;

const STRANGERS: &str = include_str!("../../deploy/examples/dev/strangers.yaml");
/// A place to try things from, whose children its shell forgets.
const SHELL: &str = "apps:
- {name: web, command: [weft-samples, store], ports: [{port: 6379}]}
- {name: shell, command: 'sleep 1000 & sleep 2000'}
";
/// Tries to give a socket the mark of the proxies.
const MARK: &str = "
import socket
try: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 0x2113); print('marked')
except PermissionError: print('refused')";
const DEADLINE: Duration = Duration::from_secs(30);
/// The demo measures for two minutes.
const DEMO_DEADLINE: Duration = Duration::from_secs(420);

fn run(scenario: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(scenario)
}

#[test]
fn programs_of_strangers_work_unchanged_and_nothing_stays() -> anyhow::Result<()> {
    run(async {
        let (user, mesh) = (Unprivileged::new(21_140)?, "strangers");
        let address = format!("127.0.0.1:{}", free_port()?);
        let yaml = format!("{STRANGERS}gateways: [{{listen: '{address}', service: default/node}}]\n");
        let mut up = user.up(mesh, &yaml).await?;
        let said = user.said()?;
        anyhow::ensure!(said.contains("no internet"), "{said}");

        let exec = async |command: &[&str]| {
            let all = [&["dev", "exec", "--mesh", mesh, "shell", "--"], command].concat();
            user.stdout("weft", &all).await
        };
        let get = async |url| exec(&["curl", "-sS", "--fail", "--max-time", "20", url]).await;
        let listing = get("http://web:8000/").await?;
        anyhow::ensure!(listing.contains("Directory listing"), "{listing}");
        let hello = get("http://node:3000/").await?;
        anyhow::ensure!(hello == "hello from node\n", "{hello}");
        let pong = exec(&["redis-cli", "-h", "redis", "PING"]).await?;
        anyhow::ensure!(pong.trim() == "PONG", "{pong}");
        anyhow::ensure!(exec(&["id", "-u"]).await?.trim() == "21140", "it is its user");
        // From this machine, by the listener that was opened before the namespaces.
        let hello = user.stdout("curl", &["-sS", "--fail", "--max-time", "20", &format!("http://{address}/")]).await?;
        anyhow::ensure!(hello == "hello from node\n", "{hello}");

        let table = user.stdout("weft", &["dev", "ps", "--mesh", mesh]).await?;
        anyhow::ensure!(table.lines().filter(|line| line.ends_with(" ready")).count() == 4, "{table}");
        captured(&user, mesh, "node-0", "spiffe://cluster.local/ns/default/sa/shell").await?;

        // The operators' socket is a file, and works from here.
        let socket = user.state(mesh).join("control.sock").display().to_string();
        let status = user.stdout("weft", &["status", "--socket", &socket]).await?;
        anyhow::ensure!(status.contains("5 proxies connected"), "{status}");

        user.stdout("weft", &["dev", "down", "--mesh", mesh]).await?;
        let ended = timeout(DEADLINE, up.wait()).await.context("weft dev up stays")??;
        anyhow::ensure!(ended.success(), "{ended}: {}", user.said()?);
        user.gone(mesh).await
    })
}

#[test]
fn an_application_cannot_pass_for_its_sidecar() -> anyhow::Result<()> {
    run(async {
        let (user, mesh) = (Unprivileged::new(21_141)?, "confined");
        let mut up = user.up(mesh, SHELL).await?;
        let supervisor = up.id().context("weft dev up has ended")?.to_string();
        let exec = async |command: &[&str]| {
            user.run("weft", &[&["dev", "exec", "--mesh", mesh, "shell", "--"], command].concat()).await
        };
        // The attempt is a good one: whoever holds the namespaces succeeds.
        let holder = ["--preserve-credentials", "--user", "--net", "--target", &supervisor, "python3", "-c", MARK];
        let held = user.stdout("nsenter", &holder).await?;
        anyhow::ensure!(held == "marked\n", "{held}");

        let python = user.home().join("set-user-id-python");
        std::fs::copy("/usr/bin/python3", &python)?;
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o4755))?;
        let python = python.display().to_string();
        let outside = user.stdout(&python, &["-c", "import os; print(os.geteuid())"]).await?;
        anyhow::ensure!(outside == "0\n", "set-user-ID programs do not work in {}", user.home().display());
        for attempt in [
            &["python3", "-c", MARK][..],
            &["sh", "-c", "exec python3 -c \"$0\"", MARK],
            &["unshare", "--user", "--map-root-user", "python3", "-c", MARK],
            &["unshare", "--user", "--map-root-user", "unshare", "--user", "--map-root-user", "python3", "-c", MARK],
            &[&python, "-c", MARK],
        ] {
            let tried = exec(attempt).await?;
            anyhow::ensure!(text(&tried) == "refused\n", "{attempt:?}: {tried:?}");
        }
        let status = text(&exec(&["cat", "/proc/self/status"]).await?);
        for line in ["NoNewPrivs:\t1", "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000"] {
            anyhow::ensure!(status.contains(line), "{line}: {status}");
        }
        for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000"] {
            anyhow::ensure!(status.contains(line), "{line}: {status}");
        }

        let sidecar = user.processes().into_iter().find(|(_, line)| line.contains("--instance-id=shell-0"));
        let sidecar = sidecar.context("no sidecar")?.0.to_string();
        let state = user.state(mesh).display().to_string();
        let secret = user.state(mesh).join("run/shell-0/join-token");
        anyhow::ensure!(secret.exists(), "{}", secret.display());
        for attempt in [
            &["iptables", "-t", "nat", "-F"][..],
            &["unshare", "--user", "--map-root-user", "iptables", "-t", "nat", "-F"],
            &["nsenter", "--net", "--target", &supervisor, "true"],
            &["nsenter", "--user", "--net", "--target", &supervisor, "true"],
            &["unshare", "--user", "--map-root-user", "umount", &state],
            &["cat", &format!("/proc/{sidecar}/environ")],
            &["head", "-c", "1", &format!("/proc/{sidecar}/mem")],
            &["readlink", &format!("/proc/{sidecar}/fd/0")],
            &["ls", &format!("/proc/{supervisor}/root/")],
            &["ls", &secret.display().to_string()],
        ] {
            let tried = exec(attempt).await?;
            anyhow::ensure!(!tried.status.success(), "{attempt:?} succeeds: {tried:?}");
        }
        // After all that, its connections are captured as before.
        let ping = "exec 3<>/dev/tcp/web/6379; printf 'PING\\r\\n' >&3; head -c 7 <&3";
        let pong = exec(&["bash", "-c", ping]).await?;
        anyhow::ensure!(text(&pong).starts_with("+PONG"), "{pong:?}");
        captured(&user, mesh, "web-0", "spiffe://cluster.local/ns/default/sa/shell").await?;

        signal("INT", &[&supervisor]).await?;
        timeout(DEADLINE, up.wait()).await.context("weft dev up stays")??;
        user.gone(mesh).await
    })
}

#[test]
fn nothing_stays_of_a_mesh_that_is_killed() -> anyhow::Result<()> {
    run(async {
        let (user, mesh) = (Unprivileged::new(21_142)?, "killed");
        let mut up = user.up(mesh, SHELL).await?;
        let supervisor = up.id().context("weft dev up has ended")?.to_string();
        signal("KILL", &[&supervisor]).await?;
        up.wait().await?;
        user.gone(mesh).await.context("after the supervisor was killed")?;

        // With the guard killed too, the shell's children are left, in namespaces that nothing names.
        let mut up = user.up(mesh, SHELL).await?;
        let supervisor = up.id().context("weft dev up has ended")?.to_string();
        let guard = user.processes().into_iter().find(|(_, line)| line.contains(" __guard "));
        let guard = guard.context("no guard")?.0.to_string();
        signal("KILL", &[&guard, &supervisor]).await?;
        up.wait().await?;
        wait_for("the children of the dead", DEADLINE, || async {
            let left = user.processes();
            let sleep = left.iter().filter(|(_, line)| line.starts_with("sleep ")).count();
            if sleep == left.len() && sleep > 0 { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await?;
        let told = user.run("weft", &["dev", "exec", "--mesh", mesh, "shell", "--", "true"]).await?;
        anyhow::ensure!(!told.status.success() && error(&told).contains("weft dev down"), "{told:?}");
        user.stdout("weft", &["dev", "down", "--mesh", mesh]).await?;
        user.gone(mesh).await.context("after down")
    })
}

#[test]
fn where_it_cannot_be_the_reason_and_the_remedy_are_told() -> anyhow::Result<()> {
    run(async {
        let user = Unprivileged::new(21_143)?;
        let file = user.home().join("mesh.yaml");
        std::fs::write(&file, SHELL)?;
        let up = format!("weft dev up {}", file.display());
        let check = async |before: &str, command: &str, expected: &[&str]| {
            let script = format!("{before}exec {command}");
            let told = user.run("unshare", &["--user", "--map-root-user", "sh", "-ec", &script]).await?;
            anyhow::ensure!(!told.status.success(), "{script}: succeeds");
            for part in expected {
                anyhow::ensure!(error(&told).contains(part), "{script}: {told:?}");
            }
            Ok(())
        };
        for kind in ["user", "mnt", "net"] {
            let setting = format!("user.max_{kind}_namespaces");
            let forbid = format!("echo 0 > /proc/sys/{}; ", setting.replace('.', "/"));
            check(&forbid, &up, &[&format!("sudo sysctl {setting}=15000"), "as root (sudo)"]).await?;
        }
        std::fs::write(&file, "apps: [{name: shell, command: [sleep, infinity], user: 1}]")?;
        check("", &up, &["another user", "sudo"]).await?;
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = held.local_addr()?.to_string();
        check("", &format!("weft demo --listen {address}"), &[&address, "in use"]).await
    })
}

#[test]
fn the_demo_keeps_its_promises() -> anyhow::Result<()> {
    run(async {
        let user = Unprivileged::new(21_144)?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let demo = user.command("weft", &["demo", "--check", "--listen", &listen]).output();
        let demo = timeout(DEMO_DEADLINE, demo).await.context("the demo does not end")??;
        anyhow::ensure!(demo.status.success(), "{}\n{}{}", demo.status, error(&demo), text(&demo));
        let summary: Value = serde_json::from_slice(&demo.stdout).context("no summary")?;
        anyhow::ensure!(summary.get("ok") == Some(&Value::Bool(true)), "{summary}");
        user.gone("demo").await
    })
}

/// Waits for a record of the proxy: somebody with this identity came to it.
async fn captured(user: &Unprivileged, mesh: &str, proxy: &str, peer: &str) -> anyhow::Result<()> {
    let path = user.logs(mesh).join(format!("{proxy}.access.jsonl"));
    wait_for(&format!("a record of {peer}"), DEADLINE, || async {
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut peers = records.filter_map(|record| Some(record.get("peer_id")?.as_str()?.to_owned()));
        peers.find(|id| id == peer).map(drop).ok_or(text)
    })
    .await
}

/// Nobody else takes it before the mesh does, unless by a rare chance.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

async fn signal(name: &str, pids: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-s", name]).args(pids).status().await?;
    anyhow::ensure!(status.success(), "kill: {status}");
    Ok(())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
