//! What the proxy says of itself when asked: readiness, metrics, dump.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use weft_core::snapshot::Snapshot;

use crate::clock::Clock;
use crate::dns::DnsCounts;
use crate::feed::FeedStatus;
use crate::identity::{IdentityWatch, RenewalStatus};
use crate::net::Admission;
use crate::runtime::Loads;
use crate::supervise::Supervisor;
use crate::telemetry::{Hub, head, line, names};

/// Where the answers come from.
#[derive(Debug)]
pub struct Facts {
    /// Name of this instance.
    pub instance_id: Arc<str>,
    /// What it knows.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Who it is.
    pub identity: IdentityWatch,
    /// The discovery stream; `None` in static mode.
    pub feed: Option<Arc<FeedStatus>>,
    /// How renewal goes.
    pub renewal: Arc<RenewalStatus>,
    /// Counters of traffic.
    pub hub: Hub,
    /// Of the resolver, if there is one.
    pub dns: Option<Arc<DnsCounts>>,
    /// Connections.
    pub admission: Arc<Admission>,
    /// What each worker carries.
    pub loads: Arc<Loads>,
    /// Keeps the tasks that are no connections.
    pub supervisor: Supervisor,
    /// Turned on at the start of a drain.
    pub draining: Arc<AtomicBool>,
    /// The clock.
    pub clock: Clock,
}

impl Facts {
    /// Whether traffic may come.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub fn readiness(&self) -> Result<(), &'static str> {
        if self.draining.load(Ordering::Acquire) {
            return Err("draining");
        }
        let from_files = self.feed.is_none();
        match &*self.identity.borrow() {
            // A static configuration needs one only where it says `tls`, and then it was there at the start.
            None if from_files => {}
            None => return Err("no identity yet; is the control plane reachable and the join token good?"),
            Some(held) if self.clock.unix_seconds() > held.not_after => return Err("the identity has expired"),
            Some(_) => {}
        }
        if from_files || self.snapshot.load().is_ready() { Ok(()) } else { Err("no configuration yet") }
    }
}

/// Appends all metrics.
pub fn metrics(facts: &Facts, out: &mut String) {
    facts.hub.render(out);
    facts.loads.render(out);
    if let Some(dns) = &facts.dns {
        dns.render(out);
    }
    head(out, names::PANICS);
    line(out, format_args!("{} {}", names::PANICS.name, crate::panics::count()));
    head(out, names::TASK_RESTARTS);
    for (task, count) in facts.supervisor.restarts() {
        line(out, format_args!("{}{{task=\"{}\"}} {count}", names::TASK_RESTARTS.name, task.name()));
    }
    let mut gauge = |name: &str, help: &str, value: f64| {
        // Writing to a String does not fail.
        write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n").unwrap_or_default();
    };
    gauge("weft_ready", "1 when traffic may come", if facts.readiness().is_ok() { 1.0 } else { 0.0 });
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point; counts here are far below 2^53")]
    {
        gauge(
            "weft_admitted_connections",
            "connections from downstream, of all workers",
            facts.admission.open() as f64,
        );
        let identity = facts.identity.borrow().clone();
        if let Some(held) = identity {
            let left = held.not_after.saturating_sub(facts.clock.unix_seconds());
            gauge("weft_cert_expiry_seconds", "until the own certificate expires", left as f64);
        }
        if let Some(feed) = &facts.feed {
            gauge(
                "weft_discovery_connected",
                "1 while the discovery stream is open",
                f64::from(u8::from(feed.is_connected())),
            );
            gauge("weft_discovery_revision", "revision of the snapshot in force", feed.revision() as f64);
            gauge("weft_discovery_rejected", "resources refused at present", feed.rejected() as f64);
            if let Some(age) = feed.age(facts.clock.now()) {
                gauge("weft_discovery_age_seconds", "since the control plane was last in touch", age.as_secs_f64());
            }
            gauge("weft_identity_issued", "certificates obtained", facts.renewal.issued() as f64);
            let stored = f64::from(u8::from(facts.renewal.stored()));
            gauge("weft_identity_stored", "1 when the identity is on disk: a restart needs no join token", stored);
            let ignored = f64::from(u8::from(facts.renewal.ignored()));
            gauge("weft_identity_ignored", "1 when what lay on disk at the start was not usable", ignored);
            gauge("weft_identity_failures", "certificate requests that failed", facts.renewal.failed() as f64);
        }
    }
    let info = names::BUILD_INFO;
    write!(
        out,
        "# HELP {0} {1}\n# TYPE {0} {2}\n{0}{{version=\"{3}\",component=\"proxy\"}} 1\n",
        info.name,
        info.help,
        info.kind,
        crate::VERSION
    )
    .unwrap_or_default();
}

/// All that the proxy knows and is, without keys.
#[must_use]
pub fn dump(facts: &Facts) -> Value {
    let snapshot = facts.snapshot.load();
    let now = facts.clock.now();
    let identity = facts.identity.borrow().clone();
    json!({
        "instanceId": &*facts.instance_id,
        "build": crate::VERSION,
        "ready": facts.readiness().map_or_else(Value::from, |()| Value::from(true)),
        "identity": identity.map(|held| json!({
            "spiffeId": held.id.to_string(),
            "notBefore": held.not_before,
            "notAfter": held.not_after,
            "trustDomain": held.bundle.trust_domain.as_str(),
            "roots": held.bundle.roots.len(),
        })),
        "discovery": facts.feed.as_ref().map(|feed| json!({
            "connected": feed.is_connected(),
            "revision": feed.revision(),
            "rejected": feed.rejected(),
            "ageSeconds": feed.age(now).map(|age| age.as_secs_f64()),
        })),
        "mesh": snapshot.mesh().map(|mesh| json!({
            "trustDomain": mesh.trust_domain.as_str(),
            "ranges": mesh.ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "outboundMode": format!("{:?}", mesh.outbound_mode),
        })),
        "services": services(&snapshot, now),
        "resolutions": snapshot.resolutions().map(|resolution| json!({
            "address": resolution.address.to_string(),
            "verdict": format!("{:?}", resolution.verdict),
        })).collect::<Vec<_>>(),
    })
}

fn services(snapshot: &Snapshot, now: weft_core::time::Moment) -> Vec<Value> {
    let services = snapshot.services().map(|entry| {
        let ports = entry.ports.iter().map(|port| {
            let endpoints = port.endpoints.iter().map(|endpoint| {
                json!({
                    "id": &*endpoint.id,
                    "address": endpoint.address.to_string(),
                    "spiffeId": endpoint.identity.as_ref().map(ToString::to_string),
                    "meshTls": endpoint.mesh_tls,
                    "weight": endpoint.weight.get(),
                    "inFlight": endpoint.health.in_flight(),
                    "latencyMs": endpoint.health.latency(now).map(|latency| latency.as_secs_f64() * 1000.0),
                })
            });
            json!({
                "port": port.port.port.get(),
                "protocol": format!("{:?}", port.port.protocol),
                "endpoints": endpoints.collect::<Vec<_>>(),
            })
        });
        json!({
            "name": entry.service.key.to_string(),
            "virtualIps": entry.service.virtual_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ports": ports.collect::<Vec<_>>(),
        })
    });
    services.collect()
}
