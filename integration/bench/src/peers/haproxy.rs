//! HAProxy.

use std::fmt::Write as _;
use std::process::Command;

use super::{Post, Side};
use crate::job::{App, SERVER_NAME};

pub(super) fn command(post: &Post<'_>) -> anyhow::Result<Command> {
    let setup = post.write("cfg", &setup(post)?)?;
    let mut command = Command::new("haproxy");
    // -db: in the foreground, as one process.
    command.arg("-db").arg("-f").arg(setup);
    Ok(command)
}

fn setup(post: &Post<'_>) -> anyhow::Result<String> {
    let job = post.job;
    let tcp = job.app == App::Tcp;
    let h2 = matches!(job.app, App::H2 | App::Grpc);
    let mut text = format!(
        "global\n  nbthread {}\n  maxconn {}\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
         ssl-default-server-options ssl-min-ver TLSv1.3\n",
        job.workers,
        job.connections + 1024
    );
    if post.log {
        text.push_str("  log stdout format raw local0\n");
    }
    let mode = if tcp { "tcp" } else { "http" };
    // Connections to servers are shared between those of clients, as the others do it.
    let reuse = if tcp { "" } else { "  http-reuse always\n" };
    let log = match (post.log, tcp) {
        (false, _) => "",
        (true, false) => "  log global\n  option httplog\n",
        (true, true) => "  log global\n  option tcplog\n",
    };
    write!(
        text,
        "defaults\n  mode {mode}\n{reuse}{log}  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  \
         retries 2\n"
    )?;
    let (roots, client, server) =
        (post.identity("roots.pem"), post.identity("client.both"), post.identity("server.both"));
    let bind = match (post.side, h2) {
        (Side::First { .. }, false) => String::new(),
        (Side::First { .. }, true) => " proto h2".to_owned(),
        (Side::Second, _) => {
            let alpn = if h2 { " alpn h2" } else { "" };
            format!(" ssl crt {server} ca-file {roots} verify required{alpn}")
        }
    };
    let to = match (post.side, h2) {
        (Side::First { secured: true }, _) => {
            let alpn = if h2 { " alpn h2" } else { "" };
            format!(" ssl crt {client} ca-file {roots} verify required verifyhost {SERVER_NAME}{alpn}")
        }
        (_, true) => " proto h2".to_owned(),
        (_, false) => String::new(),
    };
    write!(text, "frontend front\n  bind {}{bind}\n  default_backend back-0\n", post.listen)?;
    for service in 0..job.services {
        writeln!(text, "backend back-{service}")?;
        for (index, address) in job.endpoint_addresses(post.target).enumerate() {
            writeln!(text, "  server s{index} {address}{to}")?;
        }
    }
    Ok(text)
}
