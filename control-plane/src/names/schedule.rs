//! When which name is looked up.
//!
//! Each name has its own time: that of its last answer and how long it holds, or of its last failure. A service that
//! comes, goes or changes moves no other name. A pure state machine: no clock, no sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use weft_core::model::ServiceKey;

use super::answer::{Answer, LookupError};
use super::steady::Steady;

/// Shortest time between two lookups of a name, whatever its TTL.
pub const SHORTEST: Duration = Duration::from_secs(5);

/// Longest time an answer is kept, whatever its TTL.
pub const LONGEST: Duration = Duration::from_secs(300);

/// Longest time between two lookups that fail.
pub const LONGEST_FAILING: Duration = Duration::from_secs(60);

/// Names that are looked up at the same time.
pub const AT_ONCE_MAX: usize = 16;

/// All names.
#[derive(Debug, Default)]
pub struct Schedule {
    names: BTreeMap<String, Name>,
    asking: usize,
}

/// A name that services are served by.
#[derive(Debug)]
struct Name {
    services: BTreeSet<ServiceKey>,
    due: Instant,
    asking: bool,
    /// Lookups in a row that failed.
    failures: u32,
    steady: Steady,
}

/// How a name fares, when that is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is as it was.
    Same,
    /// The first failure in a row.
    Fails,
    /// The first answer after failures.
    Recovers,
}

impl Schedule {
    /// These services are served by these names and no others. What is new is due now, with `known` as its last answer;
    /// what remains keeps its time. Returns the names that have an answer which a new service waits for.
    pub fn want(
        &mut self,
        wanted: Vec<(ServiceKey, String)>,
        known: impl Fn(&ServiceKey, &str) -> Vec<IpAddr>,
        now: Instant,
    ) -> Vec<String> {
        let mut names: BTreeMap<String, BTreeSet<ServiceKey>> = BTreeMap::new();
        for (key, name) in wanted {
            names.entry(name).or_default().insert(key);
        }
        self.names.retain(|name, _| names.contains_key(name));
        let mut joined = Vec::new();
        for (name, services) in names {
            match self.names.get_mut(&name) {
                Some(held) => {
                    if !services.is_subset(&held.services) && !held.steady.is_empty() {
                        joined.push(name);
                    }
                    held.services = services;
                }
                None => {
                    let known = services.iter().map(|key| known(key, &name)).find(|known| !known.is_empty());
                    let steady = Steady::from_known(&known.unwrap_or_default());
                    let held = Name { services, due: now, asking: false, failures: 0, steady };
                    self.names.insert(name, held);
                }
            }
        }
        joined
    }

    /// The names to look up now. Those due longest come first, and no more than [`AT_ONCE_MAX`] are under way.
    pub fn take_due(&mut self, now: Instant) -> Vec<String> {
        let waiting = self.names.iter().filter(|(_, held)| !held.asking && held.due <= now);
        let mut due: Vec<(Instant, String)> = waiting.map(|(name, held)| (held.due, name.clone())).collect();
        due.sort();
        due.truncate(AT_ONCE_MAX.saturating_sub(self.asking));
        for (_, name) in &due {
            if let Some(held) = self.names.get_mut(name) {
                held.asking = true;
                self.asking += 1;
            }
        }
        due.into_iter().map(|(_, name)| name).collect()
    }

