//! What a name stands for, over several of its answers.
//!
//! Many names answer in turns, each time with another part of their addresses. Taken at its word each answer would remove
//! endpoints that are as good as ever and add them again a moment later. So an address stays until more answers in a row
//! lack it than the name has given reason to expect.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::answer::Answer;

/// Answers in a row that may lack an address of a name whose answers never took turns.
const LACKING_MAX: u32 = 1;

/// The same for a name whose answers do; and for so many answers it counts as one after an address came back.
const TURNS_MAX: u32 = 5;

/// The addresses of one name. A pure state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steady {
    /// Per address how many answers in a row have lacked it.
    lacking: BTreeMap<IpAddr, u32>,
    /// Answers for which the name still counts as one that takes turns.
    turns: u32,
}

impl Steady {
    /// From what was known before this process.
    #[must_use]
    pub fn from_known(addresses: &[IpAddr]) -> Self {
        Self { lacking: addresses.iter().map(|address| (*address, 0)).collect(), turns: 0 }
    }

    /// Takes an answer. One that lacks a whole family because asking for it failed says nothing about that family.
    pub fn take(&mut self, answer: &Answer) {
        let told = |address: IpAddr| if address.is_ipv4() { answer.v4.is_some() } else { answer.v6.is_some() };
        let mut came_back = false;
        for (address, lacking) in &mut self.lacking {
            if answer.holds(*address) {
                came_back |= *lacking > 0;
                *lacking = 0;
            } else if told(*address) {
                *lacking += 1;
            }
        }
        for address in answer.addresses() {
            self.lacking.entry(address).or_insert(0);
        }
        self.turns = if came_back { TURNS_MAX } else { self.turns.saturating_sub(1) };
        self.lacking.retain(|_, lacking| *lacking <= TURNS_MAX);
    }

    /// The addresses to serve, sorted.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let most = if self.turns > 0 { TURNS_MAX } else { LACKING_MAX };
        self.lacking.iter().filter(|(_, lacking)| **lacking <= most).map(|(address, _)| *address).collect()
    }

    /// Whether there was never an address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lacking.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Last bytes of the addresses of both families; `None` where asking for a family failed.
    type Said<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

    fn steps(answers: &[Said<'_>]) -> Vec<Vec<String>> {
        let v4 = |last: &u8| std::net::Ipv4Addr::new(192, 0, 2, *last);
        let v6 = |last: &u8| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, (*last).into());
        let mut steady = Steady::default();
        let mut seen = Vec::new();
        for (of_v4, of_v6) in answers {
            steady.take(&Answer {
                v4: of_v4.map(|lasts| lasts.iter().map(v4).collect()),
                v6: of_v6.map(|lasts| lasts.iter().map(v6).collect()),
                ttl: std::time::Duration::ZERO,
            });
            let short = |address: &IpAddr| address.to_string().replace("192.0.2.", "").replace("2001:db8::", ":");
            seen.push(steady.addresses().iter().map(short).collect());
        }
        seen
    }

    #[test]
    fn the_order_of_an_answer_means_nothing() {
        let seen = steps(&[(Some(&[3, 1, 2]), Some(&[])), (Some(&[2, 3, 1]), Some(&[]))]);
        assert_eq!(seen, [["1", "2", "3"], ["1", "2", "3"]]);
    }

    #[test]
    fn an_address_that_stays_away_leaves_with_the_second_answer() {
        let answers: [Said<'_>; 3] = [(Some(&[1, 2]), Some(&[])), (Some(&[2]), None), (Some(&[2]), None)];
        assert_eq!(steps(&answers), [vec!["1", "2"], vec!["1", "2"], vec!["2"]]);
    }

    #[test]
    fn answers_that_take_turns_settle() {
        let turns: [Said<'_>; 4] = [
            (Some(&[1, 2]), Some(&[])),
            (Some(&[2, 3]), Some(&[])),
            (Some(&[3, 4]), Some(&[])),
            (Some(&[4, 1]), Some(&[])),
        ];
        let seen = steps(&turns.repeat(4));
        for (index, addresses) in seen.iter().enumerate().skip(4) {
            assert_eq!(addresses, &["1", "2", "3", "4"], "answer {index} of {seen:?}");
        }
    }

    #[test]
    fn a_name_that_stopped_taking_turns_forgets() {
        let mut answers: Vec<Said<'_>> =
            vec![(Some(&[1]), Some(&[])), (Some(&[2]), Some(&[])), (Some(&[1]), Some(&[]))];
        answers.extend([(Some(&[1u8][..]), Some(&[][..])); 6]);
        let seen = steps(&answers);
        assert_eq!(seen[3], ["1", "2"], "it took turns a moment ago");
        assert_eq!(seen.last().unwrap(), &["1"]);
    }

    #[test]
    fn a_family_that_could_not_be_asked_for_stays() {
        let seen = steps(&[(Some(&[1]), Some(&[6])), (Some(&[1]), None), (Some(&[1]), None), (Some(&[1]), None)]);
        assert!(seen.iter().all(|addresses| addresses == &["1", ":6"]), "{seen:?}");
    }
}
