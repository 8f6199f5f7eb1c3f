//! Whether a worker keeps the connection that has just come to its door, and who gets it otherwise.
//!
//! The kernel spreads connections over the workers by a hash of their addresses. Of many that is fair; of a few that live
//! long (HTTP/2 between two sidecars, gRPC, databases) it may put all on one worker while the other has nothing to do. So
//! a crowded worker gives a new connection to the less loaded of two others drawn at random: almost as good as the least
//! loaded of all, and workers that decide alone do not all rush to the same one.
//!
//! What a worker carries is the number of its connections, weighed by how busy it has been. A difference that is within
//! [`MARGIN_PERCENT`] is left as it is, and so is a worker whose connections end as fast as they come: the hash is fair to
//! those, and what is uneven now has passed in a moment.

use crate::entropy::Entropy;

/// What another worker carries less, in percent, for a connection to be worth handing over. Of few connections every one
/// counts; of many the kernel's hash alone keeps the difference within this most of the time.
const MARGIN_PERCENT: u64 = 25;

/// A worker that did nothing but work is taken to carry half as much again as an idle one with as many connections: a
/// connection costs something however idle it is now.
const IDLE_WEIGHT: u64 = 2000;

/// A worker of which this many times its open connections ended within the last moments has short connections only. A few
/// more count as open, or the first connections of all would be taken for such.
const SHORT_LIVED_FACTOR: usize = 4;
const SHORT_LIVED_GRACE: usize = 8;

/// What one worker carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections open.
    pub connections: usize,
    /// How much of the recent time it worked, in thousandths.
    pub busy: u16,
}

impl Load {
    /// With the connection that is to be placed.
    fn weight_with_one_more(self) -> u64 {
        let connections = u64::try_from(self.connections).unwrap_or(u64::MAX).saturating_add(1);
        connections.saturating_mul(IDLE_WEIGHT + u64::from(self.busy.min(1000)))
    }

    fn is_crowded_beside(self, other: Self) -> bool {
        let scaled = |weight: u64, percent: u64| u128::from(weight) * u128::from(percent);
        scaled(self.weight_with_one_more(), 100) > scaled(other.weight_with_one_more(), 100 + MARGIN_PERCENT)
    }
}

/// Who of `workers` gets a connection that came to worker `own`, of whose connections `ended` did so within the last
/// moments. `None`: it stays. `load` tells what a worker carries, the new connection not counted. Costs two looks at
/// others at most, one where there are two workers, none for a worker that has no connection.
pub fn receiver(
    own: usize,
    workers: usize,
    ended: usize,
    load: impl Fn(usize) -> Load,
    entropy: &mut impl Entropy,
) -> Option<usize> {
    let others = workers.checked_sub(1).filter(|others| *others > 0)?;
    let ours = load(own);
    if ours.connections == 0 || are_short_lived(ours.connections, ended) {
        return None;
    }
    let first = entropy.below(others);
    // The number of another worker; one's own is left out.
    let other = |drawn: usize| if drawn < own { drawn } else { drawn + 1 };
    let mut best = (other(first), load(other(first)));
    if let Some(rest) = others.checked_sub(1).filter(|rest| *rest > 0) {
        let second = other((first + 1 + entropy.below(rest)) % others);
        let seen = load(second);
        if seen.weight_with_one_more() < best.1.weight_with_one_more() {
            best = (second, seen);
        }
    }
    ours.is_crowded_beside(best.1).then_some(best.0)
}

/// Who of `workers` gets a connection that many requests will share, and that worker `own` has: whoever has the fewest of
/// these, `carriers` tells how many. `None`: it stays. Few of them carry most of the requests, so that each one counts.
pub fn carrier_receiver(own: usize, workers: usize, carriers: impl Fn(usize) -> usize) -> Option<usize> {
    let others = (0..workers).filter(|worker| *worker != own).map(|worker| (carriers(worker), worker));
    let (fewest, receiver) = others.min()?;
    (fewest < carriers(own)).then_some(receiver)
}

