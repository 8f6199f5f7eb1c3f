//! Who may have how much of something that many callers use and of which there is only so much (connections to one
//! application).
//!
//! A caller may hold as much as is left over by all (the dynamic thresholds of Choudhury and Hahne, 1998, as switches
//! divide their buffers). Nobody is counted on ahead and nothing is set aside: one caller alone gets half, each that comes
//! gets something, and who holds more than his part gets no more until he has given back. Only after a dozen callers who
//! take all they can is nothing left.

use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use crate::hash::Map;
use crate::identity::spiffe::SpiffeId;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A workload that has proven its identity, on whichever of its connections.
    Proven(SpiffeId),
    /// Nobody known: whoever is at this address.
    Stranger(IpAddr),
}

impl Caller {
    /// A caller of whom only the address is known. With IPv6 that is a network: a host has as many addresses of its /64 as
    /// it likes (RFC 4291 section 2.5.4, RFC 8981).
    #[must_use]
    pub fn stranger(address: IpAddr) -> Self {
        Self::Stranger(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// Whether a caller who holds `own` may have one more, where all of them hold `all` (his own included) of `most`.
#[must_use]
pub const fn may_take(most: usize, all: usize, own: usize) -> bool {
    own < most.saturating_sub(all)
}

/// What each caller holds.
#[derive(Debug, Default)]
pub struct Shares {
    /// The last one who took, and what he holds: most often he is the next as well.
    last: Option<(Rc<Caller>, usize)>,
    /// The others who hold something.
    held: Map<Rc<Caller>, usize>,
    all: usize,
}

impl Shares {
    /// One more for this caller, of `most` for all; false when he gets none.
    pub fn take(&mut self, caller: &Rc<Caller>, most: usize) -> bool {
        let all = self.all;
        let own = self.turn_to(caller);
        if !may_take(most, all, *own) {
            return false;
        }
        *own += 1;
        self.all += 1;
        true
    }

    /// Makes him the last one, and leads to what he holds.
    fn turn_to(&mut self, caller: &Rc<Caller>) -> &mut usize {
        if self.last.as_ref().is_none_or(|(last, _)| last != caller) {
            let own = self.held.remove(caller).unwrap_or_default();
            if let Some((before, held)) = self.last.replace((Rc::clone(caller), own))
                && held > 0
            {
                self.held.insert(before, held);
            }
        }
        &mut self.last.get_or_insert_with(|| (Rc::clone(caller), 0)).1
    }

    /// This caller gives one back that he took.
    pub fn give_back(&mut self, caller: &Caller) {
        match &mut self.last {
            Some((last, own)) if **last == *caller && *own > 0 => *own -= 1,
            _ => {
                let Some(own) = self.held.get_mut(caller) else { return };
                *own -= 1;
                if *own == 0 {
                    self.held.remove(caller);
                }
            }
        }
        self.all -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller(number: u8) -> Rc<Caller> {
        Rc::new(Caller::stranger(IpAddr::from([10, 0, 0, number])))
    }

    /// Takes all that this one can get.
    fn greedy(shares: &mut Shares, number: u8, most: usize) -> usize {
        let caller = caller(number);
        std::iter::repeat_with(|| shares.take(&caller, most)).take_while(|got| *got).count()
    }

    #[test]
    fn each_greedy_caller_leaves_half_of_what_is_left() {
        let mut shares = Shares::default();
        let got: Vec<_> = (0..13).map(|number| greedy(&mut shares, number, 2048)).collect();
        assert_eq!(got, [1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1, 1, 0]);
        // What one gives back goes to those who have less.
        (0..100).for_each(|_| shares.give_back(&caller(0)));
        assert_eq!(greedy(&mut shares, 0, 2048), 0);
        assert_eq!(greedy(&mut shares, 12, 2048), 50);
    }

    #[test]
    fn strangers_are_told_apart_by_network() {
        let stranger = |text: &str| Caller::stranger(text.parse().unwrap());
        assert_eq!(stranger("2001:db8::1"), stranger("2001:db8::ffff:1"));
        assert_ne!(stranger("2001:db8::1"), stranger("2001:db8:0:1::1"));
        assert_eq!(stranger("::ffff:192.0.2.1"), stranger("192.0.2.1"));
        assert_ne!(stranger("192.0.2.1"), stranger("192.0.2.2"));
    }

    proptest! {
        /// Whatever happens: never more than there is, never more than half for one, and who holds nothing gets one while
        /// there is any left.
        #[test]
        fn shares_are_kept(most in 0_usize..64, steps in prop::collection::vec((0_u8..6, prop::bool::weighted(0.7)), 0..400)) {
            let mut shares = Shares::default();
            let mut held = [0_usize; 6];
            for (number, takes) in steps {
                let own = &mut held[usize::from(number)];
                if takes {
                    let (before, got) = (shares.all, shares.take(&caller(number), most));
                    prop_assert!(got || *own > 0 || before == most);
                    *own += usize::from(got);
                } else if *own > 0 {
                    shares.give_back(&caller(number));
                    *own -= 1;
                }
                prop_assert_eq!(shares.all, held.iter().sum::<usize>());
                prop_assert!(shares.all <= most);
                prop_assert!(held.iter().all(|own| *own <= most.div_ceil(2)));
                let last = shares.last.iter().filter(|(_, own)| *own > 0).count();
                prop_assert_eq!(shares.held.len() + last, held.iter().filter(|own| **own > 0).count());
            }
        }
    }
}
