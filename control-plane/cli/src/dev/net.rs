//! Namespaces, bridge and links, by way of `ip` in batches.
//!
//! Topology: this machine ── one veth ──▶ namespace "switch" with bridge br0 ── one veth per instance ──▶ the
//! instance's namespace, where it is eth0 with a default route over this machine's address.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;
use serde::Deserialize;

use super::plan::{Instance, Names, host_address};

/// Makes the switch and this machine's link to it.
///
/// # Errors
/// What `ip` said.
pub fn create_switch(names: &Names, range: Ipv4Net, ipv6: bool) -> anyhow::Result<()> {
    let (switch, link) = (names.switch(), names.host_link());
    ip(&["netns", "add", &switch])?;
    let mut lines = vec![
        format!("link add {link} type veth peer name uplink netns {switch}"),
        format!("address add {}/16 dev {link}", host_address(range)),
        format!("link set {link} up"),
        // In a network namespace of the mesh's own it is down; own addresses are reached over it.
        "link set lo up".to_owned(),
    ];
    if ipv6 {
        lines.push(format!("address add {}/64 dev {link} nodad", names.ipv6(1)));
    }
    batch(None, &lines)?;
    let inside = [
        "link add br0 type bridge",
        "link set lo up",
        "link set uplink master br0",
        "link set uplink up",
        "link set br0 up",
    ];
    batch(Some(&switch), &inside.map(str::to_owned))
}

/// Makes an instance's namespace and connects it.
///
/// # Errors
/// What `ip` said.
pub fn create_instance(names: &Names, range: Ipv4Net, instance: &Instance) -> anyhow::Result<()> {
    let (netns, port) = (&instance.netns, format!("p{}", instance.index));
    ip(&["netns", "add", netns])?;
    let switch = [
        format!("link add {port} type veth peer name eth0 netns {netns}"),
        format!("link set {port} master br0"),
        format!("link set {port} up"),
    ];
    batch(Some(&names.switch()), &switch)?;
    let mut inside = vec![
        "link set lo up".to_owned(),
        format!("address add {}/16 dev eth0", instance.address),
        "link set eth0 up".to_owned(),
        format!("route add default via {}", host_address(range)),
    ];
    if let Some(address) = instance.address6 {
        inside.push(format!("address add {address}/64 dev eth0 nodad"));
        inside.push(format!("route add ::/0 via {}", names.ipv6(1)));
    }
    batch(Some(netns), &inside)
}

/// Deletes all namespaces and links of the mesh; those that are not there are no error. Processes in them must have
/// ended, else the kernel keeps the namespaces alive without a name.
///
/// # Errors
/// What `ip` said about one that is there.
pub fn delete(names: &Names) -> anyhow::Result<()> {
    for netns in namespaces(names) {
        ip(&["netns", "delete", &netns])?;
    }
    let link = names.host_link();
    let exists = || if_nametoindex(link.as_str()).is_ok();
    // The kernel deletes it by itself, a moment after the switch's namespace: then it is gone between look and act.
    if exists()
        && let Err(error) = ip(&["link", "delete", &link])
        && exists()
    {
        return Err(error);
    }
    Ok(())
}

/// Names of the mesh's network namespaces that exist.
#[must_use]
pub fn namespaces(names: &Names) -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().filter_map(Result::ok);
    let all = entries.filter_map(|entry| entry.file_name().into_string().ok());
    all.filter(|name| name.starts_with(&names.netns_prefix())).collect()
}

/// Networks that this machine has addresses in or routes to.
///
/// # Errors
/// What `ip` said.
pub fn taken() -> anyhow::Result<Vec<Ipv4Net>> {
    #[derive(Deserialize)]
    struct Route {
        dst: String,
    }
    let json = ip(&["-4", "-json", "route", "show", "table", "all"])?;
    let routes: Vec<Route> = serde_json::from_slice(&json).context("cannot read what `ip -json route` printed")?;
    let network = |text: &str| text.parse().ok().or_else(|| Some(Ipv4Net::from(text.parse::<Ipv4Addr>().ok()?)));
    // The default route covers everything and takes nothing.
    Ok(routes.iter().filter_map(|route| network(&route.dst)).filter(|taken| taken.prefix_len() > 0).collect())
}

fn batch(netns: Option<&str>, lines: &[String]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-netns", netns]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run `ip` (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all((lines.join("\n") + "\n").as_bytes()).context("cannot write to `ip`")?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "`ip -batch` in {}: {}",
        netns.unwrap_or("this machine's namespace"),
        said.trim()
    );
    Ok(())
}

fn ip(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.context("cannot run `ip` (package iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "`ip {}`: {}", arguments.join(" "), said.trim());
    Ok(output.stdout)
}