fn are_short_lived(open: usize, ended: usize) -> bool {
    ended > open.saturating_add(SHORT_LIVED_GRACE).saturating_mul(SHORT_LIVED_FACTOR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::propagate::testing::Counting;

    fn idle(connections: usize) -> Load {
        Load { connections, busy: 0 }
    }

    #[test]
    fn of_two_workers_the_crowded_one_gives() {
        let check = |ours: Load, theirs: Load, gives: bool| {
            let loads = [ours, theirs];
            let given = receiver(0, 2, 0, |worker| loads[worker], &mut Counting(0));
            assert_eq!(given, gives.then_some(1), "{ours:?} beside {theirs:?}");
        };
        check(idle(0), idle(0), false);
        check(idle(1), idle(0), true);
        check(idle(1), idle(1), false);
        check(idle(2), idle(1), true);
        check(idle(3), idle(2), true);
        check(idle(4), idle(3), false);
        check(idle(5), idle(3), true);
        check(idle(38), idle(31), false);
        check(idle(41), idle(31), true);
        check(idle(1000), idle(900), false);
        let busy = |connections, busy| Load { connections, busy };
        // However busy a worker without connections is, the second connection goes to it.
        check(idle(1), busy(0, 1000), true);
        check(busy(10, 950), busy(10, 100), true);
        check(busy(10, 500), busy(10, 400), false);
        check(idle(12), busy(10, 1000), false);
        check(busy(3, 1000), idle(9), false);
        check(Load { connections: usize::MAX, busy: u16::MAX }, idle(usize::MAX - 1), false);
    }

    #[test]
    fn who_has_short_connections_only_keeps_them() {
        let given = |ended| receiver(0, 2, ended, |worker| idle(20 - 20 * worker), &mut Counting(0));
        assert_eq!(given(20), Some(1), "a client that restarted");
        assert_eq!(given(1000), None);
        assert_eq!(receiver(0, 1, 0, |_| idle(9), &mut Counting(0)), None, "there is nobody else");
        assert_eq!(receiver(0, 0, 0, |_| idle(9), &mut Counting(0)), None);
    }

    /// Connections that come to drawn doors and stay, as the kernel's hash might put them.
    fn place(workers: usize, doors: &[usize]) -> Vec<usize> {
        let mut open = vec![0; workers];
        for (number, door) in doors.iter().enumerate() {
            let door = door % workers;
            let mut entropy = Counting((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let given = receiver(door, workers, 0, |worker| idle(open[worker]), &mut entropy);
            open[given.unwrap_or(door)] += 1;
        }
        open
    }

    #[test]
    fn all_at_one_door_are_spread() {
        assert_eq!(place(2, &[0; 2]), [1, 1]);
        assert_eq!(place(3, &[1; 3]), [1, 1, 1]);
        assert_eq!(place(2, &[1; 8]), [3, 5]);
    }

    #[test]
    fn carriers_are_even_wherever_they_come() {
        let check = |open: &[usize], own, receiver| {
            assert_eq!(carrier_receiver(own, open.len(), |worker| open[worker]), receiver, "{open:?} {own}");
        };
        check(&[], 0, None);
        check(&[9], 0, None);
        check(&[0, 0], 1, None);
        check(&[1, 0], 0, Some(1));
        check(&[1, 0], 1, None);
        check(&[3, 2, 1], 0, Some(2));
        check(&[3, 2, 1], 1, Some(2));
        check(&[3, 1, 1], 2, None);
    }

    proptest! {
        #[test]
        fn two_workers_are_even(doors in prop::collection::vec(0..2_usize, 1..200)) {
            let open = place(2, &doors);
            let (less, more) = (open[0].min(open[1]), open[0].max(open[1]));
            prop_assert!(more <= less + 1 + less / 3, "{open:?}");
            prop_assert!(doors.len() != 8 || more <= 5, "{open:?}");
        }

        /// Whoever is chosen is another worker that exists and carries less.
        #[test]
        fn it_goes_to_another_that_carries_less(
            loads in prop::collection::vec((0..100_usize, 0..1000_u16), 2..9), own in 0..9_usize, seed in any::<u64>()
        ) {
            let own = own % loads.len();
            let load = |worker: usize| Load { connections: loads[worker].0, busy: loads[worker].1 };
            let given = receiver(own, loads.len(), 0, load, &mut Counting(seed.min(u64::MAX - 9)));
            if let Some(given) = given {
                prop_assert!(given != own && given < loads.len());
                prop_assert!(load(own).weight_with_one_more() > load(given).weight_with_one_more());
            }
        }
    }
}
