//! Tables of what was measured.

use std::fmt::Write as _;

use anyhow::Context as _;

use crate::measure::Measured;
use crate::peers::Peer;
use crate::scenario::{Scenario, Unit};
use crate::stats::{median, ratio};

/// All rounds of one scenario, by proxy; the same number for each.
#[derive(Debug)]
pub struct Rounds {
    /// What was measured.
    pub scenario: Scenario,
    /// By whom, in the order of the table.
    pub peers: Vec<(Peer, Vec<Measured>)>,
}

impl Rounds {
    fn of(&self, peer: Peer, value: impl Fn(&Measured) -> Option<f64>) -> Vec<f64> {
        let rounds = self.peers.iter().find(|(one, _)| *one == peer).map(|(_, rounds)| rounds.as_slice());
        rounds.unwrap_or_default().iter().filter_map(value).collect()
    }

    fn typical(&self, peer: Peer, value: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
        median(&self.of(peer, value))
    }

    /// The highest share of a processor that others had in any round.
    #[must_use]
    pub fn foreign(&self) -> f64 {
        self.peers.iter().flat_map(|(_, rounds)| rounds).map(|one| one.foreign).fold(0.0, f64::max)
    }

    /// The scenario's own table.
    #[must_use]
    pub fn table(&self) -> String {
        let Scenario { name, title, unit, .. } = self.scenario;
        let heading = unit.heading();
        let speed = if unit == Unit::SecondsPerGb { "GB/s" } else { "requests/s" };
        let mut text = format!("### {name}: {title}\n\n");
        let columns = format!(
            "| | {heading} | Weft's share of it [95%] | {speed} | p50 / p90 / p99 µs | added p50 / p99 µs | memory MiB, idle → loaded |"
        );
        text.push_str(&columns);
        text.push_str("\n|---|---|---|---|---|---|---|\n");
        for (peer, _) in &self.peers {
            text.push_str(&self.line(*peer));
        }
        text.push('\n');
        text
    }

    fn line(&self, peer: Peer) -> String {
        let latency =
            |at: usize| move |one: &Measured| one.latency.get(at).copied().flatten().filter(|_| one.rate.is_some());
        let added = |at: usize| {
            let (direct, own) = (self.of(Peer::Direct, latency(at)), self.of(peer, latency(at)));
            let differences: Vec<f64> = own.iter().zip(direct).map(|(own, direct)| own - direct).collect();
            median(&differences).filter(|_| peer != Peer::Direct)
        };
        let memory = |value: fn(&Measured) -> f64| {
            shown(self.typical(peer, |one| Some(value(one))).filter(|_| peer != Peer::Direct))
        };
        let memory = format!("{} → {}", memory(|one| one.idle_mib), memory(|one| one.loaded_mib));
        let [p50, p90, p99] = [0, 1, 2].map(|at| shown(self.typical(peer, latency(at))));
        format!(
            "| {} | {} | {} | {} | {p50} / {p90} / {p99} | {} / {} | {memory} |\n",
            peer.name(),
            shown(self.typical(peer, |one| one.cost)),
            self.share(peer),
            shown(self.typical(peer, |one| one.rate)),
            shown(added(0)),
            shown(added(2)),
        )
    }

    fn share(&self, peer: Peer) -> String {
        let cost = |one: &Measured| one.cost;
        if peer == Peer::Weft {
            return "1".to_owned();
        }
        match ratio(&self.of(Peer::Weft, cost), &self.of(peer, cost)) {
            None => "–".to_owned(),
            Some(ratio) => format!("{:.2} [{:.2}–{:.2}]", ratio.median, ratio.low, ratio.high),
        }
    }
}

