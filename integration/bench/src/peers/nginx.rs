//! nginx.

use std::fmt::Write as _;
use std::process::Command;

use super::{Post, Side};
use crate::job::{App, SERVER_NAME};

/// Where Debian puts what is not compiled in.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) fn command(post: &Post<'_>) -> anyhow::Result<Command> {
    let setup = post.write("conf", &setup(post)?)?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg(post.file("error")).arg("-c").arg(setup);
    Ok(command)
}

fn setup(post: &Post<'_>) -> anyhow::Result<String> {
    let tcp = post.job.app == App::Tcp;
    let directory = post.site.directory.display();
    let mut text = String::new();
    if tcp {
        writeln!(text, "load_module {STREAM_MODULE};")?;
    }
    // The worker must reach the files of whoever runs this.
    write!(
        text,
        "user root;\ndaemon off;\nworker_processes {};\npid {};\nerror_log {} warn;\n\
         events {{ worker_connections {}; }}\n",
        post.job.workers,
        post.file("pid").display(),
        post.file("error").display(),
        post.job.connections * 2 + 64,
    )?;
    text.push_str(if tcp { "stream {\n" } else { "http {\n" });
    if !tcp {
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            writeln!(text, "  {kind}_temp_path {directory}/{}-{kind};", post.name)?;
        }
        // Connections last as with the others.
        text.push_str("  keepalive_requests 1000000000;\n  keepalive_timeout 3600s;\n");
    }
    match (post.log, tcp) {
        (true, false) => writeln!(text, "  access_log {};", post.file("access").display())?,
        (true, true) => {
            text.push_str("  log_format plain '$remote_addr $time_iso8601 $status $bytes_sent $bytes_received';\n");
            writeln!(text, "  access_log {} plain;", post.file("access").display())?;
        }
        (false, _) => text.push_str("  access_log off;\n"),
    }
    upstreams(post, &mut text)?;
    server(post, &mut text)?;
    text.push_str("}\n");
    Ok(text)
}

fn upstreams(post: &Post<'_>, text: &mut String) -> anyhow::Result<()> {
    for service in 0..post.job.services {
        writeln!(text, "  upstream back-{service} {{")?;
        for address in post.job.endpoint_addresses(post.target) {
            writeln!(text, "    server {address};")?;
        }
        if post.job.app != App::Tcp {
            text.push_str("    keepalive 256;\n    keepalive_requests 1000000000;\n");
        }
        text.push_str("  }\n");
    }
    Ok(())
}

fn server(post: &Post<'_>, text: &mut String) -> anyhow::Result<()> {
    let (roots, file) = (post.identity("roots.pem"), |name: &str| post.identity(name));
    let secured = post.side == (Side::First { secured: true });
    let mut listen = String::new();
    if post.side == Side::Second {
        listen.push_str(" ssl");
    }
    if post.job.app == App::Grpc {
        listen.push_str(" http2");
    }
    writeln!(text, "  server {{\n    listen {}{listen};", post.listen)?;
    if post.side == Side::Second {
        write!(
            text,
            "    ssl_certificate {};\n    ssl_certificate_key {};\n    ssl_client_certificate {roots};\n    \
             ssl_verify_client on;\n    ssl_protocols TLSv1.3;\n",
            file("server.pem"),
            file("server.key"),
        )?;
    }
    let prefix = if post.job.app == App::Grpc { "grpc" } else { "proxy" };
    if secured {
        if post.job.app == App::Tcp {
            text.push_str("    proxy_ssl on;\n");
        }
        write!(
            text,
            "    {prefix}_ssl_certificate {};\n    {prefix}_ssl_certificate_key {};\n    \
             {prefix}_ssl_trusted_certificate {roots};\n    {prefix}_ssl_verify on;\n    \
             {prefix}_ssl_name {SERVER_NAME};\n    {prefix}_ssl_protocols TLSv1.3;\n",
            file("client.pem"),
            file("client.key"),
        )?;
    }
    let tls = if secured { "s" } else { "" };
    match post.job.app {
        // What the server says after the client's end is of the exchange, too.
        App::Tcp => text.push_str("    proxy_pass back-0;\n    proxy_half_close on;\n"),
        App::Grpc => writeln!(text, "    location / {{ grpc_pass grpc{tls}://back-0; }}")?,
        App::Http1 | App::H2 => write!(
            text,
            "    location / {{\n      proxy_pass http{tls}://back-0;\n      proxy_http_version 1.1;\n      \
             proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n    }}\n"
        )?,
    }
    text.push_str("  }\n");
    Ok(())
}
