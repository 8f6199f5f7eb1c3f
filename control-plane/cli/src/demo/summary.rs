//! What `weft demo --check` prints, and how it is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use super::USERS;

use serde::Serialize;

use super::hops::Hop;
use super::load::Counts;

/// All findings with raw counts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Whether everything is as promised.
    pub ok: bool,
    /// What is not.
    pub problems: Vec<String>,
    /// Requests one after the other, before the traffic.
    pub chain: ChainCounts,
    /// The same after the outages.
    pub after: ChainCounts,
    /// The request whose hops are listed.
    pub trace_id: String,
    /// Both sides of each hop.
    pub hops: Vec<Hop>,
    /// Steady traffic through all outages.
    pub traffic: Traffic,
    /// Each outage of the control plane.
    pub outages: Vec<Outage>,
}

/// Requests over the whole chain.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChainCounts {
    /// Sent.
    pub sent: u64,
    /// Answered as they should be.
    pub succeeded: u64,
    /// How many each instance answered.
    pub pods: BTreeMap<String, u64>,
    /// The first failures.
    pub complaints: Vec<String>,
}

/// Steady traffic.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Traffic {
    /// How long.
    pub seconds: f64,
    /// Requests sent.
    pub sent: u64,
    /// Answered with 200.
    pub succeeded: u64,
    /// Everything else.
    pub failed: u64,
    /// Sent per second.
    pub rate: f64,
    /// On a connection of their own.
    pub new_connections: u64,
    /// On a kept connection.
    pub kept_connections: u64,
    /// Median latency.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Slowest.
    pub max_us: u64,
    /// The first failures.
    pub complaints: Vec<String>,
}

/// An outage of the control plane.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outage {
    /// From SIGKILL until it was ready again.
    pub seconds: f64,
    /// Requests sent meanwhile.
    pub sent: u64,
    /// Answered with 200 meanwhile.
    pub succeeded: u64,
    /// Failed meanwhile.
    pub failed: u64,
}

impl ChainCounts {
    /// Instances of `user` that answered something.
    #[must_use]
    pub fn users(&self) -> usize {
        self.pods.keys().filter(|pod| pod.starts_with("user-")).count()
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let pods: Vec<String> = self.pods.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
        format!(
            "gateway → blog → user → store: {} of {} requests answered; {}",
            self.succeeded,
            self.sent,
            pods.join(", ")
        )
    }
}

impl Traffic {
    /// Of the load's account.
    #[must_use]
    pub fn of(counts: &Counts, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        // Counts of a run of minutes are far below 2^52.
        let sent = f64::from(u32::try_from(counts.sent).unwrap_or(u32::MAX));
        Self {
            seconds,
            sent: counts.sent,
            succeeded: counts.succeeded,
            failed: counts.failed,
            rate: if seconds > 0.0 { sent / seconds } else { 0.0 },
            new_connections: counts.new_connections,
            kept_connections: counts.kept_connections,
            p50_us: counts.percentile_us(50),
            p99_us: counts.percentile_us(99),
            max_us: counts.percentile_us(100),
            complaints: counts.complaints.clone(),
        }
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "traffic: {} requests in {:.0} s ({:.0}/s, {} on new connections), {} failed; latency p50 {} µs, p99 {} µs",
            self.sent, self.seconds, self.rate, self.new_connections, self.failed, self.p50_us, self.p99_us
        )
    }
}

impl Outage {
    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "control plane: back after {:.0} s; meanwhile {} requests were sent, {} answered, {} failed",
            self.seconds, self.sent, self.succeeded, self.failed
        )
    }
}

impl Summary {
    /// Compares with what is promised: `rate_min` requests per second, half on new connections, through all outages
    /// (the longest of at least `away_min`) without one failure; every hop proved by both sides.
    pub fn judge(&mut self, rate_min: f64, away_min: Duration) {
        let mut problems = Vec::new();
        for (when, chain) in [("before", &self.chain), ("after", &self.after)] {
            if chain.sent == 0 || chain.succeeded != chain.sent {
                problems
                    .push(format!("{when} the outages {} of {} requests were answered", chain.succeeded, chain.sent));
                problems.extend(chain.complaints.iter().cloned());
            }
            let users = chain.users();
            if users != USERS {
                problems.push(format!("{when} the outages {users} of {USERS} instances of user answered"));
            }
        }
        if self.hops.len() != 3 {
            problems.push(format!("{} of 3 hops were seen", self.hops.len()));
        }
        for hop in &self.hops {
            problems.extend(hop.problems.iter().map(|problem| format!("{}: {problem}", hop.hop)));
        }
        let traffic = &self.traffic;
        if traffic.failed != 0 || traffic.succeeded != traffic.sent {
            problems.push(format!(
                "{} of {} requests were answered, {} failed",
                traffic.succeeded, traffic.sent, traffic.failed
            ));
            problems.extend(traffic.complaints.iter().cloned());
        }
        if traffic.rate < rate_min {
            problems.push(format!("{:.0} requests per second instead of {rate_min:.0}", traffic.rate));
        }
        if traffic.new_connections * 2 < traffic.sent {
            problems.push(format!("only {} of {} requests on new connections", traffic.new_connections, traffic.sent));
        }
        if !self.outages.iter().any(|outage| outage.seconds >= away_min.as_secs_f64()) {
            problems.push(format!("no outage of {} s", away_min.as_secs()));
        }
        self.ok = problems.is_empty();
        self.problems = problems;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        let pods: BTreeMap<String, u64> = ["user-0", "user-1", "user-2"].map(|pod| (pod.to_owned(), 20)).into();
        let chain = ChainCounts { sent: 60, succeeded: 60, pods, complaints: Vec::new() };
        Summary {
            chain: chain.clone(),
            after: chain,
            hops: vec![Hop::default(); 3],
            traffic: Traffic { sent: 100, succeeded: 100, new_connections: 50, rate: 220.0, ..Traffic::default() },
            outages: vec![Outage { seconds: 62.1, ..Outage::default() }],
            ..Summary::default()
        }
    }

    #[test]
    fn anything_that_is_not_as_promised_is_found() {
        let check = |spoil: fn(&mut Summary), ok: bool| {
            let mut summary = good();
            spoil(&mut summary);
            summary.judge(200.0, Duration::from_secs(62));
            assert_eq!(summary.ok, ok, "{:?}", summary.problems);
        };
        check(|_| {}, true);
        check(|summary| summary.traffic.failed = 1, false);
        check(|summary| summary.traffic.succeeded = 99, false);
        check(|summary| summary.traffic.new_connections = 49, false);
        check(|summary| summary.traffic.rate = 199.0, false);
        check(|summary| summary.outages.clear(), false);
        check(|summary| summary.hops.truncate(2), false);
        check(|summary| summary.hops.iter_mut().for_each(|hop| hop.problems.push("x".to_owned())), false);
        check(|summary| summary.chain.succeeded = 59, false);
        check(|summary| assert!(summary.after.pods.remove("user-1").is_some()), false);
    }
}