/// One line for each scenario: what it costs with each proxy.
#[must_use]
pub fn overview(all: &[Rounds]) -> String {
    let peers: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| *peer != Peer::Direct).collect();
    let mut text = "| | unit |".to_owned();
    for peer in &peers {
        // Writing to a string cannot fail.
        write!(text, " {} |", peer.name()).unwrap_or_default();
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(peers.len()));
    text.push('\n');
    for rounds in all {
        write!(text, "| {} | {} |", rounds.scenario.title, rounds.scenario.unit.heading()).unwrap_or_default();
        for peer in &peers {
            write!(text, " {} |", shown(rounds.typical(*peer, |one| one.cost))).unwrap_or_default();
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Rows of the short table, of those that were measured.
const SHORT: [&str; 11] = [
    "mesh-http1",
    "mesh-http1-paced",
    "mesh-h2",
    "hop-http1",
    "mesh-tcp",
    "hop-tcp",
    "door-handshake",
    "hop-connect",
    "hop-idle",
    "door-idle",
    "mesh-rest",
];
/// What stands before and after the short table in the README.
const BEGIN: &str = "<!-- Written by integration/bench/run --write. -->\n";
const END: &str = "<!-- End of what is written. -->\n";

/// The table for those who want to know in a minute: medians, and what Weft's is of them.
#[must_use]
pub fn short(all: &[Rounds]) -> String {
    let mut text = "| | unit | Weft | Envoy | HAProxy | nginx |\n|---|---|---|---|---|---|\n".to_owned();
    for rounds in all.iter().filter(|rounds| SHORT.contains(&rounds.scenario.name)) {
        let cost = |peer| rounds.typical(peer, |one| one.cost);
        // Of Envoy the way that is cheaper.
        let h2 = cost(Peer::EnvoyH2).filter(|h2| cost(Peer::Envoy).is_none_or(|h1| *h2 < h1));
        let envoy = if h2.is_some() { Peer::EnvoyH2 } else { Peer::Envoy };
        let other = |peer| {
            let share = ratio(&rounds.of(Peer::Weft, |one| one.cost), &rounds.of(peer, |one| one.cost));
            let share = share.map(|share| format!(" ({:.2})", share.median)).unwrap_or_default();
            format!("{}{share}", shown(cost(peer)))
        };
        let Scenario { title, unit, .. } = rounds.scenario;
        let [envoy, haproxy, nginx] = [envoy, Peer::Haproxy, Peer::Nginx].map(other);
        let weft = shown(cost(Peer::Weft));
        // Writing to a string cannot fail.
        writeln!(text, "| {title} | {} | {weft} | {envoy} | {haproxy} | {nginx} |", unit.heading()).unwrap_or_default();
    }
    text
}

/// A text with `block` between the marks instead of what was there.
///
/// # Errors
/// It has no such marks.
pub fn refreshed(text: &str, block: &str) -> anyhow::Result<String> {
    let marks = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = marks.with_context(|| format!("there are no lines {BEGIN:?} and {END:?}"))?;
    Ok([before, BEGIN, block, END, after].concat())
}

/// Three significant digits.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 => grouped(value),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    fn rounds() -> Rounds {
        let one = |cost: Option<f64>, p50: f64| Measured {
            cost,
            rate: Some(12_345.0),
            latency: [Some(p50), Some(2.0 * p50), Some(3.0 * p50)],
            idle_mib: 5.0,
            loaded_mib: 6.25,
            foreign: 0.01 * p50 / 100.0,
        };
        Rounds {
            scenario: scenario::all().into_iter().next().unwrap(),
            peers: vec![
                (Peer::Direct, vec![one(None, 50.0), one(None, 60.0), one(None, 70.0)]),
                (Peer::Weft, vec![one(Some(20.0), 100.0), one(Some(22.0), 120.0), one(Some(21.0), 110.0)]),
                (Peer::Envoy, vec![one(Some(40.0), 200.0), one(Some(44.0), 200.0), one(Some(42.0), 200.0)]),
            ],
        }
    }

    #[test]
    fn a_line_has_medians_the_share_and_what_is_added_in_the_same_round() {
        let rounds = rounds();
        assert_eq!(rounds.line(Peer::Direct), "| direct | – | – | 12,345 | 60.0 / 120 / 180 | – / – | – → – |\n");
        assert_eq!(
            rounds.line(Peer::Weft),
            "| Weft | 21.0 | 1 | 12,345 | 110 / 220 / 330 | 50.0 / 150 | 5.00 → 6.25 |\n"
        );
        assert_eq!(
            rounds.line(Peer::Envoy),
            "| Envoy | 42.0 | 0.50 [0.50–0.50] | 12,345 | 200 / 400 / 600 | 140 / 420 | 5.00 → 6.25 |\n"
        );
        assert!((rounds.foreign() - 0.02).abs() < 1e-9);
    }

    #[test]
    fn the_overview_leaves_out_who_was_not_there() {
        let text = overview(&[rounds()]);
        let last = text.trim().lines().next_back().unwrap();
        assert!(last.ends_with("| CPU µs/request | 21.0 | 42.0 | – | – | – |"), "{last}");
    }

    #[test]
    fn the_short_table_has_medians_and_shares_and_envoy_as_it_is_cheaper() {
        let mut rounds = rounds();
        let line = |rounds: &Rounds| short(std::slice::from_ref(rounds)).lines().nth(2).unwrap_or_default().to_owned();
        let title = rounds.scenario.title;
        assert_eq!(line(&rounds), format!("| {title} | CPU µs/request | 21.0 | 42.0 (0.50) | – | – |"));
        let cheaper =
            rounds.peers[1].1.iter().map(|one| Measured { cost: one.cost.map(|cost| 1.5 * cost), ..one.clone() });
        rounds.peers.push((Peer::EnvoyH2, cheaper.collect()));
        assert_eq!(line(&rounds), format!("| {title} | CPU µs/request | 21.0 | 31.5 (0.67) | – | – |"));
        rounds.scenario.name = "mesh-log-on";
        assert_eq!(line(&rounds), "", "a row of the long tables only");
    }

    #[test]
    fn only_what_is_between_the_marks_is_written() {
        let text = format!("# Weft\n{BEGIN}old\n{END}## More\n");
        assert_eq!(refreshed(&text, "new\n").unwrap(), format!("# Weft\n{BEGIN}new\n{END}## More\n"));
        assert!(refreshed("# Weft\n", "new\n").is_err());
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
        refreshed(&readme, "new\n").unwrap();
    }

    #[test]
    fn the_short_table_names_rows_that_there_are() {
        let all = scenario::all();
        assert!(SHORT.iter().all(|name| all.iter().any(|one| one.name == *name)));
    }

    #[test]
    fn figures_have_three_digits() {
        let check = |value, expected: &str| assert_eq!(shown(value), expected);
        check(None, "–");
        check(Some(0.5789), "0.58");
        check(Some(12.34), "12.3");
        check(Some(123.4), "123");
        check(Some(-1234.0), "-1,234");
        check(Some(1_234_567.0), "1,234,567");
    }
}
