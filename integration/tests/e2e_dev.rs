//! `weft dev`: namespaces, names and users of applications, and that nothing stays behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use weft_cli::binaries::Binaries;
use weft_cli::dev::net::namespaces;
use weft_cli::dev::plan::Names;
use weft_cli::dev::state::{State, processes};
use weft_integration::assert::wait_for;
use weft_integration::mesh::with_mesh;

const PLAIN: &str = "apps:
- {name: web, command: [weft-samples, store], ports: [{port: 6379}], replicas: 2, sidecar: false}
- {name: shell, command: 'sleep 1000 & sleep 2000', sidecar: false, user: 2000, namespace: shop}
";
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn applications_have_a_network_names_and_a_user_of_their_own() -> anyhow::Result<()> {
    with_mesh(PLAIN, async |mesh| {
        let web = mesh.instance("web-1")?.address.to_string();
        let hosts = mesh.stdout("shell-0", &["cat", "/etc/hosts"]).await?;
        anyhow::ensure!(hosts.contains(&format!("{web} web web.default web.default.svc")), "{hosts}");
        anyhow::ensure!(mesh.stdout("shell-0", &["id", "-u"]).await?.trim() == "2000");
        let links = mesh.stdout("shell-0", &["ip", "-o", "link"]).await?;
        anyhow::ensure!(links.lines().count() == 2, "only lo and eth0: {links}");
        let routes = mesh.stdout("shell-0", &["ip", "route", "get", "240.240.0.1"]).await?;
        anyhow::ensure!(routes.contains("dev eth0"), "{routes}");
        let ping = "exec 3<>/dev/tcp/web/6379; printf 'PING\\r\\n' >&3; head -c 7 <&3";
        let pong = mesh.stdout("shell-0", &["bash", "-c", ping]).await?;
        anyhow::ensure!(pong.starts_with("+PONG"), "{pong}");
        // The machine's own file is untouched.
        anyhow::ensure!(!std::fs::read_to_string("/etc/hosts")?.contains(&web));
        Ok(())
    })
}

#[test]
fn captures_see_what_passes_a_link() -> anyhow::Result<()> {
    with_mesh(PLAIN, async |mesh| {
        let port = format!("p{}", mesh.instance("web-0")?.index);
        let address = mesh.instance("web-0")?.address;
        let marker = "a-marker-in-plaintext";
        for (sent, expected) in [(marker, true), ("something-else", false)] {
            let capture = mesh.capture("switch", &port).await?;
            let set = format!("exec 3<>/dev/tcp/{address}/6379; printf 'SET k {sent}\\r\\n' >&3; head -c 5 <&3");
            mesh.stdout("shell-0", &["bash", "-c", &set]).await?;
            let bytes = capture.finish().await?;
            let seen = bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
            anyhow::ensure!(seen == expected, "{sent}: {} bytes captured", bytes.len());
        }
        Ok(())
    })
}

#[test]
fn two_meshes_live_side_by_side() -> anyhow::Result<()> {
    let one = || {
        with_mesh(PLAIN, async |mesh| {
            let address = mesh.stdout("web-0", &["hostname", "-I"]).await?;
            anyhow::ensure!(address.trim() == mesh.instance("web-0")?.address.to_string(), "{address}");
            Ok(())
        })
    };
    let second = std::thread::spawn(one);
    one()?;
    second.join().map_err(|_| anyhow::anyhow!("the second one panicked"))?
}

#[test]
fn nothing_stays_behind() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for (number, end) in ["INT", "TERM", "KILL"].into_iter().enumerate() {
            let names = Names::new(&format!("t{}-end-{number}", std::process::id()));
            let mut supervisor = up(&names)?;
            ready(&names).await.context("up")?;
            signal(end, supervisor.id())?;
            supervisor.wait()?;
            gone(&names).await.with_context(|| format!("after SIG{end}"))?;
        }
        // Even when the guard is killed too, the next one cleans up first.
        let names = Names::new(&format!("t{}-twice", std::process::id()));
        let mut first = up(&names)?;
        ready(&names).await.context("up")?;
        signal("KILL", guard_of(&names, first.id())?)?;
        signal("KILL", first.id())?;
        first.wait()?;
        let mut second = up(&names)?;
        wait_for("the second one", DEADLINE, || async {
            let state = State::read(&names).map_err(|error| format!("{error:#}"))?;
            if u32::try_from(state.supervisor) == Ok(second.id()) { Ok(()) } else { Err("still the first".to_owned()) }
        })
        .await?;
        ready(&names).await.context("second up")?;
        signal("INT", second.id())?;
        second.wait()?;
        gone(&names).await
    })
}

fn weft() -> anyhow::Result<PathBuf> {
    Binaries::locate()?.find("weft")
}

fn up(names: &Names) -> anyhow::Result<Child> {
    let file = std::env::temp_dir().join(format!("{}.yaml", names.mesh));
    std::fs::write(&file, PLAIN)?;
    let mut command = Command::new(weft()?);
    command.args(["dev", "up", "--quiet", "--mesh", &names.mesh]).arg(&file).stdin(Stdio::null());
    Ok(command.spawn()?)
}

/// The shell of `shell-0` and its two children run; they are in the background, where only the namespace finds them.
async fn ready(names: &Names) -> anyhow::Result<()> {
    wait_for("three namespaces with five processes and more", DEADLINE, || async {
        let (spaces, processes) = (namespaces(names).len(), processes(names).len());
        if spaces == 4 && processes >= 5 { Ok(()) } else { Err(format!("{spaces} namespaces, {processes} processes")) }
    })
    .await
}

async fn gone(names: &Names) -> anyhow::Result<()> {
    wait_for("an empty machine", DEADLINE, || async {
        let link = Path::new("/sys/class/net").join(names.host_link());
        let left = (namespaces(names), processes(names).len(), link.exists(), State::read(names).is_ok());
        if left == (Vec::new(), 0, false, false) { Ok(()) } else { Err(format!("left: {left:?}")) }
    })
    .await?;
    std::fs::remove_dir_all(names.logs()).context("logs stay")?;
    std::fs::remove_file(names.lock_file()).context("the lock file stays")
}

fn guard_of(names: &Names, supervisor: u32) -> anyhow::Result<u32> {
    let wanted = format!("__guard\0{}\0{supervisor}\0", names.mesh);
    let entries = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&wanted)))
        .context("no guard runs")
}

fn signal(name: &str, pid: u32) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status()?;
    anyhow::ensure!(status.success(), "kill: {status}");
    Ok(())
}
