//! Names of the mesh where interception leads questions to the resolver: for programs that know nothing of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use weft_cli::binaries::Binaries;
use weft_integration::apps::python_app;
use weft_integration::assert::{record, same_hop, wait_for};
use weft_integration::mesh::{TestMesh, with_mesh};
use weft_integration::unprivileged::Unprivileged;

/// Longer than any of the waits takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives the command files of ours in place of the system's: no names by hand, and the name server of a network.
const WITH_FILES: &str =
    "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && shift 2 && exec \"$@\"";

/// A name server of the network, which knows nothing of the mesh.
const NAME_SERVER: &str = "- name: ns
  sidecar: false
  user: 0
  command: [dnsmasq, --keep-in-foreground, --conf-file=/dev/null, --no-hosts, --no-resolv, --pid-file, --user=root,
    --log-facility=-, --log-queries, --address=/plain.example/192.0.2.1]
";

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    /// The proxy reads them as another user.
    fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let files = Self { directory };
        files.write("hosts", "127.0.0.1 localhost\n")?;
        files.write("resolv.conf", "")?;
        Ok(files)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.path(name), text).with_context(|| name.to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn arguments(&self) -> String {
        let resolv_conf = self.path("resolv.conf");
        format!("proxyArgs: [--dns=15053, --dns-resolv-conf={}]", resolv_conf.display())
    }

    /// A command where the client is, which resolves names as on any machine.
    async fn run(&self, mesh: &TestMesh, command: &[&str]) -> anyhow::Result<String> {
        let text = |path: &Path| path.display().to_string();
        let (hosts, resolv_conf) = (text(&self.path("hosts")), text(&self.path("resolv.conf")));
        let before = ["unshare", "--mount", "--propagation", "private", "sh", "-c", WITH_FILES, "sh"];
        let all = [&before[..], &[hosts.as_str(), resolv_conf.as_str()], command].concat();
        mesh.as_root("client-0", &all).await
    }
}

async fn init(mesh: &TestMesh, more: &[&str]) -> anyhow::Result<String> {
    let proxy = Binaries::locate()?.find("weft-proxy")?.display().to_string();
    mesh.as_root("client-0", &[&[proxy.as_str(), "init"], more].concat()).await
}

#[test]
fn programs_find_services_by_name_and_what_they_send_is_mutual_tls() -> anyhow::Result<()> {
    let files = Files::new()?;
    let server =
        python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http, servicePort: 80}]")?;
    let client = format!("- {{name: client, command: [sleep, infinity], {}}}\n", files.arguments());
    with_mesh(&format!("apps:\n{server}{client}{NAME_SERVER}"), async |mesh| {
        let ns = mesh.instance("ns-0")?.address.to_string();
        files.write("resolv.conf", &format!("nameserver {ns}\n"))?;
        let said = init(mesh, &["--dns=15053", &format!("--dns-server={ns}")]).await?;
        anyhow::ensure!(said.contains(&format!("questions to name servers are redirected: {ns}\n")), "{said}");

        let get = ["curl", "-4sS", "--fail", "--max-time", "20", "-o", "/dev/null", "-w", "%{remote_ip}"];
        for (number, name) in
            ["server", "server.default", "server.default.svc", "server.default.svc.cluster.local"].iter().enumerate()
        {
            let url = format!("http://{name}/by-name-{number}");
            let reached = files.run(mesh, &[&get[..], &[url.as_str()]].concat()).await?;
            anyhow::ensure!(reached.starts_with("240."), "{name} is at {reached}, which is no virtual address");
            let path = json!(format!("/by-name-{number}"));
            let called =
                record(mesh, "client-0", &[("path", path.clone()), ("service", json!("default/server"))]).await?;
            same_hop(&called, &record(mesh, "server-0", &[("path", path)]).await?, ("client", "server"))?;
        }

        // Other names are the name server's. It is asked by the proxy, and never of the mesh's.
        wait_for("the proxy to read its file", PATIENCE, || async {
            let said = files.run(mesh, &["getent", "ahostsv4", "plain.example"]).await;
            let said = said.map_err(|error| format!("{error:#}"))?;
            if said.contains("192.0.2.1") { Ok(()) } else { Err(said) }
        })
        .await?;
        for (name, expected) in [("plain.example", "192.0.2.1"), ("server.default.svc.cluster.local", "240.")] {
            let said = files.run(mesh, &["dig", "+tcp", "+short", "+tries=1", &format!("@{ns}"), name]).await?;
            anyhow::ensure!(said.starts_with(expected), "{name} by TCP: {said}");
        }
        let asked = std::fs::read_to_string(mesh.log("ns-0"))?;
        anyhow::ensure!(asked.contains("plain.example") && !asked.contains("server.default"), "{asked}");
        let page = mesh.stdout("client-0", &["curl", "-sS", "--fail", "http://127.0.0.1:15020/metrics"]).await?;
        anyhow::ensure!(page.contains("weft_dns_queries_total{outcome=\"loop\"} 0\n"), "{page}");

        // It is the rules that do it.
        init(mesh, &[]).await?;
        let said = files.run(mesh, &["getent", "ahostsv4", "server.default"]).await;
        anyhow::ensure!(said.is_err(), "without redirection of questions: {said:?}");
        Ok(())
    })
}

/// Where the proxy has no user of its own, its questions are known by their mark. Nobody answers them here: if they came back
/// to the resolver, that would find the loop.
#[test]
fn a_proxy_that_is_known_by_its_mark_does_not_ask_itself() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (user, files) = (Unprivileged::new(21_180)?, Files::new()?);
        files.write("resolv.conf", "nameserver 127.0.0.1\n")?;
        let yaml = format!(
            "apps:\n- {{name: store, command: [weft-samples, store], ports: [{{port: 6379}}]}}
- {{name: client, command: [sleep, infinity], initArgs: [--dns=15053, --dns-server=127.0.0.1], {}}}\n",
            files.arguments()
        );
        let mut up = user.up("names", &yaml).await?;
        let exec = async |command: &[&str]| {
            user.stdout("weft", &[&["dev", "exec", "--mesh", "names", "client", "--"], command].concat()).await
        };
        let dig = async |name| exec(&["dig", "+tries=1", "+time=10", "@127.0.0.1", name]).await;
        let said = dig("store.default.svc.cluster.local").await?;
        anyhow::ensure!(said.contains("ANSWER: 1") && said.contains("240."), "{said}");
        let said = dig("www.plain.example").await?;
        anyhow::ensure!(said.contains("status: SERVFAIL"), "{said}");
        let page = exec(&["curl", "-sS", "--fail", "http://127.0.0.1:15020/metrics"]).await?;
        for line in ["{outcome=\"loop\"} 0\n", "{outcome=\"upstream_failed\"} 1\n"] {
            anyhow::ensure!(page.contains(line), "no {line} in {page}");
        }
        user.stdout("weft", &["dev", "down", "--mesh", "names"]).await?;
        let ended = tokio::time::timeout(PATIENCE, up.wait()).await.context("weft dev up stays")??;
        anyhow::ensure!(ended.success(), "{ended}: {}", user.said()?);
        user.gone("names").await
    })
}
