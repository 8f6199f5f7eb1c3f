//! `weft-proxy init`: the command line of interception.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use ipnet::IpNet;
use weft_core::intercept::{DnsCapture, InterceptConfig, PROXY_UID};
use weft_core::names::{NameServer, nameservers};

use crate::dns::{DnsAddress, resolv_conf};

use super::apply::{Backend, Ipv6, apply, plan};

/// Where programs read which name servers there are.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Redirect the TCP connections of this network namespace into the proxy.
///
/// Needs root, or CAP_NET_ADMIN and CAP_NET_RAW. Running it again replaces the rules; rules of others are not touched.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where the proxy takes connections of the application.
    #[arg(long, env = "WEFT_OUTBOUND_PORT", value_name = "PORT", default_value_t = 15001)]
    pub outbound_port: u16,

    /// Where the proxy takes connections to the application.
    #[arg(long, env = "WEFT_INBOUND_PORT", value_name = "PORT", default_value_t = 15006)]
    pub inbound_port: u16,

    /// Further ports of the proxy, never captured.
    #[arg(long, env = "WEFT_OWN_PORTS", value_name = "PORT", value_delimiter = ',', default_values_t = [15020, 15053])]
    pub own_port: Vec<u16>,

    /// User that the proxy runs as; its connections are not captured [default: 2113; with --mark: none].
    #[arg(long, env = "WEFT_PROXY_UID", value_name = "UID")]
    pub proxy_uid: Option<u32>,

    /// Packet mark of the proxy's connections (`run --mark`), when it shares the application's user; 0x2113 by convention.
    /// The application must be without CAP_NET_ADMIN, or it could set the mark, too.
    #[arg(long, env = "WEFT_MARK", value_name = "MARK", value_parser = mark)]
    pub mark: Option<NonZeroU32>,

    /// Connections to these ports of the application are not captured.
    #[arg(long, env = "WEFT_EXCLUDE_INBOUND_PORTS", value_name = "PORT", value_delimiter = ',')]
    pub exclude_inbound_port: Vec<u16>,

    /// Connections of the application to these ports are not captured.
    #[arg(long, env = "WEFT_EXCLUDE_OUTBOUND_PORTS", value_name = "PORT", value_delimiter = ',')]
    pub exclude_outbound_port: Vec<u16>,

    /// Connections of the application to these networks are not captured.
    #[arg(long, env = "WEFT_EXCLUDE_CIDRS", value_name = "CIDR", value_delimiter = ',')]
    pub exclude_cidr: Vec<IpNet>,

    /// Connections of these users are not captured.
    #[arg(long, env = "WEFT_EXCLUDE_UIDS", value_name = "UID", value_delimiter = ',')]
    pub exclude_uid: Vec<u32>,

    /// Also redirect questions to name servers: to the proxy's resolver on this port (`run --dns`), 15053 by convention. Those
    /// of the proxy itself and of excluded users are not, nor those to other servers than --dns-server. With an address nothing
    /// is redirected: programs ask the resolver there.
    #[arg(long, env = "WEFT_DNS", value_name = "[IP:]PORT")]
    pub dns: Option<DnsAddress>,

    /// Name server that programs ask [default: those in /etc/resolv.conf, or 127.0.0.1 where it has none]. The file is read
    /// once: after it has changed, run this again. Link-local ones cannot be redirected.
    #[arg(long, env = "WEFT_DNS_SERVERS", value_name = "IP", value_delimiter = ',')]
    pub dns_server: Vec<IpAddr>,

    /// Who writes the rules. Those that the other has written before are removed.
    #[arg(long, env = "WEFT_INTERCEPT_BACKEND", value_enum, default_value_t)]
    pub backend: Backend,

    /// Remove the rules, whoever wrote them.
    #[arg(long)]
    pub remove: bool,

    /// Print what would be fed to iptables-restore and ip6tables-restore, or to nft, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