    /// When to call [`Self::take_due`] next, unless a lookup ends before.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        if self.asking >= AT_ONCE_MAX {
            return None;
        }
        self.names.values().filter(|held| !held.asking).map(|held| held.due).min()
    }

    /// A lookup ended. An answer sets the time of the next one by its TTL, a failure by how many there were in a row.
    pub fn ended(&mut self, name: &str, outcome: &Result<Answer, LookupError>, now: Instant) -> Turn {
        self.asking = self.asking.saturating_sub(1);
        let Some(held) = self.names.get_mut(name) else { return Turn::Same };
        held.asking = false;
        let failures = held.failures;
        match outcome {
            Ok(answer) => {
                held.steady.take(answer);
                held.failures = 0;
                held.due = now + answer.ttl.clamp(SHORTEST, LONGEST);
                if failures == 0 { Turn::Same } else { Turn::Recovers }
            }
            Err(_) => {
                held.failures = failures.saturating_add(1);
                held.due = now + SHORTEST.saturating_mul(1 << failures.min(8)).min(LONGEST_FAILING);
                if failures == 0 { Turn::Fails } else { Turn::Same }
            }
        }
    }

    /// What the answer brought could not be kept: look again soon.
    pub fn again(&mut self, name: &str, now: Instant) {
        if let Some(held) = self.names.get_mut(name) {
            held.due = held.due.min(now + SHORTEST);
        }
    }

    /// The services of a name, and the addresses that serve them; empty before the first answer.
    #[must_use]
    pub fn served(&self, name: &str) -> (Vec<ServiceKey>, Vec<IpAddr>) {
        let held = self.names.get(name);
        held.map(|held| (held.services.iter().cloned().collect(), held.steady.addresses())).unwrap_or_default()
    }

    /// How many names fail.
    #[must_use]
    pub fn failing(&self) -> usize {
        self.names.values().filter(|held| held.failures > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: "shop".into(), name: name.into() }
    }

    fn wanted(services: &[(&str, &str)]) -> Vec<(ServiceKey, String)> {
        services.iter().map(|(service, name)| (key(service), (*name).to_owned())).collect()
    }

    fn nothing_known(_: &ServiceKey, _: &str) -> Vec<IpAddr> {
        Vec::new()
    }

    fn answer(seconds: u64) -> Result<Answer, LookupError> {
        let ttl = Duration::from_secs(seconds);
        Ok(Answer { v4: Some(vec!["192.0.2.1".parse().unwrap()]), v6: Some(vec![]), ttl })
    }

    fn failure() -> Result<Answer, LookupError> {
        Err(LookupError::NoAddress)
    }

    #[test]
    fn each_name_is_due_by_its_own_ttl() {
        let now = Instant::now();
        let check = |outcome: &Result<Answer, LookupError>, seconds: u64| {
            let mut schedule = Schedule::default();
            schedule.want(wanted(&[("a", "a.example")]), nothing_known, now);
            assert_eq!(schedule.take_due(now), ["a.example"]);
            assert_eq!(schedule.next_due(), None, "it is being asked for");
            schedule.ended("a.example", outcome, now);
            assert_eq!(schedule.next_due(), Some(now + Duration::from_secs(seconds)));
        };
        check(&answer(0), 5);
        check(&answer(42), 42);
        check(&answer(86400), 300);
        check(&failure(), 5);
    }

    #[test]
    fn failures_are_told_once_and_asked_again_less_and_less_often() {
        let mut now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(wanted(&[("a", "a.example")]), nothing_known, now);
        let mut waits = Vec::new();
        for round in 0..40 {
            assert_eq!(schedule.take_due(now).len(), 1);
            let turn = schedule.ended("a.example", &failure(), now);
            assert_eq!(turn, if round == 0 { Turn::Fails } else { Turn::Same });
            let due = schedule.next_due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits[..5], [5, 10, 20, 40, 60]);
        assert!(waits[5..].iter().all(|wait| *wait == 60), "{waits:?}");
        assert_eq!((schedule.failing(), schedule.ended("a.example", &answer(60), now)), (1, Turn::Recovers));
        assert_eq!((schedule.failing(), schedule.ended("a.example", &answer(60), now)), (0, Turn::Same));
    }

    #[test]
    fn a_failure_keeps_the_last_addresses() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(wanted(&[("a", "a.example")]), |_, _| vec!["192.0.2.9".parse().unwrap()], now);
        schedule.ended("a.example", &failure(), now);
        assert_eq!(schedule.served("a.example").1, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_change_elsewhere_moves_no_name() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(wanted(&[("a", "a.example")]), nothing_known, start);
        schedule.take_due(start);
        schedule.ended("a.example", &answer(60), start);
        let later = start + Duration::from_secs(10);
        let joined = schedule.want(wanted(&[("a", "a.example"), ("b", "b.example")]), nothing_known, later);
        assert_eq!((joined, schedule.take_due(later)), (vec![], vec!["b.example".to_owned()]));
        // Another service of a known name needs no lookup, but the answer.
        let services = wanted(&[("a", "a.example"), ("b", "b.example"), ("c", "a.example")]);
        assert_eq!(schedule.want(services.clone(), nothing_known, later), ["a.example"]);
        assert_eq!(schedule.want(services, nothing_known, later), [""; 0], "once");
        assert!(schedule.take_due(later).is_empty());
        assert_eq!(schedule.next_due(), Some(start + Duration::from_secs(60)));
        assert_eq!(schedule.served("a.example").0, [key("a"), key("c")]);
    }

    #[test]
    fn no_more_than_so_many_at_once_and_the_longest_due_first() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(wanted(&[("z", "z.example")]), nothing_known, start);
        let names: Vec<(String, String)> = (0..40).map(|i| (format!("s{i}"), format!("n{i}.example"))).collect();
        let mut services = wanted(&[("z", "z.example")]);
        services.extend(names.iter().map(|(service, name)| (key(service), name.clone())));
        let later = start + Duration::from_secs(1);
        schedule.want(services, nothing_known, later);
        let due = schedule.take_due(later);
        assert_eq!((due.len(), due[0].as_str()), (AT_ONCE_MAX, "z.example"));
        assert!(schedule.take_due(later).is_empty());
        assert_eq!(schedule.next_due(), None, "the end of a lookup makes room");
        schedule.ended("z.example", &answer(60), later);
        assert_eq!(schedule.take_due(later).len(), 1);
    }

    #[test]
    fn the_answer_for_a_name_that_nobody_wants_any_more_makes_room_and_is_dropped() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(wanted(&[("a", "a.example")]), nothing_known, now);
        schedule.take_due(now);
        schedule.want(vec![], nothing_known, now);
        assert_eq!(schedule.ended("a.example", &answer(60), now), Turn::Same);
        assert_eq!(schedule.served("a.example"), (vec![], vec![]));
        assert_eq!((schedule.asking, schedule.next_due()), (0, None));
    }

    #[test]
    fn what_could_not_be_kept_is_looked_up_soon() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(wanted(&[("a", "a.example")]), nothing_known, now);
        schedule.take_due(now);
        schedule.ended("a.example", &answer(200), now);
        schedule.again("a.example", now);
        assert_eq!(schedule.next_due(), Some(now + SHORTEST));
    }
}
