//! Envoy: router, retries and outlier detection, as a mesh sets it up; none of any mesh's own filters.

use std::process::Command;

use serde_json::{Value, json};

use super::{Post, Side};
use crate::job::{App, CLIENT_ID, SERVER_ID, SERVER_NAME};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) fn command(post: &Post<'_>) -> anyhow::Result<Command> {
    let setup = post.write("json", &setup(post).to_string())?;
    let mut command = Command::new("envoy");
    let workers = post.job.workers.to_string();
    command.args(["--concurrency", &workers, "--disable-hot-restart", "--log-level", "warning", "-c"]).arg(setup);
    Ok(command)
}

fn setup(post: &Post<'_>) -> Value {
    let clusters: Vec<Value> = (0..post.job.services).map(|service| cluster(post, service)).collect();
    let mut chain = json!({ "filters": [if post.job.app == App::Tcp { tcp(post) } else { http(post) }] });
    if post.side == Side::Second {
        set(&mut chain, "transport_socket", transport(post, "DownstreamTlsContext", "server", CLIENT_ID));
    }
    json!({ "static_resources": {
        "listeners": [{ "name": "front", "address": address(post.listen), "filter_chains": [chain] }],
        "clusters": clusters,
    } })
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn address(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn http(post: &Post<'_>) -> Value {
    let retries = json!({ "retry_on": "5xx,reset,connect-failure,refused-stream", "num_retries": 2 });
    let route = json!({ "cluster": "back-0", "timeout": "300s", "retry_policy": retries });
    let hosts =
        json!([{ "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": route }] }]);
    let router = json!({ "@type": format!("{TYPES}.filters.http.router.v3.Router") });
    json!({ "name": "http", "typed_config": {
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front",
        "codec_type": "AUTO",
        "access_log": access_log(post),
        "route_config": { "name": "all", "virtual_hosts": hosts },
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": router }],
    } })
}

fn tcp(post: &Post<'_>) -> Value {
    json!({ "name": "tcp", "typed_config": {
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "front",
        "access_log": access_log(post),
        "cluster": "back-0",
    } })
}

fn access_log(post: &Post<'_>) -> Value {
    if !post.log {
        return json!([]);
    }
    json!([{ "name": "file", "typed_config": {
        "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
        "path": post.file("access"),
    } }])
}

fn cluster(post: &Post<'_>, service: usize) -> Value {
    let name = format!("back-{service}");
    let endpoints: Vec<Value> = post
        .job
        .endpoint_addresses(post.target)
        .map(|one| json!({ "endpoint": { "address": address(one) } }))
        .collect();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "outlier_detection": {},
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
    });
    let secured = post.side == (Side::First { secured: true });
    if secured {
        set(&mut cluster, "transport_socket", transport(post, "UpstreamTlsContext", "client", SERVER_ID));
    }
    let version = match post.job.app {
        App::Tcp => return cluster,
        App::H2 | App::Grpc => "http2_protocol_options",
        App::Http1 if post.raised && secured => "http2_protocol_options",
        App::Http1 => "http_protocol_options",
    };
    let options = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": { version: {} },
    } });
    set(&mut cluster, "typed_extension_protocol_options", options);
    cluster
}

/// Mutual TLS as `name`, with a peer that is `peer`.
fn transport(post: &Post<'_>, context: &str, name: &str, peer: &str) -> Value {
    let file = |ending: &str| json!({ "filename": post.identity(&format!("{name}.{ending}")) });
    let alpn = match (post.job.app, post.raised) {
        (App::Tcp, _) => json!([]),
        (App::H2 | App::Grpc, _) | (App::Http1, true) => json!(["h2"]),
        (App::Http1, false) => json!(["http/1.1"]),
    };
    let mut config = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.{context}"),
        "common_tls_context": {
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "alpn_protocols": alpn,
            "tls_certificates": [{ "certificate_chain": file("pem"), "private_key": file("key") }],
            "validation_context": {
                "trusted_ca": { "filename": post.identity("roots.pem") },
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer } }],
            },
        },
    });
    match context {
        "UpstreamTlsContext" => set(&mut config, "sni", json!(SERVER_NAME)),
        _ => set(&mut config, "require_client_certificate", json!(true)),
    }
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": config })
}