impl InitArgs {
    /// Does it, and says what it did.
    ///
    /// # Errors
    /// When the rules cannot be applied; then nothing has changed unless the error says so.
    pub fn run(self) -> anyhow::Result<()> {
        let config = if self.remove {
            None
        } else {
            Some(self.config(|| name_servers(Path::new(RESOLV_CONF), &mut io::stderr()))?)
        };
        let mut out = io::stdout().lock();
        if self.dry_run {
            for step in plan(config.as_ref(), self.backend)? {
                writeln!(out, "# {}\n{}", step.command, step.input)?;
            }
            return Ok(());
        }
        let applied = apply(config.as_ref(), self.backend)?;
        let done = if self.remove { "redirection removed" } else { "connections are redirected" };
        let families = match applied.ipv6 {
            Ipv6::Done => "IPv4 and IPv6",
            Ipv6::Absent => "IPv4; this kernel has no IPv6",
            Ipv6::OffOnLoopback => "IPv4 and IPv6; IPv6 is switched off on lo",
        };
        writeln!(out, "{done} by {} ({families})", applied.by)?;
        if let Some(error) = applied.instead {
            writeln!(io::stderr(), "by {}, because {error}", applied.by)?;
        }
        if let Some(servers) = config.as_ref().and_then(InterceptConfig::redirected_servers) {
            questions(&servers, &mut out, &mut io::stderr())?;
        }
        if let Some(error) = applied.unread {
            writeln!(
                io::stderr(),
                "if there are rules of an earlier init by the other backend, they are still there: {error}"
            )?;
        }
        Ok(())
    }

    /// `named`: the name servers of the machine, found only when they matter.
    fn config(&self, named: impl FnOnce() -> anyhow::Result<Vec<NameServer>>) -> anyhow::Result<InterceptConfig> {
        let dns = match self.dns.and_then(DnsAddress::redirected) {
            Some(port) => Some(DnsCapture { port, servers: self.servers(named)? }),
            None => None,
        };
        Ok(InterceptConfig {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            own_ports: self.own_port.iter().copied().collect(),
            proxy_uid: self.proxy_uid.or_else(|| self.mark.is_none().then_some(PROXY_UID)),
            mark: self.mark.map(NonZeroU32::get),
            exclude_inbound_ports: self.exclude_inbound_port.iter().copied().collect(),
            exclude_outbound_ports: self.exclude_outbound_port.iter().copied().collect(),
            exclude_cidrs: self.exclude_cidr.iter().copied().collect(),
            exclude_uids: self.exclude_uid.iter().copied().collect(),
            dns,
        })
    }

    fn servers(&self, named: impl FnOnce() -> anyhow::Result<Vec<NameServer>>) -> anyhow::Result<BTreeSet<IpAddr>> {
        let given = || self.dns_server.iter().map(|ip| NameServer { ip: *ip, zone: None }).collect();
        let named: Vec<NameServer> = if self.dns_server.is_empty() { named()? } else { given() };
        if named.is_empty() {
            return Ok(BTreeSet::from([Ipv4Addr::LOCALHOST.into()]));
        }
        Ok(named.into_iter().filter(|server| !server.is_link_local()).map(|NameServer { ip, .. }| ip).collect())
    }
}

/// Says to `out` which name servers are redirected, or to `notes` that none is.
fn questions(servers: &BTreeSet<IpAddr>, out: &mut impl Write, notes: &mut impl Write) -> io::Result<()> {
    if servers.is_empty() {
        return writeln!(
            notes,
            "--dns: no questions to name servers are redirected: every server is excluded (--exclude-cidr) or link-local; \
             name others with --dns-server, and give them to the programs, too"
        );
    }
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    writeln!(out, "questions to name servers are redirected: {}", servers.join(", "))
}

