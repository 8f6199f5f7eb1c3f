//! Flags and environment, read once into typed values. Nothing else in the process reads the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use weft_core::identity::spiffe::TrustDomain;

/// `weft-control-plane`.
#[derive(Debug, Parser)]
#[command(name = "weft-control-plane", version, about = "The control plane of the Weft service mesh")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane until SIGTERM or SIGINT; a second signal ends it at once.
    Serve(Box<ServeArgs>),
    /// Write a backup (made by `weft backup`) into a state directory that no control plane uses.
    Restore(RestoreArgs),
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where proxies connect: gRPC over TLS 1.3.
    #[arg(long, env = "WEFT_LISTEN", default_value = "0.0.0.0:15012", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Where /live, /ready and /metrics are served, in the clear.
    #[arg(long, env = "WEFT_STATUS_LISTEN", default_value = "0.0.0.0:15014", value_name = "IP:PORT")]
    pub status_listen: SocketAddr,
    /// The operators' Unix socket [default: /run/weft/control.sock as root, else $XDG_RUNTIME_DIR/weft/control.sock].
    #[arg(long, env = "WEFT_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where the store and the keys of the CA lie.
    #[command(flatten)]
    pub state: StateArgs,
    /// SPIFFE trust domain. It is part of every identity and cannot be changed once state exists.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local", value_name = "NAME", value_parser = trust_domain)]
    pub trust_domain: TrustDomain,
    /// Range from which services get virtual IPs. Repeat for several.
    #[arg(
        long = "virtual-range",
        env = "WEFT_VIRTUAL_RANGES",
        default_value = "240.240.0.0/16",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    pub virtual_ranges: Vec<IpNet>,
    /// Range of workloads' addresses: only known ones may be reached in it, besides the virtual ones, and workloads may
    /// register addresses in it that they do not call from (elsewhere only the address they call from). Repeat for
    /// several.
    #[arg(long = "mesh-range", env = "WEFT_MESH_RANGES", value_delimiter = ',', value_name = "CIDR")]
    pub mesh_ranges: Vec<IpNet>,
    /// What a proxy does with a destination that the mesh does not know.
    #[arg(long, env = "WEFT_OUTBOUND_MODE", value_enum, default_value_t = OutboundMode::Passthrough)]
    pub outbound_mode: OutboundMode,
    /// Seconds without a renewal after which an instance is removed.
    #[arg(long, env = "WEFT_LEASE_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..=3600))]
    pub lease_seconds: u32,
    /// Log filter such as "info,weft_control_plane=debug".
    #[arg(long, env = "WEFT_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Form of the log on standard error.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl ServeArgs {
    /// The lease as a duration.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }

    /// The operators' socket, given or by default.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| {
            if nix::unistd::geteuid().is_root() {
                return PathBuf::from("/run/weft/control.sock");
            }
            let runtime = xdg_directory("XDG_RUNTIME_DIR");
            runtime.unwrap_or_else(|| state_home().join("weft")).join("weft/control.sock")
        })
    }
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup file.
    pub file: PathBuf,
    /// Where to restore to.
    #[command(flatten)]
    pub state: StateArgs,
    /// Replace what is there. What is replaced is kept beside it with the suffix ".replaced".
    #[arg(long)]
    pub force: bool,
}

/// The state directory, a flag of several verbs.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// State directory [default: /var/lib/weft as root, else $XDG_STATE_HOME/weft].
    #[arg(long = "state-dir", env = "WEFT_STATE_DIR", value_name = "PATH")]
    directory: Option<PathBuf>,
}

impl StateArgs {
    /// The directory, given or by default.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.directory.clone().unwrap_or_else(|| {
            if nix::unistd::geteuid().is_root() { PathBuf::from("/var/lib/weft") } else { state_home().join("weft") }
        })
    }
}

/// What a proxy does with unknown destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutboundMode {
    /// Connect to them in the clear.
    Passthrough,
    /// Refuse and count.
    RegistryOnly,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One JSON object per line.
    Json,
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).map_err(|error| error.to_string())
}

/// What is empty or relative counts as unset (XDG Base Directory Specification).
fn xdg_directory(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn state_home() -> PathBuf {
    let home = || xdg_directory("HOME").map(|home| home.join(".local/state"));
    xdg_directory("XDG_STATE_HOME").or_else(home).unwrap_or_else(|| PathBuf::from("."))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let cli = Cli::try_parse_from(["weft-control-plane", "serve", "--state-dir", "/s"]).unwrap();
        let Command::Serve(args) = cli.command else { panic!("serve") };
        assert_eq!(args.listen.port(), 15012);
        assert_eq!(args.status_listen.port(), 15014);
        assert_eq!(args.trust_domain.as_str(), "cluster.local");
        assert_eq!(args.virtual_ranges, ["240.240.0.0/16".parse().unwrap()]);
        assert_eq!(args.lease(), Duration::from_secs(10));
        assert_eq!(args.state.directory(), PathBuf::from("/s"));
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |flags: &[&str]| {
            let line = ["weft-control-plane", "serve"].iter().chain(flags);
            assert!(Cli::try_parse_from(line).is_err(), "{flags:?}");
        };
        check(&["--trust-domain", "Upper.Case"]);
        check(&["--lease-seconds", "1"]);
        check(&["--virtual-range", "240.0.0.0/99"]);
        check(&["--listen", "15012"]);
        check(&["--outbound-mode", "maybe"]);
    }
}
