//! The command line of `weft-proxy`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weft_core::identity::join_token::JoinToken;

use super::parse::{AppPort, ServiceTarget, label, service_target};
use crate::dns::DnsAddress;
use crate::intercept::{InitArgs, mark};

/// The sidecar and gateway of the Weft service mesh.
#[derive(Debug, Parser)]
#[command(name = "weft-proxy", version, about, long_about = None, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `weft-proxy` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry traffic.
    Run(Box<RunArgs>),
    /// Redirect the connections of this network namespace into the proxy; --remove undoes it.
    Init(Box<InitArgs>),
}

/// Which door the proxy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Beside one workload; traffic comes by interception.
    #[default]
    Sidecar,
    /// At the edge; traffic comes to its own listener.
    Gateway,
}

/// Flags of `weft-proxy run`. Each has an environment variable.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Beside a workload, or at the edge.
    #[arg(long, env = "WEFT_ROLE", value_enum, default_value_t, requires_if("gateway", "gateway_door"))]
    pub role: Role,

    /// Run without a control plane, from this YAML file (16 MiB and a million nodes at most).
    #[arg(long = "static", env = "WEFT_STATIC", value_name = "FILE", conflicts_with_all = ["control_plane", "join_token", "join_token_file", "instance_id", "state_dir"])]
    pub static_file: Option<PathBuf>,

    /// The control plane.
    #[arg(long, env = "WEFT_CONTROL_PLANE", value_name = "HOST:PORT", required_unless_present = "static_file")]
    pub control_plane: Option<String>,

    /// Proof for the first certificate, as `weft token create` prints it. Prefer the file: arguments are seen by others.
    #[arg(long, env = "WEFT_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub join_token: Option<JoinToken>,

    /// File that holds the join token.
    #[arg(long, env = "WEFT_JOIN_TOKEN_FILE", value_name = "FILE", conflicts_with = "join_token")]
    pub join_token_file: Option<PathBuf>,

    /// Directory of this proxy alone that keeps its identity, key included, over restarts: with one there, no join token is
    /// needed (one other than that it was obtained by is tried once before it). Default: memory only.
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "PATH")]
    pub state_dir: Option<PathBuf>,

    /// Stable name of this instance, a DNS label. Default: the host name.
    #[arg(long, env = "WEFT_INSTANCE_ID", value_name = "NAME")]
    pub instance_id: Option<String>,

    /// Address of this workload, as others reach it; repeat for the second family.
    #[arg(long, env = "WEFT_ADDRESS", value_name = "IP", value_delimiter = ',')]
    pub address: Vec<IpAddr>,

    /// A port the application listens on; PROTOCOL is http, kubernetes.io/h2c or tcp, and is detected where absent.
    #[arg(long, env = "WEFT_APP_PORT", value_name = "PORT[=PROTOCOL]", value_delimiter = ',')]
    pub app_port: Vec<AppPort>,

    /// Label of this instance; services select by labels.
    #[arg(long, env = "WEFT_LABEL", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub label: Vec<(String, String)>,

    /// "region/zone" of this instance.
    #[arg(long, env = "WEFT_LOCALITY", value_name = "REGION/ZONE", default_value = "")]
    pub locality: String,

    /// Whether plaintext from other workloads is accepted.
    #[arg(long, env = "WEFT_INBOUND_MODE", value_enum, default_value_t)]
    pub inbound_mode: InboundModeArg,

    /// Where captured outbound connections arrive.
    #[arg(long, env = "WEFT_OUTBOUND_LISTEN", value_name = "IP:PORT", default_value = "[::]:15001")]
    pub outbound_listen: SocketAddr,

    /// Where captured inbound connections arrive.
    #[arg(long, env = "WEFT_INBOUND_LISTEN", value_name = "IP:PORT", default_value = "[::]:15006")]
    pub inbound_listen: SocketAddr,

    /// GET /live, /ready, /metrics, in the clear.
    #[arg(long, env = "WEFT_STATUS_LISTEN", value_name = "IP:PORT", default_value = "[::]:15020")]
    pub status_listen: SocketAddr,

    /// The operator's socket (mode 0600).
    #[arg(long, env = "WEFT_ADMIN_SOCKET", value_name = "PATH", default_value = "/run/weft/proxy.sock")]
    pub admin_socket: PathBuf,

    /// Gateway: where clients connect.
    #[arg(long, env = "WEFT_LISTEN", value_name = "IP:PORT", group = "gateway_door")]
    pub listen: Option<SocketAddr>,

    /// Gateway: instead of --listen, an inherited descriptor of a listening socket; a systemd socket unit gives 3.
    #[arg(long, env = "WEFT_LISTEN_FD", value_name = "N", value_parser = clap::value_parser!(i32).range(0..), group = "gateway_door")]
    pub listen_fd: Option<i32>,

    /// Gateway: the service that receives everything; its first port where none is named.
    #[arg(long, env = "WEFT_SERVICE", value_name = "NAMESPACE/NAME[:PORT]", value_parser = service_target, required_if_eq("role", "gateway"))]
    pub service: Option<ServiceTarget>,

    /// Packet mark for every connection the proxy opens, as `init --mark` wants it; decimal or 0x…. Needs CAP_NET_ADMIN.
    #[arg(long, env = "WEFT_MARK", value_name = "MARK", value_parser = mark)]
    pub mark: Option<NonZeroU32>,

    /// Also a resolver, by UDP and TCP: NAME (own namespace), NAME.NAMESPACE, NAME.NAMESPACE.svc and
    /// NAME.NAMESPACE.svc.cluster.local have the services' addresses, all else comes from other name servers, and so does the
    /// address of --control-plane. For workloads whose names nobody else resolves. A port alone, 15053 by convention: on the
    /// loopback addresses, where the same option of `weft-proxy init` leads the questions of programs that know nothing of it.
    /// With an address: for those who ask it there; a resolv.conf can only name port 53, systemd-resolved and dnsmasq any.
    #[arg(long, env = "WEFT_DNS", value_name = "[IP:]PORT")]
    pub dns: Option<DnsAddress>,

    /// Whose name servers --dns asks; followed as it changes. Where the workload's own names this resolver, another file.
    #[arg(long, env = "WEFT_DNS_RESOLV_CONF", value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub dns_resolv_conf: PathBuf,

    /// Worker threads. Default: by the CPU quota, at most 2 for a sidecar, one per core for a gateway.
    #[arg(long, env = "WEFT_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,

    /// Log filter, for example info,weft_proxy=debug.
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// Where access records go: a file, or - for standard output; off turns them off.
    #[arg(long, env = "WEFT_ACCESS_LOG", value_name = "PATH|-|off", default_value = "-")]
    pub access_log: String,

    /// How long requests in flight may take after SIGTERM, in seconds.
    #[arg(long, env = "WEFT_DRAIN_TIMEOUT", value_name = "SECONDS", default_value_t = 45)]
    pub drain_timeout: u32,
}

/// `permissive` or `strict`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum InboundModeArg {
    /// Mesh TLS and plaintext.
    #[default]
    Permissive,
    /// Mesh TLS only; anything else is reset.
    Strict,
}

impl From<InboundModeArg> for weft_core::model::InboundMode {
    fn from(mode: InboundModeArg) -> Self {
        match mode {
            InboundModeArg::Permissive => Self::Permissive,
            InboundModeArg::Strict => Self::Strict,
        }
    }
}