/// Those of a resolv.conf. Without one there are none, as the C library has it; then it says so to `notes`.
fn name_servers(path: &Path, notes: &mut impl Write) -> anyhow::Result<Vec<NameServer>> {
    match resolv_conf::read(path) {
        Ok(text) => Ok(nameservers(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = path.display();
            writeln!(
                notes,
                "--dns: there is no {path}; if programs ask another name server than 127.0.0.1, name it with --dns-server"
            )?;
            Ok(Vec::new())
        }
        Err(error) => Err(error).with_context(|| {
            format!("--dns: {} cannot be read; say with --dns-server which name servers programs ask", path.display())
        }),
    }
}

/// A packet mark: decimal, or hexadecimal after 0x.
///
/// # Errors
/// What was expected.
pub fn mark(text: &str) -> Result<NonZeroU32, String> {
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16));
    let mark = parsed.ok().and_then(NonZeroU32::new);
    mark.ok_or_else(|| "expected a number from 1 to 4294967295, or 0x and hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        init: InitArgs,
    }

    #[test]
    fn flags_become_a_configuration() {
        let check = |flags: &str, expected: InterceptConfig| {
            let line = Line::try_parse_from(format!("init {flags}").split_whitespace()).unwrap();
            let named = nameservers("nameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver fd00::1\n");
            assert_eq!(line.init.config(|| Ok(named)).unwrap(), expected, "{flags}");
        };
        let default = InterceptConfig::default;
        check("", default());
        check("--mark 0x2113", InterceptConfig { mark: Some(0x2113), proxy_uid: None, ..default() });
        check("--mark 7 --proxy-uid 8", InterceptConfig { mark: Some(7), proxy_uid: Some(8), ..default() });
        let ports = [22, 23, 24].into();
        check(
            "--exclude-inbound-port 22,23 --exclude-inbound-port 24",
            InterceptConfig { exclude_inbound_ports: ports, ..default() },
        );
        let nets = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        check("--exclude-cidr 10.0.0.0/8,fd00::/8", InterceptConfig { exclude_cidrs: nets, ..default() });
        let dns = |servers: &[&str]| InterceptConfig {
            dns: Some(DnsCapture {
                port: 15053,
                servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            }),
            ..default()
        };
        check("--dns 15053", dns(&["10.0.0.1", "fd00::1"]));
        check("--dns 15053 --dns-server 10.0.0.9", dns(&["10.0.0.9"]));
        check("--dns 15053 --dns-server 10.0.0.9,fe80::1", dns(&["10.0.0.9"]));
        check("--dns 15053 --dns-server fe80::1", dns(&[]));
        check("--dns 127.0.0.1:53", default());
        let line = Line::try_parse_from(["init", "--dns", "15053"]).unwrap();
        assert_eq!(line.init.config(|| Ok(Vec::new())).unwrap(), dns(&["127.0.0.1"]), "as the C library has it");
        let everything = InterceptConfig {
            outbound_port: 1,
            inbound_port: 2,
            own_ports: [3].into(),
            exclude_outbound_ports: [4].into(),
            exclude_uids: [5].into(),
            ..default()
        };
        check("--outbound-port 1 --inbound-port 2 --own-port 3 --exclude-outbound-port 4 --exclude-uid 5", everything);
        for nonsense in
            ["--mark x", "--mark 0", "--mark 0xfffffffff", "--exclude-cidr 10.0.0.1/33", "--exclude-inbound-port 65536"]
        {
            assert!(Line::try_parse_from(format!("init {nonsense}").split_whitespace()).is_err(), "{nonsense}");
        }
    }

    /// Goal: who does not redirect questions, or names the servers, needs no resolv.conf.
    #[test]
    fn the_file_is_read_only_where_it_matters() {
        for (flags, expected) in [
            ("", false),
            ("--dns 127.0.0.1:53", false),
            ("--dns 15053 --dns-server 10.0.0.9", false),
            ("--dns 15053", true),
        ] {
            let line = Line::try_parse_from(format!("init {flags}").split_whitespace()).unwrap();
            let config = line.init.config(|| anyhow::bail!("asked"));
            assert_eq!(config.is_err(), expected, "{flags}");
        }
    }

    #[test]
    fn without_the_file_it_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let mut notes = Vec::new();
        assert_eq!(name_servers(&directory.path().join("resolv.conf"), &mut notes).unwrap(), []);
        let note = String::from_utf8(notes).unwrap();
        assert!(note.contains("there is no /") && note.contains("--dns-server"), "{note}");
        let error = name_servers(directory.path(), &mut io::sink()).unwrap_err();
        assert!(format!("{error:#}").contains("--dns-server"), "{error:#}");
    }

    #[test]
    fn it_says_which_servers_are_redirected_or_that_none_is() {
        let said = |servers: &[&str]| {
            let (mut out, mut notes) = (Vec::new(), Vec::new());
            let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
            questions(&servers, &mut out, &mut notes).unwrap();
            (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap())
        };
        let (out, notes) = said(&["10.0.0.1", "fd00::1"]);
        assert_eq!((&*out, &*notes), ("questions to name servers are redirected: 10.0.0.1, fd00::1\n", ""));
        let (out, notes) = said(&[]);
        assert!(out.is_empty() && notes.contains("no questions") && notes.contains("--dns-server"), "{out}{notes}");
    }
}
