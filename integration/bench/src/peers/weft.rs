//! Weft in static mode, everything on as by default: status port, metrics, admin socket, access records.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use weft_cli::binaries::Binaries;

use super::{Post, Side};
use crate::job::{App, SERVER_ID};

pub(super) fn program() -> anyhow::Result<PathBuf> {
    Binaries::locate()?.find("weft-proxy")
}

pub(super) fn command(post: &Post<'_>) -> anyhow::Result<Command> {
    let setup = post.write("yaml", &yaml(post)?)?;
    let mut command = Command::new(program()?);
    command.args(["run", "--workers", &post.job.workers.to_string(), "--status-listen", "127.0.0.1:0", "--static"]);
    command.arg(setup);
    command.arg("--admin-socket").arg(post.file("sock")).arg("--access-log");
    command.arg(if post.log { post.file("access") } else { "off".into() });
    Ok(command)
}

fn yaml(post: &Post<'_>) -> anyhow::Result<String> {
    let file = |name: &str| post.identity(name);
    let (app, listen) = (protocol(post.job.app), post.listen);
    let side = if post.side == Side::Second { "server" } else { "client" };
    let mut yaml = format!(
        "mesh: {{ trustDomain: cluster.local }}\ntls: {{ certificateChainPath: '{}', privateKeyPath: '{}', \
         trustBundlePath: '{}' }}\nlisteners:\n",
        file(&format!("{side}.pem")),
        file(&format!("{side}.key")),
        file("roots.pem"),
    );
    let Side::First { secured } = post.side else {
        let mode = if post.job.plaintext { "PERMISSIVE" } else { "STRICT" };
        writeln!(
            yaml,
            "  - {{ name: bench, address: '{listen}', inbound: {{ address: '{}', appProtocol: '{app}', \
             mode: INBOUND_MODE_{mode} }} }}",
            post.target
        )?;
        return Ok(yaml);
    };
    let role = if secured { "outbound" } else { "reverseProxy" };
    let reference = "{ namespace: default, name: bench-0, port: 80 }";
    writeln!(yaml, "  - {{ name: bench, address: '{listen}', {role}: {reference} }}\nservices:")?;
    for index in 0..post.job.services {
        let ports = format!("[{{ port: 80, name: web, appProtocol: '{app}' }}]");
        writeln!(yaml, "  - {{ namespace: default, name: bench-{index}, ports: {ports} }}")?;
    }
    yaml.push_str("endpoints:\n");
    let identity = if secured { format!("spiffeId: '{SERVER_ID}', ") } else { String::new() };
    for service in 0..post.job.services {
        for (index, address) in post.job.endpoint_addresses(post.target).enumerate() {
            let weight = if post.job.favoured && index == 0 { "weight: 1000000, " } else { "" };
            writeln!(
                yaml,
                "  - {{ namespace: default, service: bench-{service}, id: bench-{service}-{index}, address: '{}', \
                 {weight}{identity}ports: [{{ servicePort: 80, targetPort: {}, captured: {secured} }}] }}",
                address.ip(),
                address.port(),
            )?;
        }
    }
    Ok(yaml)
}

const fn protocol(app: App) -> &'static str {
    match app {
        App::Http1 => "http",
        App::H2 | App::Grpc => "kubernetes.io/h2c",
        App::Tcp => "tcp",
    }
}
